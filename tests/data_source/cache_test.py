import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import runs
from PIL import Image

from data_source import DataError, Example, UnreadableFile, cache
from data_source.cache import open_cached
from transforms import resizing
from transforms.decode import DamagedImage, decode


class Photos:
    """JPEGs of several sizes; the seventh is damaged if it should be, or unreadable.

    `times` and `labels` are those of the files.
    """

    def __init__(self, count=40, damaged=False, seed=0, shape=None):
        rng = np.random.default_rng(seed)
        self.damaged, self.read = damaged, []
        self.unreadable = False
        self.times = np.full(count, seed, np.uint64)
        self.labels = np.arange(count) % 3
        self.images = []
        for _ in range(count):
            height, width = shape or rng.integers(20, 60, 2)
            small = rng.integers(0, 256, (5, 7, 3), np.uint8)
            image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=95)
            self.images.append(file.getvalue())

    def __len__(self):
        return len(self.images)

    def examples(self, indices):
        indices = list(map(int, indices))
        self.read += indices
        found = [
            Example(self.images[i], int(self.labels[i]), f"photos/ü{i}.jpg")
            for i in indices
        ]
        if self.unreadable and 7 in indices:
            gone = dataclasses.replace(found[indices.index(7)], image=b"")
            raise UnreadableFile("photos/ü7.jpg cannot be read: it is gone.", gone)
        if self.damaged:
            for at, i in enumerate(indices):
                if i == 7:
                    found[at] = dataclasses.replace(found[at], image=b"\xff\xd8 cut")
        return found


@dataclasses.dataclass(frozen=True)
class PhotoSplit:
    """What data_source/cache.py uses of a data_source.Split."""

    source: Photos
    name: str = "folder:/some/photos"
    split: str = "train[:80%]"
    image_shape: tuple = (None, None, 3)
    label_names: tuple = ("a", "b", "c")

    def __len__(self):
        return len(self.source)

    def examples(self, indices):
        return self.source.examples(indices)

    def stamps(self):
        return 1000 * self.source.times + self.source.labels.astype(np.uint64)


def quiet(line):
    del line


def opened(split, kind, directory, side=32, **options):
    return open_cached(split, kind, directory, side, report=quiet, **options)


@pytest.mark.parametrize("kind", cache.KINDS)
def test_examples_are_those_of_the_split_but_smaller(tmp_path, kind):
    split = PhotoSplit(Photos())
    cached = opened(split, kind, tmp_path)
    assert (cached.name, cached.split) == (split.name, split.split)
    assert cached.label_names == split.label_names and len(cached) == 40
    assert cached.image_shape == (None, None, 3)
    order = np.random.default_rng(1).permutation(40)
    shrunk = 0
    for found, original in zip(
        cached.examples(order), split.examples(order), strict=True
    ):
        assert (found.name, found.label) == (original.name, original.label)
        expected, image = decode(original.image, 3), decode(found.image, 3)
        if min(expected.shape[:2]) > 32:
            expected, shrunk = resizing.rescale(expected, 32), shrunk + 1
            assert image.shape == expected.shape
            # JPEG's loss at quality 90, with chroma at half the resolution.
            limit = 0 if kind == "pixels" else 6
            assert np.abs(image.astype(int) - expected).mean() <= limit
        else:
            np.testing.assert_array_equal(image, expected)
    assert 5 < shrunk < 35


def test_a_centre_crop_of_cached_pixels_is_that_of_the_original(tmp_path):
    split = PhotoSplit(Photos())
    cached = opened(split, "pixels", tmp_path, interpolation="bicubic")
    both = zip(split.examples(range(40)), cached.examples(range(40)), strict=True)
    for original, stored in both:
        found, expected = (
            resizing.center_crop(decode(x.image, 3), 28, 32, "bicubic")
            for x in (stored, original)
        )
        np.testing.assert_array_equal(found, expected)


def test_pixels_are_read_from_the_mapped_file(tmp_path):
    cached = opened(PhotoSplit(Photos()), "pixels", tmp_path)
    image = cached.examples([3])[0].image
    while not isinstance(image, np.memmap):  # down to what owns the memory
        image = image.base
    assert image.filename.is_relative_to(tmp_path)


