"""The plan of indices, host and device batches, preprocessing."""

import dataclasses
import json
import threading
import time
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from tiny_datasets import (
    assert_same,
    concatenate,
    png,
    prepare,
)

import input_pipeline
from configs import lenet5
from data_source import DataError, open_split
from experiment import build, programs
from input_pipeline import Balance, GroupedPlan, TrainPlan
from transforms import preprocessing as preprocessings
from transforms.augment import Augmentation, augment
from transforms.preprocessing import Preprocessing

# The plan.

pytestmark = pytest.mark.usefixtures("no_other_data")


def test_an_epoch_is_a_permutation_and_the_next_another():
    index, epoch = TrainPlan(10, 4, seed=3).indices(0, 10)  # exactly four epochs
    assert index.shape == epoch.shape == (10, 4)
    assert index.dtype == epoch.dtype == np.int32
    np.testing.assert_array_equal(epoch.ravel(), np.repeat(np.arange(4), 10))
    epochs = index.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(e) for e in epochs}) == 4
    assert not np.array_equal(TrainPlan(10, 4, seed=4).indices(0, 10)[0], index)
    fixed = TrainPlan(10, 4, seed=3, order="fixed").indices(0, 10)
    np.testing.assert_array_equal(fixed[0].reshape(4, 10), np.tile(epochs[0], (4, 1)))
    np.testing.assert_array_equal(fixed[1], epoch)


@pytest.mark.parametrize("batch_size", [1, 7, 10, 25])  # 25: several epochs a batch
def test_any_step_is_the_same_whenever_it_is_asked_for(batch_size):
    plan = TrainPlan(10, batch_size, seed=0)
    whole = plan.indices(0, 30)
    for start in (29, 0, 11, 3):
        part = plan.indices(start, min(start + 2, 30))
        for ours, all_of_them in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours, all_of_them[start : start + 2])
    assert plan.indices(5, 5)[0].shape == (0, batch_size)


# 1, 5, 30 and 64 images of a class, and none of class 3.
UNLIKE = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [1, 5, 30, 64]))


@pytest.mark.parametrize(
    ("power", "quotas"),
    # Of 100 images: 25 each, or in proportion to the roots 1, 2.24, 5.48 and 8.
    [(1.0, [25, 25, 25, 0, 25]), (0.5, [6, 13, 33, 0, 48])],
)
def test_balance_draws_the_same_of_each_class_in_every_epoch(power, quotas):
    plan = TrainPlan(100, 8, seed=3, balance=Balance(UNLIKE, power))
    index, turn = plan.indices(0, 100)
    assert index.dtype == turn.dtype == np.int32
    for epoch in index.reshape(8, 100):
        assert np.bincount(UNLIKE[epoch], minlength=5).tolist() == quotas
        assert (UNLIKE[epoch] != np.sort(UNLIKE[epoch])).any()
    drawn = np.bincount(index.ravel(), minlength=100)
    for label in (0, 1, 2, 4):
        assert np.ptp(drawn[label == UNLIKE]) <= 1  # none again before all others
    # Turns are 0, 1, ..., so no drawing shares its augmentation with another.
    for example in range(100):
        assert sorted(turn[index == example]) == list(range(drawn[example]))
    for start in (99, 0, 37):  # any step, whenever it is asked for
        part = plan.indices(start, start + 1)
        assert (part[0] == index[start]).all() and (part[1] == turn[start]).all()
    other = TrainPlan(100, 8, seed=4, balance=plan.balance).indices(0, 100)[0]
    assert not np.array_equal(other, index)


def test_balance_with_repeats_repeats_no_augmentation():
    plan = TrainPlan(100, 8, seed=3, repeats=2, balance=Balance(UNLIKE, 1.0))
    index, number = plan.indices(0, 100)
    np.testing.assert_array_equal(index[:, :4], index[:, 4:])
    assert len({*zip(index.ravel(), number.ravel(), strict=True)}) == 800


