"""Images and their boxes at fixed sizes, and batches of them."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_datasets

import input_pipeline
from data_source import DataError
from detection import records, views
from detection.split import Split
from transforms import decode


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((333, 500), (600, 901)),
        ((281, 500), (562, 1000)),  # 600 would need a long side of 1,068
        ((300, 500), (600, 1000)),
        ((1, 1000), (1, 1000)),
        ((600, 600), (600, 600)),
    ],
)
def test_sizes_are_those_of_py_faster_rcnn(size, expected):
    """prep_im_for_blob of lib/utils/blob.py, with the defaults of its config."""
    assert views.resized_size(size, 600, 1000) == expected


def test_buckets_hold_the_wide_images_and_the_tall_ones():
    sizes = {(375, 500), (500, 375), (281, 500), (600, 600)}
    assert views.fitting_buckets(sizes, 600, 1000) == ((608, 1008), (800, 608))
    assert views.fitting_buckets({(480, 640)}, 480, 1000) == ((480, 640),)


def made(sizes, count=2, crowd=(), difficult=()):
    """A split with grey images of random pixels, (height, width), and their objects."""
    rng = np.random.default_rng(0)
    images, objects = [], []
    for number, (height, width) in enumerate(sizes):
        images.append(rng.integers(0, 256, (height, width, 1), np.uint8))
        rows = []
        for k in range(count if number else 0):
            box = k, 1 + k, width - 3 * k, height - k
            flags = {"crowd": k in crowd, "difficult": k in difficult}
            rows.append(records.Row("row", box, box, k, **flags))
        size = height, width
        objects.append(
            records.objects(f"{number}.png", number, size, rows, records.Damage())
        )
    reads = tuple(functools.partial(np.asarray, image) for image in images)
    return Split("made", "train", ("a", "b", "c"), tuple(objects), reads, channels=1)


def test_known_buckets_are_used_before_others_are_made():
    split = made([(40, 64), (64, 40), (30, 64)])
    view = views.make_view([split], known=((64, 80),), short_side=64, long_side=64)
    assert view.buckets == ((64, 80),) and view.groups(split).tolist() == [0, 0, 0]
    view = views.make_view([split], known=((48, 64),), short_side=64, long_side=64)
    assert view.buckets == ((48, 64), (64, 48))
    assert view.groups(split).tolist() == [0, 1, 0]


def test_an_image_lies_in_the_corner_of_its_bucket():
    split = made([(9, 9), (20, 30)], 3, crowd=[1], difficult=[2])
    view = views.make_view([split], short_side=40, long_side=70)
    assert view.buckets == ((48, 64),) and view.max_boxes == 3
    (example,) = split.examples([1])
    image, arrays = view.test(example.image, example.target, 0)
    assert image.shape == (48, 64, 1) and image.dtype == np.uint8
    assert arrays["image_size"].tolist() == [40, 60] and arrays["readable"]
    assert not image[40:].any() and not image[:, 60:].any() and image[:40, :60].any()
    np.testing.assert_array_equal(arrays["boxes"], 2 * split.objects[1].boxes)
    assert arrays["labels"].tolist() == [0, 1, 2]
    assert arrays["real"].tolist() == [True, False, False]
    assert arrays["crowd"].tolist() == [False, True, False]
    (empty,) = split.examples([0])
    _, arrays = view.test(empty.image, empty.target, 0)
    assert not arrays["real"].any() and not arrays["boxes"].any()
    easy = views.make_view([split], short_side=40, long_side=70, use_difficult=True)
    arrays = easy.test(example.image, example.target, 0)[1]
    assert arrays["real"].tolist() == [True, False, True]


def marked(boxes, size):
    """An image whose boxes are one level, for whole numbers."""
    pixels = np.zeros((*size, 1), np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1:y2, x1:x2] = 200
    return pixels


@pytest.mark.parametrize("vertical", [False, True])
def test_boxes_move_with_the_image(vertical):
    """Twice as large, and mirrored or not: the box still covers what it covered."""
    split = made([(20, 30)] * 2, 1)
    view = views.make_view(
        [split], short_side=40, long_side=70, flip=True, flip_vertical=vertical
    )
    objects = split.objects[1]
    objects.boxes[:] = [[3, 4, 20, 9]]
    found = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = marked(objects.boxes, (20, 30))
        image, arrays = view.train(image, objects, rng, 0)
        box = arrays["boxes"][0]
        assert (image[:40, :60] > 100).sum() == 34 * 10
        np.testing.assert_array_equal(image > 100, marked(box[None], (48, 64)) > 100)
        found.add(tuple(box.tolist()))
        again = view.train(marked(objects.boxes, (20, 30)), objects, _rng(seed), 0)
        np.testing.assert_array_equal(again[0], image)
    flipped = {(6, 8, 40, 18), (20, 8, 54, 18)}
    both = {(6, 22, 40, 32), (20, 22, 54, 32)}
    assert found == (flipped | both if vertical else flipped)


@pytest.mark.parametrize("vertical", [False, True])
def test_proposals_move_with_the_boxes(vertical):
    """And they are padded; an image without any has none that count."""
    split = made([(20, 30)] * 3, 1)
    given = np.float32([[0, 0, 8, 6], [3, 4, 20, 9]])
    objects = [
        dataclasses.replace(one, proposals=given[:count])
        for one, count in zip(split.objects, (1, 2, 0), strict=True)
    ]
    split = dataclasses.replace(split, objects=tuple(objects))
    view = views.make_view(
        [split], short_side=40, long_side=70, flip=True, flip_vertical=vertical
    )
    assert view.max_proposals == 2 == split.most_proposals
    assert view.tested == ("image", "image_size", "proposals", "proposed")
    objects[1].boxes[:] = given[1:]
    for seed in range(8):
        _, arrays = view.train(np.zeros((20, 30, 1)), objects[1], _rng(seed), 0)
        np.testing.assert_array_equal(arrays["proposals"][1], arrays["boxes"][0])
        assert arrays["proposed"].all() and arrays["real"].sum() == 1
    for one, there in ((objects[0], 1), (objects[2], 0), (None, 0)):
        _, arrays = view.test(np.zeros((20, 30, 1), np.uint8), one, 0)
        assert arrays["proposed"].sum() == there and arrays["proposals"].shape == (2, 4)
        np.testing.assert_array_equal(arrays["proposals"][:there], 2 * given[:there])
        assert not arrays["proposals"][there:].any()


def _rng(seed):
    return np.random.default_rng(seed)


def test_training_draws_a_short_side():
    split = made([(20, 30)] * 2)
    sides = (20, 30, 40)
    view = views.make_view([split], short_side=32, train_short_sides=sides, flip=False)
    assert view.buckets == ((48, 64),)  # of 40x60
    (example,) = split.examples([1])
    sizes = set()
    for seed in range(30):
        _, arrays = view.train(example.image, example.target, _rng(seed), 0)
        height, width = arrays["image_size"].tolist()
        sizes.add(height)
        expected = split.objects[1].boxes * np.tile([width / 30, height / 20], 2)
        np.testing.assert_allclose(arrays["boxes"][:2], expected, 1e-6)
    assert sizes == {*sides}
    _, arrays = view.test(example.image, example.target, 0)
    assert arrays["image_size"].tolist() == [32, 48]


def test_a_test_has_the_image_at_each_scale():
    """The long side's limit and the bucket grow too; the own scale is there once."""
    split = made([(20, 30), (10, 40)])
    view = views.make_view(
        [split], short_side=40, long_side=70, test_scales=(20, 40, 100)
    )
    assert view.buckets == ((48, 80),)
    names = "image", "image_size", "image_20", "image_size_20"
    assert view.scales == (names[2:], names[:2], ("image_100", "image_size_100"))
    assert {*view.tested} == {*names, "image_100", "image_size_100"}
    plain = views.make_view([split], short_side=40, long_side=70)
    assert plain.scales == (("image", "image_size"),)
    for one, sizes in zip(split.examples([0, 1]), [(40, 60), (18, 70)], strict=True):
        image, arrays = view.test(one.image, one.target, 0)
        expected, others = plain.test(one.image, one.target, 0)
        np.testing.assert_array_equal(image, expected)
        for name in others:
            np.testing.assert_array_equal(arrays[name], others[name])
        for side, shape in ((20, (32, 48, 1)), (100, (128, 208, 1))):
            shown, size = (arrays[name] for name in views.names_at(side))
            assert shown.shape == shape and shown.dtype == np.uint8
            np.testing.assert_allclose(size, np.multiply(sizes, side / 40), atol=1)
            assert not shown[size[0] :].any() and not shown[:, size[1] :].any()
            assert shown[: size[0], : size[1]].all(axis=2).mean() > 0.9