@pytest.mark.parametrize("kind", cache.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_size_are_read_as_an_array(tmp_path, kind, channels):
    split = PhotoSplit(Photos(shape=(40, 48)), image_shape=(40, 48, channels))
    cached = opened(split, kind, tmp_path, 20)
    assert cached.image_shape == (20, 24, channels)
    images, labels = cached.source.read([5, 0])
    np.testing.assert_array_equal(labels, [2, 0])
    np.testing.assert_array_equal(images[1], cached.source.read([0])[0][0])
    np.testing.assert_array_equal(
        images[0], decode(cached.examples([5])[0].image, channels)
    )
    all_images, all_labels = cached.source.arrays()
    np.testing.assert_array_equal(all_images[[5, 0]], images)
    np.testing.assert_array_equal(cached.source.read([5, 0])[0], images)
    np.testing.assert_array_equal(all_labels, np.arange(40) % 3)


def test_files_that_happen_to_have_one_size_stay_of_any_size(tmp_path):
    """Otherwise a cache, or a damaged image, would change how images are shown."""
    split = PhotoSplit(Photos(shape=(40, 48)))
    assert opened(split, "pixels", tmp_path).image_shape == (None, None, 3)


def test_a_damaged_image_changes_no_size(tmp_path):
    split = PhotoSplit(Photos(shape=(40, 48), damaged=True), image_shape=(40, 48, 3))
    assert opened(split, "pixels", tmp_path).image_shape == (32, 38, 3)


def test_sizes_that_differ_are_named(tmp_path):
    cached = opened(PhotoSplit(Photos()), "pixels", tmp_path)
    with pytest.raises(DataError, match=r"photos/ü0.jpg is \(.*photos/ü1.jpg is"):
        cached.source.read([0, 1])


@pytest.mark.parametrize("kind", cache.KINDS)
def test_a_damaged_image_stays_damaged(tmp_path, kind):
    lines = []
    split = PhotoSplit(Photos(damaged=True))
    cached = open_cached(split, kind, tmp_path, 32, report=lines.append)
    assert any("photos/ü7.jpg is damaged" in line for line in lines)
    damaged, sound = cached.examples([7, 8])
    with pytest.raises(DamagedImage):
        decode(damaged.image, 3)
    assert (damaged.name, damaged.label) == ("photos/ü7.jpg", 1)
    assert decode(sound.image, 3).shape[-1] == 3
    with pytest.raises(DataError, match="photos/ü7.jpg cannot be decoded"):
        cached.source.read([7])


def test_an_unreadable_file_costs_its_own_image_and_is_tried_again(tmp_path):
    lines, split = [], PhotoSplit(Photos())
    whole = opened(split, "pixels", tmp_path / "whole").examples(range(40))
    split.source.unreadable = True
    for _ in range(2):  # it is built, and opened again
        cached = open_cached(split, "pixels", tmp_path, 32, report=lines.append)
        lost = cached.examples([7])[0]
        assert (lost.image, lost.name, lost.label) == (b"", "photos/ü7.jpg", 1)
    assert lines[1:] == [
        "photos/ü7.jpg cannot be read: the cache holds it as damaged, and each start "
        "tries it again"
    ]
    split.source.unreadable = False
    cached = opened(split, "pixels", tmp_path)
    for found, expected in zip(cached.examples(range(40)), whole, strict=True):
        assert (found.name, found.label) == (expected.name, expected.label)
        np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize("kind", cache.KINDS)
def test_a_damaged_image_is_tried_again(tmp_path, kind):
    lines, split = [], PhotoSplit(Photos(damaged=True))
    opened(split, kind, tmp_path / "mended")
    before = files_of(tmp_path / "mended")
    split.source.read.clear()
    opened(split, kind, tmp_path / "mended")
    assert split.source.read == [7] and files_of(tmp_path / "mended") == before
    # The file is replaced by a whole one, and its label is corrected.
    split.source.damaged, split.source.times[7], split.source.labels[7] = False, 9, 2
    cached = open_cached(split, kind, tmp_path / "mended", 32, report=lines.append)
    assert "1 images that were damaged are whole now and stored" in lines[0]
    whole = opened(split, kind, tmp_path / "anew").examples(range(40))
    for found, expected in zip(cached.examples(range(40)), whole, strict=True):
        assert (found.name, found.label) == (expected.name, expected.label)
        np.testing.assert_array_equal(found.image, expected.image)
    split.source.read.clear()
    opened(split, kind, tmp_path / "mended")
    assert split.source.read == []


def test_it_is_built_once(tmp_path):
    split = PhotoSplit(Photos())
    first = opened(split, "pixels", tmp_path)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    split.source.read.clear()
    again = opened(split, "pixels", tmp_path)
    assert not split.source.read
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    np.testing.assert_array_equal(
        again.examples([9])[0].image, first.examples([9])[0].image
    )


def test_one_of_many_builds_while_the_others_wait(tmp_path):
    lines = []

    def one(_):
        split = PhotoSplit(Photos())
        return open_cached(split, "pixels", tmp_path, 32, report=lines.append)

    with ThreadPoolExecutor(4) as pool:
        for cached in pool.map(one, range(4)):
            assert len(cached.examples(range(40))) == 40
    assert len(lines) == 1


def files_of(directory):
    (place,) = directory.iterdir()
    return {
        name: (place / name).read_bytes()
        for name in ("examples", "index", "cache.json")
    }


BUILD = """
import sys, time
sys.path[:0] = ["tests", "tests/data_source"]
import cache_test
from data_source import cache
cache.CHUNK, cache.BLOCK = 4, 2
class Slow(cache_test.Photos):
    def examples(self, indices):
        time.sleep(0.02)
        return super().examples(indices)
split = cache_test.PhotoSplit(Slow())
cache.open_cached(split, "pixels", sys.argv[1], 32, num_threads=1)
"""


def test_a_build_that_was_killed_goes_on(tmp_path):
    expected = tmp_path / "expected"
    opened(PhotoSplit(Photos()), "pixels", expected)
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD, killed],
        cwd=runs.ROOT,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert "40 of 40 images to store" in child.stdout.readline()
        (place,) = killed.iterdir()
        while os.path.getsize(place / "index") < 8 * cache.INDEX.itemsize:
            time.sleep(0.005)
        child.kill()
    assert json.loads((place / "cache.json").read_text())["bytes"] is None
    done = os.path.getsize(place / "index") // cache.INDEX.itemsize
    assert 8 <= done < 40
    # As if it had died between the two files, and within a record.
    for name in ("examples", "index"):
        with open(place / name, "ab") as file:
            file.write(b"torn")

    split, lines = PhotoSplit(Photos()), []
    open_cached(split, "pixels", killed, 32, report=lines.append)
    assert f"{40 - done} of 40 images to store" in lines[0]
    assert sorted(split.source.read[cache.SAMPLE :]) == list(range(done, 40))
    assert files_of(killed) == files_of(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": Photos(39)}, "examples 40 instead of 39"),
        (
            {"source": Photos(seed=1)},
            "40 of 40 .* changed since, such as photos/ü0.jpg",
        ),
        ({"label_names": ("a", "b", "d")}, "classes '3 .* instead of '3 "),
        ({"image_shape": (None, None, 1)}, "channels 3 instead of 1"),
    ],
)
def test_a_stale_cache_is_refused(tmp_path, change, message):
    split = PhotoSplit(Photos())
    opened(split, "resized", tmp_path)
    with pytest.raises(DataError, match=f"{message}.*Delete .*cache_dir"):
        opened(dataclasses.replace(split, **change), "resized", tmp_path)


