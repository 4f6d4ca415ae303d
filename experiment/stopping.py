"""How a run is told to stop, and how its processes agree on it."""

import os
import signal

import jax


class StopSignal:
    """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts.

    In a run of several processes jax.distributed has its own handler of SIGTERM, and
    the processes agree on a step (`Stop`).
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
        # Not print(), which must not be entered twice.
        os.write(1, f"{signal.Signals(number).name}: stopping soon\n".encode())


class Stop:
    """Whether this run should stop, the same answer in all of its processes."""

    def __init__(self, stop_signal, saved):
        self._signal, self._saved, self._asked = stop_signal, saved, 0

    def asked(self):
        """Every process asks equally often."""
        if jax.process_count() == 1:
            return self._signal.requested
        # The processes agree on a number to come; steps may jump over it.
        self._asked += 1
        return self._saved.reached_preemption(self._asked)

    def asked_alone(self):
        """A stop was asked for that no other process has to agree to."""
        return self._signal.requested and jax.process_count() == 1
