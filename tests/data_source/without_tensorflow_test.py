"""The common data sets, prepared by tfds with a stand-in for TensorFlow."""

import gzip
import importlib.util
import io
import json
import sys
import tarfile
from importlib.machinery import PathFinder

import numpy as np
import pytest
from PIL import Image
from tiny_datasets import box

from data_source import DataError, open_split, prepare, tfds_directory
from data_source import without_tensorflow as stand_ins

pytestmark = pytest.mark.usefixtures("no_other_data")

TRAIN, TEST = 12, 5
FINE = [f"fine {i}" for i in range(100)]
COARSE = [f"coarse {i}" for i in range(20)]
TEN = "airplane automobile bird cat deer dog frog horse ship truck".split()
IDS = ["000005", "000007", "000012"]


class Finder:
    """Finds all modules but TensorFlow's, as if that were not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return PathFinder.find_spec(name, path, target)


@pytest.fixture
def no_tensorflow(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)
    finders = [Finder if f is PathFinder else f for f in sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    assert importlib.util.find_spec("tensorflow") is None


@pytest.fixture
def small(monkeypatch):
    """Lets tfds take archives of any size and checksum."""
    from tensorflow_datasets.core.download import download_manager
    from tensorflow_datasets.image_classification import mnist

    def record(self, url, url_info, path):
        self._recorded_url_infos[url] = url_info

    manager = download_manager.DownloadManager
    monkeypatch.setattr(manager, "_register_or_validate_checksums", record)
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", TRAIN)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", TEST)


def tar(path, mode, members):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def images(number, side, channels):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (number, side, side, channels), np.uint8)


def write_mnist(folder):
    found = {}
    for split, part, number in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        pixels, labels = images(number, 28, 1), np.arange(number, dtype=np.uint8) % 10
        for kind, header, data in (
            ("images-idx3", 16, pixels),
            ("labels-idx1", 8, labels),
        ):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(bytes(header) + data.tobytes()))
        found[split] = pixels, labels
    return found


def write_cifar(folder, name, prefix, files, texts, coarse):
    """Writes the archive; `files` are {split: names}, `texts` are {name: classes}."""
    members = {prefix + n: "\n".join(c).encode() + b"\n\n" for n, c in texts.items()}
    found = {}
    for split, names in files.items():
        number = 3 * len(names)
        pixels, labels = images(number, 32, 3), np.arange(number, dtype=np.uint8) % 10
        rows = pixels.transpose(0, 3, 1, 2).reshape(number, -1)
        columns = [labels[:, None] % 4] * coarse + [labels[:, None], rows]
        rows = np.concatenate(columns, axis=1)
        for file, part in zip(names, np.split(rows, len(names)), strict=True):
            members[prefix + file] = part.tobytes()
        found[split] = pixels, labels
    tar(folder / name, "w:gz", members)
    return found


def write_cifar10(folder):
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    files = {"train": batches, "test": ["test_batch.bin"]}
    name, prefix = "cifar-10-binary.tar.gz", "cifar-10-batches-bin/"
    return write_cifar(folder, name, prefix, files, {"batches.meta.txt": TEN}, 0)


def write_cifar100(folder):
    files = {"train": ["train.bin"], "test": ["test.bin"]}
    texts = {"coarse_label_names.txt": COARSE, "fine_label_names.txt": FINE}
    name, prefix = "cifar-100-binary.tar.gz", "cifar-100-binary/"
    return write_cifar(folder, name, prefix, files, texts, 1)


def write_voc(folder, year, archives):
    root = f"VOCdevkit/VOC{year}"
    more = "<pose>Left</pose><truncated>0</truncated><difficult>{}</difficult>"
    for name, splits in archives.items():
        members = {}
        for number, split in enumerate(splits):
            lists = "\n".join(f"{i}{number}" for i in IDS) + "\n"
            members[f"{root}/ImageSets/Main/{split}.txt"] = lists.encode()
            for i, photo in enumerate(lists.split()):
                file = io.BytesIO()
                Image.fromarray(images(1, 20 + i, 3)[0]).save(file, "JPEG")
                members[f"{root}/JPEGImages/{photo}.jpg"] = file.getvalue()
                objects = box(2, 3, 9, 11, "dog", more.format(0))
                objects += box(4, 1, 12, 14, "cat", more.format(i % 2))
                size = f"<size><width>{20 + i}</width><height>{20 + i}</height></size>"
                text = f"<annotation>{size}{objects}</annotation>"
                if not (year == "2012" and split == "test"):
                    members[f"{root}/Annotations/{photo}.xml"] = text.encode()
        tar(folder / name, "w", members)


def write_voc2007(folder):
    trainval, test = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"
    write_voc(folder, "2007", {trainval: ["train", "val"], test: ["test"]})


def write_voc2012(folder):
    trainval, test = "VOCtrainval_11-May-2012.tar", "VOC2012test.tar"
    write_voc(folder, "2012", {trainval: ["train", "val"], test: ["test"]})


CLASSIFIED = {
    "mnist": write_mnist,
    "fashion_mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
}
ALL = CLASSIFIED | {"voc/2007": write_voc2007, "voc/2012": write_voc2012}


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


def command(name, archives, out, *more):
    prepare.main([name, f"--manual_dir={archives}", f"--data_dir={out}", *more])


@pytest.mark.usefixtures("small", "no_tensorflow")
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", CLASSIFIED)
def test_a_set_of_classes(tmp_path, archives, capsys, name, file_format):
    expected = CLASSIFIED[name](archives)
    command(name, archives, tmp_path, f"--file_format={file_format}")
    assert "is complete" in capsys.readouterr().out
    for split, (pixels, labels) in expected.items():
        found = open_split(name, split, data_dir=tmp_path, download=False)
        read, numbers = found.arrays()
        assert len(found) == len(pixels)
        places = [(read == image).all((1, 2, 3)).argmax() for image in pixels]
        np.testing.assert_array_equal(read[places], pixels)
        np.testing.assert_array_equal(numbers[places], labels)
    names = {"cifar10": TEN, "cifar100": FINE, "mnist": list("0123456789")}
    assert list(found.label_names) == names.get(name, list(found.label_names))
    command(name, archives, tmp_path, f"--file_format={file_format}")
    assert "is complete" in capsys.readouterr().out


@pytest.mark.usefixtures("small", "no_tensorflow")
@pytest.mark.parametrize(("year", "tested"), [("2007", 2), ("2012", 0)])
def test_a_set_of_objects(tmp_path, archives, monkeypatch, year, tested):
    from tensorflow_datasets.core import shuffle

    from detection import sources

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # the rest goes to files
    ALL[f"voc/{year}"](archives)
    command(f"voc/{year}", archives, tmp_path)
    given = {"data_dir": tmp_path, "download": False}
    for split, number in (("train", 2), ("validation", 2), ("test", tested)):
        found = sources.open_split(f"voc/{year}", split, **given)
        assert [len(objects) for objects in found.objects] == [number] * 3
        if number:
            shown = {objects.name: objects.boxes.tolist() for objects in found.objects}
            assert all(boxes[0] == [1, 2, 9, 11] for boxes in shown.values())
            assert len(shown) == 3


def test_other_sets_name_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_directory.importlib.util, "find_spec", lambda _: None)
    message = "needs TensorFlow to prepare it: pip install -r requirements-prepare.txt"
    with pytest.raises(DataError, match=message):
        open_split("svhn_cropped", "train")
    with pytest.raises(SystemExit, match=message):
        command("svhn_cropped", tmp_path, tmp_path)


def test_ink_is_inverted_only_with_adobe_s_marker():
    ink = np.random.default_rng(4).integers(0, 256, (1, 1, 4), np.uint8)
    ink = np.broadcast_to(ink, (16, 16, 4))

    def encoded(values):
        file = io.BytesIO()
        Image.fromarray(values, "CMYK").save(file, "JPEG", quality=100)
        return file.getvalue()  # PIL inverts, and writes the marker

    marked, plain = encoded(ink), encoded(255 - ink)
    at = plain.index(b"\xff\xee")
    plain = plain[:at] + plain[at + 2 + int.from_bytes(plain[at + 2 : at + 4]) :]
    expected = (255 - ink[..., :3]) * ((255 - ink[..., 3:]) / 255)
    for data in (marked, plain):  # a level of ink is at most one of colour
        assert np.abs(stand_ins._decode_jpeg(data) - expected).max() <= 4


def test_tensorflow_comes_back_after_the_stand_in():
    from tensorflow_datasets.core.utils import lazy_imports_utils

    lazy = vars(lazy_imports_utils.tensorflow)
    before = dict(lazy)
    with pytest.raises(KeyError), stand_ins.stand_in():
        assert lazy_imports_utils.tensorflow.executing_eagerly()
        raise KeyError
    assert lazy == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", ALL)
def test_the_set_is_the_one_that_tfds_prepares_with_tensorflow(
    tmp_path, archives, name, file_format
):
    pytest.importorskip("tensorflow", reason="make parity installs it")
    import tensorflow_datasets as tfds

    ALL[name](archives)
    command(name, archives, tmp_path / "ours", f"--file_format={file_format}")
    builder = tfds.builder(
        name, data_dir=str(tmp_path / "theirs"), file_format=file_format, try_gcs=False
    )
    config = tfds.download.DownloadConfig(manual_dir=str(archives))
    builder.download_and_prepare(download_config=config)
    theirs = tfds_directory.find_builder(name, tmp_path / "theirs", download=False)
    ours = tfds_directory.find_builder(name, tmp_path / "ours", download=False)
    files = {path.name for path in theirs.data_path.iterdir()}
    assert {path.name for path in ours.data_path.iterdir()} == files
    for file in files:
        if file == "dataset_info.json" or f".{file_format}-" in file:
            continue
        assert (ours.data_path / file).read_text() == (
            theirs.data_path / file
        ).read_text()
    infos = [
        json.loads((b.data_path / "dataset_info.json").read_text())
        for b in (theirs, ours)
    ]
    for info in infos:
        for split in info["splits"]:
            if not name.startswith("voc"):  # the images are encoded anew
                split.pop("numBytes")
    assert infos[0] == infos[1]
    for split in theirs.info.splits:
        sources = [
            tfds_directory.open_records(b, name, split)[1] for b in (theirs, ours)
        ]
        records = [source._records(range(len(source))) for source in sources]
        assert len(records[0]) == len(records[1]) > 0
        if name.startswith("voc"):
            assert records[0] == records[1]
            continue
        for one, other in zip(*records, strict=True):
            one, other = (
                theirs.info.features.deserialize_example_np(r) for r in (one, other)
            )
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])
