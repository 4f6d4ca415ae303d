"""The claims about depth and gradients: their rules, figures and measures."""

import types

import flax
import numpy as np
import pytest
import runs
from made_up import arms

from claims import batch_norm_rate, vanishing_gradients
from claims.harness import catalogue, intervals, probes, report, trainings
from comparison import counting
from experiment import build, outcomes, workdir

DEPTHS = ("plain-20", "plain-56", "residual-20", "residual-56")
GRADIENTS = (*vanishing_gradients.COMPARED, "ReLU", "residual-56")
NOISY = {"A": [9, 1, 5], "B": [5, 1, 9], "C": [1, 9, 5], "D": [5, 9, 1]}


def rates(*found):
    """Errors of batch_norm_rate: without at x1, x5 and x30, then with."""
    labels = [
        batch_norm_rate.arm(network, multiple)
        for network in (batch_norm_rate.WITHOUT, batch_norm_rate.WITH)
        for multiple in batch_norm_rate.MULTIPLES
    ]
    return {"errors": dict(zip(labels, found, strict=True))}


GOOD, BAD, LOST = [20, 21, 22], [30, 31, 32], [20, 90, 20]
DEAD = [90, 90, 90]
MADE_UP = [
    ("degradation", {"training": arms(DEPTHS, 10, 20, 10, 5)}, 0),
    ("degradation", {"training": arms(DEPTHS, 10, 20, 10, 10)}, 2),
    ("degradation", {"training": arms(DEPTHS, 10, 20, 5, 10)}, 3),
    ("degradation", {"training": arms(DEPTHS, 20, 10, 10, 5)}, 3),
    ("shortcuts", {"errors": arms("ABC", 30, 20, 10)}, 0),
    ("shortcuts", {"errors": arms("ABC", 30, 10, 20)}, 1),
    ("shortcuts", {"errors": NOISY}, 2),
    ("shortcuts", {"errors": arms("ABC", 10, 20, 30)}, 3),
    ("vgg_depth", {"errors": arms("ABCD", 40, 30, 20, 10)}, 0),
    ("vgg_depth", {"errors": arms("ABCD", 40, 20, 30, 10)}, 1),
    ("vgg_depth", {"errors": NOISY}, 2),
    ("vgg_depth", {"errors": arms("ABCD", 10, 30, 20, 40)}, 3),
    ("vanishing_gradients", {"shares": arms(GRADIENTS, 0.01, 0.01, 0.05, 1, 1)}, 0),
    ("vanishing_gradients", {"shares": arms(GRADIENTS, 0.01, 0.3, 0.05, 1, 1)}, 1),
    ("vanishing_gradients", {"shares": arms(GRADIENTS, 0.01, 0.01, 1, 1, 1)}, 2),
    ("vanishing_gradients", {"shares": arms(GRADIENTS, 0.01, 0.01, 5, 1, 1)}, 3),
    ("batch_norm_rate", rates(GOOD, BAD, LOST, GOOD, GOOD, GOOD), 0),
    ("batch_norm_rate", rates(LOST, GOOD, LOST, GOOD, BAD, GOOD), 2),
    ("batch_norm_rate", rates(GOOD, GOOD, LOST, GOOD, GOOD, GOOD), 1),
    ("batch_norm_rate", rates(GOOD, LOST, LOST, GOOD, GOOD, BAD), 1),
    ("batch_norm_rate", rates(GOOD, GOOD, GOOD, GOOD, GOOD, GOOD), 2),
    ("batch_norm_rate", rates(GOOD, GOOD, BAD, GOOD, LOST, BAD), 3),
    ("batch_norm_rate", rates(GOOD, GOOD, BAD, DEAD, DEAD, DEAD), 3),
]


@pytest.mark.parametrize(("name", "numbers", "place"), MADE_UP)
def test_the_rule_of_a_verdict(name, numbers, place):
    found = catalogue.load(name).verdict(numbers)
    assert found.word == intervals.WORDS[place], found.reason


