"""Opening data, the plan of indices, host and device batches, augmentation."""

import dataclasses
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import input_pipeline
from input_pipeline import DataError, TrainPlan, open_split

NAMES = ("ant", "bee", "cat")


def png(image):
    """A compressed PNG, as tfds writes them."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def write_tfrecord(path, records):
    with path.open("wb") as file:
        for record in records:
            file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))


def write_array_record(path, records):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:4")
    for record in records:
        writer.write(record)
    writer.close()


def prepare(
    root,
    images,
    labels,
    *,
    name="tiny",
    shape=None,
    file_format="array_record",
    features=None,
):
    """Writes an ordinary TFDS directory: one split "train" in two uneven shards.

    images are arrays [H, W, C], or bytes that stand for an encoded image.
    """
    import tensorflow_datasets as tfds

    if features is None:
        if shape is None:
            shape = (None, None, 1) if isinstance(images[0], bytes) else images[0].shape
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=NAMES),
        }
    features = tfds.features.FeaturesDict(features)
    directory = root / name / "1.0.0"
    directory.mkdir(parents=True)
    features.save_config(str(directory))
    image_key, label_key = features
    records = [
        features.serialize_example(
            {image_key: i if isinstance(i, bytes) else png(i), label_key: int(label)}
        )
        for i, label in zip(images, labels, strict=True)
    ]
    shards = [records[: len(records) // 3], records[len(records) // 3 :]]
    write = {"tfrecord": write_tfrecord, "array_record": write_array_record}[
        file_format
    ]
    paths = [directory / f"{name}-train.{file_format}-{i:05}-of-00002" for i in (0, 1)]
    for path, shard in zip(paths, shards, strict=True):
        write(path, shard)
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": file_format,
        "splits": [
            {
                "name": "train",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(map(len, records))),
                "shardLengths": [str(len(shard)) for shard in shards],
            }
        ],
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return paths


@pytest.fixture
def some():
    """Images uint8 [20, 8, 8, 1] and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 8, 8, 1), np.uint8), rng.integers(0, 3, 20)


