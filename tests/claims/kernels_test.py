"""The claims about kernels, heads and connections: rules, figures and measures."""

import dataclasses
import types

import numpy as np
import pytest
import runs
from made_up import arms, spread

from claims import c3_table, one_by_one, small_kernels
from claims.harness import catalogue, conduct, intervals, report, trainings
from comparison import counting
from experiment import build
from sweep import in_process

HEADS = ("fully connected", "with dropout", "average")
STACKS = ("5x5", "two 3x3", "7x7", "three 3x3")
SAVED = {"two 3x3": 28.0, "three 3x3": 44.898}
NOISY = [9, 1, 5]
REDUCTION = {"shape": "100x100x20", "weights": 1200, "multiply_adds": 12_000_000}
MAPS = (c3_table.ALL, c3_table.TABLE)


def mixing(without, with_, shape="100x100x20"):
    errors = {one_by_one.WITHOUT: without, one_by_one.WITH: with_}
    return {"reduction": REDUCTION | {"shape": shape}, "errors": errors}


def stacks(*centers, saved=SAVED):
    return {"saved": saved, "errors": arms(STACKS, *centers)}


def heads(*errors, gap=5):
    """Errors of global_average_pooling, and the gap of the fully connected layer."""
    return {
        "errors": dict(zip(HEADS, errors, strict=True)),
        "gaps": {"fully connected": spread(gap)},
    }


SAME = dict.fromkeys(STACKS, NOISY) | {"5x5": NOISY[::-1]}
MADE_UP = [
    ("small_kernels", stacks(20, 10, 20, 10), 0),
    ("small_kernels", {"saved": SAVED, "errors": SAME}, 2),
    ("small_kernels", stacks(20, 10, 10, 20), 3),
    ("small_kernels", stacks(20, 10, 20, 10, saved={"two 3x3": 27.0}), 3),
    ("global_average_pooling", heads(*map(spread, (30, 20, 10))), 0),
    ("global_average_pooling", heads(*map(spread, (30, 10, 20))), 1),
    ("global_average_pooling", heads(NOISY, spread(5), NOISY[::-1]), 2),
    ("global_average_pooling", heads(*map(spread, (10, 20, 30))), 3),
    ("global_average_pooling", heads(*map(spread, (10, 20, 30)), gap=-1), 2),
    ("one_by_one", mixing(spread(20), spread(10)), 0),
    ("one_by_one", mixing(NOISY, NOISY[::-1]), 2),
    ("one_by_one", mixing(spread(10), spread(20)), 3),
    ("one_by_one", mixing(spread(20), spread(10), shape="100x100x60"), 3),
    ("c3_table", {"likeness": arms(MAPS, 0.3, 0.2)}, 0),
    ("c3_table", {"likeness": dict(zip(MAPS, (NOISY, NOISY[::-1]), strict=True))}, 2),
    ("c3_table", {"likeness": arms(MAPS, 0.2, 0.3)}, 3),
]


@pytest.mark.parametrize(("name", "numbers", "place"), MADE_UP)
def test_the_rule_of_a_verdict(name, numbers, place):
    found = catalogue.load(name).verdict(numbers)
    assert found.word == intervals.WORDS[place], found.reason


@pytest.mark.parametrize("place", [0, 4, 9, 13])
def test_a_figure(place, tmp_path):
    name, numbers, _ = MADE_UP[place]
    claim = catalogue.load(name)
    verdict = claim.verdict(numbers)
    report.draw(claim, report.Outcome(name, "small", numbers, verdict, [], 1), tmp_path)
    assert (tmp_path / f"{name}-small.png").stat().st_size > 10_000


def test_the_weights_that_stacks_save():
    """VGG, Section 2.3: 27 C^2 and 49 C^2, of which the larger has 81 % more."""
    assert small_kernels.saved() == pytest.approx(
        {"two 3x3": 28, "three 3x3": 44.9}, abs=0.01
    )
    assert small_kernels.weights("three 3x3") == 27 * 64 * 64
    more = small_kernels.weights("7x7") / small_kernels.weights("three 3x3") - 1
    assert more == pytest.approx(0.81, abs=0.005)


