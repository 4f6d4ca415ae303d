"""Many runs of one config: every combination of the values that `--vary` gives.

    python main.py --mode=sweep --config=configs/lenet5.py:modern \\
        --workdir=runs/sweep --vary=seed=0,1,2 --vary=optimizer.learning_rate=0.03,0.1

Each run has its own directory, like one of `--mode=train` with its config, and gives
the same result up to rounding; `--mode=evaluate` and `predict` take it. A run whose
loss is not finite stops there and is reported; the others continue. Runs are saved only
at their end: the same command keeps those that are finished and starts the others from
the beginning.
"""

import dataclasses

import jax

from sweep import grid, table, together


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The fields that varied, {field: values}, and the runs with their results."""

    varied: dict
    runs: list

    def __str__(self):
        return table.table(self.varied, self.runs)


def sweep(config, parent, vary, at_once=0):
    """Trains all runs in directories below that of `parent`; returns the `Sweep`.

    Args:
      config: a checked config, some of whose fields vary.
      parent: a workdir.Workdir that is not itself a run.
      vary: strings "field=value,value,...".
      at_once: how many runs a program trains at once; 0: all, but one on a CPU.

    Raises:
      ConfigError: a field cannot vary, or no sweep can train the config.
    """
    varied = grid.parse(config, vary)
    grid.check(config, parent, at_once)
    runs = grid.make_runs(config, parent, varied)
    pending = [run for run in runs if run.result is None]
    if not at_once:
        at_once = 1 if jax.default_backend() == "cpu" else len(runs)
    if pending:
        program = together.Program(config, varied, runs)
        for start in range(0, len(pending), at_once):
            together.Group(program, pending[start : start + at_once]).train()
    return Sweep(varied, runs)
