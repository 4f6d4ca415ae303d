"""Test protocols against slow versions in numpy and PIL, and their use in a run."""

import errno
import functools
import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny_datasets
from PIL import Image, ImageOps

import data_source
import evaluate
import models
from configs import default
from errors import ConfigError
from evaluation import eval_step, evaluator, protocols, results, scoring
from experiment import build, checkpoints, checks, options, workdir
from models import layers
from training import losses, train_step
from transforms import preprocessing as preprocessings

SIZE = 14  # of the images that the network below is made for
MEAN, STD = (100.0, 120.0, 140.0), (50.0, 60.0, 70.0)


class Unpadded(layers.Classifier):
    """Convolutions that do not pad: a position of its map is the logits of a crop."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.backbone = UnpaddedBackbone()
        self.head = UnpaddedHead(self.num_classes)

    def fine_class_map(self, x):
        """Scores at each pixel, where the class map has only every second."""
        window = (4, 4)
        maps = {
            (dy, dx): self.class_map(x[:, dy:, dx:], train=False, window=window)
            for dy, dx in itertools.product((0, 1), repeat=2)
        }
        shape = [len(x), x.shape[1] - SIZE + 1, x.shape[2] - SIZE + 1, self.num_classes]
        scores = jnp.zeros(shape)
        for (dy, dx), part in maps.items():
            scores = scores.at[:, dy::2, dx::2].set(part)
        return scores


class UnpaddedBackbone(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(layers.Conv(6, 3, padding=0, name="conv1")(x))
        x = layers.MaxPool(2, 2, name="pool1")(x)
        return {"conv2": nn.relu(layers.Conv(8, 3, padding=0, name="conv2")(x))}


class UnpaddedHead(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train, window=None):
        x = layers.global_avg_pool(x, window)
        return nn.Dense(self.num_classes, name="fc", kernel_init=WIDE)(x)


WIDE = nn.initializers.normal(1.0)  # so that softmax and logits average differently
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


@pytest.fixture
def unpadded(monkeypatch):
    monkeypatch.setitem(models.MODELS, "unpadded", Unpadded)


@functools.cache
def network(channels):
    model = Unpadded(len(CLASSES))
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, channels)))
    return model, variables


class Images:
    """Encoded images in memory, of which some may be damaged."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def examples(self, indices):
        return [
            data_source.Example(self.images[i], self.labels[i], f"image {i}")
            for i in indices
        ]


SHAPES = ((30, 41), (41, 30), (30, 41), (24, 50), (30, 41), (30, 41), (24, 50))


def photographs(channels, shapes=SHAPES):
    """Smooth patterns uint8 [H, W, C] of several sizes."""
    rng = np.random.default_rng(1)
    images = []
    for height, width in shapes:
        coarse = rng.integers(0, 256, (5, 6, channels), np.uint8).squeeze()
        image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
        images.append(np.asarray(image).reshape(height, width, channels))
    return images


def split_of(images, channels):
    encoded = [tiny_datasets.png(image) for image in images]
    labels = [i % len(CLASSES) for i in range(len(images))]
    return data_source.Split(
        "photographs", "test", Images(encoded, labels), (None, None, channels), CLASSES
    )


@functools.cache
def step_of(channels, kind, average):
    """The compiled step of a protocol's part."""
    model, _ = network(channels)
    spec = preprocessings.Preprocessing(SIZE, "crop", MEAN, STD)
    prepare = functools.partial(preprocessings.preprocess, preprocessing=spec)
    return jax.jit(
        protocols.make_step(
            model, prepare=prepare, image_size=SIZE, kind=kind, average=average
        )
    )


def averaged(protocol, split, channels, *, batch_size=16, devices=1, **options):
    _, variables = network(channels)
    parts = protocols.PROTOCOLS.get(protocol.name, (("crop", None),))
    steps = {kind: step_of(channels, kind, protocol.average) for kind, _ in parts}
    return protocols.average_scores(
        steps,
        variables,
        split,
        range(len(split)),
        protocol,
        build.make_mesh(devices),
        batch_size=batch_size,
        **options,
    )


# The slow versions, one crop at a time.


@functools.cache
def compiled(channels):
    model, _ = network(channels)
    return jax.jit(functools.partial(model.apply, train=False))


def logits_of(picture):
    """The network's logits of a PIL image of its own size."""
    pixels = np.asarray(picture, np.float64).reshape(SIZE, SIZE, -1)
    mean, std = (MEAN, STD) if pixels.shape[-1] == 3 else (np.mean(MEAN), np.mean(STD))
    x = ((pixels - mean) / std).astype(np.float32)[None]
    _, variables = network(x.shape[-1])
    return np.asarray(compiled(x.shape[-1])(variables, x), np.float64)[0]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def rescaled(picture, side):
    width, height = picture.size
    if width < height:
        return picture.resize((side, int(height * side / width)), Image.BILINEAR)
    return picture.resize((int(width * side / height), side), Image.BILINEAR)


def cut(picture, x, y, side):
    return picture.crop((x, y, x + side, y + side))


def middle(length, side):
    return round((length - side) / 2)


