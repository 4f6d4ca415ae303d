"""What claims measure of trained runs, on runs of a moment."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

import input_pipeline
import models
from analysis import retrieval
from claims import (
    auxiliary_heads,
    dropout,
    features,
    multi_view,
    population_statistics,
    towers_specialise,
)
from claims.harness import trainings
from experiment import build, outcomes, trained, workdir
from models import layers

FEW = {
    "num_epochs": 1.0,
    "dataset__train_split": "train[:64]",
    "dataset__eval_split": "test[:50]",
    "log__every_steps": 1,
}


def train(path, **overrides):
    """Trains for two steps; returns the trainings.Trained."""
    overrides = FEW | overrides
    runs.train_small(path, **overrides)
    run = workdir.Workdir(path)
    return trainings.Trained(run.config(), run, outcomes.read(run))


@pytest.mark.slow
def test_statistics_of_the_population_against_moving_averages(tmp_path):
    run = train(tmp_path / "run")
    found = population_statistics.compare(run)
    assert found["moving"] == run.error
    # After two steps, moving averages have a fifth of the way from 0 and 1 behind them.
    assert found["answers"] > 0
    gain = (found["moving"] - found["population"]) * 50 / 100
    assert abs(gain) <= found["answers"]

    numbers = population_statistics.measure(trainings.Results({"0.9": [run]}, {}))
    assert numbers["errors"] == {
        "0.9, moving": [found["moving"]],
        "0.9, population": [found["population"]],
    }
    assert numbers["answers"] == {"0.9": [found["answers"]]}


class Sides(layers.Classifier):
    """A convolution, and a side head on it; it takes images of any size."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = Convolution()
        self.head = layers.PooledLinear(self.num_classes, self.dtype)
        self.side_head = layers.PooledLinear(self.num_classes, self.dtype)

    def auxiliary(self, stages, *, train):
        logits = self.side_head(stages["conv1"], train=train)[:, 0, 0]
        if train:
            self.sow("auxiliary", "side", logits)


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return {"conv1": nn.relu(layers.Conv(4, 5, 4, padding=1, name="conv1")(x))}


@pytest.fixture
def sides(monkeypatch):
    monkeypatch.setitem(models.MODELS, "sides", Sides)


def relative_gradient(run):
    """The gradient of conv1's kernel in Sides before the first step, by hand."""
    opened, weight = trained.open_run(run.workdir), run.config.loss.auxiliary_weight
    split = build.open_split(opened.config.dataset, "train[:64]")
    batch = input_pipeline.read_examples(split, range(64))
    images = opened.inputs(batch["image"])
    init = jax.jit(functools.partial(opened.model.init, train=False))
    params = init(jax.random.key(run.config.seed), images[:1])["params"]

    def loss(params):
        logits, sown = opened.model.apply(
            {"params": params}, images, train=True, mutable=["auxiliary"]
        )
        (side,) = sown["auxiliary"]["side"]
        entropy = optax.softmax_cross_entropy_with_integer_labels
        both = entropy(logits, batch["label"])
        return (both + weight * entropy(side, batch["label"])).mean()

    gradient, weights = (
        tree["backbone"]["conv1"]["kernel"]
        for tree in (jax.jit(jax.grad(loss))(params), params)
    )
    return np.linalg.norm(gradient) / np.linalg.norm(weights)


@pytest.mark.slow
def test_the_first_gradient_with_and_without_a_side_head(tmp_path, sides):
    """It is that of the loss, whose side head counts as much as the config says."""
    found = []
    for weight in (0.0, 0.3):
        changes = {"loss__auxiliary_weight": weight, "augment__crop": 0}
        run = train(tmp_path / str(weight), model__name="sides", **changes)
        found.append(auxiliary_heads.first_gradient(run))
        assert found[-1] == pytest.approx(relative_gradient(run), rel=1e-4)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


