"""Opening and reading data sets, and the messages for those that cannot be opened."""

import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import types
import zlib
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from tiny_datasets import (
    NAMES,
    png,
    prepare,
    write_tfrecord,
)

import data_source
from data_source import DataError, open_split, report, tfds_directory
from data_source import records as records_module
from transforms import decode

pytestmark = pytest.mark.usefixtures("no_other_data")


def test_import_is_light():
    # The training step must be importable where these are slow or missing.
    code = "import input_pipeline, sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tfds_directory.EMBEDDED.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"tensorflow", "tensorflow_datasets", "grain", "array_record"}
    assert not heavy & set(out.stdout.split())


def test_mnist_is_in_the_repository():
    split = open_split("mnist", "train[:50000]")
    assert (len(split), split.image_shape, split.num_classes) == (
        50000,
        (28, 28, 1),
        10,
    )
    assert split.label_names == tuple("0123456789")
    images, labels = open_split("mnist", "test").arrays()
    assert images.shape == (10000, 28, 28, 1) and images.dtype == np.uint8
    assert labels.shape == (10000,) and labels.dtype == np.int32
    # The counts of each digit in the test set (yann.lecun.com/exdb/mnist).
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(labels).tolist() == counts
    # The mean pixel of MNIST's test set, 0.1325 of 255, as widely quoted.
    assert images.mean() / 255 == pytest.approx(0.1325, abs=5e-5)


@pytest.mark.filterwarnings("ignore")
def test_stock_tfds_reads_mnist_alike():
    import tensorflow_datasets as tfds

    directory = str(tfds_directory.EMBEDDED)
    stock = tfds.data_source("mnist", split="test", data_dir=directory, download=False)
    assert len(stock) == 10000
    split = open_split("mnist", "test")
    indices = list(range(0, 10000, 97))
    images, labels = split.arrays()
    for i, theirs in zip(indices, stock.__getitems__(indices), strict=True):
        np.testing.assert_array_equal(images[i], theirs["image"])
        assert labels[i] == theirs["label"]
    ours, _ = open_split("mnist", "test").read([9999])
    np.testing.assert_array_equal(ours[0], stock[9999]["image"])


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("channels", [1, 3])
def test_random_access(tmp_path, file_format, channels):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (20, 6, 5, channels), np.uint8)
    labels = rng.integers(0, 3, 20)
    prepare(tmp_path, images, labels, file_format=file_format)
    split = open_split("tiny", "train", data_dir=tmp_path)
    assert (len(split), split.image_shape) == (20, (6, 5, channels))
    assert split.label_names == NAMES
    order = [19, 0, 7, 6, 5, 7, 12]  # the shards meet between 5 and 6
    for _ in range(2):  # from the files, then from memory
        read = split.read(np.array(order))
        np.testing.assert_array_equal(read[0], images[order])
        np.testing.assert_array_equal(read[1], labels[order])
        assert [a.dtype for a in read] == [np.uint8, np.int32]
        with pytest.raises(IndexError):
            split.examples([20])
        assert split.examples([-1])[0].label == labels[-1]
        np.testing.assert_array_equal(split.arrays()[0], images)
    part = open_split("tiny", "train[5:10]", data_dir=tmp_path)
    np.testing.assert_array_equal(part.arrays()[0], images[5:10])
    np.testing.assert_array_equal(part.arrays()[1], labels[5:10])