def corners_and_centre(picture):
    width, height = picture.size
    yield cut(picture, 0, 0, SIZE)
    yield cut(picture, width - SIZE, 0, SIZE)
    yield cut(picture, 0, height - SIZE, SIZE)
    yield cut(picture, width - SIZE, height - SIZE, SIZE)
    yield cut(picture, middle(width, SIZE), middle(height, SIZE), SIZE)


def slow_crops(name, picture, scales):
    for side in scales:
        scaled = rescaled(picture, side)
        width, height = scaled.size
        if name == "ten_crop":
            square = cut(scaled, middle(width, side), middle(height, side), side)
            yield from corners_and_centre(square)
        elif name == "crops_144":
            for part in (0.0, 0.5, 1.0):
                x, y = round(part * (width - side)), round(part * (height - side))
                square = cut(scaled, x, y, side)
                yield from corners_and_centre(square)
                yield square.resize((SIZE, SIZE), Image.BILINEAR)
        else:
            for i in range(5):
                for j in range(5):
                    y, x = round(i * (height - SIZE) / 4), round(j * (width - SIZE) / 4)
                    yield cut(scaled, x, y, SIZE)


def slow_maps(picture, scales, stride):
    """All crops at a stride, for each scale and its mirror image."""
    for side in scales:
        scaled = rescaled(picture, side)
        width, height = scaled.size
        for mirrored in (scaled, ImageOps.mirror(scaled)):
            yield [
                logits_of(cut(mirrored, x, y, SIZE))
                for y in range(0, height - SIZE + 1, stride)
                for x in range(0, width - SIZE + 1, stride)
            ]


def slow_scores(name, image, scales, average):
    """Log probabilities or logits [K] of one image."""
    picture = Image.fromarray(image.squeeze())
    if name == "dense_multi_crop":
        both = [
            slow_scores(part, image, scales, average)
            for part in ("dense", "multi_crop")
        ]
        if average == "softmax":
            return np.log((np.exp(both[0]) + np.exp(both[1])) / 2)
        return (both[0] + both[1]) / 2
    vectors = []
    if name in ("dense", "scales"):
        vectors = [np.mean(m, 0) for m in slow_maps(picture, scales, 2)]
    elif name == "offsets":
        for scores in slow_maps(picture, scales, 1):
            if average == "softmax":
                scores = [softmax(s) for s in scores]
            vectors.append(np.max(scores, 0))
    else:
        for crop in slow_crops(name, picture, scales):
            vectors += [logits_of(crop), logits_of(ImageOps.mirror(crop))]
    if average == "logits":
        return np.mean(vectors, 0)
    if name != "offsets":
        vectors = [softmax(v) for v in vectors]
    mean = np.mean(vectors, 0)
    return np.log(mean / mean.sum())


VIEWS = {  # scales of the test, views of an image
    "ten_crop": ((19,), 10),
    "crops_144": ((15, 17, 18, 20), 144),
    "dense": ((16, 21), 4),
    "multi_crop": ((16, 18, 21), 150),
    "dense_multi_crop": ((16, 21), 104),
    "scales": ((14, 17, 24), 6),
    "offsets": ((16, 18), 4),
}


@pytest.mark.parametrize("average", ["softmax", "logits"])
@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_protocol_gives_what_its_slow_version_gives(name, average):
    channels = 3 if average == "softmax" else 1
    images = photographs(channels, SHAPES[:2])
    scales, number = VIEWS[name]
    protocol = protocols.Protocol(name, SIZE, scales, average=average)
    views = protocol.views(images[0])
    assert len(views) == number
    assert sum(view.weight for view in views) == pytest.approx(1)

    _, labels, scores, damaged = averaged(
        protocol, split_of(images, channels), channels
    )
    expected = [slow_scores(name, image, scales, average) for image in images]
    # Float32 sums in another order, of logits up to some tens.
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.std(expected, axis=0).max() > 0.1  # images are told apart
    assert labels.tolist() == list(range(len(images)))
    assert not damaged.any()


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_long_image_costs_no_more_than_its_views(name):
    protocol = protocols.Protocol(name, 224, (256,))
    image = np.full((1, 20000, 3), 77, np.uint8)
    if any(kind != "crop" for kind, _ in protocols.PROTOCOLS[name]):
        with pytest.raises(ValueError, match="1x20000 .* rescaled to 256x5120000"):
            protocol.views(image)
    else:
        for view in protocol.views(image):
            assert view.image.shape == (224, 224, 3) and (view.image == 77).all()


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        (
            "crop",
            lambda p: cut(
                rescaled(p, 20),
                *(middle(s, SIZE) for s in rescaled(p, 20).size),
                SIZE,
            ),
        ),
        ("resize", lambda p: p.resize((SIZE, SIZE), Image.BILINEAR)),
    ],
)
def test_a_single_view_is_the_image_made_to_fit(fit, expected):
    images = photographs(3)
    view = preprocessings.Preprocessing(SIZE, fit, short_side=20).view((None, None, 3))
    protocol = protocols.Protocol("single", SIZE, (), view, average="logits")
    _, _, scores, _ = averaged(protocol, split_of(images, 3), 3)
    slow = [logits_of(expected(Image.fromarray(image))) for image in images]
    # Sums of float32 in another order.
    np.testing.assert_allclose(scores, slow, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "devices"),
    [
        pytest.param(1, 1, marks=pytest.mark.slow),
        (5, 3),
        pytest.param(64, 8, marks=pytest.mark.slow),
    ],
)
def test_scores_do_not_depend_on_how_views_are_batched(batch_size, devices):
    images = photographs(3)
    protocol = protocols.Protocol("dense_multi_crop", SIZE, (16, 21))
    split = split_of(images, 3)
    options = {"batch_size": batch_size, "devices": devices}
    names, labels, scores, _ = averaged(protocol, split, 3, **options)
    _, _, expected, _ = averaged(protocol, split, 3)
    # The same float32 sums, by programs for another number of rows.
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert names == [f"image {i}" for i in range(len(images))]
    assert labels.tolist() == [i % len(CLASSES) for i in range(len(images))]


