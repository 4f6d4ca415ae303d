"""Where the values of a sweep's fields lie on axes, and how combinations are named."""

import pytest

from sweep import axes
from sweep.table import Row


def results(*values, field="model.width"):
    """Results of a run per value; None is a run without the field."""
    rows = [
        Row(str(n), {} if value is None else {field: value}, "waiting")
        for n, value in enumerate(values)
    ]
    return axes.Results("test", tuple(rows))


def scale(*values):
    return axes.Scale.of(results(*values), "model.width")


@pytest.mark.parametrize(
    ("values", "kind", "ordered", "ticks"),
    [
        ([3.0, 1.0, 2.0], "linear", True, {1.0: "1", 2.0: "2", 3.0: "3"}),
        ([0.1, 0.001], "log", True, {0.001: "0.001", 0.1: "0.1"}),
        # Too close to be told apart, as 0 cannot be on a logarithmic axis.
        ([0.0, 1e-4, 1e-2], "even", True, {0: "0", 1: "0.0001", 2: "0.01"}),
        (["b", "a"], "even", False, {0: "b", 1: "a"}),
        ([True, False], "even", False, {0: "false", 1: "true"}),
        ([[1, 2], [3]], "even", False, {0: "[1, 2]", 1: "[3]"}),
        ([1, "a"], "even", False, {0: "1", 1: "a"}),
        ([0.9, None], "even", False, {0: "0.9", 1: "–"}),  # one lacks the field
    ],
)
def test_the_axis_of_a_field(values, kind, ordered, ticks):
    found = scale(*values)
    assert (found.kind, found.ordered, found.ticks()) == (kind, ordered, ticks)
    places = [
        found.place({"model.width": v} if v is not None else {}, "model.width")
        for v in values
    ]
    assert sorted(places) == sorted(ticks)
    assert min(map(found.share, places)) == 0 and max(map(found.share, places)) == 1


def test_shares_of_an_axis():
    assert scale(1.0, 2.0, 5.0).share(2.0) == 0.25
    assert scale(0.01, 0.1, 1.0).share(0.1) == pytest.approx(0.5)
    assert scale("a", "b", "c").share(1) == 0.5
    assert scale(1.0, 2.0, 5.0).moved(2.0, 0.25) == 3.0
    assert scale(0.01, 1.0).moved(0.01, 0.5) == pytest.approx(0.1)
    assert scale("a", "b").moved(1, -0.25) == 0.75
    many = scale(*range(100))
    assert many.moved(7, 0.25) == 7
    assert many.ticks() == {x: f"{x:g}" for x in (0, 20, 40, 60, 80)}
    assert len(scale(*map(str, range(100))).ticks()) == 20
    log = scale(*(0.01 * 1.2**n for n in range(30)))
    assert list(log.ticks().values()) == ["0.01", "0.1", "1"][: len(log.ticks())]


def test_combinations_are_named_by_what_varies():
    rows = [
        Row("a", {"optimizer.name": "sgd", "momentum": 0.9, "seed": 0, "x": 1}, "done"),
        Row("b", {"optimizer.name": "n" * 60 + "1", "seed": 1, "x": 1}, "done"),
        Row("c", {"optimizer.name": "n" * 60 + "2", "seed": 1, "x": 1}, "done"),
    ]
    found = axes.Results("test", tuple(rows))
    assert found.fields == ["optimizer.name", "momentum"]
    first, second, third = found.labels(found.groups)
    assert first == "name=sgd, momentum=0.9"
    assert second != third and len(second) == len(third) == len("name=") + 24
    alone = axes.Results("test", tuple(rows[:1]))
    assert alone.labels(alone.groups) == ["test"]


def test_the_metric_is_named_with_split_and_unit():
    result = {"split": "test", "error": 2.0, "score": "error"}
    found = axes.Results("test", (Row("a", {}, "done", result),))
    assert (found.label, found.logarithmic) == ("test error, per cent", False)
    rows = [Row(str(x), {}, "done", result | {"error": x}) for x in (1.0, 90.0)]
    assert axes.Results("test", tuple(rows)).logarithmic
    other = {"split": "val", "mean_distance": 2.0, "score": "mean_distance"}
    rows = Row("a", {}, "done", other), Row("b", {}, "done", other | {"split": "test"})
    assert axes.Results("test", rows).label == "mean distance"
