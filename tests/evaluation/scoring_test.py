"""Predictions: errors, tables, files and ensembles against plain counting."""

import os
import subprocess
import sys

import numpy as np
import pytest
import runs

from evaluation import drawing, results, scoring
from experiment import workdir

NAMES = np.array([f"class {k}" for k in range(9)])


def predictions(seed=0, number=57, **changes):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, (number, 9)).astype(np.float32)  # with ties
    logits[11] = np.nan
    logits[12, 3] = np.nan
    values = {
        "id": np.array([f"image {i}" for i in range(number)]),
        "label": np.arange(number, dtype=np.int32) * 5 % 7,
        "logits": logits,
        "label_names": NAMES,
        "average": "logits",
        "loss": "softmax_cross_entropy",
    }
    return scoring.Predictions(**values | changes)


def test_errors_are_those_of_a_stable_sort():
    found = predictions()
    errors = top5_errors = 0
    for logits, label in zip(found.logits, found.label, strict=True):
        if np.isnan(logits).any():
            order = []
        else:
            order = sorted(range(9), key=lambda k: (-logits[k], k))  # noqa: B023
        errors += label not in order[:1]
        top5_errors += label not in order[:5]
    assert 0 < top5_errors < errors < 57
    score = scoring.score(found)
    equal_classes = {"balanced_error", "macro_f1", "imbalance"}
    assert {name: x for name, x in score.items() if name not in equal_classes} == {
        "errors": errors,
        "top5_errors": top5_errors,
        "count": 57,
        "error": 100 * errors / 57,
        "top5_error": 100 * top5_errors / 57,
    }
    assert equal_classes < score.keys()


def test_measures_of_equal_classes_are_those_of_their_formulas():
    # Class 0: 90 images, 81 found; class 1: 10 images, 2 found and one without an
    # answer; class 2 has no images, and three of class 0 are called so.
    label = np.repeat([0, 1], [90, 10])
    answer = np.array([0] * 81 + [1] * 6 + [2] * 3 + [1] * 2 + [0] * 8)
    logits = np.eye(3, dtype="f4")[answer]
    logits[-1] = np.nan
    found = scoring.Predictions(
        np.arange(100), label, logits, np.array(["a", "b", "c"]), "logits"
    )
    score = scoring.score(found)
    recall, precision = (81 / 90, 2 / 10), (81 / 88, 2 / 8)
    f1 = [2 * r * p / (r + p) for r, p in zip(recall, precision, strict=True)]
    assert score == {
        "errors": 17,
        "count": 100,
        "error": 17.0,
        "balanced_error": pytest.approx(100 * (1 - sum(recall) / 2)),
        "macro_f1": pytest.approx(100 * sum(f1) / 2),
        "imbalance": 9.0,
    }  # of three classes, five answers always have the right one
    said = "balanced error 45.00 %, macro F1 56.62 %"
    assert scoring.describe_classes(score) == said
    assert scoring.describe(score) == f"error 17.00 %, {said} (17 errors of 100)"
    alike = scoring.measures([9, 5], [9, 5], [9, 5], 0, 0, 14)
    assert scoring.describe_classes(alike) == ""  # neither has twice the other's
    assert scoring.describe_classes({"error": 1.0}) == ""  # of an earlier version


def test_images_whose_class_is_unknown_are_errors_of_no_class():
    found = scoring.measures([0, 0], [0, 0], [0, 0], 3, 3, 3)
    assert (found["error"], found["balanced_error"], found["macro_f1"]) == (100, 100, 0)


def test_confusion_and_classes_add_up_to_the_errors():
    found = predictions()
    counts, result = scoring.confusion(found), scoring.score(found)
    assert counts.shape == (9, 10)
    assert counts.sum() == 57
    assert counts[:, -1].sum() == 2
    assert 57 - np.trace(counts) == result["errors"]
    np.testing.assert_array_equal(counts.sum(1), np.bincount(found.label, minlength=9))
    table = scoring.class_table(found)
    assert [row[0] for row in table] == NAMES.tolist()
    assert sum(row[1] for row in table) == 57
    assert sum(row[2] for row in table) == result["errors"]
    for _, images, errors, error in table[:7]:
        assert error == 100 * errors / images
    assert np.isnan(table[8][3])  # no image is of class 7 or 8

    worst = scoring.worst_classes(found, 2).splitlines()
    highest = sorted(table[:7], key=lambda row: -row[3])[:2]
    assert [line.split("  ")[1] for line in worst] == [row[0] for row in highest]

    rows = scoring.confusion_csv(found).splitlines()
    assert rows[0].split(",") == ["class", *NAMES, "(no answer)"]
    assert rows[4].split(",") == ["class 3", *map(str, counts[3])]