def batches_of(shapes, **options):
    rows = (
        (i, protocols.View("map", np.full((*shape, 1), i + 1, np.uint8), 1.0))
        for i, shape in enumerate(shapes)
    )
    return [
        ([row for row, _ in places], images[..., 0])
        for _, places, images in protocols._batches(rows, **options)
    ]


def test_batches_hold_each_view_once_within_the_bounds(monkeypatch):
    shapes = [(4, 4)] * 9 + [(8, 4)] * 3 + [(16, 16)] * 2
    found = batches_of(shapes, batch_size=4, pixels=64, devices=1)
    assert sorted(row for rows, _ in found for row in rows) == list(range(14))
    # 64 pixels are four views of 4x4, two of 8x4 and less than one of 16x16.
    sizes = [images.shape for _, images in found]
    assert sizes.count((4, 4, 4)) == 3  # the last is filled up: a program that exists
    assert sizes.count((2, 8, 4)) == 2
    assert sizes.count((1, 16, 16)) == 2
    for rows, images in found:
        assert (images[: len(rows)] == np.add(rows, 1)[:, None, None]).all()
        assert not images[len(rows) :].any()

    # Without a full batch ahead of it the rest makes the next power of two.
    (rest,) = batches_of([(4, 4)] * 3, batch_size=64, pixels=4096, devices=1)
    assert rest[1].shape == (4, 4, 4)
    (rest,) = batches_of([(4, 4)] * 4, batch_size=64, pixels=4096, devices=3)
    assert rest[1].shape == (6, 4, 4)

    # What waits is bounded; the most frequent size goes first.
    monkeypatch.setattr(protocols, "WAITING_BYTES", 100)
    shapes = [(4, 4), (4, 6), (4, 4), (4, 4), (4, 4), (4, 4), (4, 6)]
    found = batches_of(shapes, batch_size=64, pixels=4096, devices=1)
    assert [rows for rows, _ in found] == [[0, 2, 3, 4, 5], [1, 6]]


