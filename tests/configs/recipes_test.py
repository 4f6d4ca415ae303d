"""Recipes: learning rates at their papers' milestones, and steps at the true size."""

import dataclasses
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import data_source
import input_pipeline
from configs import resnet50
from experiment import build, checks
from training import durations
from transforms import augment, whitening
from transforms import preprocessing as preprocessings

# Training images of each set.
EXAMPLES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
EXAMPLES["imagenet2012"] = 1_281_167

CIFAR_RESNET = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001, 63_999: 0.001}
WARMED_UP = {0: 0.01, 399: 0.01, 400: 0.1} | {
    step: rate for step, rate in CIFAR_RESNET.items() if step
}
THIRTY = {0.0: 0.1, 29.9: 0.1, 30.0: 0.01, 60.0: 0.001, 89.9: 0.001}
CONSTANT = {0.0: 0.01, 50.0: 0.01}  # until the plateau's rule divides it

# Recipe: the learning rate at a step (an integer) or in an epoch (a float).
MILESTONES = {
    "lenet5:paper": {1.9: 5e-4, 2.0: 2e-4, 5.0: 1e-4, 8.0: 5e-5, 12.0: 1e-5},
    "alexnet": CONSTANT,
    "zfnet": CONSTANT,
    "overfeat": {29.9: 0.05, 30.0: 0.025, 50.0: 0.0125, 80.0: 0.0015625},
    "nin": {199.9: 0.1, 200.0: 0.01, 230.0: 0.001, 259.9: 0.001},
    "nin:nin_imagenet": {199_999: 0.01, 200_000: 1e-3, 400_000: 1e-4},
    "vgg": CONSTANT,
    "vgg_cifar": {0.0: 0.1, 100.0: 0.05, 200.0: 0.0},
    "googlenet": {7.9: 0.01, 8.1: 0.0096, 16.1: 0.01 * 0.96**2},
    "bn_inception": {1.3: 0.045, 1.4: 0.0432},
    "inception_v3": {1.99: 0.045, 2.01: 0.045 * 0.94, 99.0: 0.045 * 0.94**49},
    "inception_v4": {1.99: 0.045, 2.01: 0.045 * 0.94, 99.0: 0.045 * 0.94**49},
    "resnet50": {0.0: 0.1, 119.0: 0.1},
    "resnet_cifar": CIFAR_RESNET,
    "resnet_cifar:resnet110": WARMED_UP,
    "cifar10": {0.0: 0.0, 1.0: 0.1, 20.5: 0.05, 40.0: 0.0},
    "cifar10:nin": {0.0: 0.0, 1.0: 1e-3, 10.0: 0.0},
    "fashion_mnist": {0.0: 0.0, 0.5: 0.1, 5.0: 0.0},
    "preact_resnet": WARMED_UP,
    "preact_resnet:preact_resnet200": THIRTY,
    "wide_resnet": {59.9: 0.1, 60.0: 0.02, 120.0: 0.004, 160.0: 0.0008},
    "wide_resnet_imagenet": THIRTY,
    "resnext50": THIRTY | {90.1: 1e-4},
    "resnext_cifar": {149.9: 0.1, 150.0: 0.01, 225.0: 0.001},
    "densenet": {149.9: 0.1, 150.0: 0.01, 225.0: 0.001},
    "densenet121": THIRTY,
    "densenet121:densenet161": THIRTY | {90.1: 1e-4},
    "fractalnet": {199.9: 0.02, 200.0: 2e-3, 300.0: 2e-4, 350.0: 2e-5, 375.0: 2e-6},
    "fractalnet:fractalnet_34": {34.9: 1e-3, 35.1: 1e-4, 52.6: 1e-5},
    "dpn": {29.9: 0.316, 30.1: 0.0316, 60.1: 0.00316},
    "senet": {29.9: 0.6, 30.1: 0.06, 60.1: 0.006, 90.1: 0.0006},
    "resnet50:flax": {0.0: 0.0, 5.0: 0.4, 52.5: 0.2, 100.0: 0.0},
    "resnet50:torchvision_v1": THIRTY,
    "resnet50:torchvision_v2": {0.0: 0.005, 5.0: 0.5, 302.5: 0.25, 600.0: 0.0},
    "resnet50:a1": {0.0: 5e-7, 5.0: 5e-3, 600.0: 1e-6},
    "resnet50:a2": {0.0: 5e-7, 5.0: 5e-3, 300.0: 1e-6},
    "resnet50:a3": {0.0: 8e-7, 5.0: 8e-3, 100.0: 1e-6},
    "resnet50:ffcv_16": {0.0: 1.7e-4, 2.0: 1.7, 9.0: 0.85, 16.0: 0.0},
    "resnet50:ffcv_88": {0.0: 1.7e-4, 2.0: 1.7, 45.0: 0.85, 88.0: 0.0},
    "resnet50:mlperf_4096": {0.0: 0.0, 5.0: 10.0, 23.5: 2.5, 42.0: 0.0},
    "resnet50:mlperf_32768": {16.0: 21.2, 37.0: 5.3, 58.0: 0.0},
}
# The 1998 recipe has steps of its own: tests/training/sdlm_test.py.
RECIPES = sorted(MILESTONES.keys() - {"lenet5:paper"})
# Only with -m slow: of the deepest a trace takes long, in others only numbers differ;
# NIN's whitening is by the eigenvectors of 3,072 numbers.
DEEP = ("preact_resnet", "preact_resnet:preact_resnet200", "resnet_cifar:resnet110")
DEEP += ("inception_v4", "densenet121", "densenet", "dpn", "resnext50", "nin", "senet")
DEEP += ("densenet121:densenet161", "resnet50:a2", "resnet50:a3", "resnet50:flax")
DEEP += ("resnet50:torchvision_v1", "resnet50:ffcv_88", "resnet50:mlperf_32768")
DEEP += ("resnet50:torchvision_v2", "resnet50:a1", "resnet50:mlperf_4096")
DEEP += ("inception_v3", "bn_inception", "fractalnet:fractalnet_34")
DEEP += ("wide_resnet_imagenet", "resnet50:ffcv_16", "wide_resnet", "resnext_cifar")
DEEP += ("resnet50", "fractalnet", "googlenet")