def stored_png(image):
    """A PNG of deflate level 0 and no filters, as in data/mnist: pixels as they are."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    out = b"\x89PNG\r\n\x1a\n"
    size = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    for kind, data in (
        (b"IHDR", size),
        (b"IDAT", zlib.compress(rows.tobytes(), 0)),
        (b"IEND", b""),
    ):
        crc = zlib.crc32(kind + data)
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_stored_pixels_are_decoded_all_at_once(tmp_path, channels):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (20, 9, 7, channels), np.uint8)
    labels = np.arange(20) % 3
    prepare(tmp_path, list(map(stored_png, images)), labels, shape=images.shape[1:])
    split = open_split("tiny", "train", data_dir=tmp_path)
    records = split.source._records(range(20))
    fast = records_module._decode_alike(records, images[0], 0)
    np.testing.assert_array_equal(fast[0], images)
    np.testing.assert_array_equal(fast[1], labels)
    assert [a.dtype for a in fast] == [np.uint8, np.int32]
    np.testing.assert_array_equal(split.arrays()[0], images)
    # A pixel that changed, or a byte around the pixels: left to the real decoder.
    for at in (records[4].index(images[4].tobytes()[:7]), -40, 20):
        wrong = bytearray(records[4])
        wrong[at] ^= 1
        mixed = [*records[:4], bytes(wrong), *records[5:]]
        assert records_module._decode_alike(mixed, images[0], 0) is None
    with pytest.raises(DataError, match="Record 4 of split 'train'"):
        wrong = bytearray(records[4])
        wrong[records[4].index(images[4].tobytes()[:7])] ^= 1
        split.source._stack(range(20), [*records[:4], bytes(wrong), *records[5:]])


def test_stored_pixels_are_turned_as_their_exif_says(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (4, 9, 9, 1), np.uint8)
    images[0] = 7  # the same when it is turned
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + data))
    encoded = [stored_png(i)[:33] + chunk + stored_png(i)[33:] for i in images]
    prepare(tmp_path, encoded, np.arange(4) % 3, shape=(9, 9, 1))
    found = open_split("tiny", "train", data_dir=tmp_path).arrays()[0]
    np.testing.assert_array_equal(found, np.rot90(images, -1, axes=(1, 2)))


def test_other_records_among_stored_ones(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (20, 9, 9, 1), np.uint8)
    images[15:] = 7  # much shorter when compressed; the five before are not
    encoded = [*map(stored_png, images[:10]), *map(png, images[10:])]
    prepare(tmp_path, encoded, np.arange(20) % 3, shape=(9, 9, 1))
    split = open_split("tiny", "train", data_dir=tmp_path)
    records = split.source._records(range(20))
    for mixed in (records, records[:15], records[:10] + records[15:]):
        assert records_module._decode_alike(mixed, images[0], 0) is None
    np.testing.assert_array_equal(split.arrays()[0], images)
    np.testing.assert_array_equal(split.arrays()[1], np.arange(20) % 3)


def test_search_order(tmp_path, monkeypatch, some):
    images, labels = some
    given, env, home = tmp_path / "given", tmp_path / "env", tmp_path / "home"
    home = home / "tensorflow_datasets"
    embedded = tmp_path / "embedded"
    monkeypatch.setattr(tfds_directory, "EMBEDDED", embedded)
    monkeypatch.setenv("TFDS_DATA_DIR", str(env))
    found = {}
    for size, place in enumerate([embedded, home, env, given], 3):
        prepare(place, images[:size], labels[:size])
        found[place] = len(open_split("tiny", "train"))
    # Each place is preferred to the one before; a given one is not looked at unasked.
    assert list(found.values()) == [3, 4, 5, 5]
    assert len(open_split("tiny", "train", data_dir=given)) == 6


def test_the_newest_complete_version_is_opened(tmp_path, some):
    images, labels = some
    prepare(tmp_path, images[:3], labels[:3])
    for number, version in ((4, "10.0.0"), (5, "9.0.0"), (6, "11.0.0.incompleteABC")):
        prepare(tmp_path / version, images[:number], labels[:number])
        target = tmp_path / "tiny" / version
        (tmp_path / version / "tiny" / "1.0.0").rename(target)
        info = target / "dataset_info.json"
        info.write_text(info.read_text().replace("1.0.0", version))
    assert len(open_split("tiny", "train", data_dir=tmp_path)) == 4
    assert len(open_split("tiny:9.*.*", "train", data_dir=tmp_path)) == 5


def test_the_config_that_a_name_leaves_open_is_said(tmp_path, some):
    prepare(tmp_path, *some)
    assert open_split("tiny", "train", data_dir=tmp_path).findings is None
    (tmp_path / "tiny/small").mkdir()
    (tmp_path / "tiny/1.0.0").rename(tmp_path / "tiny/small/1.0.0")
    for name in ("tiny", "tiny:1.0.0"):
        said = report.describe(open_split(name, "train", data_dir=tmp_path))
        assert said.endswith(
            "\n  tiny is read as tiny/small, the config that is prepared"
        )
    assert open_split("tiny/small", "train", data_dir=tmp_path).findings is None
    shutil.copytree(tmp_path / "tiny/small", tmp_path / "tiny/large")
    with pytest.raises(DataError, match=r"several configs.*\['large', 'small'\]"):
        open_split("tiny", "train", data_dir=tmp_path)


def test_offline_fails_at_once_and_says_what_to_do(tmp_path, monkeypatch):
    # It would try again for minutes.
    monkeypatch.setattr(tfds_directory, "_prepare", lambda *_: pytest.fail("tfds"))
    with pytest.raises(DataError) as error:
        open_split("cifar10", "train")
    for part in ("cifar10", "tensorflow_datasets", "www.cs.toronto.edu", "no network"):
        assert part in str(error.value)
    assert "python prepare.py cifar10 --data_dir=DIR" in str(error.value)
    assert not (tmp_path / "home").exists()
    with pytest.raises(DataError, match="'cifar10' is missing") as error:
        open_split("cifar10", "train", download=False)
    assert "no network" not in str(error.value)


def test_a_silent_network_is_given_up(monkeypatch):
    monkeypatch.setattr(tfds_directory, "PROBE_SECONDS", 0.1)
    done, answered = threading.Event(), threading.Event()

    def connect(*_):
        done.wait()
        answered.set()
        return io.BytesIO()

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DataError, match="no answer from www.cs.toronto.edu:443"):
        open_split("cifar10", "train")
    assert not answered.is_set()
    done.set()


@pytest.mark.parametrize("proxy", ["http://proxy.test:3128", "proxy.test:3128"])
def test_a_proxy_is_what_is_probed(proxy, monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise OSError("refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(DataError, match=r"proxy\.test:3128"):
        open_split("cifar10", "train")
    assert asked == [("proxy.test", 3128)]


def test_a_missing_set_is_prepared_by_tfds_without_a_gpu(tmp_path, monkeypatch, some):
    import tensorflow_datasets as tfds

    hidden = []
    config = types.SimpleNamespace(set_visible_devices=lambda *a: hidden.append(a))
    fake = types.SimpleNamespace(config=config)

    class Builder:
        name = "tiny"
        MANUAL_DOWNLOAD_INSTRUCTIONS = None
        url_infos = {"https://example.test/tiny.zip": None}

        def download_and_prepare(self, download_config):
            assert hidden == [([], "GPU")]
            prepare(tmp_path / "new", *some)
            directory = str(tmp_path / "new" / "tiny" / "1.0.0")
            self.info = tfds.builder_from_directory(directory).info

    def builder(name, data_dir, file_format, try_gcs):
        assert (name, data_dir) == ("tiny", str(tmp_path / "new"))
        assert (file_format, try_gcs) == ("array_record", False)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setattr(tfds_directory.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setattr(socket, "create_connection", lambda *_: io.BytesIO())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "new"))
    np.testing.assert_array_equal(open_split("tiny", "train").arrays()[0], some[0])


def test_a_failing_download_is_one_error(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, download_config):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(socket, "create_connection", lambda *_: io.BytesIO())
    with pytest.raises(DataError, match="ConnectionError: reset by peer"):
        open_split("cifar10", "train", data_dir=tmp_path)


def test_a_set_that_must_be_fetched_by_hand_says_so():
    with pytest.raises(DataError, match="downloads/manual is missing") as error:
        open_split("imagenet2012", "train")
    assert "ILSVRC2012_img_train.tar" in str(error.value)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mnits", "train", r"no data set 'mnits'\. Did you mean mnist or"),
        ("mnist", "trian", r"no split 'trian': it has \['test', 'train'\]"),
        ("mnist", "train[5:5]", "holds no examples"),
        ("mnist", "train[:70000]", r"no split 'train\[:70000\]'"),
        ("mnist:1.0.0", "train", r"only: 3\.0\.1"),
        ("", "train", "not a data set name"),
        ("../mnist", "train", "not a data set name"),
    ],
)
def test_wrong_names_are_one_clear_error(name, split, message):
    with pytest.raises(DataError, match=message):
        open_split(name, split)


def test_a_given_directory_without_the_set(tmp_path):
    with pytest.raises(DataError, match="does not hold 'mnist'; it is prepared in"):
        open_split("mnist", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_split("mnist", "train", data_dir=tmp_path / "nowhere")
    with pytest.raises(DataError, match="'cifar10' is missing") as error:
        open_split("cifar10", "train", data_dir=tmp_path)
    assert str(tmp_path) in str(error.value)


def test_features_other_than_image_and_label(tmp_path, some):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(8, 8, 1)),
        "digit": tfds.features.ClassLabel(names=NAMES),
    }
    prepare(tmp_path, *some, features=features)
    with pytest.raises(DataError, match=r"has \['digit', 'image'\]"):
        open_split("tiny", "train", data_dir=tmp_path)


def test_one_class_is_refused(tmp_path, some):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(8, 8, 1)),
        "label": tfds.features.ClassLabel(names=["ant"]),
    }
    prepare(tmp_path, some[0], np.zeros(20, int), features=features)
    with pytest.raises(DataError, match="'tiny' has one class, and two are needed"):
        open_split("tiny", "train", data_dir=tmp_path)


def test_images_that_are_neither_grey_nor_rgb_are_refused(tmp_path):
    prepare(tmp_path, np.zeros((20, 8, 8, 4), np.uint8), np.arange(20) % 3)
    message = "'tiny' has images of 4 channels; only grey"
    with pytest.raises(DataError, match=message):
        open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=message):
        data_source.describe("tiny", data_dir=tmp_path)


def test_stamps_know_the_files_of_a_set(tmp_path, some):
    paths = prepare(tmp_path, *some)
    whole = open_split("tiny", "train", data_dir=tmp_path).stamps()
    assert len(set(whole.tolist())) == 20
    part = open_split("tiny", "train[5:]", data_dir=tmp_path).stamps()
    np.testing.assert_array_equal(part, whole[5:])
    os.utime(paths[1], ns=(0, 0))
    now = open_split("tiny", "train", data_dir=tmp_path).stamps()
    assert (now == whole).tolist() == [True] * 6 + [False] * 14


def test_a_set_is_described_without_its_data(tmp_path, some):
    assert data_source.describe("mnist") == ((28, 28, 1), 10)
    assert data_source.describe("imagenet2012") == ((None, None, 3), 1000)
    prepare(tmp_path, *some)
    assert data_source.describe("tiny", data_dir=tmp_path) == ((8, 8, 1), 3)
    with pytest.raises(DataError, match=r"no data set 'mnits'"):
        data_source.describe("mnits")


@pytest.mark.parametrize("name", tfds_directory.STOCK)
def test_what_is_said_of_sets_that_are_not_on_disk(name):
    import tensorflow_datasets as tfds

    features = tfds.builder(name, try_gcs=False).info.features
    told = tuple(features["image"].shape), features["label"].num_classes
    assert tfds_directory.STOCK[name] == told == data_source.describe(name)


def test_unusual_features_are_left_to_tfds(tmp_path, some):
    import tensorflow_datasets as tfds

    def noted(dataset, **features):
        path = prepare(tmp_path, *some, name=dataset, **features)[0].parent
        return tfds_directory._noted(path)

    assert noted("small") == ((8, 8, 1), 3)
    assert noted("any", shape=(None, None, 1)) == ((None, None, 1), 3)
    image, label = tfds.features.Image(), tfds.features.ClassLabel(names=NAMES)
    assert noted("digit", features={"image": image, "digit": label}) is None
    assert tfds_directory._noted(tmp_path) is None


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_damage_is_named(tmp_path, some, file_format):
    images, labels = some
    encoded = list(map(png, images))
    encoded[13] = b"\x89PNG this is none"
    encoded[17] = encoded[17][:-30]
    paths = prepare(tmp_path, encoded, labels, file_format=file_format)
    split = open_split("tiny", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(split.read([12])[0], images[12:13])
    for index in (13, 17):
        message = f"Record {index} of split 'train' of 'tiny' cannot be decoded"
        with pytest.raises(DataError, match=message):
            split.read([0, index])
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-7])
    split = open_split("tiny", "train", data_dir=tmp_path)
    split.read([0])
    with pytest.raises(DataError, match=paths[1].name):
        split.read([0, 19])
    paths[1].unlink()
    with pytest.raises(DataError, match=f"{paths[1].name} is missing"):
        open_split("tiny", "train", data_dir=tmp_path)


def test_a_flipped_byte_is_noticed(tmp_path, some):
    paths = prepare(tmp_path, *some)
    content = np.frombuffer(
        paths[1].read_bytes(), np.uint8
    )  # mostly zeros that fill up
    messages = []
    for at in np.flatnonzero(content)[::40]:
        wrong = content.copy()
        wrong[at] ^= 1
        paths[1].write_bytes(wrong)
        split = open_split("tiny", "train", data_dir=tmp_path)
        try:
            np.testing.assert_array_equal(split.arrays()[0], some[0])
        except DataError as error:
            messages.append(str(error))
    named = [
        m for m in messages if re.match(r"Record \d+ of split 'train' of 'tiny' is", m)
    ]
    assert len(named) > 20 and all(paths[1].name in m for m in messages)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_examples_of_several_sizes_are_named_and_stored(tmp_path, file_format):
    import tensorflow_datasets as tfds

    encoded = [png(np.full((3 + i, 4, 3), i, np.uint8)) for i in range(9)]
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=NAMES),
        "file_name": tfds.features.Text(),
    }
    files = [f"n{i:02}.JPEG" for i in range(9)]
    prepare(
        tmp_path,
        encoded,
        np.arange(9) % 3,
        features=features,
        file_format=file_format,
        file_names=files,
    )
    split = open_split("tiny", "train[2:]", data_dir=tmp_path)
    assert split.image_shape == (None, None, 3)
    for got, i in zip(split.examples(np.array([6, 0, 3])), (8, 2, 5), strict=True):
        assert (got.image, got.label) == (encoded[i], i % 3)
        assert got.name == f"split 'train[2:]' of 'tiny', record {i - 2}, {files[i]}"


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_damaged_record_spares_the_others(tmp_path, some, file_format):
    images, labels = some
    encoded = list(map(png, images))
    paths = prepare(tmp_path, encoded, labels, file_format=file_format, group_size=1)
    content = bytearray(paths[1].read_bytes())
    content[content.index(encoded[9]) + len(encoded[9]) // 2] ^= 1
    paths[1].write_bytes(content)
    split = open_split("tiny", "train", data_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match="^Record 9 of split 'train' .* is damaged"):
            split.examples([9])
        with pytest.raises(DataError, match=paths[1].name):
            split.examples([8, 9, 10])
        for index in (0, 8, 10, 19):
            assert split.examples([index])[0].image == encoded[index]


def test_a_record_that_is_no_example_is_named(tmp_path, some):
    paths = prepare(tmp_path, *some, file_format="tfrecord")
    split = open_split("tiny", "train", data_dir=tmp_path)
    records = split.source._records(range(6, 20))
    write_tfrecord(paths[1], [*records[:3], b"no example", *records[4:]])
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=f"Record 9 of .* is damaged .*{paths[1].name}"):
        split.examples([9])
    assert split.examples([10])[0].label == some[1][10]


def test_a_damaged_length_is_named(tmp_path, some):
    paths = prepare(tmp_path, *some, file_format="tfrecord")
    content = bytearray(paths[1].read_bytes())
    length = 16 + int.from_bytes(content[:8], "little")
    content[length] ^= 1
    paths[1].write_bytes(content)
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=f"{paths[1].name} cannot be read: record 1 is"):
        split.examples([9])
    assert split.examples([5])[0].label == some[1][5]


def test_the_index_of_a_large_file_is_kept(tmp_path, some, monkeypatch):
    prepare(tmp_path, *some, file_format="tfrecord")
    kept = tmp_path / "home/.cache/convnets/tfrecord"
    found = mock.Mock(side_effect=records_module._record_starts)
    monkeypatch.setattr(records_module, "_record_starts", found)

    def read():
        split = open_split("tiny", "train", data_dir=tmp_path)
        np.testing.assert_array_equal(split.arrays()[0], some[0])
        return found.call_count

    assert read() == 2 and not kept.exists()  # small files: the index is quickly made
    monkeypatch.setattr(records_module, "CACHED_FROM_BYTES", 1)
    assert read() == 4 and len(list(kept.iterdir())) == 2
    assert read() == 4
    next(kept.iterdir()).write_bytes(b"damaged")
    assert read() == 5
    # Of a file that changed, nothing is believed.
    (tmp_path / "tiny").rename(tmp_path / "old")
    prepare(tmp_path, some[0][::-1], some[1], file_format="tfrecord")
    split = open_split("tiny", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(split.arrays()[0], some[0][::-1])
    # Nor is a place to keep it needed.
    shutil.rmtree(kept)
    kept.write_bytes(b"")
    split = open_split("tiny", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(split.arrays()[0], some[0][::-1])


def test_more_files_than_a_process_may_usually_open(tmp_path):
    code = """if True:
        import resource, sys
        import numpy as np
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
        import data_source
        data_source.open_split("mnist", "test").read([0])
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    """
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tfds_directory.EMBEDDED.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "4096"


def test_a_file_with_other_records_than_promised(tmp_path, some):
    paths = prepare(tmp_path, *some, file_format="tfrecord")
    paths[1].write_bytes(paths[0].read_bytes())
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="holds 6 records; .* says 14"):
        split.read([19])


def test_the_split_to_evaluate_on(tmp_path, some):
    assert open_split("mnist", "auto").split == "test"
    prepare(tmp_path, *some)
    with pytest.raises(DataError, match="no split 'test': it has"):
        open_split("tiny", "auto", data_dir=tmp_path)
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"train"', '"validation"'))
    for file in info.parent.glob("*-train.*"):
        file.rename(str(file).replace("-train.", "-validation."))
    assert open_split("tiny", "auto", data_dir=tmp_path).split == "validation"


def turned(image, kind):
    """Returns the image as a file that asks to be turned by a quarter."""
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_one_decoder_reads_sets_of_one_size(tmp_path, kind):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    encoded = [png(images[0]), turned(images[1], kind), png(images[2])]
    prepare(tmp_path, encoded, [0, 1, 2], shape=(16, 16, 3))
    split = open_split("tiny", "train", data_dir=tmp_path)
    viewed = [decode.decode(x.image, 3) for x in split.examples(range(3))]
    np.testing.assert_array_equal(split.read([1])[0][0], viewed[1])
    np.testing.assert_array_equal(split.arrays()[0], viewed)
    if kind == "PNG":
        np.testing.assert_array_equal(viewed[1], np.rot90(images[1], -1))


def test_an_image_that_is_turned_out_of_its_set_s_shape_is_named(tmp_path):
    images = np.random.default_rng(5).integers(0, 256, (3, 16, 24, 3), np.uint8)
    encoded = [png(images[0]), turned(images[1], "JPEG"), png(images[2])]
    prepare(tmp_path, encoded, [0, 1, 2], shape=(16, 24, 3))
    split = open_split("tiny", "train", data_dir=tmp_path)
    for wrong in ([1], [0, 1]):
        with pytest.raises(DataError, match=r"Record 1 .* shape \(24, 16, 3\)"):
            split.read(wrong)
    np.testing.assert_array_equal(split.read([0, 2])[0], images[[0, 2]])


def test_a_jpeg_that_is_cut_before_its_end_marker_is_damaged(tmp_path):
    image = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    whole = file.getvalue()
    encoded = [whole, whole[: len(whole) // 2] + b"\xff\xd9", whole]
    prepare(tmp_path, encoded, [0, 1, 2], shape=(64, 64, 3))
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="Record 1 .* cannot be decoded"):
        split.arrays()


def test_images_of_several_sizes_cannot_be_stacked(tmp_path, some):
    images, labels = some
    encoded = [png(images[0]), png(images[1][:5]), png(images[2])]
    prepare(tmp_path, encoded, labels[:3])
    split = open_split("tiny", "train", data_dir=tmp_path)
    assert split.image_shape == (None, None, 1)
    assert split.read([1])[0].shape == (1, 5, 8, 1)
    with pytest.raises(DataError, match="differ in size"):
        split.arrays()