# Config, network and what its paper tests it with; the largest image of that.
PAPERS = [
    ("alexnet", "alexnet", "ten_crop", None),
    ("zfnet", "zfnet", "ten_crop", None),
    ("overfeat", "overfeat_fast", "offsets", (461, 569)),
    ("overfeat", "overfeat_accurate", "offsets", (461, 569)),
    ("vgg", "vgg16", "dense_multi_crop", (512, 683)),
    ("googlenet", "googlenet", "crops_144", None),
    pytest.param(
        *("resnet50", "resnet50", "scales", (640, 853)), marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("config", "network", "protocol", "largest"), PAPERS)
def test_a_network_takes_what_its_paper_shows_it(config, network, protocol, largest):
    config = importlib.import_module(f"configs.{config}").get_config(network)
    config.eval.protocol, config.eval.scales = protocol, ()
    checks.check(config)
    shape = (None, None, 3)
    preprocessing = build.make_preprocessing(config, shape)
    model = build.make_model(config, 1000)
    variables = build.abstract_variables(model, build.input_shape(preprocessing, shape))
    found = evaluate.make_protocol(config, preprocessing, shape)
    opened = types.SimpleNamespace(
        config=config,
        model=model,
        preprocessing=preprocessing,
        image_shape=shape,
        trained_shape=build.input_shape(preprocessing, shape),
    )
    steps = evaluate.make_steps(opened, variables, found)
    assert steps.keys() == {kind for kind, _ in protocols.PROTOCOLS[protocol]}
    if largest:
        assert min(largest) == max(found.scales)
        views = jax.ShapeDtypeStruct((2, *largest, 3), jnp.uint8)
        for kind in steps.keys() - {"crop"}:
            assert jax.eval_shape(steps[kind], variables, views).shape == (2, 1000)


def test_crops_larger_than_the_image_are_refused():
    for name in ("ten_crop", "multi_crop", "single"):
        with pytest.raises(ValueError, match="crops of 14x14 .* short side of 12"):
            protocols.Protocol(name, SIZE, (30, 12))
    protocols.Protocol("dense", SIZE, (12,))


def test_a_file_that_is_gone_fails_by_name_or_is_counted_as_wrong(tmp_path):
    for number, image in enumerate(photographs(3)):
        folder = tmp_path / "train" / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(tiny_datasets.png(image))
    split = data_source.open_split(f"folder:{tmp_path}", "train")
    (gone,) = split.examples([2])
    (tmp_path / gone.name).unlink()
    protocol = protocols.Protocol("ten_crop", SIZE, (16,))
    with pytest.raises(data_source.DataError, match="cannot be read: No such file"):
        averaged(protocol, split, 3)
    _, labels, scores, damaged = averaged(protocol, split, 3, damaged="wrong")
    assert damaged.tolist() == [i == 2 for i in range(7)]
    assert labels[2] == gone.label and np.isnan(scores[2]).all()


def test_a_damaged_image_fails_by_name_or_is_counted_as_wrong():
    images = photographs(3)
    split = split_of(images, 3)
    split.source.images[2] = split.source.images[2][:200]
    protocol = protocols.Protocol("ten_crop", SIZE, (16,))
    with pytest.raises(data_source.DataError, match="image 2 cannot be dec.*; an eval"):
        averaged(protocol, split, 3)
    _, _, scores, damaged = averaged(protocol, split, 3, damaged="wrong")
    assert damaged.tolist() == [i == 2 for i in range(7)]
    assert np.isnan(scores[2]).all()
    assert np.isfinite(np.delete(scores, 2, 0)).all()


# Through a run directory.


def save_run(path, config, variables, step=5, metrics=None):
    """Writes a run directory, or its next checkpoint, as training leaves it."""
    run = workdir.Workdir(path)
    run.create(config)
    state = train_step.TrainState(
        step=np.int32(step),
        params=variables["params"],
        batch_stats={},
        opt_state=(),
        ema=None,
    )
    saved = checkpoints.Checkpoints(run.checkpoints)
    saved.save(step, state, metrics)
    saved.close()
    return run


def config_of(data_dir, **changes):
    config = default.get_config()
    config.model.name = "unpadded"
    values = {
        "num_devices": 1,
        "dataset.name": "tiny",
        "dataset.data_dir": str(data_dir),
        "dataset.eval_split": "train",
        "dataset.image_size": SIZE,
        "dataset.fit": "crop",
        "dataset.short_side": 16,
        "dataset.mean": MEAN,
        "dataset.std": STD,
        "eval.batch_size": 4,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    with config.ignore_type():
        config.update_from_flattened_dict(values)
    checks.check(config)
    return config.lock()


@pytest.fixture
def photograph_run(tmp_path, monkeypatch, unpadded):
    """A run on a TFDS set of photographs that differ in size; three classes."""
    images = [tiny_datasets.png(image) for image in photographs(3)]
    labels = [i % 3 for i in range(7)]
    tiny_datasets.prepare(tmp_path, images, labels, shape=(None, None, 3))
    model = Unpadded(3)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return save_run(tmp_path / "run", config_of(tmp_path), variables), variables


def scored(variables, images):
    """The logits of `photograph_run`'s network for images as it is shown them."""
    inputs = (np.stack(images) - np.float32(MEAN)) / np.float32(STD)
    apply = jax.jit(functools.partial(Unpadded(3).apply, train=False))
    return np.asarray(apply(variables, inputs))


def test_a_run_is_evaluated_by_each_protocol(photograph_run, tmp_path):
    run, _ = photograph_run
    for name in ("ten_crop", "dense_multi_crop"):
        scales, _ = VIEWS[name]
        changes = [f"eval.protocol={name}", f"eval.scales={scales}"]
        config = checks.change(run.config(), changes)
        text = str(evaluate.evaluate_run(run, config))
        assert "train error" in text.splitlines()[0]
        assert "7/7 images counted" in text.splitlines()[0]
        (file,) = run.path.glob(f"evaluation-5-{name}-scales_*.json")
        record = json.loads(file.read_text())
        assert record["protocol"] == name
        assert record["scales"] == list(scales)
        (file,) = run.path.glob(f"predictions-5-{name}-scales_*.npz")
        again = scoring.read(file)
        result = scoring.score(again)
        assert result == {key: record[key] for key in result}
        assert again.average == record["average"] == "softmax"
        labels = [i % 3 for i in range(7)]
        assert again.label.tolist() == labels
        # The loss is that of the averaged probabilities.
        own = again.logits[np.arange(7), labels]
        assert record["loss"] == pytest.approx(-own.astype(np.float64).mean(), rel=1e-5)


def test_a_single_view_has_plain_names_tables_and_logits(photograph_run):
    run, variables = photograph_run
    text = str(evaluate.evaluate_run(run, run.config()))
    assert "classes with the largest error" in text
    record = json.loads((run.path / "evaluation-5.json").read_text())
    assert (record["protocol"], record["short_side"]) == ("single", 16)
    again = scoring.read(run.path / "predictions-5.npz")
    assert again.average == "logits"
    crops = [
        protocols.resizing.center_crop(image, SIZE, 16) for image in photographs(3)
    ]
    expected = scored(variables, crops)
    np.testing.assert_allclose(again.logits, expected, rtol=1e-4, atol=1e-4)
    wrong = int((expected.argmax(1) != again.label).sum())
    assert record["errors"] == wrong
    rows = (run.path / "classes-5.csv").read_text().splitlines()
    assert rows[0] == "class,images,errors,error"
    assert [row.split(",")[0] for row in rows[1:]] == list(tiny_datasets.NAMES)
    assert sum(int(row.split(",")[1]) for row in rows[1:]) == 7
    assert sum(int(row.split(",")[2]) for row in rows[1:]) == wrong
    with Image.open(run.path / "confusion-5.png") as picture:
        assert min(picture.size) > 100


def test_a_test_of_the_images_in_a_cache_is_said(photograph_run, tmp_path, capsys):
    _, variables = photograph_run
    cache = {"dataset__cache": "resized", "dataset__cache_dir": f"{tmp_path}/cache"}
    config = config_of(tmp_path, **cache, dataset__cache_side=20)
    run, lines = save_run(tmp_path / "cached", config, variables), []
    changes = [], ["dataset.cache="], ["eval.protocol=ten_crop", "eval.scales=16,28"]
    for change in changes:
        evaluate.evaluate_run(run, checks.change(run.config(), change))
        lines.append(capsys.readouterr().out)
    of_cache = "those of the cache (resized, short sides of at most 20 pixels)"
    assert [of_cache in line for line in lines] == [True, False, False]
    records = [json.loads(p.read_text()) for p in run.path.glob("evaluation-5*.json")]
    assert [record.get("cache") for record in records].count("resized") == 1
    record = json.loads((run.path / "evaluation-5.json").read_text())
    assert record["cache"] == "resized"


def test_a_larger_test_image_than_in_training(photograph_run):
    """FixRes: global average pooling takes any size; the crop is what was asked."""
    run, variables = photograph_run
    changes = ["eval.image_size=20", "eval.short_side=24"]
    evaluate.evaluate_run(run, checks.change(run.config(), changes))
    name = "evaluation-5-image_size_20-short_side_24.json"
    record = json.loads((run.path / name).read_text())
    assert (record["image_size"], record["short_side"]) == (20, 24)
    name = name.replace("evaluation", "predictions").replace("json", "npz")
    crops = [protocols.resizing.center_crop(image, 20, 24) for image in photographs(3)]
    found = scoring.read(run.path / name).logits
    # Sums of float32 in another order.
    np.testing.assert_allclose(found, scored(variables, crops), rtol=1e-4, atol=1e-4)


def test_a_resized_test_image_is_larger_than_crops_are_cut_from(photograph_run):
    run, variables = photograph_run
    changes = ["dataset.fit=resize", "eval.image_size=20"]  # short_side is 16
    evaluate.evaluate_run(run, checks.change(run.config(), changes))
    (file,) = run.path.glob("evaluation-5-*.json")
    assert json.loads(file.read_text())["image_size"] == 20
    (file,) = run.path.glob("predictions-5-*.npz")
    resized = [
        np.asarray(Image.fromarray(image).resize((20, 20), Image.BILINEAR))
        for image in photographs(3)
    ]
    found = scoring.read(file).logits
    # As above.
    np.testing.assert_allclose(found, scored(variables, resized), rtol=1e-4, atol=1e-4)


def test_a_short_side_from_which_nothing_is_cut_is_refused(photograph_run, tmp_path):
    run, _ = photograph_run
    config = checks.change(run.config(), ["dataset.fit=resize", "eval.short_side=24"])
    message = "eval.short_side = 24: .*because config.dataset.fit is 'resize'"
    with pytest.raises(ConfigError, match=message):
        evaluate.evaluate_run(run, config)
    changes = {"dataset__fit": "resize", "eval__short_side": 24, "batch_size": 4}
    with pytest.raises(ConfigError, match=message):
        build.setup(config_of(tmp_path, **changes))


def test_a_damaged_image_of_a_run(photograph_run, tmp_path):
    run, _ = photograph_run
    images = [tiny_datasets.png(image) for image in photographs(3)]
    images[4] = images[4][:300]
    labels = [i % 3 for i in range(7)]
    other = tmp_path / "other"
    tiny_datasets.prepare(other, images, labels, shape=(None, None, 3))
    changes = [f"dataset.data_dir={other}"]
    with pytest.raises(data_source.DataError, match="'tiny', record 4 cannot be dec"):
        evaluate.evaluate_run(run, checks.change(run.config(), changes))
    changes.append("eval.damaged=wrong")
    found = evaluate.evaluate_run(run, checks.change(run.config(), changes))
    text = str(found)
    assert "7/7 images counted" in text
    assert "damaged, counted as an error: split 'train' of 'tiny', record 4" in text
    record = json.loads((run.path / found.files[0]).read_text())
    assert record["damaged"] == ["split 'train' of 'tiny', record 4"]
    assert record["changes"]["dataset.data_dir"] == str(other)
    again = scoring.read(run.path / found.files[1])
    counts = scoring.confusion(again)
    assert counts.sum() == 7
    assert counts[:, -1].tolist() == [0, 1, 0]


@pytest.mark.slow
def test_images_of_one_size_go_through_the_device_as_in_training(
    tmp_path, some, unpadded
):
    """The errors of --mode=evaluate are those that the training counted."""
    images, labels = some
    tiny_datasets.prepare(tmp_path, images, labels)
    split = data_source.open_split("tiny", "train", data_dir=tmp_path)
    model = Unpadded(3)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 1)))
    for fit in ("pad", "resize", "crop"):
        config = config_of(tmp_path, dataset__fit=fit, eval__batch_size=7)
        run = save_run(tmp_path / fit, config, variables)
        preprocessing = build.make_preprocessing(config, split.image_shape)
        loss = losses.make_loss(config.loss)
        prepare = functools.partial(
            preprocessings.network_input, preprocessing=preprocessing
        )
        step = jax.jit(eval_step.make_eval_step(model, prepare, loss))
        mesh = build.make_mesh(1)
        view = preprocessing.view(split.image_shape)
        counter = evaluator.Classification(step, split, 7, mesh, view)
        expected = counter.run(variables).metrics
        evaluate.evaluate_run(run, config)
        record = json.loads((run.path / "evaluation-5.json").read_text())
        for name in expected.keys() - {"loss"}:
            assert record[name] == expected[name]
        assert {"errors", "count", "error", "balanced_error"} < expected.keys()
        assert not {"top5_error", "top5_errors"} & expected.keys()  # of three classes
        # Sums in another order.
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_what_a_network_cannot_do_is_said(photograph_run, tmp_path, monkeypatch):
    run, _ = photograph_run

    def fails(pattern, *changes):
        config = checks.change(run.config(), changes)
        with pytest.raises(ConfigError, match=pattern):
            evaluate.evaluate_run(run, config)

    fails("'dense'.*cannot take images of \\(6, 6, 3\\)", *dense_at("(6,)"))
    smaller = "the map of class scores is empty, .* the \\(14, 14\\) of the training"
    fails(smaller, *dense_at("(12, 20)"))  # its mean is no number
    fails(
        "'ten_crop': crops of 14x14 do not fit .* 12",
        *("eval.protocol=ten_crop", "eval.scales=(12,)"),
    )
    monkeypatch.delattr(Unpadded, "fine_class_map")
    fails("'offsets': unpadded has no last pool", "eval.protocol=offsets")