def test_processes_share_a_balanced_batch(tiny, some):
    plan = TrainPlan(20, 6, seed=1, balance=Balance(some[1], 1.0))
    whole = list(input_pipeline.train_batches(tiny, plan, 0, 5))
    parts = [
        input_pipeline.train_batches(
            tiny, plan, 0, 5, process_index=number, process_count=2
        )
        for number in (0, 1)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        for name in batch:
            joined = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(joined, batch[name])


def test_what_cannot_be_balanced():
    with pytest.raises(ValueError, match="'fixed' with balance would never show"):
        TrainPlan(100, 8, seed=0, order="fixed", balance=Balance(UNLIKE, 1.0))
    with pytest.raises(ValueError, match="balance of 100 examples for a plan of 99"):
        TrainPlan(99, 8, seed=0, balance=Balance(UNLIKE, 1.0))
    with pytest.raises(ValueError, match=r"power 1\.5 must be"):
        Balance(UNLIKE, 1.5)


@pytest.fixture
def generators(monkeypatch):
    """The seeds of numpy's generators: one for each shuffle, which costs the time."""
    made, make = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda x: made.append(x) or make(x))
    return made


def test_a_late_start_costs_no_more(generators):
    plan = TrainPlan(1_281_167, 1024, seed=0)
    index, epoch = plan.indices(10**6, 10**6 + 1)
    assert generators == [(0, 799)]
    assert epoch[0, 0] == 10**6 * 1024 // 1_281_167 == 799


