"""The recipes of configs/faster_rcnn.py: what they build, train and freeze."""

import functools

import jax
import numpy as np
import pytest

from configs import faster_rcnn
from detection import records, sources
from detection.split import Split
from errors import ConfigError
from experiment import build, checks, detectors, tasks
from training import optimizers

CLASSES = {"paper": 20, "coco": 80, "detectron2": 80, "digits": 10, "bccd": 3}
# Training images, for durations in epochs.
IMAGES = {"paper": 5_011 + 11_540, "coco": 82_783, "detectron2": 118_287}


@functools.cache
def load(variant):
    config = faster_rcnn.get_config(variant).lock()
    if config.init_layers:
        config = config.copy_and_resolve_references()
        config.init_from = "weights.safetensors"
    checks.check(config)
    return config


def made_up(variant):
    """A split of four images, wide and tall, with an object in each."""
    sizes = [(128, 128)] * 4 if variant == "digits" else [(375, 500), (500, 375)] * 2
    rows = [records.Row("row", (5, 5, 90, 90), (5, 5, 90, 90), 0)]
    objects = tuple(
        records.objects(f"{i}.jpg", i + 1, size, rows, records.Damage())
        for i, size in enumerate(sizes)
    )
    names = tuple(f"class {k}" for k in range(CLASSES[variant]))
    channels = 1 if variant == "digits" else 3
    images = tuple(functools.partial(np.zeros, (*s, channels), np.uint8) for s in sizes)
    return Split("made up", "train", names, objects, images, channels)


@functools.cache
def built(variant):
    """The setup of a recipe, on images that are made up."""
    with pytest.MonkeyPatch.context() as patch:
        split = made_up(variant)
        patch.setattr(sources, "open_split", lambda *names, **options: split)
        return tasks.setup(load(variant), num_devices=1)


def test_a_recipe_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="has no 'vgg'; it has .*'paper', 'coco'"):
        faster_rcnn.get_config("vgg")
    assert (
        faster_rcnn.get_config().to_dict() == faster_rcnn.get_config("paper").to_dict()
    )


@pytest.mark.parametrize("variant", CLASSES)
def test_a_recipe_is_checked_and_built(variant):
    setup = built(variant)
    assert isinstance(setup, detectors.Setup)
    boxes = setup.objective().roi_batch * setup.config.batch_size
    assert (
        boxes
        == {
            "paper": 2 * 128,
            "coco": 8 * 128,
            "detectron2": 16 * 512,
            "digits": 8 * 32,
            "bccd": 4 * 64,
        }[variant]
    )
    assert (
        setup.preprocessing.view.buckets
        == {
            "paper": ((608, 800), (800, 608)),
            "coco": ((608, 800), (800, 608)),
            "detectron2": ((800, 1072), (1072, 800)),
            "digits": ((128, 128),),
            "bccd": ((480, 640), (640, 480)),
        }[variant]
    )
    checks.check_parameters(setup.config, setup.variables["params"])


@pytest.mark.parametrize("variant", ["paper", "coco", "detectron2"])
def test_fine_tuning_needs_weights(variant):
    with pytest.raises(ConfigError, match="frozen_statistics .*config.init_from"):
        checks.check_start(faster_rcnn.get_config(variant))


@pytest.mark.parametrize(
    ("variant", "rates"),
    [
        # py-faster-rcnn's and the paper's steps; Detectron2's of its 1x schedule.
        ("paper", {0: 1e-3, 79_999: 1e-3, 80_000: 1e-4, 109_999: 1e-4}),
        ("coco", {0: 1e-3, 239_999: 1e-3, 240_000: 1e-4, 319_999: 1e-4}),
        (
            "detectron2",
            {0: 2e-5, 500: 0.01001, 1_000: 0.02, 59_999: 0.02, 60_000: 2e-3}
            | {79_999: 2e-3, 80_000: 2e-4, 89_999: 2e-4},
        ),
    ],
)
def test_learning_rates_at_their_steps(variant, rates):
    config = load(variant)
    epoch_steps, *_, total = build.make_durations(config, IMAGES[variant])
    schedule, _ = build.make_optimizer(config, epoch_steps, total)
    assert total == max(rates) + 1
    # The warm-up is in float32, of which its first rate is a small difference.
    assert {step: float(schedule(step)) for step in rates} == pytest.approx(rates, 1e-4)


@pytest.mark.parametrize(
    ("variant", "name", "decay"),
    # Ren et al. have 0.0005, Detectron2 0.0001.
    [
        ("paper", "voc/2007,voc/2012", 5e-4),
        ("coco", "coco/2014", 5e-4),
        ("detectron2", "coco/2017", 1e-4),
    ],
)
def test_the_data_and_the_decay_are_those_of_the_result(variant, name, decay):
    config = load(variant)
    assert (config.dataset.name, config.optimizer.weight_decay) == (name, decay)