def test_a_protocol_guesses_no_scales_for_images_that_are_not_cropped(photograph_run):
    run, _ = photograph_run
    changes = ["dataset.fit=resize", "eval.protocol=ten_crop"]
    config = checks.change(run.config(), changes)
    with pytest.raises(ConfigError, match=r"fit 'resize'.*--change=eval.scales=14"):
        evaluate.evaluate_run(run, config)
    for field in ("scales", "short_side"):
        config = checks.change(run.config(), [*changes, f"eval.{field}=16"])
        assert evaluate.evaluate_run(run, config).protocol["scales"] == (16,)


def test_a_side_that_a_protocol_does_not_use_is_said(unpadded, capsys):
    for protocol, line in (("ten_crop", ""), ("dense", "note: config.eval.short_si")):
        changes = {"eval__protocol": protocol, "eval__short_side": 20}
        config = config_of("photos", **changes)
        preprocessing = build.make_preprocessing(config, (None, None, 3))
        found = evaluate.make_protocol(config, preprocessing, (None, None, 3))
        assert found.scales == ((256, 384, 512) if line else (20,))
        said = capsys.readouterr().out
        assert said.startswith(line) and bool(said) == bool(line)


def test_images_without_labels_are_refused_before_they_are_tested(
    photograph_run, tmp_path, monkeypatch
):
    run, _ = photograph_run
    images = [tiny_datasets.png(image) for image in photographs(3)]
    tiny_datasets.prepare(tmp_path / "other", images, [-1] * 7, shape=(None, None, 3))
    monkeypatch.delattr(evaluate, "predict_split")
    config = checks.change(run.config(), [f"dataset.data_dir={tmp_path}/other"])
    with pytest.raises(ConfigError, match="eval_split = 'train'.* have no labels"):
        evaluate.evaluate_run(run, config)