@functools.cache
def load(recipe):
    file, _, argument = recipe.partition(":")
    module = importlib.import_module(f"configs.{file}")
    config = module.get_config(argument) if argument else module.get_config()
    checks.check(config)
    return config


@pytest.mark.parametrize("recipe", MILESTONES)
def test_the_learning_rate_is_the_papers_at_its_milestones(recipe):
    config = load(recipe)
    epoch_steps, *_, total = build.make_durations(config, EXAMPLES[config.dataset.name])
    schedule, _ = build.make_optimizer(config, epoch_steps, total)
    for time, rate in MILESTONES[recipe].items():
        at = time
        if isinstance(time, float):
            at = min(durations.in_steps(time, epoch_steps), total)
        # Where a rate moves with every step, one of them more or less.
        peak = config.optimizer.learning_rate * config.batch_size
        peak /= config.optimizer.per_examples or config.batch_size
        assert float(schedule(at)) == pytest.approx(rate, rel=1e-4, abs=2e-4 * peak), at


@pytest.mark.parametrize(
    ("recipe", "order"), [("lenet5:paper", "fixed"), ("cifar10", "shuffle")]
)
def test_lenet_5_alone_sees_its_images_in_a_fixed_order(recipe, order):
    config = load(recipe)
    assert build.make_plan(config, EXAMPLES[config.dataset.name]).order == order


def test_weights_of_nin_decay_as_in_cuda_convnet():
    """cuda-convnet takes wc * epsW, 1e-5 * 1, off a weight in each step."""
    optimizer = load("nin").optimizer
    assert optimizer.learning_rate * optimizer.weight_decay == pytest.approx(1e-5)