def test_what_the_stacks_of_the_runs_save():
    """13 and 30 % of the convolutions' weights, as the docstring says."""
    experiment = small_kernels.experiment("small")
    weights = {}
    for name, values in experiment.arms.items():
        config = trainings.vary.apply(experiment.config, values)
        rows = counting.layers(build.make_model(config, 10), (32, 32, 3))
        weights[name] = sum(
            row.parameters - row.output[-1] for row in rows if row.kind == "Conv"
        )
    assert 1 - weights["two 3x3"] / weights["5x5"] == pytest.approx(0.13, abs=0.005)
    assert 1 - weights["three 3x3"] / weights["7x7"] == pytest.approx(0.30, abs=0.005)


def test_the_reduction_of_the_articles():
    assert one_by_one.reduction() == REDUCTION


def test_the_costs_of_nin_with_and_without_its_1x1():
    """At 16x16 the second convolution sees 8x8 pixels of 48 maps, or of 96."""
    experiment = one_by_one.experiment("small")
    found = {
        label: one_by_one.costs(types.SimpleNamespace(config=config))
        for label, config in (
            (label, trainings.vary.apply(experiment.config, values))
            for label, values in experiment.arms.items()
        )
    }
    plain = 256 * 75 * 96 + 64 * 25 * 96 * 96 + 16 * 9 * 96 * 96 + 16 * 96 * 10
    mixed = plain - 64 * 25 * 48 * 96 + 256 * (96 * 80 + 80 * 48)
    mixed += 64 * 2 * 96 * 96 + 16 * 96 * 96
    assert found[one_by_one.WITHOUT]["multiply_adds"] == plain
    assert found[one_by_one.WITH]["multiply_adds"] == mixed


def test_the_costs_of_nin_are_on_the_page(monkeypatch):
    monkeypatch.setattr(one_by_one, "costs", lambda run: run)
    made_up = {"parameters": 3, "multiply_adds": 4}
    arms = {label: [made_up] for label in (one_by_one.WITH, one_by_one.WITHOUT)}
    results = trainings.Results(arms, {})
    monkeypatch.setattr(results, "errors", dict)
    found = report.Outcome("x", "small", one_by_one.measure(results), None, [], 1)
    assert list(found.columns()) == ["parameters", "multiply adds"]


def test_the_likeness_of_maps():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50, 10, 10))
    assert c3_table.likeness(np.stack([one, 3 - 2 * one], -1)) == pytest.approx(1)
    # 5,000 independent pixels: the deviation of their correlation is 0.014.
    assert c3_table.likeness(np.stack([one, other], -1)) < 0.06
    three = c3_table.likeness(np.stack([one, -one, other], -1))
    assert three == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.slow
def test_c3_table_from_its_runs_to_its_figure(tmp_path):
    """On 320 images: the maps of C3 are those of trained networks."""
    whole = c3_table.experiment("small")
    config = runs.small_config("minibatch", num_epochs=1.0)
    small = dataclasses.replace(whole, config=config, seeds=1, rates=())
    module = types.ModuleType("c3_table", c3_table.__doc__)
    vars(module).update(vars(c3_table), experiment=lambda scale: small)
    runner = in_process.InProcess(runs.NoStop)
    conductor = conduct.Conductor(tmp_path, tmp_path / "results", "small", runner)
    found = conductor.run(catalogue.Claim("c3_table", module))
    assert found.numbers["parameters"] == {c3_table.TABLE: 60_000, c3_table.ALL: 60_900}
    (table,), (full,) = (
        found.numbers["likeness"][n] for n in (c3_table.TABLE, c3_table.ALL)
    )
    assert 0 < table < 1 and 0 < full < 1 and table != full
    assert (tmp_path / "results" / "c3_table-small.png").exists()
