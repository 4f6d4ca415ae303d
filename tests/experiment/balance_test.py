"""Class weights and balanced draws, from the config to the trained network."""

import dataclasses
import json
import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny_datasets

import models
from data_source import classes
from errors import ConfigError
from experiment import balance, build, checks, configuration, options, workdir
from models import layers
from sweep import grid, together

# ml_collections loads a config by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

RECIPE = "--config=configs/lenet5.py:modern"


@pytest.fixture
def unlike(tmp_path):
    """The changes for a set of 18 ants, no bee and 2 cats, all in TFDS' files."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28, 1), np.uint8)
    labels = np.array([0] * 9 + [2] + [0] * 9 + [2])
    tiny_datasets.prepare(tmp_path, images, labels)
    return {
        "dataset.name": "tiny",
        "dataset.data_dir": str(tmp_path),
        "dataset.train_split": "train",
        "dataset.eval_split": "train",
        "batch_size": 8,
    }


def test_a_split_without_labels_is_refused(tmp_path):
    images = np.zeros((6, 28, 28, 1), np.uint8)
    tiny_datasets.prepare(
        tmp_path, images, [0, 1, 2] * 2, test=(images[:3], [-1, -1, -1])
    )
    config = runs.small_config(
        dataset__name="tiny",
        dataset__data_dir=str(tmp_path),
        dataset__train_split="train",
        dataset__eval_split="test",
        batch_size=2,
    )
    with pytest.raises(ConfigError, match="eval_split = 'test': .* have no labels"):
        build.setup(config)


def test_weights_and_draws_come_from_the_training_labels(unlike):
    config = runs.small_config(loss__class_weights="balanced", **unlike)
    setup = build.setup(config)
    np.testing.assert_allclose(setup.class_weights, [20 / 36, 0, 20 / 4])
    assert setup.plan.balance is None
    assert balance.describe(setup) == [
        "class weights of the training loss: ant 0.5556, bee 0, cat 5"
    ]
    config = runs.small_config(dataset__balance=1.0, **unlike)
    setup = build.setup(config)
    assert setup.class_weights is None
    index, _ = setup.plan.indices(0, 5)
    labels = setup.train_split.labels()[index.ravel()]
    assert np.bincount(labels).tolist() == [20, 0, 20]
    assert balance.describe(setup) == [
        "the 2 classes have 2 to 18 training images each; an epoch draws 10 "
        "of each (config.dataset.balance = 1)"
    ]
    setup = build.setup(runs.small_config(loss__class_weights=(1, 0.5, 2), **unlike))
    assert setup.class_weights.tolist() == [1, 0.5, 2]


def test_labels_are_read_only_if_they_are_needed(unlike, monkeypatch):
    monkeypatch.setattr("data_source.Split.labels", None)
    setup = build.setup(runs.small_config(**unlike))
    assert (setup.class_weights, setup.plan.balance) == (None, None)
    assert balance.describe(setup) == []


def test_a_wrong_number_of_weights_is_refused_with_both(unlike):
    config = runs.small_config(loss__class_weights=(1.0, 2.0), **unlike)
    with pytest.raises(ConfigError, match="has 2 numbers, and tiny.* has 3 classes"):
        build.setup(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss__class_weights": "inverse"}, "'inverse' must be 'balanced', None, or"),
        ({"loss__class_weights": (1.0, -1.0)}, "none negative"),
        ({"loss__class_weights": (0, 0)}, "not all 0"),
        ({"loss__class_weights": 3}, "class_weights = 3 must be"),
        ({"dataset__balance": 1.5}, "balance = 1.5 must not be greater than 1"),
        ({"dataset__balance": -0.5}, "must not be negative"),
        ({"dataset__balance": 1.0, "dataset__order": "fixed"}, "would never show"),
        ({"dataset__balance": 0.5, "loss__class_weights": "balanced"}, "choose one"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_opened(overrides, message):
    with pytest.raises(ConfigError, match=message):
        runs.small_config(**overrides)


def test_the_command_line_and_the_file_of_a_run_keep_weights():
    for text, value in (
        ("balanced", "balanced"),
        ("(1, 2.5)", (1, 2.5)),
        ("1,2.5", (1, 2.5)),
        ("None", None),
    ):
        flag = f"--config.loss.class_weights={text}"
        config = options.parse(["main.py", RECIPE, "--workdir=x", flag]).config
        assert config.loss.class_weights == value
        again = configuration.from_json(configuration.to_json(config))
        assert again.loss.class_weights == value
        checks.check(again)


def test_another_numbering_of_the_data_changes_neither_draws_nor_weights(unlike):
    """A resumed run has its own numbers, whatever the order of the data's classes."""
    setup = build.setup(runs.small_config(dataset__balance=0.5, **unlike))

    def numbered(split, report):
        return classes.numbered_as(split, setup.train_split.label_names, "", "")

    class Turned:
        """The same data with cats as class 0 and ants as class 2."""

        labels = 2 - setup.train_split.labels()

        def __len__(self):
            return 20

    turned = dataclasses.replace(
        setup.train_split, source=Turned(), label_names=("cat", "bee", "ant")
    )
    other = dataclasses.replace(setup, train_split=turned)
    weights, balanced = balance.find(setup.config, turned)
    other = dataclasses.replace(
        other, plan=dataclasses.replace(setup.plan, balance=balanced)
    )
    same = other.renumbered(numbered, report=print)
    for ours, theirs in zip(
        same.plan.indices(0, 9), setup.plan.indices(0, 9), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


class Linear(layers.Classifier):
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        del train
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


@pytest.fixture
def linear(monkeypatch):
    """The changes for a small training of a network that compiles fast."""
    monkeypatch.setitem(models.MODELS, "linear", Linear)
    return {
        "model__name": "linear",
        "dataset__eval_split": "test[:10]",
        "schedule__name": "constant",
        "num_steps": 8,
    }


def test_the_measures_reach_the_metrics_and_the_last_line(linear, tmp_path):
    line = runs.train_small(tmp_path / "run", **linear)
    # Of the ten images two are ones, fours and nines each, and none is 3, 6 or 8.
    assert re.search(r"step 8; balanced error \S+ %, macro F1 \S+ %; run dir", line)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [x for x in map(json.loads, lines) if "eval/error" in x][-1]
    assert f"balanced error {found['eval/balanced_error']:.2f} %" in line
    assert f"macro F1 {found['eval/macro_f1']:.2f} %" in line


def test_a_balanced_training_resumes_with_the_same_bits(linear, tmp_path, capsys):
    balanced = linear | {"dataset__balance": 1.0}
    runs.train_small(tmp_path / "whole", **balanced)
    assert "an epoch draws 32 of each" in capsys.readouterr().out
    for steps in (3, 8):
        runs.train_small(tmp_path / "parts", **balanced | {"num_steps": steps})
    whole, parts = (runs.final_state(tmp_path / n)[0] for n in ("whole", "parts"))
    runs.assert_same_bits(whole, parts)


def test_both_feeds_send_the_balanced_batch():
    fed = {}
    for placement in ("device", "host"):
        config = runs.small_config(dataset__balance=1.0, dataset__placement=placement)
        setup = build.setup(config)
        feed = setup.feed(("image", "label", "index", "epoch"), 3)
        data, _ = feed.take(3, 4)
        fed[placement] = feed.fetch(data, 0)
        feed.close()
    for name, host in fed["host"].items():
        np.testing.assert_array_equal(fed["device"][name], host)
    index, _ = setup.plan.indices(3, 4)
    np.testing.assert_array_equal(fed["host"]["index"], index[0])


def test_the_reported_loss_has_the_weights_and_that_of_the_evaluation_has_not(
    linear, tmp_path
):
    """With a rate of almost 0 all losses are of one network."""

    def losses(name, **overrides):
        path = tmp_path / name
        runs.train_small(
            path,
            log__every_steps=8,
            optimizer__learning_rate=1e-20,
            **linear | overrides,
        )
        lines = (path / "metrics.jsonl").read_text().splitlines()
        found = {k: v for line in map(json.loads, lines) for k, v in line.items()}
        return np.array([found["train/loss"], found["eval/loss"]])

    plain = losses("plain")
    weighted = losses("weighted", loss__class_weights=(3.0,) * 10)
    np.testing.assert_allclose(weighted, plain * [3, 1], rtol=1e-5)


def test_each_run_of_a_sweep_draws_as_it_does_alone(tmp_path):
    config = runs.small_config(dataset__balance=1.0)
    parent = workdir.Workdir(tmp_path / "sweep")
    both = grid.make_runs(config, parent, [{"seed": 3}, {"seed": 5}])
    found = together.Program(both).indices(both, 8, 5)
    for number, run in enumerate(both):
        alone = build.setup(run.config).plan.indices(8, 13)
        for ours, theirs in zip(found, alone, strict=True):
            np.testing.assert_array_equal(ours[number, :5], theirs)
