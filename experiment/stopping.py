"""Tells a run to stop, and lets its processes agree on when."""

import contextlib
import errno
import os
import signal
import sys

from experiment import peers

# A closed terminal sends SIGHUP; SLURM's --signal usually one of the user signals.
SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class StopSignal:
    """Any of SIGNALS asks for a stop; a second Ctrl-C (SIGINT) interrupts.

    A signal other than SIGTERM does not where it is ignored, as SIGHUP under nohup or
    SIGINT in the background of a script. In a run of several processes
    jax.distributed handles SIGTERM itself, gets the other signals as SIGTERM, and the
    processes agree on a step (`Stop`).
    """

    def __init__(self):
        self.requested = False
        self._several = peers.count() > 1
        sys.stdout, sys.stderr = _Output(sys.stdout), _Output(sys.stderr)
        for number in SIGNALS:
            ignored = signal.getsignal(number) == signal.SIG_IGN
            if number == signal.SIGTERM and self._several:
                continue
            if number == signal.SIGTERM or not ignored:
                signal.signal(number, self._request)

    def _request(self, number, frame):
        del frame
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError):  # the terminal is closed
            # print() must not be entered twice, which a signal handler could do.
            os.write(1, f"{signal.Signals(number).name}: stopping soon\n".encode())
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def ignore_signals():
    """Ignores SIGNALS from now on: what they ask for is done, and the exit code set."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Output:
    """A text stream that outlives its reader: a closed terminal or pipe is no error."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        with self._without_reader():
            return self._stream.write(text)
        return len(text)

    def flush(self):
        with self._without_reader():
            self._stream.flush()

    @contextlib.contextmanager
    def _without_reader(self):
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class Stop:
    """Tells whether this run should stop; all of its processes get the same answer."""

    def __init__(self, stop_signal, saved):
        self._signal, self._saved, self._asked = stop_signal, saved, 0

    def asked(self):
        """Tells whether to stop; every process must ask equally often."""
        if peers.count() == 1:
            return self._signal.requested
        # The processes agree on a future number. That cannot be a step, which a
        # dispatch may skip, so the calls are counted.
        self._asked += 1
        return self._saved.reached_preemption(self._asked)

    def asked_alone(self):
        """Tells whether to stop in a run whose single process need not ask others."""
        return self._signal.requested and peers.count() == 1
