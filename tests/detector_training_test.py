"""A detector trains by the same loop as a classifier, and with the same guarantees."""

import csv
import json
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
import runs
import tiny_datasets

import train
import weights
from configs import faster_rcnn
from experiment import checkpoints, detectors, outcomes, workdir
from training import optimizers

CONFIG = "--config=configs/faster_rcnn.py:digits"


@pytest.fixture(scope="module", autouse=True)
def small(few_digits):
    """All trainings of this module are of few canvases."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    return path, runs.train_detector(path)


def state_of(path, step=None):
    """The state that a run saved after `step`, or the newest."""
    saved = checkpoints.Checkpoints(workdir.Workdir(path).checkpoints)
    state, *_ = saved.restore(step=step)
    saved.close()
    return state


def losses(path):
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return {x["step"]: x["train/loss"] for x in lines if "train/loss" in x}


@pytest.mark.slow
def test_the_last_line_and_the_files(reference):
    path, line = reference
    result = outcomes.read(workdir.Workdir(path))
    assert result["score"] == "error" and result["error"] == 100 - result["mAP"]
    assert line == (
        f"done: test[:10] mAP {result['mAP']:.1f} % (COCO, IoU 0.50 to 0.95), "
        f"10/10 images counted after step 12; run directory {path}"
    )
    found = losses(path)
    assert [*found] == [2, 4, 6, 8, 10, 12] and found[12] < 0.9 * found[2]
    record = json.loads((path / "dataset.json").read_text())
    assert record["label_names"] == [str(d) for d in range(10)]
    assert record["input_shape"] == [64, 64, 1]


@pytest.mark.slow
def test_the_average_of_the_parameters_is_kept_and_used(reference):
    state = state_of(reference[0])
    opened = detectors.open_run(workdir.Workdir(reference[0]))
    runs.assert_same_bits(opened.variables["params"], state["ema"])
    kernels = (state[name]["rpn"]["conv"]["kernel"] for name in ("params", "ema"))
    assert not np.array_equal(*kernels)


# The sixth is the last step of an epoch. A stop before the seventh comes in the
# evaluation between them.
@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_was_stopped_ends_in_the_same_bits(reference, tmp_path, step):
    path = tmp_path / "run"
    with pytest.raises(train.Preempted, match=f"stopped at step {step} of 12"):
        runs.train_detector(path, runs.StopAfter(step))
    assert runs.final_state(path)[1] == step
    line = runs.train_detector(path)
    assert line == reference[1].replace(str(reference[0]), str(path))
    runs.assert_same_bits(state_of(path), state_of(reference[0]))


@pytest.mark.slow
def test_a_run_that_lost_steps_ends_in_the_same_bits(reference, tmp_path):
    """Without its last checkpoint a run is as one that was killed after step 9."""
    path, batches = tmp_path / "run", 3
    with pytest.raises(train.Preempted, match="stopped at step 9 of 12"):
        runs.train_detector(path, runs.StopAfter(9 + batches))
    shutil.rmtree(path / "checkpoints" / "9")
    assert runs.final_state(path)[1] == 8
    runs.train_detector(path)
    runs.assert_same_bits(state_of(path), state_of(reference[0]))


@pytest.mark.slow
def test_until_ends_at_an_evaluation_and_goes_on(reference, tmp_path):
    path = tmp_path / "run"
    line = runs.train_detector(path, until=0.4)
    assert line.startswith("so far, of 12 steps: test[:10] mAP ")
    assert "after step 6;" in line
    runs.train_detector(path)
    runs.assert_same_bits(state_of(path), state_of(reference[0]))


@pytest.mark.slow
def test_threads_prefetch_and_reports_change_nothing(reference, tmp_path):
    runs.train_detector(
        tmp_path / "run",
        dataset__num_threads=3,
        dataset__prefetch=5,
        log__every_steps=5,
        checkpoint__every_steps=5,
        eval__batch_size=7,
    )
    runs.assert_same_bits(state_of(tmp_path / "run"), state_of(reference[0]))


@pytest.mark.slow
def test_another_seed_sees_other_batches(reference, tmp_path):
    runs.train_detector(tmp_path / "run", seed=1, num_epochs=0.5)
    assert losses(tmp_path / "run")[2] != losses(reference[0])[2]


@pytest.mark.slow
def test_four_devices_give_what_one_gives(reference, tmp_path):
    """For two steps: rounding may then move a sample, and the runs part."""
    runs.train_detector(tmp_path / "run", num_devices=4, num_steps=2)
    runs.assert_close(state_of(tmp_path / "run"), state_of(reference[0], 2))
    ours, theirs = losses(tmp_path / "run"), losses(reference[0])
    assert ours[2] == pytest.approx(theirs[2], rel=1e-5)


# Batch normalisation that is fixed, as in fine-tuning.


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier of single digits, whose backbone is that of the small detector."""
    path = tmp_path_factory.mktemp("classifier") / "run"
    fields = {"depth": 18, "widening_factor": 0.125}
    runs.train_small(
        path,
        model__name="models.wide_resnet:WideResNet",
        model__fields=fields,
        num_epochs=0.5,
    )
    return path


