"""What a trained detector is used for, from the command line."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import runs
from PIL import Image

from detection import digits, evaluator, metrics, records, sources
from detection.split import Split
from experiment import detectors, outcomes, workdir


@pytest.fixture(scope="module")
def trained(few_digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    runs.train_detector(path, num_epochs=1.0)
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, which a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def photographs(few_digits, tmp_path_factory):
    """The test canvases, a photograph that no bucket holds, and no image."""
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(10):
        pixels, _ = digits.canvas("test", index)
        Image.fromarray(pixels[..., 0]).save(folder / f"{index + 1:02}.png")
    noise = np.random.default_rng(0).integers(0, 256, (60, 200, 3), np.uint8)
    Image.fromarray(noise).save(folder / "11.jpg")
    (folder / "00.png").write_text("no image")
    return folder


def evaluate(run, *changes):
    """Evaluates from the command line; returns what it printed, and its record."""
    flags = [f"--change={change}" for change in changes]
    result = runs.call_main(["--mode=evaluate", f"--workdir={run}", *flags])
    assert result.returncode == 0, result.stderr
    (file,) = re.findall(r"written: (\S+\.json)", result.stdout)
    return result.stdout, json.loads((run / file).read_text())


def fails(*arguments, code=2):
    """Returns the line with which main.py ends."""
    result = runs.call_main(arguments)
    assert result.returncode == code, result.stdout + result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert "Traceback" not in result.stderr
    return line


def detections(file, split):
    """Reads a file of COCO's results format as a metrics.Detections per image."""
    found = json.loads(file.read_text())
    for row in found:
        assert row.keys() == {"image_id", "category_id", "bbox", "score"}
    made = []
    for truth in split.objects:
        rows = [row for row in found if row["image_id"] == truth.image]
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [split.categories.index(row["category_id"]) for row in rows]
        scores = [row["score"] for row in rows]
        made.append(metrics.Detections(boxes, np.array(scores), np.array(labels, int)))
    assert sum(len(one.scores) for one in made) == len(found) > 0
    return made


