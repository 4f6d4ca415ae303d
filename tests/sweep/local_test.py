"""Sweeps by processes of this machine."""

import os

import pytest
import runs
from jaxlib import xla_client

import train
from errors import ConfigError
from experiment import workdir
from sweep import command, in_process, local

SMALL = {"log__every_steps": 2}


class Once:
    """A stop that is asked for once some files exist."""

    def __init__(self, *files):
        self._files = files

    @property
    def requested(self):
        return all(file.exists() for file in self._files)


@pytest.mark.slow
def test_a_sweep_that_processes_began_is_finished_here(tmp_path):
    vary = ["seed=0,1", "schedule.name=plateau"]  # which no program can share
    begun = tmp_path / "schedule.name=plateau,seed=0"
    stop = Once(begun / "metrics.jsonl")
    with pytest.raises(train.Preempted, match="2 runs left; the same command goes on"):
        runs.sweep(tmp_path, vary, stop, jobs=1, **SMALL)
    again = command.Runs(None, workdir.Workdir(tmp_path))
    result = command.sweep(again, in_process.InProcess(runs.NoStop))
    assert result.failed == ()
    assert "training images of 32x32x1" in (begun / local.LOG).read_text()
    alone = tmp_path / "alone"
    runs.train_small(alone, schedule__name="plateau", **SMALL)
    ours, theirs = map(runs.final_state, (begun, alone))
    assert ours[1] == theirs[1]
    runs.assert_close(ours[0], theirs[0])  # they had other numbers of cores


def test_a_sweep_that_is_stopped_counts_all_runs_that_are_left(tmp_path):
    """Those of every group; each schedule is one of its own."""
    vary = ["schedule.name=plateau,cosine", "seed=0,1"]
    with pytest.raises(train.Preempted, match="^stopped with 4 runs left; the same"):
        runs.sweep(tmp_path, vary, Once(tmp_path), **SMALL)


@pytest.fixture
def one_core():
    """Restricts this process to one core: another number rounds differently."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.slow
def test_networks_optimizers_and_seeds_as_if_alone(one_core, tmp_path):
    """Two processes begin, one ends it: bit for bit what eight commands give."""
    vary = [
        "model.name=lenet5_modern,nin",
        "optimizer.name,optimizer.kwargs=(sgd,{'momentum': 0.9}),(adamw,{})",
        "seed=0,1",
    ]
    small = SMALL | {"num_epochs": 1.0}
    swept = tmp_path / "sweep"
    third = command.grid.names(
        [
            {
                "model.name": "lenet5_modern",
                "optimizer.name": "adamw",
                "optimizer.kwargs": {},
                "seed": 0,
            }
        ]
    )[0]
    with pytest.raises(train.Preempted):
        runs.sweep(swept, vary, Once(swept / third / "metrics.jsonl"), jobs=2, **small)
    again = command.Runs(None, workdir.Workdir(swept))
    assert 0 < sum(run.ended for run in again.all) < 8
    assert command.sweep(again, local.Local(runs.NoStop, 1)).failed == ()
    for run in again.all:
        alone = tmp_path / str(run)
        workdir.Workdir(alone).create(run.config)
        done = runs.run_main([f"--workdir={alone}"], env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        ours, theirs = map(runs.final_state, (run.workdir.path, alone))
        assert ours[1] == theirs[1] == 10
        runs.assert_same_bits(ours[0], theirs[0])


def fake(tmp_path, monkeypatch, script, jobs=1):
    """Sweeps with another main.py; returns the outcome by run."""
    main = tmp_path / "main.py"
    main.write_text(script)
    monkeypatch.setattr(local, "MAIN", main)
    _, result = runs.sweep(tmp_path / "sweep", ["seed=0,1"], jobs=jobs)
    assert result.failed
    return {row.name: (row.state, row.note) for row in result.rows}


@pytest.mark.parametrize(
    ("script", "note"),
    [
        (
            "import sys; print('x'); print('error: the disk is full'); sys.exit(1)",
            "the disk is full",
        ),
        ("raise KeyError('seed')", "exit code 1: KeyError: 'seed'; see "),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9; see "),
    ],
)
def test_why_a_process_failed(tmp_path, monkeypatch, script, note):
    for state, reason in fake(tmp_path, monkeypatch, script).values():
        assert state == "failed"
        assert reason.startswith(note)


def test_why_a_process_failed_is_not_why_it_failed_before(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "import sys; print('error: full'); sys.exit(1)")
    script = "raise KeyError('seed')"
    for state, reason in fake(tmp_path, monkeypatch, script).values():
        assert state == "failed"
        assert reason.startswith("exit code 1: KeyError: 'seed'; see ")


def test_a_run_that_others_took_meanwhile_has_not_failed(tmp_path, monkeypatch, capsys):
    """Its process met their lock; a failure.json would be written into their run."""
    monkeypatch.setattr(local, "MAIN", tmp_path / "main.py")
    (tmp_path / "main.py").write_text("import sys; sys.exit(1)")
    begin = local.subprocess.Popen
    taken = []

    def others_first(command, **options):
        """Starts the process after somebody else took the run."""
        taken.append(workdir.Workdir(tmp_path / "sweep" / "seed=0").lock)
        taken[-1].take()
        return begin(command, **options)

    monkeypatch.setattr(local.subprocess, "Popen", others_first)
    runs.sweep(tmp_path / "sweep", ["seed=0"], jobs=1)
    assert not (tmp_path / "sweep" / "seed=0" / "failure.json").exists()
    assert "seed=0: left out: process" in capsys.readouterr().out
    taken[0].release()


def test_two_processes_run_at_once(tmp_path, monkeypatch):
    """Each ends when it has seen the other."""
    script = (
        "import os, pathlib, sys, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / f'{os.getpid()}.pid').touch()\n"
        "while len(list(here.glob('*.pid'))) < 2: time.sleep(0.01)\n"
        "print('error: met'); sys.exit(1)\n"
    )
    found = fake(tmp_path, monkeypatch, script, jobs=2)
    assert set(found.values()) == {("failed", "met")}


def test_a_run_that_cannot_be_written_ends_no_other(tmp_path, monkeypatch, capsys):
    """It once ended the sweep before the next run began."""
    script = "import sys; print('error: met'); sys.exit(1)"
    (tmp_path / "sweep" / "seed=0").mkdir(parents=True)
    with runs.read_only(tmp_path / "sweep" / "seed=0") as why:
        found = fake(tmp_path, monkeypatch, script)
    assert found == {"seed=0": ("waiting", ""), "seed=1": ("failed", "met")}
    said = capsys.readouterr().out
    assert f"seed=0 failed: cannot write {tmp_path}/sweep/seed=0/config.json" in said
    assert f"seed=0: its failure is not kept: cannot write {tmp_path}" in said
    assert said.count(why) == 2


def test_the_parent_starts_no_devices(tmp_path):
    """On GPUs it would take memory from its children, who each need one alone."""
    (tmp_path / "main.py").write_text("import sys; sys.exit(75)")
    arguments = runs.command("--mode=sweep", "--config=configs/lenet5.py:modern")[1:]
    arguments += [f"--workdir={tmp_path / 'sweep'}", "--vary=seed=0,1", "--jobs=1"]
    code = f"""