def test_a_loss_that_is_no_number_is_not_hidden():
    logits = np.zeros((3, 2), np.float32)
    logits[1] = np.nan
    found = scoring.Predictions(
        np.arange(3), np.zeros(3, int), logits, np.array(["a", "b"]), "logits"
    )
    loss = losses.make_loss(default.get_config().loss)
    read = np.array([True, False, True])  # the second image is damaged
    assert evaluate.mean_loss(loss, found, read) == pytest.approx(np.log(2))
    assert np.isnan(evaluate.mean_loss(loss, found, ~read))
    assert np.isnan(evaluate.mean_loss(loss, found, np.ones(3, bool)))
    assert np.isnan(evaluate.mean_loss(loss, found, np.zeros(3, bool)))


def dense_at(scales):
    return "eval.protocol=dense", f"eval.scales={scales}"


def test_an_ensemble_averages_its_runs(photograph_run, tmp_path):
    run, variables = photograph_run
    other = jax.tree.map(lambda x: -0.5 * x, variables)
    # Of its own size and protocol.
    own = {"eval__protocol": "ten_crop", "dataset__short_side": 15}
    second = save_run(tmp_path / "second", config_of(tmp_path, **own), other)
    members = [run, second]
    text = str(evaluate.evaluate_ensemble(members, [r.config() for r in members]))
    both = [
        scoring.read(run.path / "predictions-5.npz"),
        scoring.read(second.path / "predictions-5-ten_crop.npz"),
    ]
    mean = sum(np.exp(p.logits) / np.exp(p.logits).sum(1, keepdims=True) for p in both)
    wrong = int((mean.argmax(1) != both[0].label).sum())
    ending = f"error {100 * wrong / 7:.2f} %"
    assert f"ensemble of 2 runs, softmax averaged: {ending}" in text
    for member in both:
        assert scoring.describe(scoring.score(member)).split(",")[0] in text

    logits = checks.change(second.config(), ["eval.average=logits"])
    with pytest.raises(ConfigError, match="not the same in all runs"):
        evaluate.evaluate_ensemble(members, [run.config(), logits])
    penalties = run.config()
    with penalties.unlocked():
        penalties.loss.name = "binary_cross_entropy"
    with pytest.raises(ConfigError, match="not a loss of log probabilities"):
        evaluate.evaluate_ensemble(members, [penalties, second.config()])