def test_an_evaluation_prints_and_writes_what_the_training_found(run):
    before = {path.name for path in run.iterdir()}
    printed, record = evaluate(run)
    first, numbers, *classes, last = printed.splitlines()
    files = [
        *("evaluation-6.json", "detections-6.json", "classes-6.csv"),
        *("worst-6.png", "precision-6.png"),
    ]
    assert last == f"written: {', '.join(files)}"
    assert {path.name for path in run.iterdir()} - before == {*files}
    result = outcomes.read(workdir.Workdir(run))
    assert first == (
        f"test[:10] mAP {result['mAP']:.1f} % (COCO, IoU 0.50 to 0.95), 10/10 images "
        f"counted after step 6 of {run}"
    )
    assert numbers.startswith(f"AP50 {result['AP50']:.1f}, AP75 ")
    for name in ("mAP", "AP50", "AR_100", "error", "objects", "count"):
        assert record[name] == result[name]
    assert (record["dataset"], record["split"]) == ("digits", "test[:10]")
    assert (record["step"], record["metric"], record["changes"]) == (6, "coco", {})
    with open(run / "classes-6.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*"0123456789"] and len(classes) == 10
    assert sum(int(row["objects"]) for row in rows) == record["objects"]
    for name in files[3:]:
        with Image.open(run / name) as picture:
            assert min(picture.size) > 200

    split = sources.open_split("digits", "test[:10]")
    found = detections(run / "detections-6.json", split)
    again = evaluator.score(split, found, "coco").metrics
    # The boxes went through sums in another order, x + width.
    assert again["mAP"] == pytest.approx(record["mAP"], abs=1e-6)


@pytest.mark.slow
def test_the_batch_size_changes_no_detection_and_no_name(run):
    _, record = evaluate(run)
    file = run / "detections-6.json"
    split = sources.open_split("digits", "test[:10]")
    expected = detections(file, split)
    file.unlink()
    _, other = evaluate(run, "eval.batch_size=3", "num_devices=2")
    assert other["changes"] == {"eval.batch_size": 3, "num_devices": 2}
    for one, same in zip(detections(file, split), expected, strict=True):
        np.testing.assert_allclose(one.scores, same.scores, 1e-4, 1e-6)
        np.testing.assert_allclose(one.boxes, same.boxes, 1e-4, 1e-3)
        np.testing.assert_array_equal(one.labels, same.labels)
    assert other["mAP"] == pytest.approx(record["mAP"], abs=1e-4)


@pytest.mark.slow
def test_scales_are_tested_by_a_change(run):
    """The network's own scale alone gives what it gives without a change."""
    _, plain = evaluate(run)
    _, same = evaluate(run, "detection.test_scales=(64,)")
    assert same.pop("changes") == {"detection.test_scales": [64]}
    assert same == {name: x for name, x in plain.items() if name != "changes"}
    assert (run / "evaluation-6-detection_test_scales_64.json").exists()


@pytest.mark.slow
def test_several_scales_are_tested_and_used(run, photographs, tmp_path):
    split = sources.open_split("digits", "test[:10]")
    evaluate(run)
    alone = detections(run / "detections-6.json", split)
    printed, _ = evaluate(run, "detection.test_scales=(32,64,96)")
    assert "10/10 images counted" in printed
    file = run / "detections-6-detection_test_scales_32_64_96.json"
    found = detections(file, split)
    for several, one in zip(found, alone, strict=True):
        assert several.scores.tolist() != pytest.approx(one.scores.tolist(), rel=1e-3)
    config = json.loads((run / "config.json").read_text())
    view = json.loads((run / "preprocessing.json").read_text())
    config["detection"]["test_scales"] = view["test_scales"] = [32, 64, 96]
    (run / "config.json").write_text(json.dumps(config))
    (run / "preprocessing.json").write_text(json.dumps(view))
    output = tmp_path / "answers.json"
    images = photographs / "01.png", photographs / "11.jpg"
    result = predict(run, *images, output=output)
    assert result.returncode == 0, result.stderr
    answer, _ = json.loads(output.read_text())
    assert_found(answer, found[0])


@pytest.mark.slow
def test_another_split_has_files_of_its_own(run):
    printed, record = evaluate(run, "dataset.eval_split=train[:7]")
    assert "train[:7] mAP" in printed and "7/7 images counted" in printed
    assert record["split"] == "train[:7]" and record["count"] == 7
    assert (run / "detections-6-eval_split_train_7.json").exists()
    assert not (run / "detections-6.json").exists()


def test_images_are_padded_as_in_the_training(trained):
    """So the run's own test images are seen as its evaluations saw them."""
    wide = records.objects("wide.png", 1, (40, 64), [], records.Damage())
    split = Split("made", "val", tuple("0123456789"), (wide,), (None,), channels=1)
    run = workdir.Workdir(trained)
    opened = detectors.open_run(run, split=split)
    alone = detectors.make_preprocessing(run.config(), (split,))
    assert alone.view.buckets == ((48, 64),)
    assert opened.preprocessing.view.buckets == ((64, 64),)


def test_a_damaged_record_of_the_preprocessing_is_named(run):
    (run / "preprocessing.json").write_text("{}")
    line = fails("--mode=evaluate", f"--workdir={run}", code=1)
    assert f"{run}/preprocessing.json is damaged" in line


@pytest.mark.slow
def test_a_run_that_cannot_be_written_is_evaluated_and_used(run, photographs):
    before = {path.name for path in run.iterdir()}
    with runs.read_only(run) as reason:
        result = runs.call_main(["--mode=evaluate", f"--workdir={run}"])
        assert result.returncode == 0, result.stderr
        assert "10/10 images counted" in result.stdout
        assert "written" not in result.stdout
        result = predict(run, photographs / "01.png")
        assert result.returncode == 0, result.stderr
        assert f"no more pictures: {run}/predictions" in result.stdout
        assert reason in result.stdout
    assert {path.name for path in run.iterdir()} == before


def test_what_is_for_classifiers_is_refused(trained):
    arguments = "--mode=evaluate", f"--workdir={trained}"
    for change in ("eval.protocol=ten_crop", "dataset.fit=crop"):
        name, _, value = change.partition("=")
        line = fails(*arguments, f"--change={change}")
        assert re.search(rf"config.{name} = '?{value}'? is for classifiers", line)
    line = fails(*arguments, "--batch_stats=population")
    assert "--batch_stats=population is for classifiers" in line
    line = fails("--mode=evaluate", f"--workdir={trained},{trained}")
    assert "an ensemble is of classifiers" in line


# Predictions.


def predict(run, *images, output=None):
    images = ",".join(map(str, images))
    arguments = ["--mode=predict", f"--workdir={run}", f"--images={images}"]
    return runs.call_main(arguments + ([f"--output={output}"] if output else []))


def assert_found(answer, expected):
    """An answer of a prediction is a metrics.Detections of an evaluation."""
    assert answer["problem"] == ""
    found = answer["objects"]
    assert [x["class"] for x in found] == [str(k) for k in expected.labels]
    scores, boxes = ([x[name] for x in found] for name in ("score", "box"))
    np.testing.assert_allclose(scores, expected.scores, 1e-4, 1e-6)
    np.testing.assert_allclose(boxes, expected.boxes, 1e-4, 1e-3)


@pytest.mark.slow
def test_predictions_are_those_of_an_evaluation(run, photographs, tmp_path):
    evaluate(run)
    split = sources.open_split("digits", "test[:10]")
    expected = detections(run / "detections-6.json", split)
    output = tmp_path / "answers.json"
    result = predict(run, photographs, output=output)
    assert result.returncode == 1
    assert "error: 1 of 12 images have no answer; the first: " in result.stderr
    assert "00.png is no readable image" in result.stderr
    assert result.stdout.startswith("11 of 12 images have answers after step 6 of ")
    assert (
        f"answers: {output}; 11 pictures in {run}/predictions/step-6" in result.stdout
    )
    bad, *canvases, photograph = json.loads(output.read_text())
    assert bad["objects"] == [] and "no readable image" in bad["problem"]
    for answer, one in zip(canvases, expected, strict=True):
        assert_found(answer, one)
    assert photograph["image"] == str(photographs / "11.jpg")
    boxes = np.array([x["box"] for x in photograph["objects"]]).reshape(-1, 4)
    assert (boxes >= 0).all() and (boxes <= [200, 60, 200, 60]).all()
    pictures = sorted(x.name for x in (run / "predictions" / "step-6").iterdir())
    assert pictures == [f"{i:02}-{i:02}.png" for i in range(1, 12)]


def test_predictions_as_a_table_and_as_text(run, photographs, tmp_path):
    images = photographs / "01.png", photographs / "missing.png"
    folder = run / "predictions" / "step-6"
    folder.mkdir(parents=True)
    for name in ("01-before.png", "32-before.png", "of-mine.png", "01-before.txt"):
        (folder / name).touch()
    result = predict(run, *images)
    left = {path.name for path in folder.iterdir()}
    assert left == {"01-01.png", "of-mine.png", "01-before.txt"}
    assert result.returncode == 1
    assert re.match(rf"{images[0]}:  \d+ objects? with a score of 0.5 o", result.stdout)
    assert f"{images[1]}:  no answer: --images: there is no file" in result.stdout
    output = tmp_path / "answers.csv"
    assert predict(run, *images, output=output).returncode == 1
    with open(output, newline="") as file:
        *found, problem = csv.DictReader(file)
    assert {row["image"] for row in found} == {str(images[0])}
    for row in found:
        assert row["class"] in "0123456789" and 0 < float(row["score"]) <= 1
        box = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
        assert 0 <= box[0] < box[2] <= 128 and 0 <= box[1] < box[3] <= 128
    assert problem["image"] == str(images[1]) and "no file" in problem["problem"]
    assert not problem["class"] and not problem["x1"]
