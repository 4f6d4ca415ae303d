"""What a run keeps for its users, and that all modes open it alike."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
import runs
import tiny_datasets
from PIL import Image

import data_source
import evaluate
from data_source import DataError
from errors import ConfigError
from experiment import build, checks, trained, workdir
from kernels import ops


@pytest.fixture
def auto():
    yield
    ops.use("auto")


def test_open_gives_the_network_with_its_weights_and_input():
    opened = trained.open_run(workdir.Workdir(runs.OLD_RUN))
    assert opened.step == 10 and opened.config.model.name == "lenet5_modern"
    assert opened.image_shape == (28, 28, 1)
    assert opened.input_shape == opened.trained_shape == (32, 32, 1)
    assert opened.label_names == tuple("0123456789")
    images = np.zeros((3, 28, 28, 1), np.uint8)
    inputs = opened.inputs(images)  # whitened, by the statistics of the run
    assert inputs.shape == (3, 32, 32, 1) and np.ptp(inputs) > 0
    apply = jax.jit(functools.partial(opened.model.apply, train=False))
    logits = apply(opened.variables, inputs)
    assert logits.shape == (3, 10)


def test_the_python_in_the_docs():
    text = (runs.ROOT / "docs" / "networks.md").read_text()
    text = text.split("```python\n")[1].split("```")[0]
    values = {}
    exec(text.replace("runs/lenet5", str(runs.OLD_RUN)), values)
    assert values["logits"].shape == (2, 10)
    assert np.isfinite(values["logits"]).all()


def test_open_takes_the_data_that_is_to_be_tested(tmp_path):
    run = workdir.Workdir(shutil.copytree(runs.OLD_RUN, tmp_path / "run"))
    record = run.read_json("preprocessing.json") | {"whiten": ""}
    (run.path / "preprocessing.json").write_text(json.dumps(record))
    config = run.config()
    with config.unlocked():
        config.eval.image_size, config.dataset.whiten = 28, ""
    opened = trained.open_run(run, config=config)
    assert (opened.input_shape, opened.trained_shape) == ((28, 28, 1), (32, 32, 1))


def test_the_size_in_training_is_the_run_s_whatever_is_tested(tmp_path):
    run = workdir.Workdir(runs.OLD_RUN)
    config = run.config()
    with config.unlocked():
        config.dataset.image_size = 40
    images = np.zeros((3, 20, 20, 1), np.uint8)
    names = tuple("0123456789")
    tiny_datasets.prepare(tmp_path, images, np.arange(3), names=names)
    split = data_source.open_split("tiny", "train", data_dir=tmp_path)
    opened = trained.open_run(run, config=config, split=split)
    assert (opened.input_shape, opened.trained_shape) == ((40, 40, 1), (32, 32, 1))
    colour = dataclasses.replace(split, image_shape=(20, 20, 3))
    message = "of 1 channels, and those of tiny have 3 .image files are read as RGB"
    with pytest.raises(ConfigError, match=message):
        trained.open_run(run, split=colour)


def test_the_kernels_of_a_run_stand_in_its_record_and_a_change_is_said(tmp_path, auto):
    """A resume by other kernels goes on, with other roundings, and says so."""
    arguments = runs.command(
        "--config=configs/lenet5.py:modern",
        f"--workdir={tmp_path}/run",
        model__name="tiny_networks:WithKernels",
        schedule__name="constant",
        batch_size=4,
        dataset__eval_split="test[:8]",
        eval__batch_size=8,
    )
    first = runs.call_main([*arguments, "--config.num_steps=2"])
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0].endswith(ops.in_words(ops.describe(1)))
    assert "warning: other" not in first.stdout
    second = runs.call_main([*arguments, "--config.num_steps=4", "--kernels=xla"])
    assert second.returncode == 0, second.stderr
    resuming, title, warning, *_ = second.stdout.splitlines()
    assert resuming == "resuming from step 2 of 4"
    assert title.endswith("kernels: XLA's own")
    assert warning.startswith("warning: other than at the run's last start: ")
    assert "kernels 'auto' before, 'xla' now" in warning
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [start["kernels"]["kernels"] for start in starts] == ["auto", "xla"]


def test_other_code_and_packages_than_the_last_start_had_are_said(tmp_path, capsys):
    def begin(steps):
        constant = {"schedule.name": "constant"}
        runs.train_small(tmp_path / "run", num_steps=steps, **constant)

    begin(1)
    begin(2)
    assert "warning: other" not in capsys.readouterr().out
    run = workdir.Workdir(tmp_path / "run")
    last = run.starts()[-1]
    last |= {
        "git": "0" * 40,
        "python": None,
        "packages": last["packages"] | {"numpy": "1.0"},
    }
    del last["packages"]["jax"]  # as an earlier version may not have it
    run.write_json("environment.json", [last])
    begin(3)
    said = capsys.readouterr().out
    (line,) = [x for x in said.splitlines() if x.startswith("warning: other")]
    assert line.startswith(
        f"warning: other than at the run's last start: code '{'0' * 40}"
    )
    assert "numpy '1.0' before" in line
    assert "jax" not in line and "python" not in line


def test_a_run_of_an_earlier_version_has_no_kernels_to_compare_with():
    run = workdir.Workdir(runs.OLD_RUN)
    assert [start.get("kernels") for start in run.starts()] == [None]


@pytest.mark.parametrize("whiten", ["channels", "gcn", ""])  # two need no statistics
def test_statistics_of_another_kind_are_not_joined_with_a_network(whiten):
    run = workdir.Workdir(runs.OLD_RUN)
    config = run.config()
    with config.unlocked():
        config.dataset.whiten = whiten
    with pytest.raises(ConfigError, match=f"whiten = '{whiten}'.* with 'mean_image'"):
        trained.open_run(run, config=config)


@pytest.fixture
def photographs(tmp_path):
    """The changes for a training on a folder of twelve images."""
    for number in range(12):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), (20 * number, 0, 0)).save(path)
    return {
        "dataset.name": f"folder:{tmp_path}/photos",
        "dataset.train_split": "train",
        "dataset.eval_split": "auto",
        "dataset.image_size": 28,
        "schedule.name": "constant",
        "batch_size": 5,
        "augment.crop": 0,
    }


def test_a_run_does_not_go_on_with_other_examples(tmp_path, photographs):
    path, folder = tmp_path / "run", tmp_path / "photos"
    runs.train_small(path, num_epochs=1.0, **photographs)
    record = json.loads((path / "dataset.json").read_text())
    assert record["splits"]["train"]["images"] == 10
    assert record["splits"]["eval"] == record["splits"]["eval"] | {
        "split": "validation",
        "images": 2,
    }
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    shutil.copy(folder / "a/0.png", folder / "a/00.png")
    with pytest.raises(workdir.WorkdirError) as error:
        runs.train_small(path, num_epochs=2.0, **photographs)
    assert f"{path} was begun with 10 images of train, and folder:" in str(error.value)
    assert f"{folder} now has 11; a run goes on, and is tested" in str(error.value)
    run = workdir.Workdir(path)
    config = checks.change(run.config(), ["dataset.eval_split=train"])
    with pytest.raises(workdir.WorkdirError, match="now has 11; a run goes on, and is"):
        evaluate.evaluate_run(run, config)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    # As many, of which one has another name.
    (folder / "a/00.png").unlink()
    (folder / "a/0.png").rename(folder / "a/x.png")
    with pytest.raises(workdir.WorkdirError, match="now has 10, but others, or in an"):
        runs.train_small(path, num_epochs=2.0, **photographs)
    for file in list((folder / "b").iterdir()):  # one of which was held out
        file.rename(file.with_name(f"b{file.name}"))
    with pytest.raises(workdir.WorkdirError, match="2 images of val.*now has 2, but"):
        evaluate.evaluate_run(run, run.config())
    # The field is the user's to take away, and earlier versions had none.
    del record["splits"]
    (path / "dataset.json").write_text(json.dumps(record))
    line = runs.train_small(path, num_epochs=2.0, **photographs)
    assert line.startswith("done: ") and "after step 4" in line


def test_a_run_s_own_images_are_known_in_another_place(tmp_path, photographs, capsys):
    runs.train_small(tmp_path / "run", num_epochs=0.5, **photographs)
    run, moved = workdir.Workdir(tmp_path / "run"), tmp_path / "moved"
    (tmp_path / "photos").rename(moved)

    def said(*changes):
        evaluate.evaluate_run(run, checks.change(run.config(), changes))
        return capsys.readouterr().out

    with pytest.raises(DataError, match="cannot be listed: No such file or directory;"):
        said()
    capsys.readouterr()
    name = f"dataset.name=folder:{moved}"
    for found in (said(name), said(f"{name}/")):
        assert f"{run} in another place; validation was not trained on" in found
        assert "validation was held out" in found and "not tested" not in found
    every = "dataset.eval_split=train+validation"
    line = "warning: by their names, 10 of the 12 images of train+validation are those"
    assert line in said(name, every)
    (tmp_path / "photos").symlink_to(moved)
    assert line in said(every)
    assert "by their names" not in said() and "by its names" not in said()
    (moved / "a" / "0.png").rename(moved / "a" / "x.png")  # they are other images now
    found = said(name)
    assert "10 images are not tested, and --change" in found
    assert "by its names" not in found
    assert "by their names" not in said(name, every)


def test_a_cache_is_of_the_same_examples(tmp_path, photographs):
    cache = {"dataset.cache": "pixels", "dataset.cache_dir": f"{tmp_path}/cache"}
    found = []
    for name, changes in (("plain", {}), ("cached", cache)):
        runs.train_small(tmp_path / name, num_epochs=1.0, **photographs, **changes)
        record = json.loads((tmp_path / name / "dataset.json").read_text())
        found.append((record, runs.final_state(tmp_path / name)[0]))
    assert found[0][0] == found[1][0]
    runs.assert_same_bits(found[0][1], found[1][1])


def test_processes_with_other_copies_of_the_data_are_refused(photographs, monkeypatch):
    setup = build.setup(runs.small_config(num_epochs=1.0, **photographs))
    splits, other = (setup.train_split, setup.eval_split), []

    def gathered(own):
        return np.stack([own, other.pop(0) if other else own])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(build.multihost_utils, "process_allgather", gathered)
    build.check_hosts(*splits)
    digest = np.frombuffer(bytes.fromhex(splits[1].digest()), np.uint8)
    other += [digest, np.int32(11)]
    with pytest.raises(DataError, match="from process 0 on they have 10, 11. Give"):
        build.check_hosts(*splits)