def test_the_checkpoint_that_was_named_is_tested(photograph_run):
    run, first = photograph_run
    last, config = jax.tree.map(lambda x: -0.5 * x, first), run.config()
    for at, variables, error in ((5, first, 20.0), (9, last, 30.0)):
        save_run(run.path, config, variables, at, {"error": error})
    losses = []
    for name, step in (("best", 5), ("5", 5), ("latest", 9), ("9", 9)):
        record = evaluate.evaluate_run(run, config, name).record
        assert record["step"] == step, name
        losses.append(record["loss"])
        members = evaluate.evaluate_ensemble([run], [config], name).members
        assert [member.record["step"] for member in members] == [step], name
    assert losses[0] == losses[1] != losses[2] == losses[3]
    with pytest.raises(ConfigError, match="=first is neither latest, best nor a step"):
        evaluate.evaluate_run(run, config, "first")
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint 7 in "):
        evaluate.evaluate_run(run, config, "7")


def test_what_cannot_be_joined_is_refused_before_it_is_tested(
    photograph_run, tmp_path, monkeypatch
):
    run, variables = photograph_run
    config = config_of(tmp_path, dataset__short_side=15)
    second = save_run(tmp_path / "second", config, variables)
    images = [tiny_datasets.png(image) for image in photographs(3)]

    def data(name, names):
        """The photographs, whose classes 0 to 2 have other `names` or another order."""
        labels = [names.index(n) if n in names else 0 for n in tiny_datasets.NAMES]
        labels = [labels[i % 3] for i in range(7)]
        shape = {"shape": (None, None, 3), "names": names}
        tiny_datasets.prepare(tmp_path / name, images, labels, **shape)
        return f"dataset.data_dir={tmp_path / name}"

    def join(*changes, **options):
        configs = run.config(), checks.change(config, changes)
        return str(evaluate.evaluate_ensemble([run, second], configs, **options))

    # One set by two names.
    shutil.copytree(tmp_path / "tiny", tmp_path / "twice/tiny")
    assert "ensemble of 2 runs" in join(
        f"dataset.data_dir={tmp_path}/twice", "dataset.name=tiny:1.*.*"
    )
    backwards = tuple(tiny_datasets.NAMES)[::-1]
    assert "ensemble of 2 runs" in join(data("backwards", backwards))
    monkeypatch.delattr(evaluate, "predict_split")
    others = data("others", ("x", "y", "z"))
    for error, message, change in (
        (scoring.PredictionsError, "1 and number 2 of .* have other classes", others),
        (
            scoring.PredictionsError,
            "other examples, .* 7 images of tiny, train; 5 images of tiny, train.:5.",
            "dataset.eval_split=train[:5]",
        ),
        (ConfigError, "'dense' rescales images", "eval.protocol=dense"),
    ):
        fit = ["dataset.fit=resize"] if "protocol" in change else []
        with pytest.raises(error, match=message):
            join(change, *fit)
    with pytest.raises(ConfigError, match="no batch normalisation"):
        join(batch_stats="population")


def test_images_of_another_size_than_the_network_s_are_refused():
    """Its last layer takes maps of one size; flax says so in an error of its own."""
    config = runs.small_config(eval__image_size=40)
    opened = types.SimpleNamespace(
        config=config,
        model=build.make_model(config, 10),
        preprocessing=build.make_preprocessing(config, (28, 28, 1)),
        image_shape=(28, 28, 1),
        trained_shape=(32, 32, 1),
    )
    variables = build.abstract_variables(opened.model, opened.trained_shape)
    protocol = evaluate.make_protocol(config, opened.preprocessing, opened.image_shape)
    with pytest.raises(ConfigError, match="'single': .*Tiny cannot take images of"):
        evaluate.make_steps(opened, variables, protocol)


