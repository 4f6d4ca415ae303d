"""Tells a run to stop, and lets its processes agree on when."""

import os
import signal

import jax


class StopSignal:
    """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts.

    In a run of several processes jax.distributed handles SIGTERM itself, and the
    processes agree on a step (`Stop`).
    """

    def __init__(self):
        self.requested = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._request)
            signal.signal(signal.SIGINT, self._request)

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # print() must not be entered twice, which a signal handler could do.
        os.write(1, f"{signal.Signals(number).name}: stopping soon\n".encode())


class Stop:
    """Tells whether this run should stop; all of its processes get the same answer."""

    def __init__(self, stop_signal, saved):
        self._signal, self._saved, self._asked = stop_signal, saved, 0

    def asked(self):
        """Tells whether to stop; every process must ask equally often."""
        if jax.process_count() == 1:
            return self._signal.requested
        # The processes agree on a future number. That cannot be a step, which a
        # dispatch may skip, so the calls are counted.
        self._asked += 1
        return self._saved.reached_preemption(self._asked)

    def asked_alone(self):
        """Tells whether to stop in a run whose single process need not ask others."""
        return self._signal.requested and jax.process_count() == 1