@pytest.mark.parametrize(
    ("variant", "batch", "limit", "total"),
    [
        ("paper_step1", 1, 60_000, 80_000),
        ("paper_step2", 2, 30_000, 40_000),
        ("paper_step3", 1, 60_000, 80_000),
        ("paper_step4", 2, 30_000, 40_000),
    ],
)
def test_the_four_steps_have_the_schedules_of_voc_2007(variant, batch, limit, total):
    config = load(variant)
    epoch_steps, *_, steps = build.make_durations(config, IMAGES["paper"])
    assert (config.batch_size, steps, config.detection.roi_batch) == (batch, total, 64)
    schedule, _ = build.make_optimizer(config, epoch_steps, steps)
    rates = {0: 1e-3, limit - 1: 1e-3, limit: 1e-4, total - 1: 1e-4}
    assert {s: float(schedule(s)) for s in rates} == pytest.approx(rates, 1e-4)


@pytest.mark.parametrize(
    ("variant", "stage", "trained"),
    [
        ("digits_step1", "rpn", {"rpn", "conv", "conv5", "head"}),
        ("digits_step2", "fast_rcnn", {"rpn", "conv", "conv5", "head"}),
        ("digits_step3", "rpn", {"rpn"}),
        ("digits_step4", "fast_rcnn", {"conv5", "head"}),
    ],
)
def test_the_four_steps_train_what_they_do_not_share(variant, stage, trained):
    config = load(variant)
    assert config.detection.stage == stage
    assert config.model.frozen_statistics == (len(trained) < 3)
    params = built("digits").variables["params"]
    checks.check_parameters(config, params)
    rule = optimizers.scale_by_path(config.optimizer.rate_factors)
    ones = jax.tree.map(lambda x: np.float32(1), params)
    found, _ = rule.update(ones, rule.init(ones), ones)
    for path, factor in zip(
        optimizers.paths(params), jax.tree.leaves(found), strict=True
    ):
        part = path.removeprefix("backbone/").split("/")[0].split("_")[0]
        part = part if part in ("rpn", "head", "conv5") else "conv"
        assert factor == (part in trained), path


@pytest.mark.slow
@pytest.mark.parametrize("variant", CLASSES)
def test_a_step_keeps_the_form_of_the_state_at_the_true_size(variant):
    """The step is only traced, for the arrays of the first batch."""
    setup = built(variant)
    feed = setup.feed(setup.objective().keys, 0)
    batch, _ = feed.take(0, 1)
    feed.close()
    before = jax.eval_shape(setup.init(), 0)
    after, sums = jax.eval_shape(setup.train_step(), before, batch, 0)
    assert after == before
    assert sums["loss"].shape == ()
    found = jax.eval_shape(setup.eval_step(), setup.variables, batch)
    most = setup.model.max_detections
    assert found.boxes.shape == (setup.config.batch_size, most, 4)


# What has a bias, but for batch normalisation.
BIASES = {f"{layer}/bias" for layer in ("rpn/conv", "rpn/cls", "rpn/reg")}
BIASES |= {f"{layer}/bias" for layer in ("head/cls", "head/reg")}
NORMS = {"bn1", "bn2", "bn3", "shortcut_bn"}


def is_frozen(path):
    """True in batch normalisation, conv1 and conv2_x."""
    part, layer, *rest = path.split("/")
    early = part == "backbone" and layer.startswith(("conv1", "conv2_"))
    return early or not NORMS.isdisjoint([layer, *rest])


@pytest.mark.parametrize(
    ("variant", "trained"),
    # As many as in py-faster-rcnn's form of the network; Detectron2's was not counted.
    [("paper", 47_134_367), ("coco", 47_758_301), ("detectron2", None)],
)
def test_fine_tuning_freezes_conv1_conv2_x_and_batch_normalisation(variant, trained):
    """And it doubles the rate of the biases, except in Detectron2's recipe."""
    setup = built(variant)
    params = setup.variables["params"]
    rule = optimizers.scale_by_path(setup.config.optimizer.rate_factors)
    ones = jax.tree.map(lambda x: np.float32(1), params)
    found, _ = rule.update(ones, rule.init(ones), ones)
    paths, factors = optimizers.paths(params), jax.tree.leaves(found)
    doubled = set() if variant == "detectron2" else BIASES
    assert {*paths} >= BIASES
    for path, factor in zip(paths, factors, strict=True):
        assert factor == (0 if is_frozen(path) else 1 + (path in doubled)), path
    sizes = [x.size for x in jax.tree.leaves(params)]
    free = sum(n for n, x in zip(sizes, factors, strict=True) if x > 0)
    assert trained in (None, free)
