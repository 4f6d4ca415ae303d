"""The window of steps that jax.profiler records."""

import jax

from experiment import peers


class Profiler:
    """Records config.log.profile_steps steps from config.log.profile_start on.

    A training of the steps from `step` up to `total` that has no such step says so.
    """

    def __init__(self, log, run, step, total):
        start = log.profile_start
        self.bounds = (start, start + log.profile_steps) if start >= 0 else (-1, -1)
        self._directory, self._running = str(run.path / "profile"), False
        if start >= 0 and not step <= start < total and peers.is_first():
            print(
                "warning: nothing is profiled: config.log.profile_start = "
                f"{start}, and the training goes from step {step} to {total}",
                flush=True,
            )

    def at(self, step, state):
        """Starts or stops, if the window begins or ends at this step."""
        start, end = self.bounds
        if step == start:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif self._running and step >= end:
            jax.block_until_ready(state)
            self.close()

    def next_after(self, step):
        """The bounds of the window that lie after `step`."""
        return [bound for bound in self.bounds if bound > step]

    def close(self):
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