import pathlib, main
from jax._src import xla_bridge
from sweep import local
local.MAIN = pathlib.Path({str(tmp_path / "main.py")!r})
print(main.main({arguments!r}), xla_bridge.backends_are_initialized())
"""
    assert runs.run_code(code).stdout.splitlines()[-1] == "1 False"


def test_a_process_that_was_stopped_has_not_failed(tmp_path, monkeypatch, capsys):
    found = fake(tmp_path, monkeypatch, "import sys; sys.exit(75)")
    assert set(found.values()) == {("waiting", "")}
    assert "seed=1: stopped by a signal; its state is saved" in capsys.readouterr().out


def test_processes_divide_the_cores_and_the_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5, 6, 7})
    monkeypatch.setattr(local, "gpus", list)
    assert [slot.cores for slot in local.slots(2)] == [(3, 4), (5, 6, 7)]
    assert [slot.cores for slot in local.slots(1)] == [(3, 4, 5, 6, 7)]
    many = [slot.cores for slot in local.slots(7)]
    assert all(len(cores) == 1 for cores in many)
    monkeypatch.setattr(local, "gpus", lambda: ["0", "GPU-b"])
    assert [slot.environment for slot in local.slots(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "GPU-b"},
    ]
    half = {"XLA_CLIENT_MEM_FRACTION": "0.45", "XLA_PYTHON_CLIENT_MEM_FRACTION": ""}
    assert [slot.environment for slot in local.slots(3)] == [
        {"CUDA_VISIBLE_DEVICES": "0"} | half,
        {"CUDA_VISIBLE_DEVICES": "GPU-b"} | half,
        {"CUDA_VISIBLE_DEVICES": "0"} | half,
    ]
    shared = local.slots(3)[0]
    monkeypatch.undo()
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.3")  # a user's own
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    options = xla_client.generate_pjrt_gpu_plugin_options()  # jaxlib refuses both names
    assert options["memory_fraction"] == 0.45
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert local.gpus() == ["1", "3"]
    with pytest.raises(ConfigError, match="--jobs=0"):
        local.slots(0)