def test_all_biases_of_fractalnet_learn_at_twice_the_rate():
    ((pattern, factor),) = load("fractalnet").optimizer.rate_factors
    assert factor == 2.0
    for path in ("backbone/block1/conv/bias", "head/fc/bias"):
        assert re.search(pattern, path)
    assert not re.search(pattern, "backbone/bn1/bias")


def test_biases_of_googlenet_learn_at_twice_the_rate_and_shifts_do_not():
    ((pattern, factor),) = load("googlenet").optimizer.rate_factors
    assert factor == 2.0
    for layer in ("backbone/conv1", "backbone/inception_3a/3x3", "head/fc"):
        assert re.search(pattern, f"{layer}/bias")
        assert not re.search(pattern, f"{layer}/kernel")
    for layer in ("backbone/conv1_bn", "side_heads_aux1/conv_bn"):
        assert not re.search(pattern, f"{layer}/bias")


@pytest.mark.parametrize(
    ("network", "images"), [("dpn68", 64), ("dpn92", 32), ("dpn107", 24)]
)
def test_batches_of_dpn_are_the_authors_on_40_gpus(network, images):
    """https://github.com/cypw/DPNs, Efficiency (Training)."""
    assert load(f"dpn:{network}").batch_size == 40 * images


@pytest.mark.parametrize("recipe", MILESTONES)
def test_the_last_change_of_a_rate_is_in_the_training(recipe):
    config = load(recipe)
    *_, total = build.make_durations(config, EXAMPLES[config.dataset.name])
    epochs = total * config.batch_size / EXAMPLES[config.dataset.name]
    changes = config.schedule.boundaries if config.schedule.name == "step" else ()
    assert all(epoch < epochs for epoch in changes)
    assert all(epoch < epochs for epoch, _ in config.augment.image_sizes)


def test_the_papers_crops_and_protocols():
    """Checks the sizes that training rescales images to, and the test protocols."""
    shown = {
        recipe: (config.augment.view, config.augment.short_side, config.eval.protocol)
        for recipe in ("alexnet", "vgg", "resnet50", "overfeat", "googlenet")
        for config in [load(recipe)]
    }
    assert shown == {
        "alexnet": ("rescale_crop", (256, 256), "ten_crop"),
        "vgg": ("rescale_crop", (256, 256), "dense"),
        "resnet50": ("rescale_crop", (256, 480), "ten_crop"),
        "overfeat": ("rescale_crop", (256, 256), "offsets"),
        "googlenet": ("inception_crop", (256, 256), "crops_144"),
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_images_are_large_enough_for_their_crops(recipe):
    config = load(recipe)
    sizes = [config.dataset.image_size, *(s for _, s in config.augment.image_sizes)]
    if config.augment.view == "rescale_crop":
        assert max(sizes) <= config.augment.short_side[0]
    if config.dataset.fit == "crop":
        size = config.eval.image_size or config.dataset.image_size
        assert size <= (config.eval.short_side or config.dataset.short_side)


def test_paper_is_the_first_network_of_every_file():
    for file in {recipe.partition(":")[0] for recipe in MILESTONES} - {
        *("lenet5", "vgg_cifar", "fashion_mnist", "cifar10")
    }:
        module = importlib.import_module(f"configs.{file}")
        assert module.get_config("paper").to_dict() == module.get_config().to_dict()


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="resnet101.*torchvision_v2.*mlperf_4096"):
        resnet50.get_config("torchvison_v2")


