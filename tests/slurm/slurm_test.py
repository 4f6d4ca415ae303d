"""Sweeps on a real SLURM, which `make slurm-test` starts on this machine."""

import contextlib
import io
import os
import subprocess
import sys
import time
from unittest import mock

import jax
import psutil
import pytest
import runs
from slurm import cluster

from experiment import outcomes, workdir
from sweep import slurm

pytestmark = pytest.mark.slurm
EPOCHS = 20  # of ten steps
START = time.monotonic()


def say(*words):
    print(f"{time.monotonic() - START:6.1f} s ", *words, flush=True)


@pytest.fixture(scope="module", autouse=True)
def slurm_of_this_machine(tmp_path_factory):
    if lacks := cluster.missing():
        pytest.skip(lacks)
    jax.devices()  # those of this process, before it has the environment of children
    folder = tmp_path_factory.mktemp("slurm")
    with cluster.started(folder) as config:
        environment = runs.environment() | {"SLURM_CONF": str(config)}
        with mock.patch.dict(os.environ, environment):
            print()
            say(f"{command('sinfo', '--version')}: one node of two cores is idle")
            yield
            command("scancel", "--state=PENDING")
            command("scancel", "--state=RUNNING")
            until(lambda: not command("squeue", "--noheader"), 60)
    say("its daemons have ended")


def command(*words):
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 0, found
    return found.stdout.strip()


