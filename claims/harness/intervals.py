"""Intervals over seeds, and the verdicts that they lead to."""

import dataclasses
import itertools
import math

import numpy as np

from sweep.table import Spread

REPRODUCED = "reproduced"
DIRECTION = "direction only"
INVISIBLE = "not visible at this scale"
CONTRADICTED = "contradicted"
ARITHMETIC = "arithmetic"
WORDS = (REPRODUCED, DIRECTION, INVISIBLE, CONTRADICTED, ARITHMETIC)
STRENGTH = (CONTRADICTED, INVISIBLE, DIRECTION, REPRODUCED)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval by Student's t; n seeds."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits=2):
        """Returns "1.20 (0.90 to 1.50)"; without `digits`, as ratios are shown."""
        form = ".3g" if digits is None else f".{digits}f"
        mean, low, high = (f"{v:{form}}" for v in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One of WORDS, the sentence that gives its reason, and our number as text.

    `what` names the number where a claim has several.
    """

    word: str
    reason: str
    here: str = ""
    what: str = ""


def mean(values):
    """The `Interval` of the mean of independent values; one value has no width.

    Raises:
      ValueError: a value is not finite, so that no verdict can follow from it.
    """
    values = [float(value) for value in values]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"no interval holds values that are not finite: {values}")
    spread = Spread.of(values)
    ends = spread.interval or (spread.mean, spread.mean)
    return Interval(spread.mean, *ends, len(values))


def difference(a, b):
    """The `Interval` of a - b, whose values are paired by seed."""
    return mean(np.subtract(a, b, dtype=float))


def ratio(a, b):
    """The `Interval` of a / b, whose values are paired by seed: of its logarithm."""
    logs = mean(np.log(np.divide(a, b, dtype=float)))
    return Interval(*map(math.exp, (logs.mean, logs.low, logs.high)), logs.n)


def judge(interval, bound, neutral, what):
    """Judges whether a quantity reaches `bound`, on the claimed side of `neutral`.

    Args:
      interval: the `Interval`.
      bound: what the claim asks of the whole interval. It is above `neutral`, or below
        if the claim says that the quantity is small.
      neutral: the value that means no effect, 0 for differences and 1 for ratios.
      what: the quantity in words.

    Returns:
      The `Verdict`: reproduced if the interval is beyond the bound, direction only if
      it is beyond `neutral`, contradicted if it is on the other side of `neutral`.
    """
    if bound == neutral:
        raise ValueError("the bound and the neutral value must differ; use `sign`")
    side = 1 if bound > neutral else -1
    ends = sorted((side * interval.low, side * interval.high))
    if ends[0] >= side * bound:
        word = REPRODUCED
    elif ends[0] > side * neutral:
        word = DIRECTION
    elif ends[1] < side * neutral:
        word = CONTRADICTED
    else:
        word = INVISIBLE
    words = "at least" if side > 0 else "at most"
    here = interval.text(None) if neutral == 1 else interval.text()
    text = f"{what} is {here}; the rule asks for {words} {bound:g}"
    return Verdict(word, text, here, what)


def sign(interval, positive, what, digits=2):
    """Judges a claim about the sign of a difference alone; see `judge`."""
    side = 1 if positive else -1
    ends = sorted((side * interval.low, side * interval.high))
    if ends[0] > 0:
        word = REPRODUCED
    elif ends[1] < 0:
        word = CONTRADICTED
    else:
        word = INVISIBLE
    words = "above" if positive else "below"
    text = f"{what} is {interval.text(digits)}; the rule asks for {words} 0"
    return Verdict(word, text, interval.text(digits), what)


def falling(values, labels, what):
    """Judges a claim that each arm has lower values than the arm before it.

    Args:
      values: {label: [value by seed]}.
      labels: at least two of them, from the highest values claimed to the lowest.
      what: the fall from the first to the last in words.

    Returns:
      The `Verdict`: reproduced if the intervals of all steps, and of the whole fall,
      are above 0; direction only if that of the whole fall is; else as of `sign`.
    """
    whole = sign(difference(values[labels[0]], values[labels[-1]]), True, what)
    steps = [difference(values[a], values[b]) for a, b in itertools.pairwise(labels)]
    word = whole.word
    if word == REPRODUCED and min(step.low for step in steps) <= 0:
        word = DIRECTION
    each = ", ".join(step.text() for step in steps)
    reason = f"{whole.reason}; its steps are {each}, and the rule asks for the same"
    return Verdict(word, reason, whole.here, what)


def same(interval, bound, neutral, what, digits=2):
    """Judges a claim that a quantity is within `bound` of `neutral`: without effect.

    Returns:
      The `Verdict`: reproduced if the whole interval is so near, contradicted if all of
      it is further away, and otherwise not visible, as the interval is too wide.
    """
    low, high = interval.low - neutral, interval.high - neutral
    if -bound <= low and high <= bound:
        word = REPRODUCED
    elif low > bound or high < -bound:
        word = CONTRADICTED
    else:
        word = INVISIBLE
    text = (
        f"{what} is {interval.text(digits)}; the rule asks for {neutral:g} give or "
        f"take {bound:g}"
    )
    return Verdict(word, text, interval.text(digits), what)


def weakest(*verdicts):
    """The `Verdict` on a claim whose parts have these: that of the weakest part."""
    return Verdict(
        min((verdict.word for verdict in verdicts), key=STRENGTH.index),
        "; ".join(f"{verdict.reason} ({verdict.word})" for verdict in verdicts),
        "; ".join(
            f"{v.what.removeprefix('the ')}: {v.here}" if v.what else v.here
            for v in verdicts
        ),
    )
