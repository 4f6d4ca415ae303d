"""Successive halving: hopeless runs end early (Jamieson and Talwalkar, 2016).

All combinations are trained for a small part of their training, the best 1/factor of
them for `factor` times as long, and so on; the last ones to the end. A run that goes on
is resumed, so it ends as it would have without halving. Combinations that differ in the
seed alone count as one, by the mean of their metrics. The metric is that of
config.dataset.eval_split: choose a held-out part of the training images for it.
"""

import math
import statistics

from errors import ConfigError, UserError
from experiment import outcomes


def rungs(number, factor):
    """Returns [(fraction of the training, how many of `number` are left after it)]."""
    levels = 0
    while factor ** (levels + 1) <= number:
        levels += 1
    return [
        (factor ** (level - levels), math.ceil(number / factor ** (level + 1)))
        for level in range(levels)
    ]


def train(runs, runner):
    """Trains a command.Runs rung by rung; the record remembers which runs were cut.

    Raises:
      ConfigError: the runs are not evaluated before their end.
      UserError: a run did not get to the end of a rung.
    """
    for run in runs.all:
        if run.config.eval.every_epochs == 0:
            raise ConfigError(
                "--halving compares evaluations on the way: set "
                "config.eval.every_epochs above 0"
            )
    factor, number = runs.record.halving, len(_combinations(runs.all))
    for fraction, keep in rungs(number, factor):
        left = [run for run in runs.all if str(run) not in runs.record.cut]
        runner.train(left, fraction)
        cut = losers(left, keep)
        if cut:
            _check_reached(left, fraction)
            runs.record.cut = (*runs.record.cut, *map(str, cut))
            runs.write()
            print(
                f"halving: {len(left) - len(cut)} of {len(left)} runs go on after "
                f"{fraction:.1%} of the training",
                flush=True,
            )
    runner.train([run for run in runs.all if str(run) not in runs.record.cut], 1)


def losers(runs, keep):
    """Returns the runs of all combinations but the best `keep`; ties go on in order."""
    combinations = _combinations(runs)
    order = sorted(combinations.values(), key=_mean)
    return [run for combination in order[keep:] for run in combination]


def _combinations(runs):
    """Groups runs that differ in the seed alone."""
    found = {}
    for run in runs:
        rest = {name: v for name, v in run.values.items() if name != "seed"}
        found.setdefault(repr(sorted(rest.items())), []).append(run)
    return found


def _mean(runs):
    return statistics.fmean(_score(run) for run in runs)


def _score(run):
    return float("inf") if run.result is None else outcomes.score(run.result)


def _check_reached(runs, fraction):
    """Raises UserError if a run has neither come so far nor failed."""
    missing = [
        run
        for run in runs
        if not run.reached(fraction) and not run.workdir.has(outcomes.FAILURE)
    ]
    if missing:
        raise UserError(
            f"{len(missing)} runs have not been trained for {fraction:.1%} yet, such "
            f"as {missing[0]}; the same command goes on when they have"
        )
