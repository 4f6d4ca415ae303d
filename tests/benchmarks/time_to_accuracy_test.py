"""The clock of benchmarks/time_to_accuracy.py, and whom it lets run."""

import re
import subprocess
import sys

import numpy as np
import pytest
import runs
import tiny_datasets

from benchmarks import time_to_accuracy
from configs import cifar10

PROGRAM = """
import sys, time
for errors in {errors}:
    counted = f"({{errors}} errors, 200/200 images counted)"
    print(f"test error {{errors / 2:.2f}} % {{counted}}", flush=True)
time.sleep({seconds})
sys.exit({code})
"""


def run(errors, seconds=0, code=0, whole=False):
    program = PROGRAM.format(errors=errors, seconds=seconds, code=code)
    return time_to_accuracy.run_to(10.0, [sys.executable, "-c", program], whole)


def test_the_clock_stops_at_the_first_error_that_is_low_enough():
    found = run([90, 20, 1], seconds=600)
    assert found.error == 10.0
    assert found.target <= found.end < 60


def test_a_whole_training_goes_on_after_its_target():
    found = run([90, 20, 1], seconds=0.5, whole=True)
    assert found.error == 0.5
    assert found.target + 0.5 < found.end


def test_a_program_that_does_not_get_there_is_timed_to_its_end():
    found = run([90, 21], seconds=0.5)
    assert (found.error, found.target) == (10.5, None)
    assert found.end > 0.5


@pytest.mark.parametrize(("errors", "code"), [([90], 3), ([], 0)])
def test_a_program_that_fails_ends_the_benchmark(errors, code):
    with pytest.raises(SystemExit, match=f"exited with {code}"):
        run(errors, code=code)


def test_the_programs_run_in_turn_and_pytorch_once_for_each_seed():
    found = list(time_to_accuracy.commands("cifar10", ["ours", "torch"], "x", 2))
    assert [row[:3] for row in found] == [
        *(("ours", 0, "cold"), ("torch", 0, "")),
        *(("ours", 0, "warm"), ("ours", 1, "warm"), ("torch", 1, "")),
    ]
    ours, torch = found[3][3], found[4][3]
    assert "--config.seed=1" in ours and "--seed=1" in torch
    assert {row[0] for row in time_to_accuracy.commands("mnist", ["ours"], "x", 1)} == {
        "ours"
    }


def test_ours_and_pytorch_have_one_recipe():
    row = time_to_accuracy.ROWS["cifar10"]
    network = row.torch[0].removeprefix("--network=")
    assert row.ours[0] == f"--config=configs/cifar10.py:{network}"
    assert row.ours[1].removeprefix("--config.num_epochs=") == row.torch[
        1
    ].removeprefix("--epochs=")
    assert cifar10.get_config(network).optimizer.name == "sgd"


@pytest.mark.parity
def test_a_miniature_on_a_tiny_data_set(tmp_path):
    pytest.importorskip("torch", reason="make parity installs it")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (130, 32, 32, 3), np.uint8)
    labels = np.arange(130) % 10
    tiny_datasets.prepare(
        *(tmp_path, images, labels),
        name="cifar10",
        names=[str(digit) for digit in range(10)],
        test=(images[:20], labels[:20]),
    )
    child = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.time_to_accuracy", "--only=cifar10"),
            *("--contestants=ours,torch", "--seeds=0", "--steps=3"),
            f"--data_dir={tmp_path}",
        ],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    for name in ("ours", "torch"):
        row = rf"^cifar10 +{name} +10.0 % +0 .* never +\d+\.\d  \d+\.\d\d %$"
        assert re.search(row, child.stdout, re.MULTILINE), child.stdout