@pytest.fixture
def tiny(tmp_path, some):
    prepare(tmp_path, *some)
    return open_split("tiny", "train", data_dir=tmp_path)


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch, tmp_path):
    """Neither the user's data nor the network may decide a test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def refuse(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)


def concatenate(parts):
    parts = list(parts)
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], key)
        assert left[key].dtype == right[key].dtype


# ---------------------------------------------------------------------- opening data


def test_import_is_light():
    # The training step must be importable where these are slow or missing.
    code = "import input_pipeline, sys; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=input_pipeline.EMBEDDED.parent,
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
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")
def test_stock_tfds_reads_mnist_alike():
    import tensorflow_datasets as tfds

    directory = str(input_pipeline.EMBEDDED)
    stock = tfds.data_source("mnist", split="test", data_dir=directory, download=False)
    assert len(stock) == 10000
    split = open_split("mnist", "test")
    indices = list(range(0, 10000, 97))
    images, labels = split.arrays()
    for i, theirs in zip(indices, stock.__getitems__(indices), strict=True):
        np.testing.assert_array_equal(images[i], theirs["image"])
        assert labels[i] == theirs["label"]
    ours = open_split("mnist", "test").source[9999]
    np.testing.assert_array_equal(ours["image"], stock[9999]["image"])


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
        examples = split.source.__getitems__(order)
        np.testing.assert_array_equal([e["image"] for e in examples], images[order])
        assert [e["label"] for e in examples] == labels[order].tolist()
        np.testing.assert_array_equal(split.source[3]["image"], images[3])
        read = split.read(np.array(order))
        np.testing.assert_array_equal(read[0], images[order])
        np.testing.assert_array_equal(read[1], labels[order])
        assert [a.dtype for a in read] == [np.uint8, np.int32]
        with pytest.raises(IndexError):
            split.source[20]
        np.testing.assert_array_equal(split.source[-1]["image"], images[-1])
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
    fast = input_pipeline._decode_alike(records, images[0], 0)
    np.testing.assert_array_equal(fast[0], images)
    np.testing.assert_array_equal(fast[1], labels)
    assert [a.dtype for a in fast] == [np.uint8, np.int32]
    np.testing.assert_array_equal(split.arrays()[0], images)
    # A pixel that changed, or a byte around the pixels: left to the real decoder.
    for at in (records[4].index(images[4].tobytes()[:7]), -40, 20):
        wrong = bytearray(records[4])
        wrong[at] ^= 1
        mixed = [*records[:4], bytes(wrong), *records[5:]]
        assert input_pipeline._decode_alike(mixed, images[0], 0) is None
    with pytest.raises(DataError, match="Record 4 of split 'train'"):
        wrong = bytearray(records[4])
        wrong[records[4].index(images[4].tobytes()[:7])] ^= 1
        split.source._stack(range(20), [*records[:4], bytes(wrong), *records[5:]])


def test_other_records_among_stored_ones(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (20, 9, 9, 1), np.uint8)
    images[15:] = 7  # much shorter when compressed; the five before are not
    encoded = [*map(stored_png, images[:10]), *map(png, images[10:])]
    prepare(tmp_path, encoded, np.arange(20) % 3, shape=(9, 9, 1))
    split = open_split("tiny", "train", data_dir=tmp_path)
    records = split.source._records(range(20))
    for mixed in (records, records[:15], records[:10] + records[15:]):
        assert input_pipeline._decode_alike(mixed, images[0], 0) is None
    np.testing.assert_array_equal(split.arrays()[0], images)
    np.testing.assert_array_equal(split.arrays()[1], np.arange(20) % 3)


def test_search_order(tmp_path, monkeypatch, some):
    images, labels = some
    given, env, home = tmp_path / "given", tmp_path / "env", tmp_path / "home"
    home = home / "tensorflow_datasets"
    embedded = tmp_path / "embedded"
    monkeypatch.setattr(input_pipeline, "EMBEDDED", embedded)
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


def test_offline_fails_at_once_and_says_what_to_do(tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        open_split("cifar10", "train")
    assert time.monotonic() - start < 5
    for part in ("cifar10", "tensorflow_datasets", "www.cs.toronto.edu", "no network"):
        assert part in str(error.value)
    assert "download_and_prepare()" in str(error.value)
    assert not (tmp_path / "home").exists()
    with pytest.raises(DataError, match="'cifar10' is missing") as error:
        open_split("cifar10", "train", download=False)
    assert "no network" not in str(error.value)


def test_a_silent_network_is_given_up(monkeypatch):
    monkeypatch.setattr(input_pipeline, "PROBE_SECONDS", 0.1)
    done = threading.Event()
    monkeypatch.setattr(
        socket, "create_connection", lambda *_: done.wait(20) and io.BytesIO()
    )
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer from www.cs.toronto.edu:443"):
        open_split("cifar10", "train")
    assert time.monotonic() - start < 5
    done.set()


def test_a_proxy_is_what_is_probed(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise OSError("refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    with pytest.raises(DataError, match=r"proxy\.test:3128"):
        open_split("cifar10", "train")
    assert asked == [("proxy.test", 3128)]


def test_a_missing_set_is_prepared_by_tfds_without_a_gpu(tmp_path, monkeypatch, some):
    import tensorflow_datasets as tfds

    hidden = []
    config = types.SimpleNamespace(set_visible_devices=lambda *a: hidden.append(a))
    fake = types.SimpleNamespace(config=config)

    class Builder:
        MANUAL_DOWNLOAD_INSTRUCTIONS = None
        url_infos = {"https://example.test/tiny.zip": None}

        def download_and_prepare(self):
            assert hidden == [([], "GPU")]
            prepare(tmp_path / "new", *some)
            directory = str(tmp_path / "new" / "tiny" / "1.0.0")
            self.info = tfds.builder_from_directory(directory).info

    def builder(name, data_dir, file_format, try_gcs):
        assert (name, data_dir) == ("tiny", str(tmp_path / "new"))
        assert (file_format, try_gcs) == ("array_record", False)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    monkeypatch.setattr(socket, "create_connection", lambda *_: io.BytesIO())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "new"))
    np.testing.assert_array_equal(open_split("tiny", "train").arrays()[0], some[0])


def test_a_failing_download_is_one_error(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setitem(sys.modules, "tensorflow", mock.MagicMock())
    monkeypatch.setattr(socket, "create_connection", lambda *_: io.BytesIO())
    with pytest.raises(DataError, match="ConnectionError: reset by peer"):
        open_split("cifar10", "train", data_dir=tmp_path)


def test_a_set_that_must_be_fetched_by_hand_says_so():
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar"):
        open_split("imagenet2012", "train")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mnits", "train", r"no data set 'mnits'\. Did you mean mnist or"),
        ("mnist", "trian", r"no split 'trian': it has \['test', 'train'\]"),
        ("mnist", "train[5:5]", "holds no examples"),
        ("mnist", "train[:70000]", r"no split 'train\[:70000\]'"),
        ("mnist:1.0.0", "train", r"only: 3\.0\.1"),
        ("", "train", "no name of a data set"),
        ("../mnist", "train", "no name of a data set"),
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


def test_what_a_set_is_like_is_known_without_its_data(tmp_path, some):
    assert input_pipeline.describe("mnist") == ((28, 28, 1), 10)
    assert input_pipeline.describe("imagenet2012") == ((None, None, 3), 1000)
    prepare(tmp_path, *some)
    assert input_pipeline.describe("tiny", data_dir=tmp_path) == ((8, 8, 1), 3)
    with pytest.raises(DataError, match=r"no data set 'mnits'"):
        input_pipeline.describe("mnits")


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
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"(Record \d+ of split|train.array_record)"):
        split.arrays()


def test_a_file_with_other_records_than_promised(tmp_path, some):
    paths = prepare(tmp_path, *some, file_format="tfrecord")
    paths[1].write_bytes(paths[0].read_bytes())
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="holds 6 records; .* says 14"):
        split.read([19])


def test_images_of_several_sizes_cannot_be_stacked(tmp_path, some):
    images, labels = some
    encoded = [png(images[0]), png(images[1][:5]), png(images[2])]
    prepare(tmp_path, encoded, labels[:3])
    split = open_split("tiny", "train", data_dir=tmp_path)
    assert split.image_shape == (None, None, 1)
    assert split.source[1]["image"].shape == (5, 8, 1)
    with pytest.raises(DataError, match="differ in size"):
        split.arrays()


# -------------------------------------------------------------------------- the plan


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


def test_a_late_start_costs_no_more():
    plan = TrainPlan(1_281_167, 1024, seed=0)
    start = time.monotonic()
    index, epoch = plan.indices(10**6, 10**6 + 1)
    # One permutation is 20-60 ms; going through the 799 epochs before takes 20 s.
    assert time.monotonic() - start < 2
    assert epoch[0, 0] == 10**6 * 1024 // 1_281_167 == 799


def test_the_plan_refuses_nonsense():
    for wrong in ({"order": "none"}, {"seed": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
            TrainPlan(**{"num_examples": 10, "batch_size": 2, "seed": 0, **wrong})


# ------------------------------------------------------------------------ host batches


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


def test_closing_early_leaves_no_thread(tiny):
    def threads():
        return {t for t in threading.enumerate() if t.name.startswith("grain")}

    batches = input_pipeline.train_batches(tiny, TrainPlan(20, 6, 1), 0, 10**6)
    next(batches)
    assert threads()
    batches.close()
    unread = input_pipeline.train_batches(tiny, TrainPlan(20, 6, 1), 0, 10**6)
    del unread
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_damage_met_by_a_thread_reaches_the_caller(tmp_path, some):
    encoded = list(map(png, some[0]))
    encoded[5] = b"nothing"
    prepare(tmp_path, encoded, some[1])
    split = open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="Record 5 of split 'train'"):
        list(input_pipeline.train_batches(split, TrainPlan(20, 6, 1), 0, 4))


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


# ---------------------------------------------------------------- inside jit, on images


ALL = input_pipeline.Augmentation(
    translate=2.0, rotate=10.0, scale=0.1, squeeze=0.1, shear=0.2, flip=True, crop=2
)
LENET = input_pipeline.Preprocessing(image_size=32, mean=20.0, std=200.0)


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
            "input": input_pipeline.network_input(batch, LENET, ALL, seed=5)
        }

    @jax.jit
    def from_host(batch):
        return batch | {
            "input": input_pipeline.network_input(batch, LENET, ALL, seed=5)
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
        keys = input_pipeline.example_keys(seed, jnp.array(epoch), jnp.array(index))
        return input_pipeline.augment(image, keys, **dataclasses.asdict(ALL))

    first = run(0, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(first, run(0, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]))
    # The place in the batch does not matter, everything else does.
    back = run(0, [1, 1, 1, 0, 0, 0], [2, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(first, back[::-1])
    assert len(np.unique(np.asarray(first).reshape(6, -1), axis=0)) == 6
    assert not np.array_equal(first, run(1, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]))


def test_one_augmentation_does_not_change_what_another_draws():
    image = jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8)
    )
    keys = input_pipeline.example_keys(0, jnp.zeros(8, int), jnp.arange(8))
    flipped = input_pipeline.augment(image, keys, flip=True)
    both = input_pipeline.augment(flipped, keys, crop=2)
    at_once = input_pipeline.augment(image, keys, flip=True, crop=2)
    np.testing.assert_array_equal(both, at_once)
    np.testing.assert_array_equal(input_pipeline.augment(image, keys), image)
    mirrored = np.asarray(image)[:, :, ::-1]
    which = [np.array_equal(f, m) for f, m in zip(flipped, mirrored, strict=True)]
    assert 0 < sum(which) < 8
    np.testing.assert_array_equal(
        np.asarray(flipped)[~np.array(which)], np.asarray(image)[~np.array(which)]
    )


def shift(image, rows, columns):
    """numpy.roll, with zeros where it would come round."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    to = [
        slice(max(n, 0), size + min(n, 0))
        for n, size in ((rows, height), (columns, width))
    ]
    of = [
        slice(max(-n, 0), size + min(-n, 0))
        for n, size in ((rows, height), (columns, width))
    ]
    out[tuple(to)] = image[tuple(of)]
    return out


