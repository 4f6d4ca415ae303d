"""A run that was killed, stopped or damaged ends with the bits of one that was not."""

import json
import random
import re
import signal
import subprocess
import time

import pytest
import runs

CONFIG = "--config=configs/lenet5.py:modern"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The final state of the run that all others are compared with."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = runs.run_main(runs.command(CONFIG, f"--workdir={path}", **LONG))
    assert result.returncode == 0, result.stderr
    return runs.final_state(path)


# 150 steps; saves and evaluations often enough that a kill meets them.
LONG = {
    "num_epochs": 15.0,
    "steps_per_dispatch": 3,
    "checkpoint.every_steps": 4,
    "eval.batch_size": 5,
    "optimizer.ema_decay": 0.9,
}


def start(path, **more):
    # Under nohup this process ignores SIGHUP, and so would its child.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            runs.command(CONFIG, f"--workdir={path}", **(LONG | more)),
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


@pytest.mark.parametrize("kills", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_killed_at_random_moments_ends_in_the_same_bits(uninterrupted, tmp_path, kills):
    chance = random.Random(kills)
    left = kills
    while True:
        with start(tmp_path / "run") as child:
            for line in child.stdout:
                if line.startswith("step") and left:
                    # Steps, evaluations and saves take milliseconds each here.
                    time.sleep(chance.uniform(0, 0.4))
                    child.kill()
                    break
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        left -= 1
    assert not left
    state, step = runs.final_state(tmp_path / "run")
    assert step == uninterrupted[1] == 150
    runs.assert_same_bits(state, uninterrupted[0])


@pytest.mark.parametrize(
    "moment",
    [
        "in training",
        pytest.param("in evaluation", marks=pytest.mark.slow),
        pytest.param("at once", marks=pytest.mark.slow),
    ],
)
def test_sigterm_saves_exits_with_75_and_resumes(uninterrupted, tmp_path, moment):
    with start(tmp_path / "run") as child:
        if moment == "in training":
            read_until(child, "^step +44/")
        elif moment == "in evaluation":
            # The line of an epoch's last step comes when its evaluation begins.
            read_until(child, "^step +40/")
        else:
            read_until(child, "parameters")
        # A terminal that is closed stops a run as SIGTERM does.
        child.send_signal(signal.SIGHUP if moment == "in training" else signal.SIGTERM)
        read_until(child, r"^stopped at step \d+ of 150, which is saved")
        while child.poll() is None:  # what comes now changes nothing
            child.send_signal(signal.SIGTERM)
            time.sleep(0.001)
    assert child.returncode == 75
    _, step = runs.final_state(tmp_path / "run")
    assert step < 150

    result = runs.run_main(runs.command(CONFIG, f"--workdir={tmp_path}/run", **LONG))
    assert result.returncode == 0, result.stderr
    assert f"resuming from step {step} of 150" in result.stdout
    state, step = runs.final_state(tmp_path / "run")
    runs.assert_same_bits(state, uninterrupted[0])


@pytest.mark.slow
def test_every_step_is_reported_once_after_a_kill(uninterrupted, tmp_path):
    with start(tmp_path / "run") as child:
        read_until(child, "^step +56/")
        child.kill()
    runs.run_main(runs.command(CONFIG, f"--workdir={tmp_path}/run", **LONG))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "train/loss" in line]
    assert steps == sorted(set(steps))
    assert steps[-1] == 150
