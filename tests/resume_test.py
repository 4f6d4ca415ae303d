"""A run that was killed, stopped or damaged ends with the bits of one that was not."""

import functools
import json
import random
import re
import signal
import subprocess
import time

import pytest
import runs

CONFIG = "--config=configs/lenet5.py:modern"


# Saves and evaluations often enough that a kill meets them.
OFTEN = {
    "model.name": "tiny_networks:WithKernels",
    "batch_size": 16,
    "dataset.train_split": "train[:160]",
    "dataset.eval_split": "test[:53]",
    "steps_per_dispatch": 3,
    "checkpoint.every_steps": 4,
    "eval.batch_size": 5,
    "optimizer.ema_decay": 0.9,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Gives the final state of the run of so many epochs of ten steps."""

    @functools.cache
    def state(epochs):
        path = tmp_path_factory.mktemp("uninterrupted") / "run"
        result = runs.call_main(command(path, epochs))
        assert result.returncode == 0, result.stderr
        return runs.final_state(path)

    return state


def command(path, epochs):
    return runs.command(CONFIG, f"--workdir={path}", num_epochs=epochs, **OFTEN)


def start(path, epochs):
    # Under nohup this process ignores SIGHUP, and so would its child.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            command(path, epochs),
            cwd=runs.ROOT,
            env=runs.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def read_until(child, pattern):
    lines = []
    for line in child.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"{pattern!r} never came:\n{''.join(lines)}")


def finish(path, epochs, kills=0):
    """Starts a run until it has ended; kills it so many times. Returns its output."""
    chance, left, lines = random.Random(kills), kills, []
    while True:
        with start(path, epochs) as child:
            for line in child.stdout:
                lines.append(line)
                if line.startswith("step") and left:
                    # Steps, evaluations and saves take milliseconds each here.
                    time.sleep(chance.uniform(0, 0.4))
                    child.kill()
                    break
        if child.returncode == 0:
            assert not left
            return "".join(lines)
        assert child.returncode == -signal.SIGKILL, "".join(lines)
        left -= 1


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "epochs"), [(2, 6.0), (5, 15.0)])
def test_killed_at_random_moments_ends_in_the_same_bits(
    uninterrupted, tmp_path, kills, epochs
):
    finish(tmp_path / "run", epochs, kills)
    (state, step), (expected, end) = (
        runs.final_state(tmp_path / "run"),
        uninterrupted(epochs),
    )
    assert step == end == 10 * epochs
    runs.assert_same_bits(state, expected)


@pytest.mark.parametrize(
    ("moment", "kills"),
    [
        ("in training", 0),
        pytest.param("in training", 1, marks=pytest.mark.slow),
        pytest.param("in evaluation", 1, marks=pytest.mark.slow),
        pytest.param("at once", 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_exits_with_75_and_changes_no_bit(
    uninterrupted, tmp_path, moment, kills
):
    with start(tmp_path / "run", 6.0) as child:
        if moment == "in training":
            read_until(child, "^step +12/")
        elif moment == "in evaluation":
            # The line of an epoch's last step comes when its evaluation begins.
            read_until(child, "^step +20/")
        else:
            read_until(child, "parameters")
        # A terminal that is closed stops a run as SIGTERM does.
        child.send_signal(signal.SIGHUP if moment == "in training" else signal.SIGTERM)
        read_until(child, r"^stopped at step \d+ of 60, which is saved")
        while child.poll() is None:  # what comes now changes nothing
            child.send_signal(signal.SIGTERM)
            time.sleep(0.001)
    assert child.returncode == 75
    _, step = runs.final_state(tmp_path / "run")
    assert step < 60

    output = finish(tmp_path / "run", 6.0, kills)
    assert f"resuming from step {step} of 60" in output
    state, step = runs.final_state(tmp_path / "run")
    assert step == 60
    runs.assert_same_bits(state, uninterrupted(6.0)[0])


@pytest.mark.slow
def test_every_step_is_reported_once_after_a_kill(tmp_path):
    with start(tmp_path / "run", 6.0) as child:
        read_until(child, "^step +28/")
        child.kill()
    with start(tmp_path / "run", 6.0) as child:
        child.stdout.read()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(4, 61, 4))