def test_pad_and_crop_shifts_by_every_amount_and_no_more():
    image = np.random.default_rng(0).integers(1, 256, (7, 6, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 500)
    crop = jax.jit(jax.vmap(lambda key: input_pipeline.pad_and_crop(image, key, 2)))
    got = {np.asarray(i).tobytes() for i in crop(keys)}
    want = {shift(image, r, c).tobytes() for r in range(-2, 3) for c in range(-2, 3)}
    assert got == want


def test_affine_identity_and_whole_pixels_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.float32)
    affine = jax.jit(input_pipeline.affine)
    eye = jnp.eye(2)
    np.testing.assert_array_equal(affine(image, eye, jnp.zeros(2)), image)
    for rows, columns in ((1, 0), (0, -2), (3, 5), (-4, 2), (20, 0)):
        moved = affine(image, eye, jnp.array([rows, columns], jnp.float32))
        np.testing.assert_array_equal(moved, shift(image, rows, columns))
    turned = affine(
        image[:, :8][:8], jnp.array([[0.0, 1.0], [-1.0, 0.0]]), jnp.zeros(2)
    )
    np.testing.assert_array_equal(turned, np.rot90(image[:8, :8], -1))


def test_affine_is_bilinear_interpolation():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (7, 8, 2)).astype(np.float32)
    matrix, offset = np.array([[1.1, 0.3], [-0.2, 0.9]]), np.array([0.7, -1.3])
    centre = np.array([3.0, 3.5])
    want = np.zeros((7, 8, 2))
    for i, j in np.ndindex(7, 8):
        row, column = (
            np.linalg.solve(matrix, np.array([i, j]) - centre - offset) + centre
        )
        for p, q in np.ndindex(7, 8):
            weight = max(0, 1 - abs(row - p)) * max(0, 1 - abs(column - q))
            want[i, j] += weight * image[p, q]
    got = input_pipeline.affine(
        image, jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)
    )
    # float32 coordinates of a few pixels are good to 1e-6, times a slope of 255.
    np.testing.assert_allclose(got, want, atol=2e-3)