CURVES = {name: {"epochs": [1, 2], "runs": [[50, 40], [52, 41]]} for name in DEPTHS}
LAYERS = {label: [[0.1, 0.2, 0.3]] for label in [*GRADIENTS, "sigmoid, BN"]}
LAYERS["56 without BN"] = [[]]  # it diverged
FIGURES = {
    "degradation": {"curves": CURVES},
    "shortcuts": MADE_UP[4][1],
    "vgg_depth": MADE_UP[8][1],
    "batch_norm_rate": MADE_UP[16][1],
    "vanishing_gradients": {"layers": {"start": LAYERS, "after 500 steps": LAYERS}},
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure(name, tmp_path):
    verdict = intervals.Verdict(intervals.INVISIBLE, "x is 1", "1")
    made_up = report.Outcome(name, "small", FIGURES[name], verdict, [], 1)
    report.draw(catalogue.load(name), made_up, tmp_path)
    assert (tmp_path / f"{name}-small.png").stat().st_size > 10_000


def test_a_rate_that_can_be_used():
    errors = rates(GOOD, [22, 23, 23.9], [22, 23, 24.1], BAD, GOOD, LOST)["errors"]
    assert batch_norm_rate.usable(errors, batch_norm_rate.WITHOUT) == 5
    assert batch_norm_rate.usable(errors, batch_norm_rate.WITH) == 5
    dead = rates([20, 20, 90], [40, 41, 42], GOOD, GOOD, GOOD, LOST)["errors"]
    assert batch_norm_rate.usable(dead, batch_norm_rate.WITHOUT) == 0


def one_step(path, steps):
    """Trains by whole batches at a constant rate of 0.5; returns a Trained."""
    changes = {
        "model__name": "tiny_networks:Pooled",
        "dataset__train_split": "train[:32]",
        "augment__crop": 0,
        "num_epochs": float(steps),
        "optimizer__learning_rate": 0.5,
        "optimizer__weight_decay": 0.0,
        "optimizer__kwargs__momentum": 0.0,
        "schedule__name": "constant",
    }
    runs.train_small(path, **changes)
    run = workdir.Workdir(path)
    return trainings.Trained(run.config(), run, outcomes.read(run))


@pytest.mark.slow
def test_gradients_are_those_that_the_steps_take(tmp_path):
    """Without momentum a step is the rate times the gradient."""
    first, second = (one_step(tmp_path / str(n), n) for n in (1, 2))
    start = build.setup(first.config).init()(first.config.seed).params
    one, two = (
        runs.final_state(run.workdir.path)[0]["params"] for run in (first, second)
    )
    for at_start, before, after in ((True, start, one), (False, one, two)):
        found = probes.gradients(first, at_start)
        assert list(found) == ["Conv_0/kernel", "Dense_0/kernel"]
        for path, value in found.items():
            layer = path.split("/")[0]
            a, b = (np.asarray(x[layer]["kernel"], np.float64) for x in (before, after))
            expected = np.linalg.norm(b - a) / 0.5 / np.linalg.norm(a)
            # The difference of two float32 has some four digits.
            assert value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("arm", ["ReLU", "plain-56", "residual-56"])
def test_sorted_names_of_convolutions_are_their_order(arm):
    experiment = vanishing_gradients.experiment("small")
    config = trainings.vary.apply(experiment.config, experiment.arms[arm])
    model = build.make_model(config, 10)
    called = [row.name.replace(".", "/") for row in counting.layers(model, (16, 16, 3))]
    params = build.abstract_variables(model, (16, 16, 3))["params"]["backbone"]
    paths = flax.traverse_util.flatten_dict(params, sep="/")
    kernels = sorted(p.removesuffix("/kernel") for p in paths if p.endswith("/kernel"))
    assert kernels == [name for name in called if name in kernels]
    assert len(kernels) == (19 if arm == "ReLU" else 55)


def test_the_first_layers_share(monkeypatch):
    def gradients(run, start):
        scale = 1 if start else 2
        layers = {"backbone/conv1/kernel": 1 / 3, "backbone/conv2/kernel": 2.0}
        return {p: scale * x for p, x in layers.items()} | {"head/fc/kernel": 9.0}

    monkeypatch.setattr(probes, "gradients", gradients)
    well, lost = (
        types.SimpleNamespace(diverged=diverged) for diverged in (False, True)
    )
    results = trainings.Results({"a": [well, lost]}, {})
    numbers = vanishing_gradients.measure(results)
    assert numbers["shares"]["a"] == [0.3333 / 2] * 2
    assert numbers["layers"]["after 500 steps"]["a"] == [[0.6667, 4.0], []]
