"""Runs a claim: trains what is missing, measures, judges and keeps the result."""

import dataclasses
import time

from claims.harness import report, trainings
from errors import ConfigError, UsageError
from experiment import workdir
from sweep import vary

RUNS = "runs"


class Conductor:
    """Runs claims in one directory.

    Args:
      folder: the pathlib.Path of the runs of all claims.
      results: the folder of the results as JSON, and of the figures.
      scale: one of harness.SCALES.
      runner: what trains the runs in folder/runs, such as a sweep.local.Local.
    """

    def __init__(self, folder, results, scale, runner):
        self._results, self._scale = results, scale
        self._pool = trainings.Pool(folder / RUNS, runner)
        self._folder = folder

    def run(self, claim, changes=()):
        """Runs a claim; returns the report.Outcome, which is also written.

        `changes` are "field=value" for all of its configs. The minutes are those of all
        calls that trained, and of this measuring.
        """
        if changes and not claim.trains():
            raise UsageError(
                f"--change={changes[0]}: {claim.name} trains nothing that could change"
            )
        runs, choices, lost = [], {}, ""
        if claim.trains():
            results, minutes = self._train(claim, changes)
            begin = time.monotonic()
            numbers, runs = claim.measure(results), report.runs_of(results)
            choices, lost = report.choices_of(results), results.lost()
        else:
            begin, minutes = time.monotonic(), 0.0
            numbers = claim.measure()
        minutes += (time.monotonic() - begin) / 60
        verdict = claim.verdict(numbers)
        if lost:
            reason = f"{verdict.reason}; {lost}"
            verdict = dataclasses.replace(verdict, reason=reason)
        outcome = report.Outcome(
            name=claim.name,
            scale=self._scale,
            numbers=numbers,
            verdict=verdict,
            runs=runs,
            minutes=minutes,
            choices=choices,
        )
        outcome.write(self._results)
        report.draw(claim, outcome, self._results)
        return outcome

    def _train(self, claim, changes):
        """Trains what is missing; returns the results, and the minutes of all calls.

        The minutes of tries are counted apart.
        """
        experiment, begin = claim.experiment(self._scale), time.monotonic()
        tried = parse(experiment, changes)
        experiment = dataclasses.replace(experiment, changes=tried)
        times = self._folder / ("tries/times" if tried else "times")
        try:
            results = trainings.run(experiment, self._pool)
        finally:
            minutes = self._add_minutes(times, claim, (time.monotonic() - begin) / 60)
        return results, minutes

    def _add_minutes(self, times, claim, minutes):
        """Adds to the time that a claim's runs have taken so far, and returns it."""
        name, times = f"{claim.name}-{self._scale}.json", workdir.Workdir(times)
        before = times.read_json(name)["minutes"] if times.has(name) else 0
        times.path.mkdir(parents=True, exist_ok=True)
        times.write_json(name, {"minutes": before + minutes})
        return before + minutes


def parse(experiment, changes):
    """Parses flags "field=value" for all runs of an experiment into {field: value}.

    Raises:
      UsageError: a field is unknown, has several values, or is one that the arms, the
      seeds or the choice of a rate set, which would then be alike or untrue.
    """
    own = {"seed"}.union(*experiment.arms.values())
    if experiment.rates:
        own |= {trainings.RATE, "dataset.eval_split"}
    for change in changes:
        for field in change.partition("=")[0].split(","):
            field = field.strip().removeprefix("config.")
            if any(name == field or name.startswith(f"{field}.") for name in own):
                raise UsageError(f"--change={change}: the claim itself sets {field}")
    try:
        found = vary.parse(experiment.config, changes)
    except ConfigError as error:
        raise UsageError(str(error).replace("--vary", "--change")) from error
    if len(found) > 1:
        raise UsageError(f"--change={' --change='.join(changes)}: give one value each")
    return found[0]
