"""A run directory has one owner, and a dead one holds it no longer."""

import errno
import json
import os
import shutil
import subprocess
import time

import pytest
import runs

from errors import UserError
from evaluation import evaluator
from experiment import ownership, workdir
from experiment.ownership import STALE, Lock, Owned
from weights import starting


def forge(directory, age=0.0, **changes):
    """Writes the lock of another owner, who gave a sign of life `age` seconds ago."""
    (directory / "lock").unlink(missing_ok=True)
    with Lock(directory) as lock:
        lock.take()
        holder = json.loads((directory / "lock").read_text())
    (directory / "lock").write_text(json.dumps(holder | changes))
    os.utime(directory / "lock", (time.time() - age,) * 2)


ELSEWHERE = {"host": "node7", "process": 11, "machine": "another boot"}


def contents(directory):
    """{path: (bytes, time of the last change)} of all files but the lock."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_the_second_is_told_who_the_owner_is(tmp_path):
    first, second = Lock(tmp_path / "new"), Lock(tmp_path / "new")
    first.take()
    first.take()  # it has it already
    with pytest.raises(Owned) as error:
        second.take()
    holder = json.loads((tmp_path / "new" / "lock").read_text())
    assert str(error.value) == (
        f"process {os.getpid()} on {holder['host']} has been writing in {tmp_path}/new "
        f"since {holder['since']}: end it first, or choose another --workdir."
    )
    second.release()  # takes nothing away from the owner
    first.check()
    first.release()
    assert os.listdir(tmp_path / "new") == []
    with second:
        second.take()
        assert os.listdir(tmp_path / "new") == ["lock"]
    assert os.listdir(tmp_path / "new") == []


def test_a_dead_owner_on_this_machine_does_not_count_for_a_moment(tmp_path):
    for changes in ({"process_start": 1}, {"process": 2**22 + 1}):
        forge(tmp_path, **changes)
        with Lock(tmp_path) as lock:
            lock.take()
    with subprocess.Popen(["true"]) as child:
        while ownership._start(child.pid):  # nobody has waited for it: a zombie
            time.sleep(0.001)
        os.stat(f"/proc/{child.pid}")


def test_an_owner_elsewhere_is_dead_without_heartbeats(tmp_path, monkeypatch, capsys):
    def beat(_):
        os.utime(tmp_path / "lock")

    monkeypatch.setattr(ownership.time, "sleep", beat)
    forge(tmp_path, age=20, **ELSEWHERE)
    message = r"process 11 on node7 .* free 60 s after its last sign of life, .* 0 s"
    with pytest.raises(Owned, match=message):
        Lock(tmp_path).take()  # it gave a sign of life meanwhile
    assert "waiting to see whether process 11 on node7" in capsys.readouterr().out
    for age in (STALE + 1, -STALE - 1):  # a clock may have been set back
        forge(tmp_path, age=age, **ELSEWHERE)
        with Lock(tmp_path) as lock:
            lock.take()


def test_a_restart_elsewhere_waits_until_the_owner_counts_as_dead(
    tmp_path, monkeypatch
):
    forge(tmp_path, age=25, **ELSEWHERE)
    waited = []
    real = Lock._age
    monkeypatch.setattr(ownership.time, "sleep", waited.append)
    monkeypatch.setattr(Lock, "_age", lambda *a: real(*a) + 10 * len(waited))
    with Lock(tmp_path) as lock:
        lock.take()
    assert len(waited) == 4  # 25 + 3 * 10 < STALE


def test_who_may_only_read_sees_an_owner_elsewhere(tmp_path):
    """Its runs were "stopped" for everybody who could not write beside them."""
    for age, owner in ((20, "process 11 on node7"), (STALE + 1, "")):
        forge(tmp_path, age=age, **ELSEWHERE)
        with runs.read_only(tmp_path):
            assert Lock(tmp_path).owner() == owner


def test_a_copy_of_an_owned_directory_is_free(tmp_path):
    with Lock(tmp_path / "a") as lock:
        lock.take()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        with Lock(tmp_path / "b") as copy:
            copy.take()
        lock.check()


def test_a_process_that_proc_hides_counts_by_its_heartbeat(tmp_path, monkeypatch):
    forge(tmp_path)
    monkeypatch.setattr(ownership, "_start", lambda process: None)
    monkeypatch.setattr(ownership, "_is_hidden", lambda process: True)
    with pytest.raises(Owned):
        Lock(tmp_path).take()
    os.utime(tmp_path / "lock", (0, 0))
    with Lock(tmp_path) as lock:
        lock.take()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_lock_that_says_nothing_holds_nothing(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with Lock(tmp_path) as lock:
        lock.take()
        lock.check()


def test_the_heart_beats_until_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "BEAT", 0.01)
    with Lock(tmp_path) as lock:
        lock.take()
        os.utime(tmp_path / "lock", (0, 0))
        limit = time.monotonic() + 60
        while os.stat(tmp_path / "lock").st_mtime == 0:
            assert time.monotonic() < limit
            time.sleep(0.01)


def test_an_owner_that_was_taken_for_dead_learns_it(tmp_path):
    with Lock(tmp_path) as lock:
        lock.take()
        held = (tmp_path / "lock").read_text()
        (tmp_path / "lock").unlink()
        lock.check()  # somebody removed it; nobody else came
        assert (tmp_path / "lock").read_text() == held
        with pytest.raises(Owned):
            Lock(tmp_path).take()  # or both would write
        forge(tmp_path, **ELSEWHERE)
        with pytest.raises(Owned, match=r"process 11 on node7 .*It took over from"):
            lock.check()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "node7"


def test_a_heartbeat_that_comes_late_leaves_no_lock(tmp_path, monkeypatch):
    lock, real = Lock(tmp_path), Lock._open
    lock.take()

    def released_meanwhile(self, mode):
        monkeypatch.setattr(Lock, "_open", real)
        lock.release()
        return real(self, mode)

    monkeypatch.setattr(Lock, "_open", released_meanwhile)
    lock._renew()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_cannot_be_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError) as error:
            Lock(tmp_path).take()
    message = f"cannot write {tmp_path}/lock: No space left on device"
    assert str(error.value) == message
    assert os.listdir(tmp_path) == []


@pytest.fixture
def old(tmp_path):
    """A finished run of ten steps."""
    shutil.copytree(runs.OLD_RUN, tmp_path / "run")
    return tmp_path / "run"


def go_on(path, steps):
    config = workdir.Workdir(path).config()
    with config.unlocked():
        config.num_epochs, config.num_steps = 1.0, steps
    return runs.train.train(config, workdir.Workdir(path), runs.NoStop)


def test_a_training_in_a_directory_that_has_an_owner_changes_nothing(old):
    before = contents(old)
    with workdir.Workdir(old).lock as lock:
        lock.take()
        with pytest.raises(Owned, match=f"has been writing in {old}"):
            go_on(old, 12)
        result = runs.call_main(["--mode=evaluate", f"--workdir={old}"])
        assert result.returncode == 0, result.stderr  # reading needs no lock
    after = contents(old)
    for path in before:
        if path.name not in ("evaluation-10.json", "predictions-10.npz"):
            assert after[path] == before[path], path


def test_a_training_that_was_taken_over_saves_nothing_more(old, monkeypatch):
    real = evaluator.Classification.run

    def taken_over(*args, **kwargs):
        holder = json.loads((old / "lock").read_text())
        (old / "lock").write_text(json.dumps(holder | ELSEWHERE))
        return real(*args, **kwargs)

    assert go_on(old, 11).step == 11
    assert "lock" not in os.listdir(old)
    monkeypatch.setattr(evaluator.Classification, "run", taken_over)
    with pytest.raises(Owned, match="process 11 on node7"):
        go_on(old, 12)
    assert "12" not in os.listdir(old / "checkpoints")


def test_a_training_whose_successor_has_ended_saves_nothing(old, monkeypatch):
    """The other's lock is gone then, but not the steps that it saved."""
    real = evaluator.Classification.run

    def taken_over(*args, **kwargs):
        (old / "lock").unlink()
        shutil.copytree(old / "checkpoints" / "10", old / "checkpoints" / "15")
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluator.Classification, "run", taken_over)
    message = r"step 11 is not saved beside checkpoint 15 in .*: another process has"
    with pytest.raises(UserError, match=message):
        go_on(old, 11)
    assert sorted(os.listdir(old / "checkpoints")) == ["10", "15"]


