"""By a digest, a split of the same examples is known again."""

import dataclasses
import io
import itertools
import os

import numpy as np
import pytest
import tiny_datasets
from PIL import Image

from data_source import cache, classes, open_split, records

pytestmark = pytest.mark.usefixtures("no_other_data")


def write(root, files):
    """Writes a small image for each path of {path: class}, and a CSV of them."""
    for number, path in enumerate(files):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / path)
    rows = "".join(f"{path},{label}\n" for path, label in files.items())
    (root / "list.csv").write_text(rows)
    return open_split(f"csv:{root}/list.csv", "train", holdout=0.0)


FILES = {f"{i}.png": "ab"[i % 2] for i in range(6)}


def test_the_digest_of_image_files_is_of_paths_and_classes_alone(tmp_path):
    split = write(tmp_path / "a", FILES)
    os.utime(tmp_path / "a/0.png", (0, 0))
    moved = write(tmp_path / "elsewhere", dict(reversed(FILES.items())))
    turned = classes.numbered_as(moved, ("b", "a"), "a run", "")
    cached = cache.open_cached(moved, "pixels", tmp_path / "cache", 8, report=str)
    assert turned.labels().tolist() != split.labels().tolist()
    assert len(split.digest()) == 16
    assert {s.digest() for s in (moved, turned, cached)} == {split.digest()}
    others = {
        "more": FILES | {"9.png": "a"},
        "relabelled": FILES | {"3.png": "a"},
        "renamed": {k: {"a": "b", "b": "a"}[v] for k, v in FILES.items()},
        "another name": {k.replace("5", "50"): v for k, v in FILES.items()},
    }
    digests = [write(tmp_path / name, x).digest() for name, x in others.items()]
    assert len({split.digest(), *digests}) == 5


def test_the_digest_of_a_tfds_set_is_of_its_order_and_classes(tmp_path, some):
    images, labels = some
    names = np.array(tiny_datasets.NAMES)
    order = np.r_[0:9, 10, 9, 11:20]
    turned = np.argsort([2, 0, 1])  # another order of the classes
    sets = {
        "a": (images, labels, {}),
        "tfrecord": (images, labels, {"file_format": "tfrecord"}),
        "numbers": (images, turned[labels], {"names": tuple(names[[2, 0, 1]])}),
        "moved": (images[order], labels[order], {}),
        "fewer": (images[:19], labels[:19], {}),
        "labels": (images, (labels + 1) % 3, {}),
    }
    found = {}
    for name, (pictures, numbers, options) in sets.items():
        tiny_datasets.prepare(tmp_path / name, pictures, numbers, **options)
        split = open_split("tiny", "train", data_dir=tmp_path / name)
        found[name] = split.digest()
        again = open_split("tiny", "train", data_dir=tmp_path / name)
        again.preload()
        assert again.digest() == found[name]
    assert found["a"] == found["tfrecord"] == found["numbers"]
    rest = [found[name] for name in ("a", "moved", "fewer", "labels")]
    for one, other in itertools.combinations(rest, 2):
        assert one != other


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_jpeg_is_known_by_its_bytes_and_another_by_its_pixels(
    tmp_path, some, monkeypatch, form
):
    def encoded(image):
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(file, form)
        return file.getvalue()

    tiny_datasets.prepare(tmp_path, [*map(encoded, some[0])], some[1], shape=(8, 8, 1))
    first = open_split("tiny", "train", data_dir=tmp_path).digest()
    decode = records.Source._decode

    def decode_otherwise(*args):
        found = decode(*args)
        return found | {"image": found["image"] ^ 1}

    monkeypatch.setattr(records.Source, "_decode", decode_otherwise)
    again = open_split("tiny", "train", data_dir=tmp_path).digest()
    assert (again == first) == (form == "JPEG")


def test_a_damaged_record_ends_no_digest(tmp_path, some):
    encoded = list(map(tiny_datasets.png, some[0]))
    whole = list(encoded)
    encoded[5] = b"no image"
    found = []
    for name, pictures in (("a", encoded), ("b", whole), ("c", encoded)):
        tiny_datasets.prepare(tmp_path / name, pictures, some[1], shape=(8, 8, 1))
        split = open_split("tiny", "train", data_dir=tmp_path / name)
        found.append(split.digest())
    assert found[0] == found[2] != found[1]


def test_a_cache_keeps_the_digest_when_the_classes_are_renumbered(tmp_path, tiny):
    cached = cache.open_cached(tiny, "pixels", tmp_path / "cache", 4, report=str)
    assert cached.image_shape == (4, 4, 1)
    names = tiny.label_names[::-1]
    assert classes.numbered_as(cached, names, "a run", "").digest() == tiny.digest()
    other = dataclasses.replace(cached, label_names=names)  # other classes
    assert other.digest() != tiny.digest()
