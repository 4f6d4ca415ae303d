"""How one process tells the others why it ends; multiprocess_test.py has real ones."""

import contextlib
import json
import os
import threading

import jax
import numpy as np
import pytest
import runs
from jax.experimental import multihost_utils

import data_source
import train
from errors import UsageError, UserError
from experiment import checkpoints, ownership, peers, workdir


class Ended(BaseException):
    """Stands for the end of this process."""


@pytest.fixture
def store(monkeypatch):
    """What process 1 of 2 writes into the common store."""
    values = {}

    class Client:
        def key_value_set(self, key, value):
            values[key] = value

        def wait_at_barrier(self, key, timeout_in_ms):
            assert timeout_in_ms > 1000 * ownership.STALE  # for a lock of process 0
            values.setdefault("meetings", []).append(key)

    def end(code):
        raise Ended(code)

    class NoTimer:
        def __init__(self, *_):
            pass

        def start(self):
            pass

    monkeypatch.setattr(peers, "_client", Client())
    monkeypatch.setattr(peers, "_process", 1)
    monkeypatch.setattr(peers, "_count", 2)
    monkeypatch.setattr(peers, "_ending", threading.Lock())
    monkeypatch.setattr(peers.threading, "Timer", NoTimer)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(peers.time, "sleep", lambda _: None)
    return values


def met(error):
    with peers.ending_together():
        raise error


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a foreign directory"), "a foreign directory", 1),
        (train.NonFiniteLoss("the loss is nan"), "the loss is nan", 3),
        (OSError(13, "Permission denied", "x"), "x: Permission denied", 1),
        (TypeError("a bug"), "TypeError: a bug", 1),
    ],
)
def test_the_others_hear_the_line_and_the_exit_code(store, capsys, error, line, code):
    with pytest.raises(Ended) as ended:
        met(error)
    assert ended.value.args == (code,)
    news = json.loads(store["convnets/failure"])
    assert news == {"process": 1, "line": line, "code": code}
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"
    assert "convnets/heard/1" in store


def test_a_collective_that_fails_is_told_as_a_death(store, capsys):
    with pytest.raises(Ended):
        met(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: another process of this run died or cannot be ")
    assert store == {}  # which may have died, too


def test_a_stop_and_a_single_process_end_as_ever(store, monkeypatch):
    with pytest.raises(train.Preempted):
        met(train.Preempted("stopped at step 3"))
    monkeypatch.setattr(peers, "_client", None)
    with pytest.raises(UserError, match="bad.png"):
        met(data_source.DataError("bad.png"))
    assert store == {}


def test_a_training_tells_before_it_waits_for_the_others(store, tmp_path, monkeypatch):
    """What closes a training has the processes agree, which the others never reach."""

    class Trainer:
        def __init__(self, *_):
            pass

        def run(self):
            raise data_source.DataError("bad.png")

        def close(self):
            store["closed"] = len(store)

    monkeypatch.setattr(train, "Trainer", Trainer)
    with pytest.raises(Ended):
        runs.train_small(tmp_path)
    assert store["closed"] == 2


def test_processes_meet_before_the_first_collective(store, tmp_path, monkeypatch):
    """Process 0 may wait for a lock for longer than gloo waits for process 0."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def gather(value):
        assert len(store["meetings"]) == 1
        return np.array([value, value])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    peers.meet(workdir.Workdir(tmp_path))
    store["meetings"].clear()

    def setup(config):  # where the digests of the data are gathered
        assert len(store["meetings"]) == 1
        raise Ended

    monkeypatch.setattr(train.tasks, "setup", setup)
    with pytest.raises(Ended):
        train.Trainer(runs.small_config(), workdir.Workdir(tmp_path), runs.NoStop)


def test_a_run_directory_that_only_some_processes_see(tmp_path, monkeypatch):
    """Process 1 once called sound checkpoints damaged, or the data's classes new."""
    with contextlib.closing(checkpoints.Checkpoints(tmp_path / "checkpoints")) as saved:
        saved.save(1, {"x": np.arange(3.0)})
    run = workdir.Workdir(tmp_path)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(peers, "count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda x: x)
    answers = {"others": True}

    def gather(value):
        return np.array([value, answers["others"]])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with pytest.raises(UserError) as error:
        peers.meet(run)  # which has no config.json here
    assert str(error.value) == (
        f"process 0 does not see {tmp_path}/config.json, which process 1 sees: "
        "--workdir must lie on a disk that all hosts share"
    )
    answers["others"] = False
    peers.meet(run)  # a new run
    with pytest.raises(UserError, match=r"process 1 does not see .*checkpoints/1, wh"):
        saved.restore()


def test_what_no_flag_and_no_cluster_tells_is_a_wrong_flag(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UsageError, match="need --coordinator=.* Number of processes"):
        peers.join("localhost:1", None, 0)
