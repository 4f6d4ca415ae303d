"""The interface between training and its task: another task needs no other loop."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
import tiny_networks
from ml_collections import ConfigDict

import train
from data_source import split as splits
from evaluation.evaluator import Result
from experiment import build, trained, workdir
from training import losses, objective, train_step
from transforms import augment, preprocessing


class Brightness:
    """Regression: the network's first output should be the mean of the image.

    The set `parts` gets the number of images of each part of a batch that is traced.
    """

    keys = ("image", "index", "epoch")

    def __init__(self, model, parts):
        self._model, self._parts = model, parts

    def __call__(self, variables, batch, seed, key):
        del seed, key
        self._parts.add(len(batch["image"]))
        images = batch["image"].astype(jnp.float32) / 255
        outputs, updated = self._model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        losses = (outputs[:, 0] - images.mean((1, 2, 3))) ** 2
        far = (losses > 0.01).sum(dtype=jnp.int32)
        return losses, {"far": far}, updated.get("batch_stats", {})

    @staticmethod
    def zero_sums():
        return {"far": jnp.zeros((), jnp.int32)}

    @staticmethod
    def scalars(sums, images):
        return {"train/far": 100.0 * sums["far"] / images}

    @staticmethod
    def progress(scalars):
        return f"far {scalars['train/far']:.2f} %"


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        del train
        return nn.Dense(1)(x.reshape(len(x), -1))


def test_accumulation_and_sums_do_not_know_the_task():
    model = Linear()
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
    batch = {"image": images, "index": np.arange(8), "epoch": np.zeros(8)}
    init = train_step.make_init(model, optax.sgd(0.1), (6, 6, 1), ema=0.9)
    states, sums = [], []
    for parts in (1, 4):
        sizes = set()
        objective = Brightness(model, sizes)
        step = train_step.make_train_step(
            objective, optax.sgd(0.1), accumulate=parts, ema_decay=0.9
        )
        steps = train_step.make_run_steps(step, lambda data, i: data)
        zero = train_step.zero_sums(objective)
        state, total = jax.jit(steps)(init(0), zero, batch, 3, 0)
        assert sizes == {8 // parts}
        states.append(state.ema)
        sums.append(total)
    # Sums of eight terms in another order.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), *states)
    assert sums[0].keys() == {"loss", "far", "bad_step"}
    assert sums[0]["far"] == sums[1]["far"] and sums[0]["bad_step"] == -1


def test_the_parts_of_a_batch_are_taken_in_turn():
    """The statistics go from part to part, and each part has its own dropout."""
    model, tx = tiny_networks.Tiny(3), optax.sgd(1.0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 8, 8, 1)).astype("f4")
    batch = {"image": images, "label": rng.integers(0, 3, 8)}
    task = objective.Classification(
        model,
        optax.softmax_cross_entropy_with_integer_labels,
        lambda batch, seed: batch["image"],
    )
    state = train_step.make_init(model, tx, (8, 8, 1), ema=0)(0)
    state = state.replace(step=jnp.int32(7))
    step = train_step.make_train_step(task, tx, accumulate=2)
    after, _ = jax.jit(step)(state, batch, 5)

    @jax.jit
    def gradient(params, statistics, part, key):
        def mean(params):
            variables = {"params": params, "batch_stats": statistics}
            losses, _, statistics_after = task(variables, part, 5, key)
            return losses.mean(), statistics_after

        return jax.grad(mean, has_aux=True)(params)

    key = jax.random.fold_in(jax.random.key(5), train_step.DROPOUT)
    key = jax.random.fold_in(key, 7)  # the step
    params, statistics = state.params, state.batch_stats
    for number in (0, 1):
        part = {name: x[number::2] for name, x in batch.items()}
        grads, statistics = gradient(
            state.params, statistics, part, jax.random.fold_in(key, number)
        )
        params = jax.tree.map(lambda p, g: p - g / 2, params, grads)
    expected = {"params": params, "batch_stats": statistics}
    found = {name: getattr(after, name) for name in expected}
    # The same sums in another program.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), found, expected
    )


def test_a_training_sees_the_augmented_images_of_its_seed():
    config = runs.small_config(augment__crop=4)
    setup = build.setup(config)
    task = build.make_objective(config, None, setup.preprocessing)
    images, labels = setup.train_split.arrays()
    each = np.arange(8, dtype=np.int32)
    batch = {"image": images[:8], "label": labels[:8], "index": each, "epoch": each}
    seen = [task.inputs(batch, seed, jax.random.key(0))[0] for seed in (0, 1)]
    options = augment.Augmentation(crop=4)
    for seed in (0, 1):
        expected = preprocessing.network_input(
            batch, setup.preprocessing, options, seed=seed
        )
        np.testing.assert_array_equal(seen[seed], expected)
    assert not np.array_equal(*seen)


def test_class_weights_hold_for_both_labels_of_a_mixed_image_and_for_parts():
    """The loss that is minimised and reported is the sum over images / their number."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 2, 2, 1)).astype("f4")
    labels, share = np.array([0, 1, 2, 2, 1, 0, 2, 2]), 0.25
    weights = np.array([5.0, 0.5, 1.0])

    class Logits(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            del train
            return nn.Dense(3)(x.reshape(len(x), -1))

    def mix(images, labels, key):
        del key
        return images, (labels + 1) % 3, share

    config = ConfigDict({"name": "softmax_cross_entropy", "label_smoothing": 0.1})
    task = objective.Classification(
        Logits(),
        losses.weighted(losses.make_loss(config), weights),
        lambda batch, seed: batch["image"],
        mix=mix,
    )
    batch = {"image": images, "label": labels}
    tx = optax.sgd(1.0)
    state = train_step.make_init(Logits(), tx, (2, 2, 1), ema=0)(0)
    found = [
        jax.jit(train_step.make_train_step(task, tx, accumulate=parts))(state, batch, 0)
        for parts in (1, 4)
    ]
    # Sums of eight terms in another order.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), *found)

    x = images.reshape(8, -1)
    dense = jax.tree.map(np.asarray, state.params)["Dense_0"]
    logits = x @ dense["kernel"] + dense["bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total, gradient = 0.0, np.zeros_like(p)
    for part, label in ((share, labels), (1 - share, (labels + 1) % 3)):
        target = 0.9 * np.eye(3)[label] + 0.1 / 3
        weight = part * weights[label]
        total += (weight * -(target * np.log(p)).sum(1)).sum()
        gradient += weight[:, None] * (p - target)  # smoothed targets add up to 1
    (after, sums) = found[0]
    np.testing.assert_allclose(sums["loss"], total, rtol=1e-5)
    step = dense["bias"] - after.params["Dense_0"]["bias"]
    np.testing.assert_allclose(step, gradient.sum(0) / 8, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class MeanError:
    """The evaluation of that task."""

    model: nn.Module
    split: splits.Split

    def run(self, variables, stop=lambda: False):
        images, _ = self.split.arrays()
        images = images.astype(np.float32) / 255
        outputs = self.model.apply(variables, images, train=False)
        error = float(np.abs(outputs[:, 0] - images.mean((1, 2, 3))).mean())
        metrics = {"distance": error, "count": len(images)}
        return Distance("test", len(images), metrics, "distance", ("distance",))


class Distance(Result):
    def describe(self, step):
        return f"distance {self.value:.4f} after step {step}"


@pytest.fixture
def brightness(monkeypatch):
    """Makes the set-up of a config return the other task; gives its set `parts`."""
    parts = set()
    monkeypatch.setattr(build.Setup, "score", "distance")
    monkeypatch.setattr(build.Setup, "objective", lambda s: Brightness(s.model, parts))
    monkeypatch.setattr(
        build.Setup, "evaluator", lambda s, step: MeanError(s.model, s.eval_split)
    )
    monkeypatch.setattr(build, "make_model", lambda config, classes: Linear())
    monkeypatch.setattr(trained, "describe", lambda *_: None)
    return parts


@pytest.mark.parametrize("placement", ["device", "host"])
def test_the_loop_trains_resumes_and_keeps_the_best_of_another_task(
    brightness, tmp_path, capsys, placement
):
    changes = {
        "optimizer__learning_rate": 0.01,
        "optimizer__ema_decay": 0.5,
        "optimizer__accumulate": 2,
        "schedule__name": "plateau",
        "dataset__placement": placement,
        "dataset__image_size": 28,  # as stored: this objective does not pad
    }
    line = runs.train_small(tmp_path / "whole", **changes)
    assert "distance" in line and "after step 30" in line
    assert brightness == {32 // 2}
    assert "  far " in capsys.readouterr().out
    for steps in (13, 30):
        runs.train_small(tmp_path / "parts", num_steps=steps, **changes)
    whole, parts = (runs.final_state(tmp_path / name)[0] for name in ("whole", "parts"))
    runs.assert_same_bits(whole, parts)
    saved = train.checkpoints.Checkpoints(
        workdir.Workdir(tmp_path / "whole").checkpoints, best_metric="distance"
    )
    assert saved._ranking.ranked(saved.all_steps())