def make(recipe, batch_size):
    """The train step of a recipe at its true size: (state's init, step, batch)."""
    config = load(recipe).copy_and_resolve_references()
    name, size = config.dataset.name, config.dataset.image_size or 28
    channels = 1 if "mnist" in name else 3
    batch_size *= config.augment.repeats * config.optimizer.accumulate
    stored = (None, None, 3) if name == "imagenet2012" else (size, size, channels)
    lengths = build.make_durations(config, EXAMPLES[name])
    preprocessing, view = build.make_view(config, stored, lengths.epoch_steps)
    classes = 1000 if name == "imagenet2012" else 10
    rng = np.random.default_rng(0)
    shape = (batch_size, size, size, channels)
    batch = {
        "image": rng.integers(0, 256, shape, np.uint8),
        "label": rng.integers(0, classes, batch_size, np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
        "epoch": np.zeros(batch_size, np.int32),
    }
    if preprocessing.whiten:
        statistics = whitening.fit(preprocessing.whiten, [batch["image"]])
        preprocessing = dataclasses.replace(preprocessing, statistics=statistics)
    model = build.make_model(config, classes)
    setup = build.Setup(
        config,
        mesh=None,
        train_split=None,
        eval_split=None,
        durations=lengths,
        plan=None,
        class_weights=None,
        preprocessing=preprocessing,
        view=view,
        eval_preprocessing=None,
        input_shape=shape[1:],
        model=model,
        variables=None,
        trained_model=model,
    )
    return config, setup.init(), setup.train_step(), batch


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=pytest.mark.slow) if r in DEEP else r for r in RECIPES],
)
def test_a_step_keeps_the_form_of_the_state_at_the_true_size(recipe):
    """The step is only traced; the recipe's expressions must find their parameters."""
    config, init, step, batch = make(recipe, 2)
    before = jax.eval_shape(init, 0)
    checks.check_parameters(config, before.params)
    after, sums = jax.eval_shape(step, before, batch, 0)
    assert after == before
    assert sums["loss"].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_three_steps_at_the_true_size(recipe):
    """All parameters stay finite, and most move: drop-path may leave some out."""
    _, init, step, batch = make(recipe, 4)
    state = jax.jit(init)(0)
    start = jax.tree.map(np.array, state.params)
    step = jax.jit(step, donate_argnums=0)  # VGG's parameters alone are 0.5 GB
    for _ in range(3):
        state, sums = step(state, batch, 0)
    assert np.isfinite(sums["loss"])
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start, state.params)
    assert all(jnp.isfinite(p).all() for p in jax.tree.leaves(state.params))
    assert np.mean(jax.tree.leaves(moved)) > 0.5


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A split of four JPEGs, as large as many in ImageNet, and smaller."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    for number, (height, width) in enumerate(
        [(375, 500), (500, 333), (128, 160), (480, 640)]
    ):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        folder = path / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height)).save(folder / f"{number}.jpg", quality=95)
    return data_source.open_split(f"folder:{path}", "train")


def one_of_each_view():
    """The recipes for ImageNet; one that repeats another's views is slow."""
    found, shown = [], []
    for recipe in RECIPES:
        config = load(recipe)
        if config.dataset.name == "imagenet2012":
            view = config.dataset, config.augment
            marks = pytest.mark.slow if view in shown else ()
            found.append(pytest.param(recipe, marks=marks))
            shown.append(view)
    return found


@pytest.mark.parametrize("recipe", one_of_each_view())
def test_training_images_as_the_recipe_shows_them(recipe, photographs):
    """Decodes, crops and changes images on the host and in jit, at the last size."""
    config = load(recipe)
    preprocessing, view = build.make_view(config, photographs.image_shape, 100)
    last, size = view.sizes[-1]
    repeats = config.augment.repeats
    plan = input_pipeline.TrainPlan(4, 4 * repeats, config.seed, repeats=repeats)
    (batch,) = input_pipeline.train_batches(
        photographs, plan, last, last + 1, num_threads=0, view=view
    )
    assert batch["image"].shape == (4 * repeats, size, size, 3)
    assert batch["image"].dtype == np.uint8
    see = functools.partial(
        preprocessings.network_input,
        preprocessing=preprocessing,
        augmentation=build.augmentation_of(config, augment.Augmentation),
    )
    seen = np.asarray(jax.jit(see)(batch), np.float32)
    assert seen.shape == batch["image"].shape and np.isfinite(seen).all()
    assert (seen.std((1, 2)) > 0.05 * 60 / np.mean(config.dataset.std)).all()
