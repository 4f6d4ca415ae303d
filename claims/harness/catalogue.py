"""Finds the claims: each is a module of claims/ with the attributes of `Claim`."""

import dataclasses
import importlib
import inspect
import pathlib
import types

from errors import UsageError
from experiment import configuration

FOLDER = pathlib.Path(__file__).parents[1]
NOT_CLAIMS = ("__init__", "__main__", "networks")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim's file.

    Attributes (of its module):
      CLAIM: the claim in a sentence. SOURCE: paper, section, figure or table.
      STATED: the source's number. MINUTES: {scale: what the runs cost}; a scale that
      it lacks cannot be run, or does not exist.
      experiment(scale): the trainings.Experiment; missing where nothing is trained.
      measure(results): the numbers, {name: number, text, list or dict}; without an
      experiment it takes nothing.
      verdict(numbers): the intervals.Verdict.
      figure(figure, numbers): draws into a matplotlib figure; may be missing.
    """

    name: str
    module: types.ModuleType

    def __getattr__(self, attribute):
        return getattr(self.module, attribute)

    def minutes(self, scale):
        """What the runs of a scale cost; None if the claim lacks it."""
        return self.module.MINUTES.get(scale)

    def text(self):
        """The module's docstring: what the paper says, and what differs here."""
        return inspect.getdoc(self.module)

    def trains(self):
        return hasattr(self.module, "experiment")


def names():
    """The names of all claims."""
    found = {path.stem for path in FOLDER.glob("*.py")}
    return sorted(found.difference(NOT_CLAIMS))


def load(name):
    return Claim(name, importlib.import_module(f"claims.{name}"))


def find(chosen, scale):
    """Returns the claims `chosen`, or all of them, the cheapest first.

    Raises:
      UsageError: there is no such claim, or it has no runs at this scale.
    """
    known = names()
    for name in chosen:
        if name not in known:
            near = configuration.nearest(name, known)
            raise UsageError(f"there is no claim {name!r}{near}")
    claims = [load(name) for name in chosen or known]
    for claim in claims if chosen else ():
        if claim.minutes(scale) is None:
            raise UsageError(f"{claim.name} has no runs at --scale={scale}")
    found = [claim for claim in claims if claim.minutes(scale) is not None]
    return sorted(found, key=lambda claim: (claim.minutes(scale), claim.name))
