"""What a run keeps for its users, and that all modes open it alike."""

import functools
import json

import jax
import numpy as np
import pytest
import runs

from experiment import trained, workdir
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


def test_open_takes_the_data_that_is_to_be_tested():
    run = workdir.Workdir(runs.OLD_RUN)
    config = run.config()
    with config.unlocked():
        config.eval.image_size, config.dataset.whiten = 28, ""
    opened = trained.open_run(run, config=config)
    assert (opened.input_shape, opened.trained_shape) == ((28, 28, 1), (32, 32, 1))


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
    assert "warning: other kernels" not in first.stdout
    second = runs.call_main([*arguments, "--config.num_steps=4", "--kernels=xla"])
    assert second.returncode == 0, second.stderr
    resuming, title, warning, *_ = second.stdout.splitlines()
    assert resuming == "resuming from step 2 of 4"
    assert title.endswith("kernels: XLA's own")
    assert warning.startswith("warning: other kernels than the run's last start had: ")
    assert "kernels 'auto' before, 'xla' now" in warning
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [start["kernels"]["kernels"] for start in starts] == ["auto", "xla"]


def test_a_run_of_an_earlier_version_has_no_kernels_to_compare_with():
    run = workdir.Workdir(runs.OLD_RUN)
    assert [start.get("kernels") for start in run.starts()] == [None]
