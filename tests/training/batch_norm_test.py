"""Networks with batch normalisation and auxiliary heads, in training and after it."""

import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import tiny_datasets

import evaluate
import models
from errors import ConfigError, UserError
from evaluation import population
from experiment import build, checks, workdir
from models import layers
from training import objective, train_step
from transforms import augment


class Tiny(layers.Classifier):
    """A convolution with batch normalisation, and an auxiliary head."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = TinyBackbone()
        self.head = TinyHead(self.num_classes)
        self.aux = TinyHead(self.num_classes)

    def auxiliary(self, stages, *, train):
        if train or self.is_initializing():
            logits = self.aux(stages["conv1"], train=train)[:, 0, 0]
            if train:
                self.sow("auxiliary", "logits", logits)


class TinyBackbone(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = layers.Conv(8, 5, 4, padding=1, name="conv1")(x)
        norm = layers.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")
        return {"conv1": nn.relu(norm(x))}


class TinyHead(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train, window=None):
        x = layers.global_avg_pool(x, window)
        return nn.Dense(self.num_classes, name="fc")(x)


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", Tiny)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run of ten steps, which tests copy."""
    path = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", Tiny)
        small(path)
    return path


def small(path, **changes):
    return runs.train_small(
        path, model__name="tiny", num_epochs=1.0, augment__crop=0, **changes
    )


LOSS, SGD = optax.softmax_cross_entropy_with_integer_labels, optax.sgd(1.0)


def tiny_start():
    """A network, its state before the first step, and a batch."""
    model = Tiny(num_classes=3)
    images = jax.random.normal(jax.random.key(1), (4, 9, 9, 1))
    state = jax.jit(train_step.make_init(model, SGD, (9, 9, 1), ema=0.0))(0)
    return model, state, {"image": images, "label": jnp.array([0, 1, 2, 0])}


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=not train, name="bn")(x)


def test_population_statistics_are_those_of_algorithm_2():
    """Batches {0, 2} and {4, 8}: means 1 and 6, unbiased variances 2 and 8."""
    model = Norm()
    variables = model.init(jax.random.key(0), jnp.zeros((2, 1)), train=False)
    step = population.make_population_step(model, lambda batch, key: batch)
    batches = [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])]
    statistics = population.population_statistics(step, variables, batches)
    assert statistics == {"bn": {"mean": 3.5, "var": 5.0}}
    with pytest.raises(UserError, match="bn sees one number a batch and channel"):
        step(variables, jnp.ones((1, 1)), jax.random.key(0))