def measured(image):
    """Centre of mass and covariance of an image [H, W, 1]."""
    image = np.asarray(image, np.float64)[..., 0]
    place = np.stack(np.mgrid[: image.shape[0], : image.shape[1]], -1).reshape(-1, 2)
    weight = image.ravel() / image.sum()
    centre = weight @ place
    return centre, (place - centre).T @ ((place - centre) * weight[:, None])


@pytest.mark.parametrize("kind", ["translate", "rotate", "scale", "squeeze", "shear"])
def test_each_distortion_does_what_its_name_says(kind):
    # A round blob of variance 9 on 41x41 shows every part in its first two moments;
    # bilinear sampling adds up to about 0.2 to a variance.
    grid = np.mgrid[:41, :41] - 20.0
    blob = np.exp(-(grid**2).sum(0) / 18)[..., None].astype(np.float32)
    limit = {
        "translate": 3.0,
        "rotate": 40.0,
        "scale": 0.3,
        "squeeze": 0.3,
        "shear": 0.5,
    }
    if kind == "rotate":  # a round blob would not show it
        blob = np.exp(-(grid[0] ** 2 / 18 + grid[1] ** 2 / 50))[..., None]
    distort = jax.vmap(
        lambda key: input_pipeline.random_affine(blob, key, **{kind: limit[kind]})
    )
    moments = [
        measured(i) for i in jax.jit(distort)(jax.random.split(jax.random.key(1), 64))
    ]
    shifts = np.array([centre - 20 for centre, _ in moments])
    rows, columns = (np.array([c[i, i] for _, c in moments]) for i in (0, 1))
    cross = np.array([c[0, 1] for _, c in moments])
    if kind == "translate":
        assert (abs(shifts) < 3.01).all() and (abs(shifts).max(0) > 2.5).all()
        np.testing.assert_allclose([rows, columns], 9, atol=0.3)
        return
    np.testing.assert_allclose(shifts, 0, atol=0.05)
    if kind == "scale":
        np.testing.assert_allclose(rows, columns, rtol=0.01)
        assert rows.min() < 9 / 1.5 and rows.max() > 9 * 1.5  # 1.3**2 = 1.69
        np.testing.assert_allclose(cross, 0, atol=0.01)
    elif kind == "squeeze":
        np.testing.assert_allclose(rows * columns, 81, rtol=0.06)
        assert (rows / columns).max() > 2 and (rows / columns).min() < 0.5
        np.testing.assert_allclose(cross, 0, atol=0.01)
    elif kind == "shear":  # columns move by shear x row: covariance 9 x shear
        np.testing.assert_allclose(rows, 9, atol=0.3)
        assert abs(cross).max() < 9.3 * 0.5 and abs(cross).max() > 9 * 0.4
        np.testing.assert_allclose(columns, 9 + (cross / 9) ** 2 * 9, atol=0.4)
    else:
        angle = np.degrees(np.arctan2(2 * cross, columns - rows) / 2)
        assert abs(angle).max() < 40.5 and abs(angle).max() > 35
        assert angle.min() < -30 and angle.max() > 30
        np.testing.assert_allclose(rows + columns, 34, atol=0.6)


