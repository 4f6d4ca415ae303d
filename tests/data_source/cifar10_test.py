"""CIFAR-10 from a directory that TFDS prepared, and the statistics of its images.

The real images are read only if TFDS_DATA_DIR has them.
"""

import dataclasses
import functools
import io
import os
import pathlib

import jax
import numpy as np
import pytest
import tiny_datasets
from PIL import Image

import data_source
from configs import cifar10, datasets, resnet_cifar
from experiment import build, checks, image_statistics, workdir
from transforms import preprocessing as preprocessings

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
REAL = pathlib.Path(os.environ.get("CONVNETS_TEST_DATA") or "none")


@pytest.fixture
def small():
    """Images uint8 [40, 32, 32, 3] and labels of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    images[..., 0] //= 2
    return images, np.arange(40) % 10


def setup(config, data_dir, **changes):
    config.update_from_flattened_dict({"dataset.data_dir": str(data_dir), **changes})
    checks.check(config)
    return build.setup(config, num_devices=1)


def kept(found, path):
    """The statistics that a run of a setup keeps in its directory."""
    run = workdir.Workdir(path)
    run.path.mkdir()
    image_statistics.keep(image_statistics.find(found, run), run)
    return run.read_arrays(image_statistics.FILE)


def test_both_forms_hold_the_same_in_any_order(tmp_path, small):
    images, labels = small
    order = np.random.default_rng(1).permutation(40)
    for file_format in ("array_record", "tfrecord"):
        place = tmp_path / file_format
        tiny_datasets.prepare(
            *(place, images, labels),
            name="cifar10",
            file_format=file_format,
            names=NAMES,
            test=(images[::-1], labels[::-1]),
        )
        split = data_source.open_split("cifar10", "train", data_dir=place)
        assert split.image_shape == (32, 32, 3)
        assert split.label_names == tuple(NAMES)
        for _ in range(2):  # from the files, then from memory
            read = split.read(order)
            np.testing.assert_array_equal(read[0], images[order])
            np.testing.assert_array_equal(read[1], labels[order])
            split.arrays()
        test = data_source.open_split("cifar10", "auto", data_dir=place)
        np.testing.assert_array_equal(test.arrays()[0], images[::-1])
        np.testing.assert_array_equal(test.arrays()[1], labels[::-1])


@pytest.mark.parametrize(("split", "used"), [("train", 40), ("train[:30]", 30)])
def test_a_run_keeps_the_mean_image_of_what_it_trains_on(tmp_path, small, split, used):
    images, labels = small
    tiny_datasets.prepare(
        *(tmp_path, images, labels), name="cifar10", names=NAMES, test=small
    )
    config = resnet_cifar.get_config()
    found = kept(
        setup(config, tmp_path, **{"dataset.train_split": split}), tmp_path / "run"
    )
    exact = images[:used].mean(0, dtype=np.float64)
    np.testing.assert_allclose(found["mean"], exact, rtol=1e-7)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_the_short_recipes_normalise_any_of_the_sets(tmp_path, small, name):
    """Whatever the colours, channels and size, the network sees mean 0, deviation 1."""
    images, labels = small
    names = NAMES
    if name == "cifar100":
        names = [str(number) for number in range(100)]
    if name == "fashion_mnist":
        images = images[:, 2:30, 2:30, :1]
    tiny_datasets.prepare(
        *(tmp_path, images, labels), name=name, names=names, test=(images, labels)
    )
    config = cifar10.get_config("nin")
    found = setup(config, tmp_path, **{"dataset.name": name})
    assert found.model.num_classes == len(names)
    assert found.input_shape == (32, 32, images.shape[-1])
    preprocessing = image_statistics.fitted(found).preprocessing
    prepare = functools.partial(
        preprocessings.network_input, preprocessing=preprocessing
    )
    inputs = np.asarray(jax.jit(prepare)({"image": images}), np.float64)
    # The statistics, and (x - mean) / std of values up to 2, are rounded to float32.
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, atol=1e-6)


@pytest.mark.skipif(
    not (REAL / "cifar10").is_dir(), reason="TFDS_DATA_DIR has no cifar10"
)
def test_the_real_images_and_their_statistics(tmp_path):
    split = data_source.open_split("cifar10", "train", data_dir=REAL)
    images, labels = split.arrays()
    assert images.shape == (50_000, 32, 32, 3)
    assert split.label_names == tuple(NAMES)
    assert np.bincount(labels).tolist() == [5000] * 10
    test = data_source.open_split("cifar10", "test", data_dir=REAL)
    assert np.bincount(test.labels()).tolist() == [1000] * 10
    # The pixels are those of the PNG inside each record, decoded by itself.
    raw = data_source.open_split("cifar10", "train", data_dir=REAL).source
    for index, record in enumerate(raw._records(range(0, 50_000, 997))):
        png = record[record.index(b"\x89PNG") : record.index(b"IEND") + 8]
        image = np.asarray(Image.open(io.BytesIO(png)))
        np.testing.assert_array_equal(images[997 * index], image)

    pixels = images.reshape(-1, 3)
    mean = pixels.mean(0, dtype=np.float64)
    std = np.sqrt((pixels.astype(np.float32) ** 2).mean(0, dtype=np.float64) - mean**2)
    assert datasets.STATISTICS["cifar10"] == (
        tuple(mean.round(1).tolist()),
        tuple(std.round(1).tolist()),
    )
    changes = {"dataset.train_split": "train[:45000]"}
    part = setup(resnet_cifar.get_config(), REAL, **changes)
    whole = dataclasses.replace(part, train_split=split)  # whose images are in memory
    for found, used in ((whole, 50_000), (part, 45_000)):
        mean = kept(found, tmp_path / str(used))["mean"]
        exact = images[:used].mean(0, dtype=np.float64)
        np.testing.assert_allclose(mean, exact, rtol=1e-7)