@pytest.mark.slow
def test_views_and_ensembles(tmp_path, sides):
    config = multi_view.experiment("small").config
    names = {
        "dataset": ("image_size", "fit", "short_side", "whiten", "mean", "std"),
        "augment": ("view", "short_side"),
    }
    overrides = {
        f"{section}__{field}": config[section][field]
        for section, fields in names.items()
        for field in fields
    }
    members = [
        train(tmp_path / str(seed), model__name="sides", seed=seed, **overrides)
        for seed in (0, 1)
    ]
    results = trainings.Results({multi_view.NETWORK: members}, {})
    numbers = multi_view.measure(results)
    names = ["1 view", "10 views", "30 views", "whole images"]
    assert list(numbers["errors"]) == list(numbers["ensembles"]) == names
    assert numbers["errors"]["1 view"] == results.errors()[multi_view.NETWORK]
    assert all(len(errors) == 2 for errors in numbers["errors"].values())
    files = sorted(
        path.name for path in (tmp_path / "0").glob("evaluation-*ten_crop*.json")
    )
    assert files == [
        "evaluation-2-ten_crop-scales_28_32_36.json",
        "evaluation-2-ten_crop.json",
    ]


@pytest.fixture(scope="module")
def two_towers(tmp_path_factory):
    """FourLayers in two groups, with hidden units of which half are dropped."""
    return train(
        tmp_path_factory.mktemp("two_towers"),
        model__name="claims.networks:FourLayers",
        model__fields__groups=2,
        model__fields__hidden=16,
        model__fields__dropout=0.5,
    )


def test_the_gap_of_dropout(two_towers, monkeypatch):
    """Its run is tested on a part of its training images, without dropout."""
    monkeypatch.setattr(dropout, "SEEN", {"dataset.eval_split": "train[:40]"})
    opened = trained.open_run(two_towers.workdir)
    split = build.open_split(opened.config.dataset, "train[:40]")
    batch = input_pipeline.read_examples(split, range(40))
    apply = jax.jit(functools.partial(opened.model.apply, train=False))
    logits = np.asarray(apply(opened.variables, opened.inputs(batch["image"])))
    wrong = np.mean(logits.argmax(-1) != batch["label"])
    expected = two_towers.error - 100 * wrong
    assert dropout.gap(two_towers) == pytest.approx(expected, abs=1e-4)
    assert dropout.gap(two_towers) != 0


def test_searches_by_features_pixels_and_codes(two_towers, monkeypatch):
    short = functools.partial(retrieval.train_codes, steps=20)
    monkeypatch.setattr(retrieval, "train_codes", short)
    numbers = features.measure(trainings.Results({"dropout": [two_towers]}, {}))
    assert list(numbers["precision"]) == list(features.NAMES)
    # Pixels find the class of many digits among 64; by chance it is a tenth.
    (pixels,) = numbers["precision"]["pixels"]
    assert 30 < pixels < 60
    assert all(seconds > 0 for seconds in numbers["seconds"].values())


def test_colour_shares():
    kernel = np.zeros((5, 5, 3, 3))
    kernel[..., 0] = np.random.default_rng(0).normal(size=(5, 5, 1))  # grey
    kernel[:, :, 0, 1] = 1  # red: a third of it is grey
    kernel[:, :, 0, 2], kernel[:, :, 1, 2] = 1, -1  # red against green
    shares = towers_specialise.colour_shares(kernel)
    np.testing.assert_allclose(shares, [0, 2 / 3, 1], atol=1e-12)
    random = np.random.default_rng(1).normal(size=(5, 5, 3, 2000))
    assert towers_specialise.colour_shares(random).mean() == pytest.approx(2 / 3, 0.01)


def test_the_chance_of_two_towers():
    # Of the 70 splits of eight filters into halves, two separate them as well.
    apart = np.array([0.1, 0.2, 0.3, 0.25, 0.7, 0.8, 0.9, 0.75])
    found = towers_specialise.chance(apart, splits=20_000)
    assert found == pytest.approx(2 / 70, abs=0.005)
    assert towers_specialise.chance(np.full(8, 0.5), splits=100) == 1
    mixed = np.array([0.1, 0.8, 0.3, 0.7, 0.2, 0.9, 0.25, 0.75])
    assert towers_specialise.chance(mixed, splits=1000) > 0.3
    with pytest.raises(ValueError, match="no share of colour: .* nan"):
        towers_specialise.chance(np.array([0.1, 0.2, 0.3, np.nan]))


def test_the_towers_of_a_trained_run(two_towers):
    # Images of one channel have only grey filters, so all splits are alike.
    results = trainings.Results({"two towers": [two_towers]}, {})
    numbers = towers_specialise.measure(results)
    assert numbers["shares"] == [[0.0] * 32]
    assert numbers["chance"] == [1.0]