def test_no_object_is_cut_silently():
    split = made([(20, 30)] * 2, 3)
    with pytest.raises(DataError, match="1.png has 3 objects, more than max_boxes = 2"):
        views.make_view([split], max_boxes=2).groups(split)
    assert views.make_view([split], max_boxes=7).max_boxes == 7


def test_an_image_that_fits_no_bucket_is_named():
    split = made([(20, 30), (30, 20)])
    view = views.make_view([split], short_side=40, buckets=((48, 64), (64, 48)))
    assert view.groups(split).tolist() == [0, 1]
    view = views.make_view([split], short_side=40, buckets=((48, 64),))
    with pytest.raises(DataError, match="1.png becomes an image of 60x40, .*: 48x64"):
        view.groups(split)


# Batches.


@pytest.fixture
def mixed():
    """13 images, of which five are tall; the first has no objects."""
    return made([(20, 30)] * 5 + [(30, 21)] * 5 + [(22, 30)] * 3)


def train_batches(split, view, stop, start=0, **options):
    plan = input_pipeline.GroupedPlan(view.groups(split), 4, seed=1)
    view = views.TrainView(view, plan)
    options = {"num_threads": 0} | options
    return [
        *input_pipeline.train_batches(split, plan, start, stop, view=view, **options)
    ]


