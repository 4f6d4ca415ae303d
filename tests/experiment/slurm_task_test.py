"""One task of a SLURM array, whose training and SLURM are programs of the tests."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from experiment import ownership, slurm_task, stopping, workdir

pytest.importorskip("submitit", reason="requirements-slurm.txt")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory whose task is 12_3; PARENT/requeued says what was queued."""
    handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    (tmp_path / "slurm").mkdir()
    programs = {
        "squeue": "echo RUNNING",
        "scontrol": f'echo "$@" >> {tmp_path}/requeued',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SUBMITIT_EXECUTOR": "slurm",
        "SUBMITIT_FOLDER": str(tmp_path / "slurm"),
        "SLURM_JOB_ID": "14",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_PROCID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "run"
    path.mkdir()
    yield workdir.Workdir(path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(run, monkeypatch, code):
    """Calls the task, whose training is Python code; returns its exit code."""
    monkeypatch.setattr(
        slurm_task, "_command", lambda run, flags: [sys.executable, "-c", code]
    )
    try:
        slurm_task.train(run.path, run.path.parent)
    except SystemExit as error:
        return error.code
    return 0


def requeued(run):
    path = run.path.parent / "requeued"
    return path.read_text().splitlines() if path.exists() else []


def test_a_training_ends_well(run, monkeypatch, capfd):
    run.write_json("failure.json", {"exit_code": 1})
    assert train(run, monkeypatch, "import os; print(os.getcwd())") == 0
    assert capfd.readouterr().out == f"{run.path.parent}\n"
    assert not run.has("failure.json") and not requeued(run)
    link = run.path / "slurm.log"
    assert link.is_symlink() and not link.exists()  # SLURM would have written it
    (run.path.parent / "slurm" / "12_3_0_log.out").write_text("found")
    assert link.read_text() == "found"

    run.write_json("result.json", {"step": 1, "of": 2})  # it goes on
    assert train(run, monkeypatch, "print('on')") == 0
    assert capfd.readouterr().out == "on\n"
    run.write_json("result.json", {"step": 2, "of": 2})
    assert train(run, monkeypatch, "raise SystemExit(1)") == 0
    assert "is finished" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "ends", "failure"),
    [
        (
            "print('note', file=e); print('error: bad é', file=e); print('', file=e); "
            "e.flush(); raise SystemExit(2)",
            2,
            {"exit_code": 2, "error": "bad é"},
        ),
        ("1 / 0", 1, {"exit_code": 1, "error": "ZeroDivisionError: division by zero"}),
        ("import os; os._exit(9)", 9, {"exit_code": 9, "error": "exit code 9"}),
        (
            "import os; os.kill(os.getpid(), 9)",
            1,
            {"exit_code": -9, "error": "killed by SIGKILL (is memory short?)"},
        ),
        ("raise SystemExit(3)", 3, None),
    ],
)
def test_how_it_failed_is_in_the_run(run, monkeypatch, code, ends, failure):
    assert train(run, monkeypatch, f"import sys; e = sys.stderr; {code}") == ends
    assert not requeued(run)
    if failure is None:
        assert not run.has("failure.json")
    else:
        assert run.read_json("failure.json") == failure


def test_another_owner_is_no_failure_of_the_run(run, monkeypatch, capfd):
    with ownership.Lock(run.path) as lock:
        lock.take()
        assert train(run, monkeypatch, "raise SystemExit(1)") == 1
    assert not run.has("failure.json")
    assert "has been writing in" in capfd.readouterr().out


# A training before main.py handles signals, and after.
EARLY = """
import signal, sys, time
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""
LATE = EARLY.replace(
    "sys, time", "sys, time; signal.signal(15, lambda *_: sys.exit(75))"
)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT"])
@pytest.mark.parametrize("code", [EARLY, LATE], ids=["early", "late"])
def test_a_signal_stops_the_training_and_queues_it_again(run, monkeypatch, name, code):
    write = sys.stderr.write

    def heard(text):
        if text == "ready\n":
            number = signal.Signals[name]
            threading.Timer(0.1, os.kill, [os.getpid(), number]).start()
        return write(text)

    monkeypatch.setattr(sys.stderr, "write", heard)
    assert train(run, monkeypatch, code) == 75
    assert requeued(run) == ["requeue 12_3"]
    assert not run.has("failure.json")


def test_a_training_that_never_saves_is_not_queued_for_ever(run, monkeypatch):
    stopped = "raise SystemExit(75)"
    for _ in range(4):
        assert train(run, monkeypatch, stopped) == 75
    saving = f"import os; os.makedirs({str(run.checkpoints / '7')!r})"
    assert train(run, monkeypatch, f"{saving}; {stopped}") == 75
    for _ in range(4):
        assert train(run, monkeypatch, stopped) == 75
    assert len(requeued(run)) == 9
    assert train(run, monkeypatch, stopped) == 75
    assert len(requeued(run)) == 9
    assert "give it more minutes" in run.read_json("failure.json")["error"]


def test_a_job_that_is_cancelled_is_not_queued_again(run, monkeypatch, capfd):
    (run.path.parent / "squeue").write_text("#!/bin/sh\necho COMPLETING\n")
    assert train(run, monkeypatch, "raise SystemExit(75)") == 75
    assert not requeued(run) and not run.has("failure.json")
    assert "SLURM has job 12_3 as COMPLETING" in capfd.readouterr().out


def test_a_task_takes_little_memory_beside_its_training():
    code = "import sys, experiment.slurm_task; print({'jax', 'flax'} & {*sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=slurm_task.ROOT,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "set()\n", found.stderr


def test_only_the_first_process_of_a_training_says_how_it_ended(run, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    for code in (0, 1, 75):
        assert train(run, monkeypatch, f"raise SystemExit({code})") == 0
    assert not requeued(run) and not run.has("failure.json")