@pytest.mark.parametrize("number", [0, 5, 39])
@pytest.mark.parametrize("what", ["times", "labels"])
def test_a_changed_file_or_label_is_never_missed(tmp_path, number, what):
    split = PhotoSplit(Photos())
    opened(split, "resized", tmp_path)
    getattr(split.source, what)[number] += 1
    message = f"1 of 40 images .* changed since, such as photos/ü{number}.jpg. Delete"
    with pytest.raises(DataError, match=message):
        opened(split, "resized", tmp_path)
    getattr(split.source, what)[number] -= 1
    opened(split, "resized", tmp_path)


def test_a_cache_of_another_version_is_refused(tmp_path):
    opened(PhotoSplit(Photos()), "resized", tmp_path)
    (place,) = tmp_path.iterdir()
    text = (place / "cache.json").read_text().replace('"format": 2', '"format": 1')
    (place / "cache.json").write_text(text)
    with pytest.raises(DataError, match="was made by another version. Delete"):
        opened(PhotoSplit(Photos()), "resized", tmp_path)


def test_other_parameters(tmp_path):
    split = PhotoSplit(Photos())
    opened(split, "pixels", tmp_path)
    with pytest.raises(DataError, match="interpolation 'bilinear' instead of 'box'"):
        opened(split, "pixels", tmp_path, interpolation="box")
    opened(split, "pixels", tmp_path, 24)  # beside it
    opened(split, "resized", tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(DataError, match="config.dataset.cache 'jpeg' is none of"):
        opened(split, "jpeg", tmp_path)


def test_the_two_parts_of_a_split_have_caches_of_their_own(tmp_path):
    for seed, part in enumerate(("train[:90%]", "train[90%:]")):
        opened(PhotoSplit(Photos(seed=seed), split=part), "pixels", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("path", ["a" * 300, "é" * 120, "\udcff", "\U00020000" * 200])
def test_any_path_of_a_data_set_gives_a_name(tmp_path, path):
    """At most 255 bytes, also where a path is longer or no UTF-8."""
    for name in (f"folder:/1{path}", f"folder:/2{path}"):
        opened(PhotoSplit(Photos(3), name=name), "pixels", tmp_path)
        opened(PhotoSplit(Photos(3), name=name), "pixels", tmp_path)
    names = [place.name for place in tmp_path.iterdir()]
    assert len(names) == 2 and all("-train_80_-pixels-32-" in name for name in names)


def test_names_that_fit_stay_as_they_were():
    assert cache._in_a_path("cifar10-train-pixels-32") == "cifar10-train-pixels-32"
    longest = cache._in_a_path("/" + 241 * "a")
    assert len(longest) == 255 and longest.startswith("_" + 241 * "a" + "-")


@pytest.mark.parametrize("name", ["examples", "index", "stamps"])
def test_a_file_that_was_cut_is_named(tmp_path, name):
    split = PhotoSplit(Photos())
    opened(split, "pixels", tmp_path)
    (place,) = tmp_path.iterdir()
    os.truncate(place / name, 100)
    with pytest.raises(DataError, match=f"{name} has 100 bytes, not"):
        opened(split, "pixels", tmp_path)


def test_examples_lost_since_a_build_was_killed_are_made_again(tmp_path):
    opened(PhotoSplit(Photos()), "pixels", tmp_path)
    expected = files_of(tmp_path)
    (place,) = tmp_path.iterdir()
    made = json.loads((place / "cache.json").read_text()) | {"bytes": None}
    (place / "cache.json").write_text(json.dumps(made))
    os.truncate(place / "examples", len(expected["examples"]) // 2)
    opened(PhotoSplit(Photos()), "pixels", tmp_path)
    assert files_of(tmp_path) == expected


def test_a_disk_too_small_is_found_at_the_start(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000))
    with pytest.raises(
        DataError, match=r"40 of 40 images to store, about 0.00 GB; 0.00 GB are free\."
    ):
        opened(PhotoSplit(Photos()), "pixels", tmp_path)


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 16)
    sync, calls = cache._sync, []

    def full(file):
        calls.append(file)
        if len(calls) == 4:  # stamps, a chunk and its index, the second chunk
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(cache, "_sync", full)
    with pytest.raises(DataError, match="disk is full after 16 of 40 images"):
        opened(PhotoSplit(Photos()), "pixels", tmp_path)
    monkeypatch.setattr(cache, "_sync", sync)
    cached = opened(PhotoSplit(Photos()), "pixels", tmp_path)
    assert [e.name for e in cached.examples([0, 16, 39])] == [
        "photos/ü0.jpg",
        "photos/ü16.jpg",
        "photos/ü39.jpg",
    ]


def test_a_disk_that_stays_full_is_told_in_one_line(tmp_path, monkeypatch):
    """What the disk has not taken is written again when the file is closed."""

    def on_a_full_disk(path, mode):
        full = path.name == "examples" and mode == "ab"
        return open("/dev/full" if full else path, mode)

    monkeypatch.setattr(cache, "open", on_a_full_disk, raising=False)
    with pytest.raises(DataError, match="disk is full after 0 of 40 images"):
        opened(PhotoSplit(Photos()), "pixels", tmp_path)
