"""Successive halving: hopeless runs end early (Jamieson and Talwalkar, 2016).

All combinations are trained for a small part of their training, the best 1/factor of
them for `factor` times as long, and so on; the last ones to the end. A run that goes on
is resumed, so it ends as it would have without halving. Combinations that differ in the
seed alone count as one, by the mean of their metrics. The metric is that of
config.dataset.eval_split: choose a held-out part of the training images for it.
"""

import contextlib
import json
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
      UserError: a run did not get to the end of a rung, or failed on the way, or the
        runs cannot be compared there.
    """
    for run in runs.all:
        if run.config.eval.every_epochs == 0:
            raise ConfigError(
                "--halving compares evaluations on the way: set "
                "config.eval.every_epochs above 0"
            )
    factor, number = runs.record.halving, len(_combinations(runs.all))
    if number < factor:
        print(
            f"note: --halving={factor} cuts nothing: it needs {factor} combinations "
            f"that differ in more than the seed, and the sweep has {number}",
            flush=True,
        )
    for fraction, keep in rungs(number, factor):
        going = left(runs)
        runner.train(going, fraction)
        if len(_combinations(going)) <= keep:
            continue
        runs.read()
        _check_reached(going, fraction)
        cut = losers(going, keep, scores(going, fraction))
        runs.record.cut = (*runs.record.cut, *map(str, cut))
        runs.write()
        print(
            f"halving: {len(going) - len(cut)} of {len(going)} runs go on after "
            f"{fraction:.1%} of the training",
            flush=True,
        )
    runner.train(left(runs), 1)


def left(runs):
    """Returns the runs of a command.Runs that were not cut."""
    return [run for run in runs.all if str(run) not in runs.record.cut]


def decided(runs):
    """True if those that are left of a command.Runs train to their end."""
    last = rungs(len(_combinations(runs.all)), runs.record.halving)[-1:]
    return all(len(_combinations(left(runs))) <= keep for _, keep in last)


def losers(runs, keep, metrics):
    """Returns the runs of all combinations but the best `keep`; ties go on in order.

    `metrics` is what `scores` returns.
    """

    def mean(combination):
        return statistics.fmean(metrics[str(run)] for run in combination)

    order = sorted(_combinations(runs).values(), key=mean)
    return [run for combination in order[keep:] for run in combination]


def scores(runs, fraction):
    """Returns {run's name: metric} of the first evaluations after a fraction.

    A run may be further already, as in a sweep that began without halving. If the
    evaluation of one is not in metrics.jsonl, that of result.json counts for all.

    Raises:
      UserError: it does so, but the runs are not equally far.
    """
    found = {str(run): _evaluated(run, fraction) for run in runs}
    if None not in found.values():
        return found
    far = {}
    for run in runs:
        if "diverged" not in run.result:
            step = run.result["step"]
            far.setdefault(step / max(run.result.get("of", step), 1), run)
    if len(far) > 1:
        one, other = list(far.values())[:2]
        lost = next(name for name, score in found.items() if score is None)
        raise UserError(
            f"--halving cannot compare {one}, evaluated at step {one.result['step']}, "
            f"with {other}, evaluated at step {other.result['step']}: metrics.jsonl of "
            f"{lost} has no evaluation after {fraction:.1%} of the training; "
            "--halving=0 trains all runs to their end"
        )
    return {str(run): outcomes.score(run.result) for run in runs}


def _combinations(runs):
    """Groups runs that differ in the seed alone."""
    found = {}
    for run in runs:
        rest = {name: v for name, v in run.values.items() if name != "seed"}
        found.setdefault(repr(sorted(rest.items())), []).append(run)
    return found


def _evaluated(run, fraction):
    """The metric of the first evaluation after a fraction; None if it is not known."""
    if "diverged" in run.result:
        return math.inf
    name = f"eval/{run.result.get('score', 'error')}"
    first = fraction * run.result.get("of", run.result["step"])
    lines = ()
    with contextlib.suppress(FileNotFoundError):
        lines = run.workdir.metrics.read_text(errors="replace").splitlines()
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # a kill cut it short
            values = json.loads(line)
            if name in values and values["step"] >= first:
                return values[name]
    return None


def _check_reached(runs, fraction):
    """Raises UserError if a run has not come so far, and says why if one failed."""
    missing = [run for run in runs if not run.reached(fraction)]
    if missing:
        missing.sort(key=lambda run: not run.workdir.has(outcomes.FAILURE))
        state, note = missing[0].state()
        raise UserError(
            f"{len(missing)} of {len(runs)} runs have not been trained for "
            f"{fraction:.1%}, so none is cut; {missing[0]} is {state}"
            f"{': ' if note else ''}{note}; the same command goes on with them, and "
            "--halving=0 trains all the others to their end"
        )
