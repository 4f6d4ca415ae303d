"""Signals that ask for a stop, and output that outlives its terminal."""

import os
import signal
import sys

import pytest

from experiment import stopping


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    """Restores the handlers and streams that a StopSignal replaces."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    for number in (signal.SIGHUP, signal.SIGINT):  # nohup and "&" of a script ignore
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_asks_for_a_stop(name, capfd):
    stop = stopping.StopSignal()
    assert not stop.requested
    signal.raise_signal(signal.Signals[name])
    assert stop.requested
    assert capfd.readouterr().out == f"{name}: stopping soon\n"


def test_only_a_second_ctrl_c_interrupts(capfd):
    stopping.StopSignal()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = stopping.StopSignal()
    signal.raise_signal(signal.SIGHUP)
    assert not stop.requested


def test_signals_after_the_end_change_nothing():
    stop = stopping.StopSignal()
    stopping.ignore_signals()
    for number in stopping.SIGNALS:
        signal.raise_signal(number)
    assert not stop.requested


def test_several_processes_get_every_signal_as_sigterm(monkeypatch, capfd):
    """jax.distributed, which handles SIGTERM, lets them agree on a step."""
    monkeypatch.setattr(stopping.peers, "count", lambda: 2)
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    stopping.StopSignal()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGUSR1)
    assert seen == [signal.SIGTERM] * 2


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_lost_reader_is_no_error(kind, monkeypatch):
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        stop = stopping.StopSignal()
        print("heard", flush=True)
        assert os.read(reader, 5) == b"heard"
        os.close(reader)
        for line in ("a line", "another"):
            print(line, flush=True)
        assert not stop.requested


def test_another_error_of_the_output_is_one(monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        stopping.StopSignal()
        with pytest.raises(OSError, match="No space left"):
            print("a line", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