def test_a_file_scores_as_what_was_written(tmp_path):
    found = predictions()
    with open(tmp_path / "a.npz", "wb") as file:
        found.write(file)
    again = scoring.read(tmp_path / "a.npz")
    assert scoring.score(again) == scoring.score(found)
    np.testing.assert_array_equal(again.id, found.id)
    np.testing.assert_array_equal(again.logits, found.logits)
    assert (again.average, again.loss) == ("logits", found.loss)
    with open(tmp_path / "map.npz", "wb") as file:
        predictions(loss="map").write(file)
    assert scoring.read(tmp_path / "map.npz").loss == "map"
    earlier = scoring.read(runs.OLD_RUN / "predictions-10.npz")
    assert earlier.loss == ""  # as of all files of earlier versions
    # Others need no more than numpy.
    file = np.load(tmp_path / "a.npz")
    answered = ~np.isnan(file["logits"]).any(1)
    right = answered & (file["logits"].argmax(1) == file["label"])
    assert 57 - right.sum() == scoring.score(found)["errors"]


def test_a_picture_comes_last_and_costs_no_other_file(tmp_path, monkeypatch, caplog):
    names = np.array(["a$b_{$", "日本", *NAMES[2:]])  # no formulas
    run = workdir.Workdir(tmp_path)
    files = results.write(run, "1", {"step": 1}, predictions(label_names=names))
    assert caplog.messages == ["a picture has boxes for letters not in its font: 日本"]
    caplog.clear()
    assert files[-1] == "confusion-1.png" and len(files) == 5
    assert set(os.listdir(tmp_path)) == set(files)

    def fail(*_):
        raise ValueError("no\nfont")

    monkeypatch.setattr(drawing, "draw_confusion", fail)
    assert results.write(run, "2", {"step": 2}, predictions()) == [
        *("evaluation-2.json", "predictions-2.npz", "classes-2.csv", "confusion-2.csv")
    ]
    assert (tmp_path / "confusion-2.csv").exists()
    (line,) = caplog.messages
    assert line.startswith("no confusion-2.png: ValueError(") and "\n" not in line


def test_an_ensemble_averages_probabilities_or_logits():
    members = [predictions(seed) for seed in (0, 1, 2)]
    p = [np.exp(m.logits.astype(float)) for m in members]
    mean = sum(x / x.sum(1, keepdims=True) for x in p) / 3
    total = scoring.ensemble(members)
    np.testing.assert_allclose(np.exp(total.logits), mean, rtol=1e-6)  # float32
    assert total.average == "softmax"
    total = scoring.ensemble(members, "logits")
    np.testing.assert_allclose(total.logits, sum(m.logits for m in members) / 3, 1e-6)
    assert (np.isnan(total.logits).any(1) == np.isnan(mean).any(1)).all()


def test_an_ensemble_averages_what_its_members_have():
    members, said = [predictions(), predictions(1, loss="map")], []
    with pytest.raises(
        scoring.PredictionsError, match="number 2 .* by the loss 'map', whose outputs "
    ):
        scoring.ensemble(members)
    scoring.ensemble([predictions(), predictions(1, loss="")], report=said.append)
    note = (
        "note: number 2 of the ensemble, of an earlier version, does not say its loss"
    )
    assert said.pop().startswith(note) and said == []
    found = scoring.ensemble(members, "logits", report=said.append)
    assert found.average == "logits" and said == []
    members[1] = predictions(1, average="softmax")
    scoring.ensemble(members, "logits", report=said.append)
    assert said == [
        "note: number 2 of the ensemble has log probabilities, which were averaged "
        "over views, in place of logits"
    ]