def test_the_plan_refuses_nonsense():
    for wrong in ({"order": "none"}, {"seed": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            TrainPlan(**{"num_examples": 10, "batch_size": 2, "seed": 0, **wrong})
    with pytest.raises(ValueError, match="batch of 6 with repeats=4"):
        TrainPlan(10, 6, seed=0, repeats=4)
    with pytest.raises(ValueError, match="'fixed' with repeats=2"):
        TrainPlan(10, 6, seed=0, order="fixed", repeats=2)


@pytest.mark.parametrize(("batch_size", "repeats"), [(6, 2), (6, 3), (8, 4), (4, 4)])
def test_repeats_of_an_example_share_a_batch(batch_size, repeats):
    plan = TrainPlan(10, batch_size, seed=3, repeats=repeats)
    index, number = plan.indices(0, 30)
    assert index.shape == number.shape == (30, batch_size)
    assert index.dtype == number.dtype == np.int32
    index, number = (
        a.reshape(30, repeats, batch_size // repeats) for a in (index, number)
    )
    np.testing.assert_array_equal(index, index[:, :1].repeat(repeats, 1))
    epoch, repeat = np.divmod(number, repeats)
    np.testing.assert_array_equal(repeat, np.arange(repeats)[None, :, None] + 0 * epoch)
    # As many images as ever in an epoch: of its permutation, the first examples.
    place = np.arange(0, 30 * batch_size, repeats)
    np.testing.assert_array_equal(epoch[:, 0].ravel(), place // 10)
    for e in range(30 * batch_size // 10):
        order = TrainPlan(10, 10, seed=3).indices(e, e + 1)[0][0]
        seen = index[:, 0].ravel()[place // 10 == e]
        np.testing.assert_array_equal(seen, order[: len(seen)])
        assert abs(len(seen) - 10 / repeats) < 1
    for part, whole in zip(plan.indices(7, 9), plan.indices(0, 30), strict=True):
        np.testing.assert_array_equal(part, whole[7:9])


def test_repeats_are_augmented_differently(tiny):
    plan = TrainPlan(20, 8, seed=1, repeats=2)
    (batch,) = input_pipeline.train_batches(tiny, plan, 3, 4)
    np.testing.assert_array_equal(batch["image"][:4], batch["image"][4:])
    keys = preprocessings.example_keys(1, batch["epoch"], batch["index"])
    draws = jax.vmap(jax.random.bits)(keys)
    assert len(set(np.asarray(draws).tolist())) == 8


@pytest.mark.parametrize("batch_size", [1, 3, 10, 23])
def test_a_plan_of_one_group_is_the_usual_plan(batch_size):
    usual = TrainPlan(10, batch_size, seed=3)
    plan = GroupedPlan(np.zeros(10, int), batch_size, seed=3)
    for ours, theirs in zip(plan.indices(0, 40), usual.indices(0, 40), strict=True):
        assert ours.dtype == np.int32
        np.testing.assert_array_equal(ours, theirs)


# Of 31 examples, 20 of group 0, 10 of group 2 and one of group 3.
GROUPS = np.random.default_rng(1).permutation(np.repeat([0, 2, 3], [20, 10, 1]))


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_a_batch_has_one_group_and_all_examples_are_seen_equally_often(batch_size):
    plan = GroupedPlan(GROUPS, batch_size, seed=3)
    steps = 31 * 12 // batch_size  # of 12 epochs
    index, epoch = plan.indices(0, steps)
    groups = [plan.group(step) for step in range(steps)]
    np.testing.assert_array_equal(GROUPS[index], np.array(groups)[:, None] + 0 * index)
    assert len({*zip(index.ravel(), epoch.ravel(), strict=True)}) == index.size
    drawn = np.bincount(index.ravel(), minlength=31)
    for group in (0, 2, 3):
        own = drawn[group == GROUPS]
        assert np.ptp(own) <= 1  # in each group, none again before all others
        assert abs(own.mean() - 12) * len(own) < 2 * batch_size
    turns = np.array(groups[: steps // 2]), np.array(groups[steps // 2 :])
    assert not np.array_equal(turns[0], np.sort(turns[0]))
    for step in (steps - 1, 0, 5):  # any step, whenever it is asked for
        part = GroupedPlan(GROUPS, batch_size, seed=3).indices(step, step + 1)
        assert (part[0] == index[step]).all() and (part[1] == epoch[step]).all()
    other = GroupedPlan(GROUPS, batch_size, seed=4).indices(0, steps)[0]
    assert not np.array_equal(other, index)


def test_a_late_start_of_groups_costs_no_more(generators):
    plan = GroupedPlan(np.arange(118_287) % 2, 16, seed=0)
    index, epoch = plan.indices(10**7, 10**7 + 1)
    assert {seed[1] for seed in generators} == {1352}
    assert np.unique(index % 2).size == 1
    assert epoch[0, 0] == 10**7 * 16 // 118_287 == 1352


def test_evaluation_by_groups_has_each_example_once():
    index, mask = input_pipeline.grouped_eval_indices(GROUPS, 8)
    assert index.shape == mask.shape == (3 + 2 + 1, 8) and index.dtype == np.int32
    np.testing.assert_array_equal(np.sort(index[mask > 0]), np.arange(31))
    assert (GROUPS[index] == GROUPS[index[:, :1]]).all()
    usual = input_pipeline.eval_indices(10, 4)
    ours = input_pipeline.grouped_eval_indices(np.zeros(10, int), 4)
    np.testing.assert_array_equal(ours, usual)


def test_a_plan_of_groups_refuses_nonsense():
    for wrong in ({"seed": -1}, {"batch_size": 0}, {"groups": np.zeros(0, int)}):
        with pytest.raises(ValueError, match="sizes start at 1"):
            GroupedPlan(**{"groups": GROUPS, "batch_size": 2, "seed": 0, **wrong})


# Host batches.


def test_batches_hold_what_the_plan_says(tiny, some):
    plan = TrainPlan(20, 6, seed=1)
    batches = list(input_pipeline.train_batches(tiny, plan, 2, 9))
    assert len(batches) == 7
    index, epoch = plan.indices(2, 9)
    assert_same(
        concatenate(batches),
        {
            "image": some[0][index.ravel()],
            "label": some[1][index.ravel()].astype(np.int32),
            "mask": np.ones(42, np.float32),
            "index": index.ravel(),
            "epoch": epoch.ravel(),
        },
    )


def test_resumed_batches_equal_uninterrupted_ones(tiny):
    plan = TrainPlan(20, 6, seed=1)
    whole = list(input_pipeline.train_batches(tiny, plan, 0, 12))
    for start in (0, 3, 11, 12):
        rest = list(input_pipeline.train_batches(tiny, plan, start, 12))
        assert len(rest) == 12 - start
        for ours, theirs in zip(rest, whole[start:], strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("options", [(0, 0), (1, 1), (8, 2), (3, 50)])
def test_threads_and_prefetch_change_nothing(tiny, options):
    plan = TrainPlan(20, 6, seed=1)
    threads, prefetch = options
    kwargs = {"num_threads": threads, "prefetch": prefetch}
    usual = input_pipeline.train_batches(tiny, plan, 0, 20)
    other = input_pipeline.train_batches(tiny, plan, 0, 20, **kwargs)
    assert_same(concatenate(usual), concatenate(other))
    tiny.arrays()  # nor does reading from memory
    other = input_pipeline.train_batches(tiny, plan, 0, 20, **kwargs)
    usual = input_pipeline.train_batches(tiny, plan, 0, 20)
    assert_same(concatenate(usual), concatenate(other))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_together_equal_one(tiny, count):
    plan = TrainPlan(20, 8, seed=1)
    whole = list(input_pipeline.train_batches(tiny, plan, 0, 6))
    parts = [
        list(
            input_pipeline.train_batches(
                tiny, plan, 0, 6, process_index=i, process_count=count
            )
        )
        for i in range(count)
    ]
    for step, batch in enumerate(whole):
        assert_same(batch, concatenate(p[step] for p in parts))
    with pytest.raises(ValueError, match="batch of 8 over 3 processes"):
        input_pipeline.train_batches(tiny, plan, 0, 6, process_count=3)


@pytest.mark.parametrize("batch_size", [1, 5, 6])
def test_views_reach_a_cpu_device_without_a_copy(tiny, batch_size):
    plan = TrainPlan(20, batch_size, seed=1)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices("cpu")[:1])
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def view(image, target, rng, step):
        return image, target

    for batch in input_pipeline.train_batches(tiny, plan, 0, 9, view=view):
        image = input_pipeline.put(batch["image"], sharding)
        shard = image.addressable_shards[0].data
        assert shard.unsafe_buffer_pointer() == batch["image"].ctypes.data
        np.testing.assert_array_equal(image, tiny.read(batch["index"])[0])


def test_closing_early_leaves_no_thread(tiny):
    def threads():
        return {t for t in threading.enumerate() if t.name.startswith("grain")}

    def assert_no_threads():
        deadline = time.monotonic() + 60
        while threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not threads()

    batches = input_pipeline.train_batches(tiny, TrainPlan(20, 6, 1), 0, 10**6)
    next(batches)
    assert threads()
    batches.close()
    assert_no_threads()
    unread = input_pipeline.train_batches(tiny, TrainPlan(20, 6, 1), 0, 10**6)
    del unread
    assert_no_threads()


def test_damage_met_by_a_thread_reaches_the_caller(tmp_path, some):
    encoded = list(map(png, some[0]))
    encoded[5] = b"nothing"
    prepare(tmp_path, encoded, some[1])
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="Record 5 of split 'train'"):
        list(input_pipeline.train_batches(split, TrainPlan(20, 6, 1), 0, 4))


def test_a_damaged_image_of_one_size_is_replaced_in_both_feeds(tmp_path, some):
    images, labels = some
    encoded = list(map(png, images))
    encoded[5] = b"nothing"
    prepare(tmp_path, encoded, labels, shape=images[0].shape)
    plan, mesh = TrainPlan(20, 6, seed=1), build.make_mesh(1)
    for damaged in ("replace", "fail"):
        split = open_split("tiny", "train", data_dir=tmp_path)
        options = {"damaged": damaged}
        if damaged == "fail":
            with pytest.raises(DataError, match="Record 5 of split 'train'"):
                list(input_pipeline.train_batches(split, plan, 0, 4, **options))
            with pytest.raises(DataError, match="Record 5 of split 'train'"):
                input_pipeline.DeviceFeed(split, plan, mesh, 4, damaged)
            continue
        host = concatenate(input_pipeline.train_batches(split, plan, 0, 4, **options))
        index = plan.indices(0, 4)[0].ravel()
        shown = np.where(index == 5, 6, index)
        assert 5 in index
        np.testing.assert_array_equal(host["index"], index)
        np.testing.assert_array_equal(host["image"], images[shown])
        np.testing.assert_array_equal(host["label"], labels[shown])
        data, count = input_pipeline.DeviceFeed(split, plan, mesh, 4, damaged).take(
            0, 4
        )
        assert count == 4
        for step in range(4):
            batch = input_pipeline.DeviceFeed.fetch(data, step)
            rows = slice(6 * step, 6 * step + 6)
            for name in ("image", "label", "index", "epoch"):
                np.testing.assert_array_equal(batch[name], host[name][rows])


def test_a_damaged_image_is_replaced_for_the_curvature_too(tmp_path, some):
    """It once ended an on-line training of LeNet-5 that replaces such images."""
    images, labels = some
    encoded = list(map(png, images))
    encoded[5] = b"nothing"
    prepare(tmp_path, encoded, labels, shape=images[0].shape)
    config = lenet5.get_config("paper")
    config.dataset.damaged = "replace"
    config.optimizer.curvature_examples = len(images)
    curvature = object.__new__(programs.Curvature)
    curvature._set = lambda state, images, labels: (images, labels)
    curvature._setup = types.SimpleNamespace(
        config=config,
        durations=types.SimpleNamespace(epoch_steps=Fraction(len(images))),
        plan=TrainPlan(len(images), 1, seed=1),
        train_split=open_split("tiny", "train", data_dir=tmp_path),
    )
    found, classes = curvature.before_step(None, 0)
    index = curvature._setup.plan.indices(0, len(images))[0].ravel()
    shown = np.where(index == 5, 6, index)
    np.testing.assert_array_equal(found, images[shown])
    np.testing.assert_array_equal(classes, labels[shown])


def test_an_image_of_another_size_than_its_set_is_named(tmp_path, some):
    encoded = list(map(png, some[0]))
    encoded[5] = png(some[0][5, :1])
    prepare(tmp_path, encoded, some[1], shape=some[0][0].shape)
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"image 5 has the shape \(1, 8, 1\), and"):
        input_pipeline.read_all(split, "replace")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100, 20, 25])
def test_evaluation_meets_every_example_once(tiny, some, batch_size, count):
    parts = [
        list(
            input_pipeline.eval_batches(
                tiny, batch_size, process_index=i, process_count=count
            )
        )
        for i in range(count)
    ]
    assert len({len(p) for p in parts}) == 1
    assert len({b["mask"].shape for p in parts for b in p}) == 1
    together = concatenate(b for p in parts for b in p)
    real = together["mask"] == 1
    assert together["mask"].sum() == 20 == real.sum()
    np.testing.assert_array_equal(np.sort(together["index"][real]), np.arange(20))
    np.testing.assert_array_equal(together["image"], some[0][together["index"]])
    np.testing.assert_array_equal(together["label"], some[1][together["index"]])


# Inside jit, on images.


ALL = Augmentation(
    translate=2.0,
    rotate=10.0,
    scale=0.1,
    squeeze=0.1,
    shear=0.2,
    flip=True,
    crop=2,
    crop_mode="reflect",
    brightness=0.4,
    contrast=0.4,
    pca=0.1,
    erasing=0.5,
)
LENET = preprocessings.Preprocessing(image_size=32, mean=20.0, std=200.0)


@pytest.mark.parametrize("method", ["bicubic", "box", "lanczos", "nearest"])
def test_images_of_one_size_are_resized_as_the_config_says(some, method):
    image = some[0][0]
    seen = Preprocessing(20, "resize", interpolation=method)
    view = seen.view(image.shape)
    filter = Image.Resampling[method.upper()]
    expected = Image.fromarray(image[..., 0]).resize((20, 20), filter)
    np.testing.assert_array_equal(view(image)[..., 0], expected)
    # jit does the rest, and what needs no other interpolation.
    found = preprocessings.network_input({"image": view(image)[None]}, seen)
    np.testing.assert_array_equal(found[0, ..., 0], expected)
    assert Preprocessing(8, "resize", interpolation=method).view(image.shape) is None
    assert Preprocessing(20, "pad", interpolation=method).view(image.shape) is None
    assert Preprocessing(20, "resize").view(image.shape) is None
    config = runs.small_config(
        dataset__fit="resize",
        dataset__image_size=20,
        dataset__interpolation=method,
        augment__crop=0,
    )
    seen, view = build.make_view(config, image.shape, 1)
    shown, _ = view(image, {}, np.random.default_rng(0), 0)
    np.testing.assert_array_equal(shown[..., 0], expected)
    assert build.input_shape(seen, image.shape) == (20, 20, 1)


@pytest.mark.parametrize("whiten", ["", "mean_image"])
def test_zeros_move_in_where_the_mean_is_subtracted(whiten):
    image = np.random.default_rng(0).integers(1, 255, (64, 8, 8, 3), np.uint8)
    batch = {"image": image, "index": np.arange(64), "epoch": np.zeros(64, int)}
    seen = Preprocessing(
        8,
        mean=(9.0, 99.0, 199.0),
        whiten=whiten,
        statistics={"mean": image.mean(0).astype("f4")},
    )
    crop = Augmentation(crop=2, crop_mode="mean")
    found = np.asarray(preprocessings.network_input(batch, seen, crop, seed=1))
    whole = np.asarray(preprocessings.network_input(batch, seen))
    padded = np.pad(whole, [(0, 0), (2, 2), (2, 2), (0, 0)])
    moves = set()
    for out, inside in zip(found, padded, strict=True):
        places = [(i, j) for i in range(5) for j in range(5)]
        at = [
            (i, j)
            for i, j in places
            if np.array_equal(inside[i : i + 8, j : j + 8], out)
        ]
        moves.update(at)
        assert len(at) == 1
    assert len(moves) > 15


def test_host_batches_equal_device_batches_bit_for_bit():
    split = open_split("mnist", "test[:1000]")
    plan = TrainPlan(1000, 96, seed=5)
    host = list(input_pipeline.train_batches(split, plan, 8, 13))  # across an epoch
    images, labels = map(jnp.asarray, split.arrays())
    indices = plan.indices(8, 13)

    @jax.jit
    def on_device(images, labels, index, epoch):
        batch = input_pipeline.device_batch(images, labels, index, epoch)
        return batch | {
            "input": preprocessings.network_input(batch, LENET, ALL, seed=5)
        }

    @jax.jit
    def from_host(batch):
        return batch | {
            "input": preprocessings.network_input(batch, LENET, ALL, seed=5)
        }

    for batch, index, epoch in zip(host, *indices, strict=True):
        theirs = on_device(images, labels, index, epoch)
        assert_same(from_host(batch), theirs)
        assert theirs["input"].shape == (96, 32, 32, 1)


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    image = jnp.tile(
        jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1), (6, 1, 1, 1)
    )

    @jax.jit
    def run(seed, epoch, index):
        keys = preprocessings.example_keys(seed, jnp.array(epoch), jnp.array(index))
        return augment(image, keys, ALL)

    first = run(0, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(first, run(0, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]))
    # The place in the batch does not matter, everything else does.
    back = run(0, [1, 1, 1, 0, 0, 0], [2, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(first, back[::-1])
    assert len(np.unique(np.asarray(first).reshape(6, -1), axis=0)) == 6
    assert not np.array_equal(first, run(1, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]))


def test_preprocessing_of_lenet5():
    # LeCun et al. 1998: 28x28 in 32x32, background -0.1, foreground 1.175.
    image = jnp.array([[[[0]], [[255]]]], jnp.uint8)
    out = preprocessings.preprocess(image, LENET)
    assert out.shape == (1, 32, 32, 1) and out.dtype == jnp.float32
    assert out[0, 15, 15, 0] == pytest.approx(-0.1)
    assert out[0, 16, 15, 0] == pytest.approx(1.175)
    assert float(out[0].sum()) == pytest.approx(1.175 - 0.1 * 1023, rel=1e-5)


def test_preprocessing_per_channel_and_resized():
    image = jnp.ones((2, 4, 6, 3), jnp.uint8) * jnp.array([[[[10, 20, 30]]]], jnp.uint8)
    spec = Preprocessing(8, "resize", (8.0, 16.0, 24.0), (2.0, 4.0, 6.0))
    out = preprocessings.preprocess(image, spec)
    np.testing.assert_allclose(out, np.ones((2, 8, 8, 3)), rtol=1e-6)
    with pytest.raises(ValueError, match="4x6 cannot be padded to 5x5"):
        preprocessings.preprocess(image, Preprocessing(5))
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match=f"{name} has 2 values for images of 3"):
            preprocessings.preprocess(image, Preprocessing(8, **{name: (1.0, 2.0)}))


def test_grey_images_take_the_average_of_three_means():
    image = jnp.full((1, 2, 2, 1), 10, jnp.uint8)
    spec = Preprocessing(2, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 6.0))
    out = preprocessings.preprocess(image, spec)
    np.testing.assert_allclose(out, np.full((1, 2, 2, 1), 2.0), rtol=1e-6)


def test_preprocessing_survives_json():
    spec = preprocessings.Preprocessing(224, "resize", (1, 2, 3), [4.0, 5.0, 6.0])
    text = json.dumps(dataclasses.asdict(spec))
    assert preprocessings.Preprocessing(**json.loads(text)) == spec
    assert LENET.mean == (20.0,)
    text = json.dumps(dataclasses.asdict(ALL))
    assert Augmentation(**json.loads(text)) == ALL
    for wrong in ({"fit": "cut"}, {"image_size": 0}, {"std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            preprocessings.Preprocessing(**{"image_size": 8, **wrong})