@pytest.fixture(scope="module")
def fine_tuned(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("fine_tuned") / "run"
    runs.train_detector(path, **fine_tuning(classifier))
    return path


def fine_tuning(classifier):
    recipe = faster_rcnn.get_config("paper")
    return {
        "init_from": str(classifier),
        "init_layers": recipe.init_layers,
        "model__frozen_statistics": recipe.model.frozen_statistics,
        "model__fields__frozen_until": recipe.model.fields.frozen_until,
        "optimizer__rate_factors": recipe.optimizer.rate_factors,
        "num_epochs": 0.5,
    }


def leaves(tree):
    paths = optimizers.paths(tree)
    return dict(zip(paths, jax.tree.leaves(tree), strict=True))


@pytest.mark.slow
def test_fine_tuning_leaves_what_is_frozen_as_the_classifier_has_it(
    classifier, fine_tuned
):
    before, after = state_of(classifier), state_of(fine_tuned)
    runs.assert_same_bits(
        after["batch_stats"]["backbone"], before["batch_stats"]["backbone"]
    )
    before, after = (leaves(x["params"]["backbone"]) for x in (before, after))
    assert before.keys() == after.keys()
    kept = {path for path, x in before.items() if np.array_equal(x, after[path])}
    assert kept == {
        path
        for path in before
        if path.startswith(("conv1/", "bn1/", "conv2_1/")) or "bn" in path
    }


@pytest.mark.slow
def test_a_classifier_is_no_whole_detector(classifier, tmp_path):
    changes = fine_tuning(classifier) | {"init_layers": ()}
    with pytest.raises(weights.WeightsError, match="its head .*init_layers="):
        runs.train_detector(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_batch(classifier, fine_tuned, tmp_path):
    """An image's loss is its own if batch normalisation is fixed."""
    path = tmp_path / "run"
    runs.train_detector(path, **fine_tuning(classifier), optimizer__accumulate=2)
    runs.assert_close(state_of(path), state_of(fine_tuned))


@pytest.mark.slow
def test_a_detector_starts_from_a_detector(reference, tmp_path):
    """With a rate of 0 everywhere it ends where it starts."""
    runs.train_detector(
        tmp_path / "run",
        init_from=str(reference[0]),
        model__frozen_statistics=True,
        optimizer__rate_factors=((".", 0.0),),
        num_epochs=0.2,
    )
    ours, theirs = state_of(tmp_path / "run"), state_of(reference[0])
    runs.assert_same_bits(ours["params"], theirs["ema"])
    runs.assert_same_bits(ours["batch_stats"], theirs["batch_stats"])


# What goes wrong, and many runs.


@pytest.mark.slow
def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tmp_path):
    """The rate explodes after the first epoch."""
    path = tmp_path / "run"
    changes = {
        "schedule__name": "step",
        "schedule__boundaries": (1.0,),
        "schedule__factors": (1e30,),
    }
    command = runs.command(CONFIG, f"--workdir={path}", small=runs.DETECTOR, **changes)
    for _ in range(2):
        ended = runs.call_main(command)
        assert ended.returncode == 3, ended.stderr
        (line,) = [x for x in ended.stderr.splitlines() if x.startswith("error: ")]
        assert "the loss of step 7 is not finite; nothing was saved after che" in line
    state, step = runs.final_state(path)
    assert step == 6
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    assert outcomes.read(workdir.Workdir(path)) == {"step": 7, "diverged": True}


@pytest.mark.slow
def test_a_sweep_gives_what_single_runs_give(reference, tmp_path):
    """Detectors share no program: each run of the sweep is a training of its own."""
    rate = runs.small_detector().optimizer.learning_rate
    vary = ["seed=0,1", f"optimizer.learning_rate={rate},{rate / 2}"]
    _, sweep = runs.sweep(tmp_path / "sweep", vary, make=runs.small_detector)
    changes = {"seed": 1, "optimizer__learning_rate": rate / 2}
    runs.train_detector(tmp_path / "single", **changes)
    single = {f"{rate},seed=0": reference[0], f"{rate / 2},seed=1": tmp_path / "single"}
    for name, path in single.items():
        name = f"optimizer.learning_rate={name}"
        runs.assert_same_bits(state_of(tmp_path / "sweep" / name), state_of(path))
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done"] * 4
    for row in rows:
        result = outcomes.read(workdir.Workdir(tmp_path / "sweep" / row["run"]))
        assert float(row["error"]) == result["error"]
        assert float(row["mAP"]) == result["mAP"]
        assert f"test[:10] error {result['error']:.2f}" in str(sweep)
    assert "4 runs: 4 done" in str(sweep)


@pytest.mark.slow
def test_stages_that_are_computed_twice_change_rounding_alone(reference, tmp_path):
    runs.train_detector(tmp_path / "run", model__remat="conv4,conv5", num_steps=2)
    runs.assert_close(state_of(tmp_path / "run"), state_of(reference[0], 2))


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path):
    """Photographs of two shapes, each in a bucket of its own."""
    root = tmp_path / "voc"
    tiny_datasets.prepare_voc(root, {"train": "abcdefghijkl", "test": "mnop"})
    for name in "aceg":
        tiny_datasets.write_voc(root, name, (48, 64))
    changes = {
        "dataset.name": f"voc:{root}",
        "dataset.train_split": "train",
        "dataset.eval_split": "test",
        "num_epochs": 4.0,
    }

    def start(name):
        command = runs.command(
            CONFIG, f"--workdir={tmp_path / name}", small=runs.DETECTOR | changes
        )
        return subprocess.Popen(
            command,
            cwd=runs.ROOT,
            env=runs.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with start("whole") as child:
        output = child.stdout.read()
    assert child.returncode == 0, output
    with start("killed") as child:
        for line in child.stdout:
            if line.startswith("step  6/12"):
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL
    with start("killed") as child:
        output = child.stdout.read()
    assert child.returncode == 0, output
    assert "resuming from step " in output
    whole, killed = (state_of(tmp_path / name) for name in ("whole", "killed"))
    runs.assert_same_bits(whole, killed)
