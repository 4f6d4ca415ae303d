"""How one process tells the others why it ends; multiprocess_test.py has real ones."""

import json
import os
import threading

import pytest
import runs

import data_source
import train
from errors import UserError
from experiment import peers


class Ended(BaseException):
    """Stands for the end of this process."""


@pytest.fixture
def store(monkeypatch):
    """What process 1 of 2 writes into the common store."""
    values = {}

    class Client:
        def key_value_set(self, key, value):
            values[key] = value

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