def test_a_training_batch_has_one_bucket(mixed):
    view = views.make_view([mixed], short_side=20)
    assert view.buckets == ((32, 32),) * 2  # different only in their groups
    view = views.make_view([mixed], short_side=40)
    batches = train_batches(mixed, view, 13)
    shapes = {batch["image"].shape for batch in batches}
    assert shapes == {(4, 48, 64, 1), (4, 64, 48, 1)}
    assert {name: (x.dtype, x.shape[1:]) for name, x in batches[0].items()} == {
        "image": (np.uint8, batches[0]["image"].shape[1:]),
        "image_size": (np.int32, (2,)),
        "boxes": (np.float32, (2, 4)),
        "labels": (np.int32, (2,)),
        "real": (bool, (2,)),
        "crowd": (bool, (2,)),
        "mask": (np.float32, ()),
        "index": (np.int32, ()),
        "epoch": (np.int32, ()),
    }
    tall = np.isin(batches[0]["index"], range(5, 10))
    assert tall.all() or not tall.any()
    # Four epochs of 13 images: each is seen four times, up to the two open batches.
    seen = np.bincount(np.concatenate([batch["index"] for batch in batches]))
    assert seen.sum() == 52 and seen.min() >= 3 and seen.max() <= 5


def test_resumed_and_shared_training_batches_are_the_same(mixed):
    view = views.make_view([mixed], short_side=40)
    whole = train_batches(mixed, view, 7, num_threads=3)
    for batch, again in zip(whole[3:], train_batches(mixed, view, 7, 3), strict=True):
        tiny_datasets.assert_same(batch, again)
    parts = [
        train_batches(mixed, view, 7, process_index=number, process_count=2)
        for number in (0, 1)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        tiny_datasets.assert_same(batch, tiny_datasets.concatenate(halves))


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_has_every_image_once(mixed, count):
    view = views.make_view([mixed], short_side=40)
    options = {"num_threads": 2, "process_count": count}
    parts = [
        [*views.eval_batches(mixed, view, 4, process_index=number, **options)]
        for number in range(count)
    ]
    assert [len(part) for part in parts] == [2 + 2] * count  # of 8 and of 5 images
    for part in parts:
        for batch in part:
            assert len(batch["image"]) == 4 // count and batch["readable"].all()
    batches = [tiny_datasets.concatenate(step) for step in zip(*parts, strict=True)]
    index = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    assert sorted(index.tolist()) == [*range(13)] and batches[0]["mask"].dtype == bool
    for batch in batches:
        for at, number in enumerate(batch["index"]):
            image, arrays = view.test(
                mixed.examples([number])[0].image,
                mixed.objects[number],
                int(batch["image"].shape[1] > 50),
            )
            np.testing.assert_array_equal(batch["image"][at], image)
            np.testing.assert_array_equal(batch["boxes"][at], arrays["boxes"])


def damaged(split, *numbers):
    """The split with images that cannot be decoded."""
    images = list(split.images)
    for number in numbers:
        images[number] = lambda: b"no image"
    return Split(
        *("damaged", "train", split.label_names, split.objects, tuple(images)),
        channels=1,
    )


def test_a_damaged_image_counts_as_one_without_detections(mixed):
    split = damaged(mixed, 6)
    view = views.make_view([split], short_side=40)
    options = {"num_threads": 0}
    with pytest.raises(DataError, match="6.png is damaged: PIL knows no image"):
        list(views.eval_batches(split, view, 4, **options))
    batches = views.eval_batches(split, view, 4, damaged="wrong", **options)
    batch = tiny_datasets.concatenate(
        [b for b in batches if b["image"].shape[1:] == (64, 48, 1)]
    )
    assert batch["index"][~batch["readable"]].tolist() == [6]
    at = batch["index"].tolist().index(6)
    assert not batch["image"][at].any() and not batch["real"][at].any()


def test_a_damaged_training_image_is_replaced_within_its_bucket(mixed):
    """The next image, the first of the tall ones, is shrunk into the wide bucket."""
    split = damaged(mixed, 4)
    view = views.make_view([split], short_side=40, flip=False)
    batches = train_batches(split, view, 13, damaged="replace")
    found = [
        (batch["image_size"][at].tolist(), batch["boxes"][at, 0].tolist())
        for batch in batches
        for at in np.flatnonzero(batch["index"] == 4)
    ]
    assert found
    for size, box in found:  # 30x21 becomes 57x40 and then 48x33
        assert size == [48, 33]
        np.testing.assert_allclose(box, [0, 48 / 30, 33, 48], 1e-6)
    with pytest.raises(DataError, match="4.png is damaged"):
        train_batches(split, view, 13)


def test_stored_photographs_are_decoded_and_turned():
    image = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30, 1)
    split = made([(20, 30)] * 2)
    images = (lambda: tiny_datasets.png(image),) * 2
    split = Split("png", "train", ("a", "b"), split.objects, images, channels=1)
    view = views.make_view([split], short_side=20)
    (batch,) = views.eval_batches(split, view, 2, num_threads=0)
    expected = decode.decode(tiny_datasets.png(image), 1)
    np.testing.assert_array_equal(batch["image"][1, :20, :30], expected)


def test_batches_reach_the_devices(mixed):
    view = views.make_view([mixed], short_side=40)
    plan = input_pipeline.GroupedPlan(view.groups(mixed), 4, seed=1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    keys = ("image", "image_size", "boxes", "labels", "real", "crowd", "index", "epoch")
    reading = {"view": views.TrainView(view, plan), "num_threads": 0}
    feed = input_pipeline.HostFeed(mixed, plan, mesh, 0, 2, keys=keys, **reading)
    (first, _) = train_batches(mixed, view, 2)
    data, count = feed.take(0, 2)
    assert count == 1 and tuple(data) == keys
    for name in keys:
        np.testing.assert_array_equal(data[name], first[name])
    assert len(data["boxes"].sharding.device_set) == 4
    feed.close()