def test_a_change_that_no_test_reads_is_refused(photograph_run):
    run, _ = photograph_run
    change = ["dataset.order=fixed"]
    for more, statistics in (([], "moving"), (["dataset.name=other"], "population")):
        config = checks.change(run.config(), [*change, *more])
        with pytest.raises(ConfigError, match="order = 'fixed': a test does not read"):
            evaluate.evaluate_run(run, config, batch_stats=statistics)
    config = checks.change(run.config(), change)
    with pytest.raises(ConfigError, match="no batch normalisation"):  # it is read
        evaluate.evaluate_run(run, config, batch_stats="population")
    for change, message in (
        ("eval.every_epochs=3.0", "every_epochs = 3.0: no test reads it"),
        ("dataset.placement=host", "placement = 'host': no test reads it"),
        ("dataset.cache_side=9", "cache_side is read with config.dataset.cache"),
        ("dataset.cache_dir=x", "cache_dir is read with config.dataset.cache"),
        ("dataset.holdout=0.5", "holdout = 0.5 holds out other images, and the run"),
        ("dataset.holdout_by=path", "holdout_by = 'path' holds out other images"),
        ("eval.average=logits", "average = 'logits' changes nothing: the protocol"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate.evaluate_run(run, checks.change(run.config(), [change]))
    # Of several runs the average is read.
    config = checks.change(run.config(), ["eval.average=logits"])
    text = str(evaluate.evaluate_ensemble([run, run], [config, config]))
    assert "ensemble of 2 runs, logits averaged" in text


def test_a_full_disk_is_an_error_that_has_the_result(photograph_run, monkeypatch):
    run, _ = photograph_run
    record = evaluate.evaluate_run(run, run.config()).record
    for code, kind in (
        (errno.ENOSPC, workdir.WorkdirError),
        (errno.EROFS, workdir.ReadOnly),
    ):

        def refused(run, *arguments, code=code, kind=kind):
            raise kind(os.strerror(code))

        monkeypatch.setattr(results, "write", refused)
        result = runs.call_main(["--mode=evaluate", f"--workdir={run}"])
        assert f"error {record['error']:.2f} %" in result.stdout
        if kind is workdir.ReadOnly:
            assert (result.returncode, result.stderr) == (0, "")
            continue
        assert (result.returncode, result.stderr) == (
            1,
            "error: No space left on device\n",
        )
        both = evaluate.evaluate_ensemble([run, run], [run.config()] * 2)
        assert "ensemble of 2 runs" in str(both) and len(both.failed) == 2


# The command line.


@pytest.fixture
def lenet_run(tmp_path):
    """LeNet-5 with its initial weights, on 203 images of MNIST."""
    config = runs.small_config("modern")
    model = build.make_model(config, 10)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    return save_run(tmp_path / "run", config, variables)


TEN = ["--change=eval.protocol=ten_crop", "--change=eval.scales=36"]


def test_main_takes_changes_and_several_runs(lenet_run):
    both = f"--workdir={lenet_run},{lenet_run}"
    result = runs.call_main(["--mode=evaluate", both, *TEN])
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    single = [line for line in lines if line.startswith("test[:203] error")]
    assert len(single) == 2
    assert single[0] == single[1]
    (line,) = (line for line in lines if line.startswith("ensemble of 2 runs"))
    # An average of equals is each of them.
    assert single[0].split(" (")[0].removeprefix("test[:203] ") in line
    assert (lenet_run.path / "predictions-5-ten_crop-scales_36.npz").exists()

    for arguments, message in (
        (["--mode=evaluate", both, "--config=configs/lenet5.py"], "own config"),
        ([f"--workdir={lenet_run}", *TEN], "--change is for evaluate"),
    ):
        result = runs.call_main(arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_runs_of_a_sweep_have_commas_in_their_names(tmp_path):
    for name in ("a", "seed=0,rate=0.1", "seed=1,rate=0.1"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / n) for n in ("seed=0,rate=0.1", "a", "seed=1,rate=0.1")]
    assert options.paths(",".join(paths)) == paths
    assert options.paths(paths[0]) == paths[:1]
    assert options.paths(f"{paths[1]},missing") == [paths[1], "missing"]


@pytest.mark.slow
def test_two_processes_evaluate_half_of_the_images_each(lenet_run):
    command = [sys.executable, "main.py", "--mode=evaluate", f"--workdir={lenet_run}"]
    command += [*TEN, "--change=num_devices=0", "--change=dataset.eval_split=test[:21]"]
    one = runs.call_main(command)
    assert "21/21 images counted" in one.stdout, one.stderr
    name = "predictions-5-ten_crop-eval_split_test_21-scales_36.npz"
    expected = scoring.read(lenet_run.path / name)
    (lenet_run.path / name).unlink()

    (port,) = runs.free_ports(1)
    cluster = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    children = [
        subprocess.Popen(
            [*command, *cluster, f"--process_id={i}"],
            cwd=runs.ROOT,
            env=runs.environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in (0, 1)
    ]
    outputs = [child.communicate(timeout=200)[0] for child in children]
    assert [c.returncode for c in children] == [0, 0], "\n".join(outputs)
    assert sum("21/21 images counted" in output for output in outputs) == 1
    found = scoring.read(lenet_run.path / name)
    np.testing.assert_array_equal(found.id, expected.id)
    np.testing.assert_array_equal(found.label, expected.label)
    # Float32 sums in another order.
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
