"""Weights and data are joined by the names of their classes, in every mode."""

import json
import shutil

import numpy as np
import pytest
import runs
import tiny_datasets
from PIL import Image

import data_source
import weights
from analysis import inspection
from configs import lenet5
from errors import ConfigError
from evaluation import results, scoring
from experiment import build, checks, workdir
from weights import formats

COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "owl": (0, 0, 255)}


def picture(name, number):
    """An image uint8 [28, 28, 3] of a class, with noise of its own."""
    noise = np.random.default_rng(number).integers(-60, 60, (28, 28, 3))
    return np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)


def write(root, folders):
    """Writes three pictures for each {class folder: class} and split."""
    for folder, name in folders.items():
        for number in range(6):
            split = ("train", "validation")[number % 2]
            path = root / split / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(name, number)).save(path)
    return f"folder:{root}"


def own(name):
    """The changes that make the small config train on these pictures."""
    return {
        "batch_size": 12,  # which eight devices cannot share
        "schedule__name": "constant",
        "augment__crop": 0,
        "steps_per_dispatch": 1,
        "dataset__name": name,
        "dataset__train_split": "train",
        "dataset__eval_split": "validation",
        "dataset__fit": "resize",
        "dataset__image_size": 28,
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(run, name of its data): a network that tells cat, dog and owl apart."""
    path = tmp_path_factory.mktemp("names")
    name = write(path / "data", {name: name for name in COLOURS})
    runs.train_small(path / "run", num_epochs=20.0, **own(name))
    return path / "run", name


@pytest.fixture
def run(source, tmp_path):
    shutil.copytree(source[0], tmp_path / "run")
    return tmp_path / "run"


def evaluated(run, *changes):
    """The content of the JSON of an evaluation, and what it printed."""
    arguments = ["--mode=evaluate", f"--workdir={run}"]
    result = runs.call_main(arguments + [f"--change={change}" for change in changes])
    assert result.returncode == 0, result.stderr
    (name,) = [
        word.rstrip(",") for word in result.stdout.split() if "evaluation-" in word
    ]
    return name, json.loads((run / name).read_text()), result.stdout


def refused(*arguments):
    result = runs.call_main(list(arguments))
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    return line


def test_data_of_other_classes_is_not_evaluated(run, tmp_path):
    other = write(tmp_path / "other", {"ant": "cat", "cat": "cat", "dog": "dog"})
    before = sorted(run.iterdir())
    line = refused(
        "--mode=evaluate", f"--workdir={run}", f"--change=dataset.name={other}"
    )
    assert f"{other} has other classes than {run}: " in line
    assert "here ant, cat, dog; there cat, dog, owl" in line
    assert sorted(run.iterdir()) == before


def test_a_subset_of_the_classes_is_evaluated_when_asked_for(run, tmp_path):
    other = write(tmp_path / "other", {"dog": "dog", "owl": "owl"})
    change = f"dataset.name={other}"
    line = refused("--mode=evaluate", f"--workdir={run}", f"--change={change}")
    assert "--change=eval.classes=subset" in line
    name, record, said = evaluated(run, change, "eval.classes=subset")
    assert "has 2 of the 3 classes" in said
    assert (record["errors"], record["count"]) == (0, 6)
    assert "eval_classes_subset" in name
    assert record["changes"] == {"dataset.name": other, "eval.classes": "subset"}
    # For a test no training images are needed, and one class is enough.
    shutil.rmtree(tmp_path / "other/train")
    shutil.rmtree(tmp_path / "other/validation/dog")
    _, record, said = evaluated(run, change, "eval.classes=subset")
    assert "has 1 of the 3 classes" in said
    assert (record["errors"], record["count"]) == (0, 3)


def test_a_test_of_new_photographs_says_what_it_leaves_out(run, tmp_path):
    write(tmp_path, {name: name for name in COLOURS})
    other = f"folder:{tmp_path / 'train'}"  # three of each class, without splits
    _, record, said = evaluated(run, f"dataset.name={other}")
    assert record["count"] == 3
    assert "6 images are not tested, and --change=dataset.eval_split=train+v" in said
    change = "dataset.eval_split=train+validation"
    _, record, said = evaluated(run, f"dataset.name={other}", change)
    assert (record["count"], record["errors"]) == (9, 0)
    assert "not tested" not in said


def test_another_order_of_the_classes_changes_no_result(run, tmp_path):
    """A TFDS set of the validation images, whose classes are numbered otherwise."""
    _, expected, _ = evaluated(run)
    split = data_source.open_split(run_config(run).dataset.name, "validation")
    assert expected["errors"] == 0 and expected["count"] == len(split) == 9
    examples = split.examples(range(9))
    pictures = {e.image: split.label_names[e.label] for e in examples}
    prepared(tmp_path, ("owl", "cat", "dog"), pictures)
    name, record, said = evaluated(
        run,
        "dataset.name=tiny",
        f"dataset.data_dir={tmp_path}",
        "dataset.eval_split=train",
    )
    assert "tiny has the classes of" in said and "in another order" in said
    assert record["errors"] == 0 and record["loss"] == expected["loss"]
    suffix = name.removeprefix("evaluation-").removesuffix(".json")
    ours, theirs = (
        scoring.read(run / f"predictions-{suffix}.npz") for suffix in ("15", suffix)
    )
    np.testing.assert_array_equal(ours.label, theirs.label)
    np.testing.assert_array_equal(ours.label_names, theirs.label_names)
    np.testing.assert_array_equal(ours.logits, theirs.logits)


def run_config(run):
    return workdir.Workdir(run).config()


def test_a_run_whose_class_was_renamed_does_not_go_on(tmp_path):
    name = write(tmp_path / "data", {name: name for name in COLOURS})
    path = tmp_path / "run"
    runs.train_small(path, num_epochs=1.0, **own(name))
    records = ("config.json", "dataset.json", "preprocessing.json", "parameters.txt")
    before = {record: (path / record).stat().st_mtime_ns for record in records}
    for split in ("train", "validation"):
        folder = tmp_path / "data" / split
        (folder / "dog").rename(folder / "wolf")
    with pytest.raises(data_source.DataError, match="only here wolf; only there dog"):
        runs.train_small(path, num_epochs=2.0, **own(name))
    network = inspection.Network(workdir.Workdir(path), "latest")
    with pytest.raises(data_source.DataError, match="only here wolf; only there dog"):
        network.open_split("validation")
    for split in ("train", "validation"):
        folder = tmp_path / "data" / split
        (folder / "wolf").rename(folder / "dog")
    assert before == {record: (path / record).stat().st_mtime_ns for record in records}
    runs.train_small(path, num_epochs=2.0, **own(name))
    after = {record: (path / record).stat().st_mtime_ns for record in records}
    assert after.pop("config.json") != before.pop("config.json")  # it is longer now
    assert after == before


def prepared(root, names, pictures):
    """Writes a TFDS set of {PNG: class}, whose classes are numbered as in `names`."""
    import tensorflow_datasets as tfds

    tiny_datasets.prepare(
        root,
        list(pictures),
        [names.index(name) for name in pictures.values()],
        features={
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=names),
        },
    )


def test_a_run_goes_on_with_its_own_numbers(tmp_path):
    """A set is prepared again, with its classes in another order."""
    pictures = {tiny_datasets.png(picture(n, i)): n for i in range(3) for n in COLOURS}
    changes = own("tiny") | {
        "dataset__data_dir": str(tmp_path),
        "dataset__eval_split": "train",
    }
    prepared(tmp_path, ("cat", "dog", "owl"), pictures)
    runs.train_small(tmp_path / "whole", num_epochs=4.0, **changes)
    runs.train_small(tmp_path / "parts", num_epochs=2.0, **changes)
    shutil.rmtree(tmp_path / "tiny")
    prepared(tmp_path, ("owl", "cat", "dog"), pictures)
    runs.train_small(tmp_path / "parts", num_epochs=4.0, **changes)
    whole, parts = (runs.final_state(tmp_path / n)[0] for n in ("whole", "parts"))
    runs.assert_same_bits(whole, parts)
    record = workdir.Workdir(tmp_path / "parts").read_json("dataset.json")
    assert record["label_names"] == ["cat", "dog", "owl"]


def test_a_head_for_other_classes_is_not_loaded_unless_it_is_named(
    source, tmp_path, capsys
):
    path, _ = source
    birds = write(tmp_path / "data", {"ant": "cat", "cat": "dog", "dog": "owl"})
    changes = own(birds) | {"init_from": str(path), "num_epochs": 0.0}
    with pytest.raises(weights.WeightsError) as error:
        runs.train_small(tmp_path / "run", **changes)
    assert "here ant, cat, dog; there cat, dog, owl" in str(error.value)
    assert "config.init_layers = ('backbone',) starts with a new" in str(error.value)
    assert not (tmp_path / "run").exists()
    runs.train_small(tmp_path / "run", init_layers=(".",), **changes)
    said = capsys.readouterr().out
    assert "warning: config.init_layers takes a head for other classes: here" in said
    assert "trains nothing" not in said
    record = workdir.Workdir(tmp_path / "run").read_json("dataset.json")
    assert record["label_names"] == ["ant", "cat", "dog"]


def test_a_new_head_that_nothing_trains_is_said(source, tmp_path, capsys):
    path, name = source
    line = "warning: config.num_epochs = 0 trains nothing, so the head, which is new"
    two = write(tmp_path / "two", {"cat": "cat", "dog": "dog"})
    changes = {"init_from": str(path), "num_epochs": 0.0}
    runs.train_small(tmp_path / "of_two", **own(two), **changes)
    assert line in capsys.readouterr().out
    changes["init_layers"] = ("backbone",)
    runs.train_small(tmp_path / "backbone", **own(name), **changes)
    assert line in capsys.readouterr().out
    changes["num_epochs"] = 2.0
    runs.train_small(tmp_path / "trained", **own(name), **changes)
    assert line not in capsys.readouterr().out


def test_a_head_for_the_same_classes_numbers_the_data(source, tmp_path, capsys):
    path = tmp_path / "source"
    shutil.copytree(source[0], path)
    # The head keeps its numbers, and the classes of the folders swap their names.
    record = json.loads((path / "dataset.json").read_text())
    record["label_names"] = ["owl", "dog", "cat"]
    (path / "dataset.json").write_text(json.dumps(record))
    name = write(tmp_path / "data", {"owl": "cat", "dog": "dog", "cat": "owl"})
    line = runs.train_small(
        tmp_path / "run", init_from=str(path), **own(name), num_epochs=0.0
    )
    assert "(0 errors, 9/9 images counted)" in line
    assert f"has the classes of {path} in another order" in capsys.readouterr().out
    record = workdir.Workdir(tmp_path / "run").read_json("dataset.json")
    assert record["label_names"] == ["owl", "dog", "cat"]


def test_our_exports_name_their_classes(tmp_path):
    arrays = {"params/output/bias": np.zeros(2, np.float32)}
    file = tmp_path / "lenet5_modern.safetensors"
    metadata = {"format": formats.OURS, "network": "lenet5_modern"}
    formats.write_safetensors(file, arrays, metadata)
    assert weights.class_names(file) is None
    for text in ("cat\nsea lion\n", "cat\nsea lion"):
        (tmp_path / "labels.txt").write_text(text)
        assert weights.class_names(file) == ("cat", "sea lion")
    formats.write_safetensors(file, arrays, {**metadata, "labels": '["ant", "bee"]'})
    assert weights.class_names(file) == ("ant", "bee")
    formats.write_safetensors(file, arrays, {"format": "pt"})
    assert weights.class_names(file) is None  # labels.txt may be of anything
    assert weights.class_names("hf:timm/resnet50.a1_in1k") is None


def test_a_damaged_record_of_the_classes_is_an_error(run):
    (run / "dataset.json").write_text('{"image_shape": [28, 28, 3]}')
    Image.fromarray(picture("cat", 0)).save(run / "cat.png")
    predict = "--mode=predict", f"--workdir={run}", f"--images={run}/cat.png"
    for arguments in (("--mode=evaluate", f"--workdir={run}"), predict):
        line = refused(*arguments)
        assert "dataset.json is damaged: KeyError('label_names')" in line
    (run / "dataset.json").unlink()
    assert f"{run} holds no run (dataset.json is missing" in refused(*predict)
    _, record, said = evaluated(run)
    assert "has no dataset.json, so its classes are taken to be those" in said
    assert record["errors"] == 0


# The files of an evaluation.


def test_another_question_goes_into_another_file(run, tmp_path):
    name, record, _ = evaluated(run)
    assert name == "evaluation-15.json"
    assert record["dataset"] == run_config(run).dataset.name
    assert (record["split"], record["protocol"]) == ("validation", "single")
    assert record["changes"] == {}
    before = (run / name).read_bytes()
    other = write(tmp_path / "other", {"cat": "dog", "dog": "cat", "owl": "owl"})
    wrong, record, _ = evaluated(run, f"dataset.name={other}")
    assert wrong != name and (run / name).read_bytes() == before
    assert record["dataset"] == other and record["errors"] == 6
    # Eight devices share a batch of the training no better than before.
    again, record, _ = evaluated(run, "num_devices=0", "eval.batch_size=3")
    assert again == name
    assert record["changes"] == {"num_devices": 0, "eval.batch_size": 3}
    assert record["errors"] == 0


def test_names_of_files_tell_questions_apart():
    questions = [
        {},
        {"dataset.eval_split": "test[:21]"},
        {"dataset.eval_split": "test[21:]"},
        {"dataset.eval_split": "test[:21%]"},
        {"dataset.eval_split": "test_21"},
        {"dataset.name": "folder:a/b"},
        {"dataset.name": "folder:a-b"},
        {"dataset.data_dir": "a"},
        {"dataset.mean": (0.5,)},
        {"dataset.mean": (0, 5)},
        {"eval.scales": (256, 384)},
        {"eval.scales": (256,)},
        {"eval.damaged": "wrong"},
        {"model.dtype": "bfloat16"},
        {"loss.name": "binary_cross_entropy"},
    ]
    names = [results.suffix("single", "moving", q) for q in questions]
    assert names[:2] == ["", "-eval_split_test_21"]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) < 90 and set(name) <= set(
            "abcdefghijklmnopqrstuvwxyz0123456789_-"
        )
    same = {"eval.batch_size": 3, "num_devices": 8, "augment.crop": 1, "seed": 2}
    assert results.suffix("single", "moving", same) == ""
    assert results.suffix("dense", "population", same) == (
        "-dense-population-augment_crop_1-seed_2"
    )


# Two ways to say how long a training is.


@pytest.mark.parametrize(
    ("epochs", "steps", "total"),
    [(2.0, None, 20), (2.0, 7, 7), (0.0, None, 0), (0.0, 7, 0)],
)
def test_no_epochs_is_no_training_whatever_the_steps(epochs, steps, total):
    config = lenet5.get_config("modern")
    config.batch_size, config.init_from = 64, "runs/a"
    config.num_epochs, config.num_steps = epochs, steps
    assert build.make_durations(config, 640).total == total


def test_eight_devices_test_what_they_cannot_train():
    config = runs.small_config(num_devices=0, batch_size=12)
    checks.check_enough_devices(config, 8)
    with pytest.raises(ConfigError, match="not divisible by 8 devices"):
        checks.check_devices(config, 8)
    with pytest.raises(ConfigError, match="but there are 2"):
        checks.check_enough_devices(runs.small_config(num_devices=4), 2)
