"""The losses of a detector in training: what they depend on, and that they fall."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detection import inputs
from detection.objective import COUNTS, LOSSES, Detection, FastRCNN, Proposals
from kernels import ops
from models import boxes, faster_rcnn, layers, resnet
from models.faster_rcnn import FasterRCNN
from training import train_step

FIELDS = {"num_classes": 2, "anchor_sizes": (16, 32), "rpn_channels": 32}
FIELDS |= {"min_size": 4, "pre_nms": (100, 100), "post_nms": (40, 20)}
SAMPLES = {"rpn_batch": 32, "roi_batch": 12}
COLOURS = np.uint8([[230, 40, 40], [40, 60, 230]])
PREPARE = functools.partial(inputs.network_input, mean=(128,), std=(64,))


class Backbone(nn.Module):
    """Stands for a ResNet's stages, and compiles in no time."""

    @nn.compact
    def __call__(self, x, *, train, first="conv1", last="conv5_x"):
        norm = functools.partial(layers.BatchNorm, not train, momentum=0.9)
        if first == "conv1":
            x = layers.Conv(32, 16, 16, padding=0, name="conv4_1")(x)
            x = nn.relu(norm(name="bn4")(x))
        if last == "conv5_x":
            x = nn.Dense(32, name="conv5_1")(x)
            x = nn.relu(norm(name="bn5")(x))
        return {last: x}


class Tiny(FasterRCNN):
    pool_size: int = 2

    def setup(self):
        self.backbone = Backbone()
        num_anchors = len(self.anchor_sizes) * len(self.anchor_ratios)
        self.rpn = faster_rcnn.RegionProposalNetwork(
            num_anchors, self.rpn_channels, self.objectness, self.dtype
        )
        self.head = faster_rcnn.RegionHead(2, 3, self.dtype)


def made_up(count=4, side=64, seed=0):
    """A batch of grey noise with one to three rectangles in a colour per class."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 160, (count, side, side, 3), np.uint8)
    found, labels = np.zeros((count, 4, 4), np.float32), np.zeros((count, 4), np.int32)
    real = np.arange(4)[None] < 1 + np.arange(count)[:, None] % 3
    corners = rng.permuted([[2, 3], [35, 2], [1, 33], [34, 36]], axis=0)
    for i, j in np.argwhere(real):
        x, y = corners[j]
        width, height = rng.integers(16, 28, 2)
        found[i, j] = x, y, x + width, y + height
        labels[i, j] = rng.integers(2)
        image[i, y : y + height, x : x + width] = COLOURS[labels[i, j]]
    return {
        "image": image,
        "image_size": np.full((count, 2), side, np.int32),
        "boxes": found,
        "labels": labels,
        "real": real,
        "crowd": np.zeros_like(real),
        "index": np.arange(count, dtype=np.int32),
        "epoch": np.zeros(count, np.int32),
    }


def make(network=Tiny, **options):
    """(objective, its variables, the function of variables, batch and seed)."""
    model = network(**FIELDS)
    task = Detection(model, PREPARE, **SAMPLES | options)
    images = jnp.zeros((1, 64, 64, 3))
    init = jax.jit(functools.partial(model.init, train=False))
    key = jax.random.key(0)

    @jax.jit
    def run(variables, batch, seed=0):
        return task(variables, batch, seed, key)

    return task, init(jax.random.key(1), images), run


@pytest.fixture(scope="module")
def live():
    return make()


@pytest.fixture(scope="module")
def frozen():
    """Batch normalisation is fixed, so an image's loss is its own."""
    return make(frozen_statistics=True)


def same(ours, theirs):
    """Sums in another order."""
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, ours, theirs)


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def changed(batch, **arrays):
    return batch | {name: np.asarray(x) for name, x in arrays.items()}


def test_the_losses_are_sums_and_the_counts_are_of_samples(frozen):
    task, variables, run = frozen
    found, sums, stats = run(variables, made_up())
    np.testing.assert_allclose(found.sum(), sum(sums[name] for name in LOSSES), 1e-6)
    equal(stats, variables["batch_stats"])
    assert sums.keys() == task.zero_sums().keys()
    for name, zero in task.zero_sums().items():
        assert (sums[name].dtype, sums[name].shape) == (zero.dtype, ())
    assert 0 < sums["positives"] < sums["anchors"] == 4 * 32
    assert 0 < sums["foreground"] < sums["regions"] <= 4 * 12
    # log 2 for each anchor, and nearly log 3 for each region, before any training.
    np.testing.assert_allclose(sums["rpn_class"] / 4, np.log(2), 0.05)
    np.testing.assert_allclose(sums["class"] / 4, np.log(3), 0.05)
    scalars = task.scalars(jax.device_get(sums), 4)
    assert scalars["train/positives"] == 100 * sums["positives"] / 128
    assert scalars["train/rpn_class_loss"] == sums["rpn_class"] / 4
    assert task.progress(scalars).startswith("rpn 0.6")
    assert task.keys == (*("image", "image_size", "boxes", "labels", "real"), "crowd",
                         *("index", "epoch"))  # fmt: skip