def until(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, command("squeue", "--array")
        time.sleep(0.2)


def jobs():
    """{job: state} of all that SLURM has."""
    lines = command("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def prepare(parent, **runs_of_it):
    """Makes the run directories of a sweep: {name: changes of the small config}."""
    for name, changes in runs_of_it.items():
        config = runs.small_config("modern", **changes)
        workdir.Workdir(parent / name).create(config)


def step(path):
    """The last step that a run has reported."""
    metrics = path / "metrics.jsonl"
    if not metrics.exists():
        return 0
    return metrics.read_text().count('"train/loss"') * runs.SMALL["log.every_steps"]


def starts(path):
    return len(workdir.Workdir(path).starts())


def kill_processes(path):
    """Kills a training and the task that waits for it, as a fault of the node would."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--workdir={path}" in (process.info["cmdline"] or ()):
            task = process.parent()
            assert "submitit.core._submit" in task.cmdline()
            task.kill()
            process.kill()


def train_alone(paths):
    """Trains runs on one core each, as SLURM does: a sum on two is another sum."""
    children = []
    for path, core in zip(paths, os.sched_getaffinity(0), strict=False):
        train = [sys.executable, "main.py", f"--workdir={path}"]
        children.append(
            subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *train],
                cwd=runs.ROOT,
                stdout=subprocess.DEVNULL,
            )
        )
    assert [child.wait() for child in children] == [0] * len(children)
    if rest := paths[len(children) :]:
        train_alone(rest)


def test_six_runs_that_are_disturbed_have_the_bits_of_undisturbed_ones(tmp_path):
    parent, alone = tmp_path / "sweep", tmp_path / "alone"
    changes = {
        "model__name": "lenet5_modern",  # which trains for some seconds
        "num_epochs": float(EPOCHS),
        "eval__every_epochs": 10.0,
        "checkpoint__every_epochs": 4.0,
    }
    names, total = [f"seed={n}" for n in range(6)], 10 * EPOCHS
    mode = ["--mode=sweep", f"--workdir={parent}"]
    options = "--slurm=partition=main,minutes=30,cpus=1,array=2"

    def submit(*more):
        found = runs.call_main([*mode, options, *more])
        assert found.returncode == 0, found
        line = found.stdout.splitlines()[-2 if "squeue" in found.stdout else -1]
        say(line if more else f"main.py --mode=sweep --slurm=... again: {line}")

    def states():
        found = runs.call_main([*mode, "--status"]).stdout
        return found.splitlines()[-1].partition(";")[0]

    config = "--config=configs/lenet5.py:modern"
    submit(*runs.command("--vary=seed=0..5", config, **changes)[2:])
    assert slurm.queued(parent) == set(names)
    submit()
    record = workdir.Workdir(parent / "slurm")
    (file,) = record.path.glob("*.json")
    job = {name: number for number, name in record.read_json(file.name).items()}

    reasons = ["squeue", "--noheader", "--array", "--format=%r"]
    until(lambda: "JobArrayTaskLimit" in command(*reasons))

    def disturb(name, words, act):
        until(lambda: step(parent / name) > 40)
        before = starts(parent / name)
        say(f"{name}, step {step(parent / name)}: {words}")
        act()
        return name, before

    def scancel(name, *words):
        words = ["scancel", *words]
        return disturb(name, " ".join(words), lambda: command(*words))

    # The training is the step 0 of its job. SLURM 22.05 also signals a job that is part
    # of an array, but says that it does not, and scancel tries again.
    disturbed = [
        scancel("seed=0", "--signal=TERM", f"{job['seed=0']}.0"),
        scancel("seed=1", "--signal=USR2", f"{job['seed=1']}.0"),
    ]
    until(lambda: "RUNNING" not in (jobs()[job["seed=0"]], jobs()[job["seed=1"]]))
    say(
        "SLURM has queued both again:", ", ".join(f"{j} {s}" for j, s in jobs().items())
    )
    assert slurm.queued(parent) == set(names)
    submit()
    disturbed.append(
        disturb("seed=2", "kill -9", lambda: kill_processes(parent / "seed=2"))
    )
    disturbed.append(scancel("seed=3", job["seed=3"]))
    until(lambda: job["seed=3"] not in jobs())
    command("scontrol", "requeue", job["seed=3"])
    say(f"seed=3: scontrol requeue {job['seed=3']}")

    until(lambda: not slurm.queued(parent))
    say("SLURM has none;", states())
    submit()
    until(lambda: not slurm.queued(parent))
    say("SLURM has none;", states())

    say("training the same six without SLURM")
    prepare(alone, **{f"seed={n}": changes | {"seed": n} for n in range(6)})
    train_alone([alone / name for name in names])
    for name in names:
        both = [runs.final_state(folder / name) for folder in (parent, alone)]
        assert [steps for _, steps in both] == [total, total]
        runs.assert_same_bits(*(state for state, _ in both))
        assert starts(parent / name) == (2 if name in dict(disturbed) else 1)
        assert (parent / name / "slurm.log").read_text().count("submitit INFO")
    assert all(before == 1 for _, before in disturbed)
    assert len(list(record.path.glob("*.json"))) == 2
    say("all parameters are the same, bit for bit")


def test_a_failure_is_told_and_no_reason_to_try_again(tmp_path):
    prepare(
        tmp_path,
        fine={"num_epochs": 1.0},
        diverges={"optimizer__learning_rate": 1e30},
        broken={"dataset__name": f"folder:{tmp_path}/nowhere"},
    )
    options = slurm.parse("minutes=30,cpus=1")
    names = ["fine", "diverges", "broken"]
    say(str(slurm.submit(tmp_path, names, options)).splitlines()[0])
    until(lambda: not slurm.queued(tmp_path))
    for name in ("fine", "diverges"):
        assert starts(tmp_path / name) == 1
        assert not workdir.Workdir(tmp_path / name).has("failure.json")
    assert "diverged" in outcomes.read(workdir.Workdir(tmp_path / "diverges"))
    assert "is not finite" in (tmp_path / "diverges" / "slurm.log").read_text()
    assert not workdir.Workdir(tmp_path / "broken").starts()
    failure = workdir.Workdir(tmp_path / "broken").read_json("failure.json")
    line = failure["error"].replace(str(tmp_path), "...")
    say(f"broken/failure.json: exit code {failure['exit_code']}, {line}")
    assert failure["exit_code"] in (1, 2) and "nowhere" in failure["error"]


def test_two_tasks_are_one_training(tmp_path):
    epochs = 2 * EPOCHS  # so that a quick machine is still training at the signal
    smooth = {"activation": "tanh", "pool": "avg"}  # rounding moves no maximum
    changes = {
        "num_epochs": float(epochs),
        "eval__every_epochs": 10.0,
        "num_devices": 0,
        "schedule__name": "constant",
        "model__fields": smooth,
    }
    prepare(tmp_path, two=changes)
    options = slurm.parse("minutes=30,cpus=1,tasks=2")
    submitted = slurm.submit(tmp_path, ["two"], options)
    say(str(submitted).splitlines()[0])
    until(lambda: step(tmp_path / "two") > 40)
    (job,) = submitted.jobs
    say(f"two, step {step(tmp_path / 'two')}: scancel --signal=TERM {job}.0")
    command("scancel", "--signal=TERM", f"{job}.0")
    until(lambda: not slurm.queued(tmp_path))
    output = (tmp_path / "two" / "slurm.log").read_text()
    assert output.count("on 2 cpu devices of 2 processes") == 2
    assert "stopped at step" in output and f"after step {10 * epochs}" in output
    with contextlib.redirect_stdout(io.StringIO()):
        runs.train_small(tmp_path / "one", "modern", **changes | {"num_devices": 2})
    one, two = (runs.final_state(tmp_path / n)[0] for n in ("one", "two"))
    runs.assert_close(one, two)
    say("its parameters are those of one process with two devices, up to rounding")
