"""Intervals over seeds against hand-computed numbers, and each verdict."""

import math

import pytest

from claims.harness import intervals
from claims.harness.intervals import Interval


def test_the_mean_and_its_interval():
    # Student's t with two degrees of freedom has 4.302653 at 97.5 %.
    found = intervals.mean([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - half, rel=1e-6)
    assert found.high == pytest.approx(2 + half, rel=1e-6)
    assert intervals.mean([4]) == Interval(4.0, 4.0, 4.0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_gives_no_interval(value):
    with pytest.raises(ValueError, match=f"not finite: .*1.0, {value}"):
        intervals.difference([1.0, value], [0.0, 0.0])


def test_differences_and_ratios_are_paired_by_seed():
    a, b = [10.0, 20.0, 30.0], [9.0, 19.0, 29.0]
    found = intervals.difference(a, b)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    found = intervals.ratio([2.0, 8.0], [1.0, 1.0])
    assert found.mean == pytest.approx(4.0)
    # The logarithms are log 4 -+ log 2; t with one degree of freedom is 12.7062.
    half = 12.7062 * math.log(2) * math.sqrt(2) / math.sqrt(2)
    assert math.log(found.high / found.mean) == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (3.0, 9.0, intervals.REPRODUCED),
        (2.9, 9.0, intervals.DIRECTION),
        (1.1, 2.0, intervals.DIRECTION),
        (1.0, 9.0, intervals.INVISIBLE),
        (0.5, 1.5, intervals.INVISIBLE),
        (0.5, 0.9, intervals.CONTRADICTED),
    ],
)
def test_a_quantity_that_should_be_large(low, high, word):
    found = intervals.judge(Interval((low + high) / 2, low, high, 3), 3, 1, "x")
    assert found.word == word
    assert found.reason.startswith("x is ")
    assert found.reason.endswith("at least 3")


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.1, 0.5, intervals.REPRODUCED),
        (0.1, 0.6, intervals.DIRECTION),
        (0.5, 1.0, intervals.INVISIBLE),
        (1.1, 2.0, intervals.CONTRADICTED),
    ],
)
def test_a_quantity_that_should_be_small(low, high, word):
    found = intervals.judge(Interval((low + high) / 2, low, high, 3), 0.5, 1, "x")
    assert (found.word, found.reason.split()[-2]) == (word, "most")


def test_a_tiny_ratio_is_shown():
    found = intervals.judge(Interval(7e-12, 6.54e-12, 8e-12, 3), 0.1, 1, "x")
    assert found.here == "7e-12 (6.54e-12 to 8e-12)"
    assert found.reason == f"x is {found.here}; the rule asks for at most 0.1"
    found = intervals.judge(Interval(0.123, -1, 2, 3), 1, 0, "x")
    assert found.here == "0.12 (-1.00 to 2.00)"


@pytest.mark.parametrize("positive", [True, False])
def test_a_sign(positive):
    side = 1 if positive else -1

    def word(low, high):
        ends = sorted((side * low, side * high))
        return intervals.sign(Interval(sum(ends) / 2, *ends, 3), positive, "x").word

    assert word(0.1, 2.0) == intervals.REPRODUCED
    assert word(-0.1, 2.0) == intervals.INVISIBLE
    assert word(-2.0, -0.1) == intervals.CONTRADICTED
    with pytest.raises(ValueError, match="use `sign`"):
        intervals.judge(Interval(1, 0, 2, 3), 0, 0, "x")


@pytest.mark.parametrize(
    ("middle", "last", "word"),
    [
        (20, 10, intervals.REPRODUCED),
        (40, 10, intervals.DIRECTION),  # the whole fall, but not the first step
        (30, 30, intervals.INVISIBLE),
        (20, 40, intervals.CONTRADICTED),
    ],
)
def test_an_order(middle, last, word):
    noise = [0, 1, -1]
    values = {"a": [30, 30, 30], "b": [middle] * 3, "c": [last + x for x in noise]}
    found = intervals.falling(values, "abc", "the fall")
    assert found.word == word
    assert found.reason.startswith(f"the fall is {30 - last}.00 (")
    assert f"its steps are {30 - middle}.00 (" in found.reason


def test_the_weakest_part_decides():
    parts = [intervals.Verdict(word, word[:3], "1") for word in intervals.STRENGTH]
    for number, part in enumerate(parts):
        found = intervals.weakest(*reversed(parts[number:]))
        assert found.word == part.word
    found = intervals.weakest(parts[3], parts[1])
    assert found.reason == "rep (reproduced); not (not visible at this scale)"
    assert found.here == "1; 1"
    gain = intervals.sign(Interval(2, 1, 3, 3), True, "the gain in points")
    share = intervals.judge(Interval(0.5, 0.4, 0.6, 3), 0.8, 1, "what is left")
    found = intervals.weakest(gain, share)
    assert found.here == (
        "gain in points: 2.00 (1.00 to 3.00); what is left: 0.5 (0.4 to 0.6)"
    )


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.9, 1.1, intervals.REPRODUCED),
        (0.8, 1.1, intervals.INVISIBLE),
        (0.9, 1.2, intervals.INVISIBLE),
        (0.5, 1.5, intervals.INVISIBLE),
        (1.2, 1.5, intervals.CONTRADICTED),
        (0.5, 0.8, intervals.CONTRADICTED),
    ],
)
def test_no_effect(low, high, word):
    found = intervals.same(Interval((low + high) / 2, low, high, 3), 0.125, 1, "x")
    assert (found.word, found.reason.split("asks for ")[1]) == (
        word,
        "1 give or take 0.125",
    )