def test_a_training_that_another_began_meanwhile_changes_nothing(tmp_path, monkeypatch):
    """The other had ended before this one took the lock."""
    path, real, before = tmp_path / "run", starting.restore, {}

    def began_meanwhile(*arguments):
        found = real(*arguments)
        workdir.Workdir(path).create(runs.small_config())
        shutil.copytree(runs.OLD_RUN / "checkpoints", path / "checkpoints")
        before.update(contents(path))
        return found

    monkeypatch.setattr(starting, "restore", began_meanwhile)
    with pytest.raises(UserError, match=f"{path}: another process began it; start ag"):
        runs.train_small(path)
    assert contents(path) == before
    assert "lock" not in os.listdir(path)


def test_a_run_past_its_end_says_so_and_changes_nothing(old):
    before = contents(old)
    message = (
        r"num_steps = 7 ends at step 7, but the run is at step 10 already: nothing"
    )
    with pytest.raises(UserError, match=message) as error:
        go_on(old, 7)
    assert error.value.exit_code == 2
    assert contents(old) == before
    assert "lock" not in os.listdir(old)


def test_config_json_is_written_only_when_it_changes(tmp_path):
    run = workdir.Workdir(tmp_path)
    run.create(runs.small_config())
    before = contents(tmp_path)
    run.create(runs.small_config())
    assert contents(tmp_path) == before
    run.create(runs.small_config(log__every_steps=1))
    assert run.config().log.every_steps == 1