def test_an_ensemble_needs_the_same_examples_in_the_same_order():
    one = predictions()
    order = np.r_[1, 0, 2:57]
    turned = predictions(id=one.id[order], label=one.label[order])
    with pytest.raises(scoring.PredictionsError, match="number 2 .* differ in id"):
        scoring.ensemble([one, turned])
    relabelled = predictions(label=one.label[::-1])
    with pytest.raises(scoring.PredictionsError, match="differ in label"):
        scoring.ensemble([one, one, relabelled])


def test_an_ensemble_joins_its_members_by_the_names_of_their_classes():
    one, other, said = predictions(), predictions(1), []
    expected = scoring.ensemble([one, other])
    # Class k of `turned` is class k + 2 of the others.
    turned = predictions(
        1,
        label=(other.label - 2) % 9,
        logits=np.roll(other.logits, -2, axis=1),
        label_names=np.roll(NAMES, -2),
    )
    found = scoring.ensemble([one, turned], report=said.append)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.label_names, NAMES)
    assert said == [
        "note: number 2 of the ensemble has the classes of number 1 in another order; "
        "they are numbered as there"
    ]
    others = predictions(1, label_names=np.array([*NAMES[:8], "class X"]))
    with pytest.raises(
        scoring.PredictionsError,
        match="number 1 and number 2 .* only here class 8; only there class X",
    ):
        scoring.ensemble([one, others])


def test_a_split_without_labels_has_no_errors_to_count():
    with pytest.raises(scoring.PredictionsError, match="the split has no labels"):
        predictions(label=np.full(57, -1))


@pytest.mark.parametrize(
    "changes",
    [
        {"logits": np.zeros(57, "f4")},
        {"logits": np.zeros((56, 9), "f4")},
        {"id": np.arange(56)},
        {"label": np.zeros((57, 1), int)},
        {"label_names": NAMES[:8]},
    ],
)
def test_a_file_whose_parts_do_not_belong_together(tmp_path, changes):
    arrays = vars(predictions()) | changes
    np.savez(tmp_path / "a.npz", **arrays)
    message = "a.npz holds no predictions: logits of the shape .* do not belong"
    with pytest.raises(scoring.PredictionsError, match=message):
        scoring.read(tmp_path / "a.npz")


@pytest.mark.parametrize("content", ["", "PK\x03\x04", "cut"])
def test_a_file_that_holds_no_predictions(tmp_path, content):
    file = tmp_path / "predictions.npz"
    file.write_text(content)
    if content == "cut":
        predictions().write(file)
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(scoring.PredictionsError, match="holds no predictions"):
        scoring.read(file)


def test_an_array_holds_no_predictions(tmp_path):
    np.save(tmp_path / "logits.npy", np.zeros(3))
    with pytest.raises(scoring.PredictionsError, match="holds no predictions"):
        scoring.read(tmp_path / "logits.npy")


def test_the_command_scores_files_again(tmp_path):
    members = [predictions(seed) for seed in (0, 1)]
    paths = [str(tmp_path / f"{seed}.npz") for seed in (0, 1)]
    for path, member in zip(paths, members, strict=True):
        with open(path, "wb") as file:
            member.write(file)

    def command(*paths):
        arguments = [sys.executable, "scoring.py", *paths]
        return subprocess.run(arguments, cwd=runs.ROOT, capture_output=True, text=True)

    lines = command(*paths).stdout.splitlines()
    expected = [*members, scoring.ensemble(members)]
    for line, member in zip(lines, expected, strict=True):
        assert line.endswith(scoring.describe(scoring.score(member)))
    logits = command("--average=logits", *paths).stdout.splitlines()[-1]
    together = scoring.ensemble(members, "logits")
    assert logits == f"ensemble: {scoring.describe(scoring.score(together))}"
    single = command("--average=logits", paths[0])
    assert single.returncode == 2
    assert "--average is of an ensemble: name several files" in single.stderr
    other = tmp_path / "other.npz"
    other.write_bytes(b"no file of numpy")
    failed = command(str(other))
    assert failed.returncode == 1
    assert "other.npz holds no predictions" in failed.stderr
