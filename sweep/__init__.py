"""Many runs of one config: every combination of the values that `--vary` gives.

    python main.py --mode=sweep --config=configs/lenet5.py:modern \\
        --workdir=runs/sweep --vary=seed=0,1,2 --vary=optimizer.learning_rate=0.03,0.1

Each run has its own directory, like one of `--mode=train` with its config, and gives
the same result up to rounding; `--mode=evaluate` and `predict` take it. A run whose
loss is not finite stops there and is reported; the others continue. Runs are saved at
their end, and when the sweep is told to stop: the same command keeps those that are
finished, resumes those that were saved and starts the others from the beginning.
"""

import dataclasses

import jax

from sweep import grid, table, together
from train import Preempted


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The fields that varied, {field: values}, and the runs with their results."""

    varied: dict
    runs: list

    def __str__(self):
        return table.table(self.varied, self.runs)


def sweep(config, parent, vary, at_once=0, stop=lambda: False):
    """Trains all runs in directories below that of `parent`; returns the `Sweep`.

    Args:
      config: a checked config, some of whose fields vary.
      parent: a workdir.Workdir that is not itself a run.
      vary: strings "field=value,value,...".
      at_once: how many runs a program trains at once; 0: all, but one on a CPU.
      stop: a function that tells whether to stop, which it is asked between steps.

    Raises:
      ConfigError: a field cannot vary, or no sweep can train the config.
      Owned: another process trains in this directory.
      Preempted: a stop was asked for; the runs under way are saved.
    """
    varied = grid.parse(config, vary)
    grid.check(config, parent, at_once)
    runs = grid.make_runs(config, parent, varied)
    with parent.lock:
        if parent.path.exists() and _pending(runs):
            parent.lock.take()
            runs = grid.make_runs(config, parent, varied)  # as they are from now on
        if pending := _pending(runs):
            program = together.Program(config, varied, runs)
            parent.lock.take()
            if not at_once:
                at_once = 1 if jax.default_backend() == "cpu" else len(runs)
            for group in together.groups(program, pending, at_once):
                if stop():
                    raise Preempted(
                        f"stopped with {len(_pending(runs))} runs left in {parent}; "
                        "the same command goes on from there"
                    )
                group.train(stop)
    return Sweep(varied, runs)


def _pending(runs):
    return [run for run in runs if run.result is None]