def test_augmentation_is_fast_enough():
    # It must not show beside a LeNet-5 step of about 80 us an image on two cores;
    # 60,000 images/s and more were measured. The rest is room for a busy machine.
    images = jnp.zeros((128, 28, 28, 1), jnp.uint8)
    keys = jax.random.split(jax.random.key(0), 128)
    run = jax.jit(lambda i, k: input_pipeline.augment(i, k, **dataclasses.asdict(ALL)))
    run(images, keys).block_until_ready()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        run(images, keys).block_until_ready()
        times.append(time.perf_counter() - start)
    assert 128 / min(times) > 15_000


def test_preprocessing_of_lenet5():
    # LeCun et al. 1998: 28x28 in 32x32, background -0.1, foreground 1.175.
    image = jnp.array([[[[0]], [[255]]]], jnp.uint8)
    out = input_pipeline.preprocess(image, **dataclasses.asdict(LENET))
    assert out.shape == (1, 32, 32, 1) and out.dtype == jnp.float32
    assert out[0, 15, 15, 0] == pytest.approx(-0.1)
    assert out[0, 16, 15, 0] == pytest.approx(1.175)
    assert float(out[0].sum()) == pytest.approx(1.175 - 0.1 * 1023, rel=1e-5)
    half = input_pipeline.preprocess(image, image_size=3, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16


def test_preprocessing_per_channel_and_resized():
    image = jnp.ones((2, 4, 6, 3), jnp.uint8) * jnp.array([[[[10, 20, 30]]]], jnp.uint8)
    out = input_pipeline.preprocess(
        image, image_size=8, fit="resize", mean=(8.0, 16.0, 24.0), std=(2.0, 4.0, 6.0)
    )
    np.testing.assert_allclose(out, np.ones((2, 8, 8, 3)), rtol=1e-6)
    with pytest.raises(ValueError, match="4x6 cannot be padded to 5x5"):
        input_pipeline.preprocess(image, image_size=5)
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match=f"{name} has 2 values for images of 3"):
            input_pipeline.preprocess(image, image_size=8, **{name: (1.0, 2.0)})


def test_preprocessing_survives_json():
    spec = input_pipeline.Preprocessing(224, "resize", (1, 2, 3), [4.0, 5.0, 6.0])
    text = json.dumps(dataclasses.asdict(spec))
    assert input_pipeline.Preprocessing(**json.loads(text)) == spec
    assert LENET.mean == (20.0,)
    text = json.dumps(dataclasses.asdict(ALL))
    assert input_pipeline.Augmentation(**json.loads(text)) == ALL
    for wrong in ({"fit": "crop"}, {"image_size": 0}, {"std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            input_pipeline.Preprocessing(**{"image_size": 8, **wrong})