def test_statistics_move_unless_they_are_frozen(live):
    _, variables, run = live
    _, _, stats = run(variables, made_up())
    moved = jax.tree.map(
        lambda x, y: bool((x != y).any()), stats, variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


def test_the_order_of_a_batch_changes_nothing(live):
    _, variables, run = live
    order = np.array([2, 0, 3, 1])
    batch = made_up()
    turned = {name: x[order] for name, x in batch.items()}
    found, sums, stats = run(variables, batch)
    others, other_sums, other_stats = run(variables, turned)
    same((found[order], sums, stats), (others, other_sums, other_stats))
    assert all(sums[name] == other_sums[name] for name in COUNTS)


def test_an_image_has_the_loss_that_it_has_among_others(frozen):
    _, variables, run = frozen
    batch, others = made_up(), made_up(seed=5)
    mixed = {name: np.where(
        (np.arange(4) == 2).reshape(-1, *[1] * (x.ndim - 1)), x, others[name]
    ) for name, x in batch.items()}  # fmt: skip
    mixed["index"] = np.int32([7, 8, 2, 9])
    same(run(variables, mixed)[0][2], run(variables, batch)[0][2])


def test_samples_depend_on_the_seed_the_epoch_and_the_example(frozen):
    _, variables, run = frozen
    batch = made_up()
    first = run(variables, batch)[0]
    equal(run(variables, batch)[0], first)
    for other, seed in (
        (batch, 1),
        (changed(batch, epoch=batch["epoch"] + 1), 0),
        (changed(batch, index=batch["index"] + 4), 0),
    ):
        assert (run(variables, other, seed)[0] != first).all()


def test_samples_are_those_of_a_step(frozen):
    task, variables, run = frozen
    batch = made_up()
    _, sums, _ = run(variables, batch, 3)
    on_anchors, on_rois = jax.jit(task.samples)(variables, batch, 3)
    assert on_anchors.sampled.sum() == sums["anchors"]
    assert on_anchors.positive.sum() == sums["positives"] > 3
    assert on_rois.sampled.sum() == sums["regions"]
    assert (on_rois.classes > 0).sum() == sums["foreground"] > 3
    overlaps = jax.vmap(boxes.iou)(on_rois.rois, batch["boxes"])
    best = jnp.where(batch["real"][:, None], overlaps, 0).max(2)
    np.testing.assert_array_equal(best >= 0.5, on_rois.classes > 0)


def test_a_stage_alone_has_its_part_of_the_joint_losses(frozen):
    """On the network's own proposals, the second stage too."""
    task, variables, run = frozen
    batch = made_up()
    alone = [
        stage(task.model, PREPARE, frozen_statistics=True, **SAMPLES)
        for stage in (Proposals, FastRCNN)
    ]

    def propose(model, batch):
        sizes = batch["image_size"]
        x, *found = model.first_stage(PREPARE(batch), sizes, train=False)
        return model.proposals(*found, x.shape[1:3], sizes, train=True)

    @jax.jit
    def both(variables, batch):
        given = task.model.apply(variables, batch, method=propose)
        batch = batch | dict(zip(("proposals", "proposed"), given, strict=True))
        return [stage(variables, batch, 0, None) for stage in alone]

    _, sums, stats = run(variables, batch)
    found = both(variables, batch)
    names = LOSSES[:2] + COUNTS[:2], LOSSES[2:] + COUNTS[2:]
    for stage, (losses, own, kept), part in zip(alone, found, names, strict=True):
        assert own.keys() == stage.zero_sums().keys() == {*part}
        same(own, {name: sums[name] for name in part})
        np.testing.assert_allclose(losses.sum(), sum(own[n] for n in part[:2]), 1e-6)
        equal(kept, stats)
        scalars = stage.scalars(jax.device_get(own), 4)
        assert scalars.items() <= task.scalars(jax.device_get(own | sums), 4).items()
        words = task.progress(task.scalars(jax.device_get(own | sums), 4))
        assert stage.progress(scalars) in words.split(", ")
    assert alone[1].keys == (*task.keys, "proposals", "proposed")
    assert alone[0].keys == task.keys


@pytest.mark.slow
def test_one_and_four_devices_agree(live):
    task, variables, _ = live
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    batch = made_up()

    def run(variables, batch):
        def mean(params):
            found, sums, stats = task({**variables, "params": params}, batch, 0, None)
            return found.mean(), (found, sums, stats)

        return jax.value_and_grad(mean, has_aux=True)(variables["params"])

    alone = jax.jit(run)(variables, batch)
    split = NamedSharding(mesh, PartitionSpec("data"))
    placed = jax.device_put(batch, split)
    whole = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    with ops.for_mesh(mesh):
        many = jax.jit(run)(whole, placed)
    assert many[0][1][0].sharding.is_equivalent_to(split, 1)
    same(alone, many)


def test_padding_changes_nothing(frozen):
    """Neither what is beyond an image's size nor the boxes that are not real."""
    _, variables, run = frozen
    batch = made_up()
    sizes = np.int32([[64, 64], [48, 64], [64, 32], [40, 40]])
    batch = changed(batch, image_size=sizes)
    expected = run(variables, batch)
    y, x = np.indices((64, 64))
    beyond = (y >= sizes[:, :1, None]) | (x >= sizes[:, 1:, None])
    image = np.where(beyond[..., None], 255, batch["image"]).astype(np.uint8)
    noise = np.float32([[0, 0, 50, 50], [8, 8, 40, 60], [5, 5, 5, 5], [60, 9, 2, 4]])
    found = np.where(batch["real"][..., None], batch["boxes"], noise)
    labels = np.where(batch["real"], batch["labels"], 1)
    equal(
        run(variables, changed(batch, image=image, boxes=found, labels=labels)),
        expected,
    )
    assert (batch["image"] != image).any()


def test_images_without_objects_and_with_crowds_alone(frozen):
    """All is background; a crowd counts for nothing."""
    _, variables, run = frozen
    batch = made_up()
    none = changed(batch, real=batch["real"] & False)
    found, sums, _ = run(variables, none)
    assert np.isfinite(found).all()
    assert (
        sums["positives"] == sums["foreground"] == sums["rpn_box"] == sums["box"] == 0
    )
    assert sums["anchors"] == 4 * 32 and sums["regions"] > 0
    crowds = changed(none, crowd=np.ones((4, 4), bool))
    equal(run(variables, crowds)[:2], (found, sums))


def test_crowds_can_be_spared():
    """Whole images of a crowd have no negatives, so they have no loss."""
    _, variables, run = make(frozen_statistics=True, spare_crowds=True)
    batch = made_up()
    batch["boxes"][0, 0] = 0, 0, 64, 64
    batch["real"][0], batch["crowd"][0, 0] = False, True
    found, _, _ = run(variables, batch)
    assert found[0] == 0 and (found[1:] > 0).all()


def test_an_image_smaller_than_all_anchors_still_trains_its_regions(frozen):
    _, variables, run = frozen
    batch = made_up()
    batch["image_size"][1] = 8, 8
    batch["boxes"][1, 0] = 1, 1, 7, 7
    batch["real"][1] = [True, False, False, False]
    found, _, _ = run(variables, batch)
    assert np.isfinite(found).all() and found[1] > 0


@pytest.mark.slow
def test_what_is_frozen_gets_no_gradient(monkeypatch):
    """Up to conv2_x, and the proposals give none to the RPN."""
    monkeypatch.setitem(resnet.TABLE_1, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    fields = FIELDS | {"depth": 18, "features": 8, "frozen_until": "conv2_x"}
    model = FasterRCNN(**fields, pool_size=2)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))

    def run(model, images):
        x, logits, deltas = model.first_stage(images, train=False)
        sizes = jnp.array([[32, 32]])
        rois, _ = model.proposals(logits, deltas, x.shape[1:3], sizes, train=True)
        second = model.second_stage([(x, sizes)], rois[:, :2], sizes, train=False)
        return sum(y.sum() for y in second)

    @jax.jit
    def gradient(key):
        variables = model.init(key, images, train=False)

        def loss(params):
            return model.apply({**variables, "params": params}, images, method=run)

        return jax.grad(loss)(variables["params"])

    found = gradient(jax.random.key(1))
    early = {"conv1", "bn1", "conv2_1"}
    assert found["backbone"].keys() == early | {"conv3_1", "conv4_1", "conv5_1"}
    for name, tree in found["backbone"].items():
        moved = any(x.any() for x in jax.tree.leaves(tree))
        assert moved == (name not in early), name
    assert not any(x.any() for x in jax.tree.leaves(found["rpn"]))


@pytest.mark.slow
def test_one_batch_is_learnt():
    """Afterwards the test path finds all objects."""
    model = Tiny(**FIELDS, min_score=0.5)
    task = Detection(model, PREPARE, **SAMPLES)
    batch = made_up()
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.sgd(0.05, momentum=0.9))
    state = jax.jit(train_step.make_init(model, tx, (64, 64, 3), ema=0))(0)
    step = jax.jit(train_step.make_train_step(task, tx), donate_argnums=0)
    history = []
    for epoch in range(100):
        epochs = np.full(4, epoch, np.int32)
        state, sums = step(state, changed(batch, epoch=epochs), 0)
        history.append(float(sums["loss"]) / 4)
    assert np.mean(history[-10:]) < history[0] / 5, history
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    test = jax.jit(functools.partial(model.apply, train=False))
    found = test(variables, PREPARE(batch))
    for i in range(4):
        real = batch["real"][i]
        overlaps = boxes.iou(found.boxes[i], batch["boxes"][i][real])
        alike = found.labels[i][:, None] == batch["labels"][i][real][None]
        hits = (overlaps > 0.5) & alike & found.there[i][:, None]
        assert hits.any(0).all(), (i, found.boxes[i][:4], batch["boxes"][i])