def test_a_run_is_evaluated_with_population_statistics(tiny_network, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    run = workdir.Workdir(tmp_path / "run")
    moving, population = (
        str(evaluate.evaluate_run(run, run.config(), batch_stats=kind))
        for kind in ("moving", "population")
    )
    assert "203/203 images counted" in population
    # Ten steps of momentum 0.9 are still a third of the initial values.
    assert moving != population
    record = json.loads(
        (tmp_path / "run" / "evaluation-10-population.json").read_text()
    )
    assert record["batch_stats"] == "population"
    # Eight devices cannot share a batch of 12: four do.
    config = checks.change(run.config(), ["num_devices=0"])
    with config.unlocked():
        config.batch_size = 12
    found = evaluate.evaluate_run(run, config, batch_stats="population")
    assert found.files[0] == "evaluation-10-population-batch_size_12.json"
    assert found.record["count"] == 203


@pytest.fixture
def passes(monkeypatch):
    """A list that gets (batches, statistics) of each pass over the population."""
    found, find = [], population.population_statistics

    def noted(step, variables, batches, seed):
        batches = list(batches)
        found.append((batches, find(step, variables, batches, seed)))
        return found[-1][1]

    monkeypatch.setattr(population, "population_statistics", noted)
    return found


def test_the_population_is_that_of_the_training_in_its_micro_batches(
    tiny_network, trained, tmp_path, passes, capsys
):
    """Whatever data is tested."""
    shutil.copytree(trained, tmp_path / "run")
    run = workdir.Workdir(tmp_path / "run")
    rng = np.random.default_rng(0)
    others = rng.integers(0, 256, (9, 28, 28, 1), np.uint8)
    names = tuple("0123456789")
    tiny_datasets.prepare(tmp_path, others, np.arange(9), names=names)
    other = [f"dataset.data_dir={tmp_path}", "dataset.name=tiny"]
    config = checks.change(run.config(), [*other, "dataset.eval_split=train"])
    with config.unlocked():
        config.optimizer.accumulate = 2
    found = evaluate.evaluate_run(run, config, batch_stats="population")
    assert found.record["count"] == 9
    said = "batch statistics of a pass over mnist, train[:320]"
    assert said in capsys.readouterr().out.splitlines()
    ((batches, _),) = passes
    assert [len(batch["image"]) for batch in batches] == [16] * 20


def test_the_population_is_repeated_and_mixed_as_in_the_training(
    tiny_network, trained, tmp_path, passes, monkeypatch
):
    shutil.copytree(trained, tmp_path / "run")
    run = workdir.Workdir(tmp_path / "run")
    config = run.config()
    with config.unlocked():
        config.augment.repeats, config.optimizer.accumulate = 4, 2
        config.augment.mixup, config.augment.cutmix = 0.2, 0.7

    def mix(images, labels, key, **alphas):
        assert alphas == {"mixup_alpha": 0.2, "cutmix_alpha": 0.7}
        return jnp.zeros_like(images), labels, 1.0

    monkeypatch.setattr(augment, "mix", mix)
    evaluate.evaluate_run(run, config, batch_stats="population")
    ((batches, statistics),) = passes
    index, _ = build.make_plan(config, 320).indices(0, 10)
    parts = index.reshape(10, 16, 2).swapaxes(1, 2).reshape(20, 16)
    np.testing.assert_array_equal([batch["index"] for batch in batches], parts)
    assert np.unique(parts[0]).size == 4
    # The network saw what `mix` gave: black images, whose maps vary by roundings.
    assert statistics["backbone"]["bn1"]["var"].max() < 1e-20


def test_a_network_without_batch_norm_has_no_population_statistics(tmp_path):
    runs.train_small(tmp_path / "run", "modern", num_epochs=0.2)
    run = workdir.Workdir(tmp_path / "run")
    with pytest.raises(ConfigError, match="no batch normalisation"):
        evaluate.evaluate_run(run, run.config(), batch_stats="population")


def test_frozen_statistics_are_not_those_of_a_population(
    tiny_network, trained, tmp_path
):
    shutil.copytree(trained, tmp_path / "run")
    run = workdir.Workdir(tmp_path / "run")
    config = run.config()
    with config.unlocked():
        config.model.frozen_statistics = True
    with pytest.raises(ConfigError, match="frozen_statistics keeps those of"):
        evaluate.evaluate_run(run, config, batch_stats="population")


def test_moving_averages_move_and_are_saved(trained):
    state, _ = runs.final_state(trained)
    assert state["batch_stats"]["backbone"]["bn1"]["mean"].any()


def test_frozen_statistics_are_used_and_kept(tiny_network, trained, tmp_path):
    """A training step then uses the network as evaluation does."""
    model, state, batch = tiny_start()
    shifted = jax.tree.map(lambda x: x + 0.5, state.batch_stats)
    state = state.replace(batch_stats=shifted)
    frozen = objective.Classification(
        model, LOSS, lambda b, seed: b["image"], frozen_statistics=True
    )
    step = train_step.make_train_step(frozen, SGD)
    after, sums = jax.jit(step)(state, batch, 0)
    variables = {"params": state.params, "batch_stats": shifted}
    evaluated = jax.jit(functools.partial(model.apply, train=False))
    tested = LOSS(evaluated(variables, batch["image"]), batch["label"])
    np.testing.assert_allclose(sums["loss"], tested.sum(), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, shifted)

    changes = {"init_from": str(trained), "model__frozen_statistics": True}
    small(tmp_path / "run", optimizer__unfreeze=(("backbone", 0.5),), **changes)
    saved, tuned = (runs.final_state(path)[0] for path in (trained, tmp_path / "run"))
    runs.assert_same_bits(saved["batch_stats"], tuned["batch_stats"])
    with pytest.raises(ConfigError, match="init_from"):
        small(tmp_path / "none", model__frozen_statistics=True)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_auxiliary_head_has_its_weight_in_the_loss(weight):
    """Its loss at the start is that of the head alone, and its gradient scales."""
    model, state, batch = tiny_start()
    weighted = objective.Classification(
        model, LOSS, lambda b, seed: b["image"], auxiliary_weight=weight
    )
    after, sums = jax.jit(train_step.make_train_step(weighted, SGD))(state, batch, 0)
    mutable = ["batch_stats", "auxiliary"]
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=mutable))
    logits, sown = apply(
        {"params": state.params, "batch_stats": state.batch_stats}, batch["image"]
    )
    (head,) = sown["auxiliary"]["logits"]
    expected = LOSS(logits, batch["label"]) + weight * LOSS(head, batch["label"])
    np.testing.assert_allclose(sums["loss"], expected.sum(), rtol=1e-6)
    assert sums["errors"] == (logits.argmax(-1) != batch["label"]).sum()
    moved = jnp.abs(
        after.params["aux"]["fc"]["bias"] - state.params["aux"]["fc"]["bias"]
    )
    assert (moved.max() > 0) == (weight > 0)
