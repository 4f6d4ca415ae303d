"""Runs a claim: trains what is missing, measures, judges and keeps the result."""

import dataclasses
import time

from claims.harness import report, trainings
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
        self._times = workdir.Workdir(folder / "times")

    def run(self, claim, changes=()):
        """Runs a claim; returns the report.Outcome, which is also written.

        `changes` are "field=value" for all of its configs.
        """
        if claim.trains():
            results, minutes = self._train(claim, changes)
            numbers, runs = claim.measure(results), report.runs_of(results)
            lost, choices = results.lost(), report.choices_of(results)
        else:
            numbers, runs, minutes, lost, choices = claim.measure(), [], 0.0, "", {}
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
        """Trains what is missing; returns the results, and the minutes of all calls."""
        experiment, begin = claim.experiment(self._scale), time.monotonic()
        tried = vary.parse(experiment.config, changes)[0]
        experiment = dataclasses.replace(experiment, changes=tried)
        try:
            results = trainings.run(experiment, self._pool)
        finally:
            minutes = self._add_minutes(claim, (time.monotonic() - begin) / 60)
        return results, minutes

    def _add_minutes(self, claim, minutes):
        """Adds to the time that a claim's runs have taken so far, and returns it."""
        name = f"{claim.name}-{self._scale}.json"
        before = self._times.read_json(name)["minutes"] if self._times.has(name) else 0
        self._times.path.mkdir(parents=True, exist_ok=True)
        self._times.write_json(name, {"minutes": before + minutes})
        return before + minutes
