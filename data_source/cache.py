"""Stores a smaller copy of a split: as JPEG, or as pixels mapped into memory.

This helps machines whose cores cannot feed their accelerator from the original files.
DIRECTORY/<data set>-<split>-<kind>-<side>/ holds

    examples    for each example in turn, its image and then its name
    index       one record per example (INDEX)
    stamps      a uint64 per example: the Split.stamps that it was made from
    cache.json  what else the cache was made from, and whether it is complete
    lock        held by the process that builds

A record is appended to the index only once its example is on the disk, so a build that
was killed resumes where it stopped. Examples that were damaged, or whose file could not
be read, are tried again whenever the cache is opened; those that can be read by then
follow the others in `examples`.
"""

import concurrent.futures
import dataclasses
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import simplejpeg

from data_source.split import DataError, Example, UnreadableFile
from transforms import resizing
from transforms.decode import DamagedImage, decode

KINDS = ("resized", "pixels")
FORMAT = 2  # version of the file format; 1 had no stamps
QUALITY = 90  # of the JPEGs
INDEX = np.dtype(
    [
        ("offset", "<i8"),  # of the image in `examples`; its name follows directly
        ("size", "<i4"),  # bytes of the image; 0: damaged in the source
        ("name_size", "<i4"),
        ("label", "<i4"),
        ("shape", "<i4", 3),
    ]
)
SAMPLE = 64  # examples on which the size estimate is based
NAME = 64  # bytes that the estimate allows for a name
BLOCK, CHUNK = 16, 1024  # examples per thread's task, and per write
REPORT_SECONDS = 30


def open_cached(
    split,
    kind,
    directory,
    side,
    *,
    interpolation="bilinear",
    num_threads=None,
    report=print,
):
    """Returns `split` with its images in a cache under `directory`, built if missing.

    A larger image is rescaled to a short side of `side` pixels and, for the kind
    "resized", stored as JPEG of quality 90; a smaller one is stored as it is. The kind
    "pixels" stores decoded images. With the evaluation's interpolation and side, centre
    crops from "pixels" equal those of the original to the bit. A damaged image stays
    damaged, its bytes empty, until it can be read. Several processes may call this at
    once; one builds, on `num_threads` threads (by default one per core).

    Raises:
      DataError: the disk is too small, or the cache was made from something else: a
        file or a label has changed since.
    """
    if kind not in KINDS:
        raise DataError(f"config.dataset.cache {kind!r} is none of {', '.join(KINDS)}")
    name = f"{split.name}-{split.split}-{kind}-{side}"
    place = Path(directory).expanduser() / _in_a_path(name)
    encode = functools.partial(
        _encode,
        kind=kind,
        side=side,
        channels=split.image_shape[-1],
        interpolation=interpolation,
    )
    stamps = split.stamps()
    made_from = {
        "format": FORMAT,
        "examples": len(split),
        "kind": kind,
        "side": side,
        "channels": split.image_shape[-1],
        "interpolation": interpolation,
        "classes": f"{len(split.label_names)} ({_digest(split.label_names)})",
    }
    complete = _is_complete(place, made_from, stamps)
    if not complete or (len(_damaged(place)) and os.access(place, os.W_OK)):
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_complete(place, made_from, stamps):
                _try_again(split, place, made_from, stamps, encode, report)
            else:
                _build(split, place, made_from, stamps, encode, num_threads, report)
    source = CachedSource(place, kind, split.image_shape[-1], split.source)
    if None in split.image_shape:  # images of one size are shown as without a cache
        return dataclasses.replace(split, source=source)
    return dataclasses.replace(split, source=source, image_shape=source.image_shape)


class CachedSource:
    """The examples of a complete cache; may be used by many threads."""

    def __init__(self, place, kind, channels, origin):
        self._kind, self._channels, self._origin = kind, channels, origin
        self._index = np.fromfile(place / "index", INDEX)
        # A plain array of the mapped file: a memmap's own slices are slow.
        self._bytes = np.asarray(np.memmap(place / "examples", np.uint8, "r"))
        shapes = self._index["shape"][self._index["size"] > 0]  # without the damaged
        alike = len(shapes) and (shapes == shapes[0]).all()
        self.image_shape = (
            tuple(map(int, shapes[0])) if alike else (None, None, channels)
        )
        self._arrays = None

    def __len__(self):
        return len(self._index)

    @property
    def labels(self):
        return self._index["label"]

    def places(self):
        return self._origin.places()

    def digest(self, names):
        """Returns `Split.digest` of what the cache was made from."""
        return self._origin.digest(names)

    def examples(self, indices):
        """Returns a list of `Example`; pixels are views of the mapped file."""
        found = []
        for index in indices:
            start, size, name_size, label, shape = self._index[index].item()
            stop = start + size
            image = self._bytes[start:stop]
            if self._kind == "pixels" and size:
                image = image.reshape(shape)
            else:
                image = image.tobytes()
            name = self._bytes[stop : stop + name_size].tobytes().decode("utf-8")
            found.append(Example(image, label, name))
        return found

    def read(self, indices):
        """Returns images uint8 [n, H, W, C] and labels int32 [n] of the given examples.

        Raises:
          DataError: the images differ in size, or one is damaged.
        """
        if self._arrays is not None:
            images, labels = self._arrays
            return images[indices], labels[indices]
        examples = self.examples(indices)
        images = [self._decode(example) for example in examples]
        for example, image in zip(examples, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"Images differ in size: {examples[0].name} is {images[0].shape}, "
                    f"{example.name} is {image.shape}."
                )
        return np.stack(images), np.array([e.label for e in examples], np.int32)

    def arrays(self):
        """Returns all images uint8 [N, H, W, C] and labels int32 [N], read once."""
        if self._arrays is None:
            self._arrays = self.read(range(len(self)))
        return self._arrays

    def _decode(self, example):
        try:
            return decode(example.image, self._channels)
        except DamagedImage as error:
            raise DataError(f"{example.name} cannot be decoded: {error}") from error


def _digest(names):
    text = "\n".join(names).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:12]


def _in_a_path(name):
    """A name as a file's; train[:90%] and train[90%:] must not get the same one."""
    plain = re.sub(r"[^\w.-]+", "_", name)
    if len(plain.encode()) > 242:  # with the digest, a file's name has 255 bytes
        plain = plain[-60:]
    return plain if plain == name else f"{plain}-{_digest([name])}"


def _is_complete(place, made_from, stamps):
    """Returns whether the cache is there and complete.

    Raises:
      DataError: it was made from something else, or has been damaged since.
    """
    delete = f"Delete {place} or set another config.dataset.cache_dir"
    try:
        stored = json.loads((place / "cache.json").read_text())
        differ = [k for k, v in made_from.items() if stored["made from"].get(k) != v]
        size = stored["bytes"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}/cache.json cannot be read: {error}. {delete}."
        ) from error
    if "format" in differ:
        raise DataError(f"{place} was made by another version. {delete}.")
    if differ:
        was = ", ".join(
            f"{k} {stored['made from'].get(k)!r} instead of {made_from[k]!r}"
            for k in differ
        )
        raise DataError(f"{place} was made from other data: {was}. {delete}.")
    count = made_from["examples"]
    expected = {"stamps": count * stamps.itemsize}
    if size is not None:
        expected |= {"examples": size, "index": count * INDEX.itemsize}
    for name, number in expected.items():
        file = place / name
        found = file.stat().st_size if file.exists() else 0
        # A kill in _try_again leaves examples that no record knows.
        if found != number and not (name == "examples" and found > number):
            raise DataError(f"{file} has {found} bytes, not {number}. {delete}.")
    changed = np.fromfile(place / "stamps", stamps.dtype) != stamps
    if size is not None:
        changed[_damaged(place)] = False  # they are tried again
    if changed.any():
        first = _name(place, int(changed.argmax()))
        raise DataError(
            f"{place} was made from other data: {changed.sum():,} of {count:,} images "
            f"or their labels have changed since, such as {first}. {delete}."
        )
    return size is not None


def _damaged(place):
    """Returns the numbers of the examples that were damaged when they were stored."""
    return np.flatnonzero(np.fromfile(place / "index", INDEX)["size"] == 0)


def _name(place, number):
    """Returns the name of an example, or its number if it is not stored yet."""
    index = np.fromfile(place / "index", INDEX)
    if number >= len(index):
        return f"number {number}"
    record = index[number]
    with open(place / "examples", "rb") as file:
        file.seek(record["offset"] + record["size"])
        return file.read(record["name_size"]).decode(errors="replace")


def _describe(place, made_from, size):
    """Writes cache.json atomically; a size of None marks the cache as incomplete."""
    text = json.dumps({"made from": made_from, "bytes": size}, indent=1)
    (place / "cache.json.tmp").write_text(text)
    os.replace(place / "cache.json.tmp", place / "cache.json")


def _examples(split, indices):
    """Returns the examples as `Split.examples` does; unreadable files have no bytes."""
    try:
        return split.examples(indices)
    except UnreadableFile as error:
        if len(indices) == 1:
            return [error.example]
    return [example for i in indices for example in _examples(split, [i])]


def _encode(example, *, kind, side, channels, interpolation):
    """Returns (bytes to store, shape of the image) for an example."""
    try:
        image = decode(example.image, channels)
    except DamagedImage:
        return b"", (0, 0, 0)
    larger = min(image.shape[:2]) > side
    if larger:
        image = resizing.rescale(image, side, interpolation)
    if kind == "pixels":
        return image.tobytes(), image.shape
    if not larger and isinstance(example.image, bytes):
        return example.image, image.shape
    colours = ("GRAY", "Gray") if channels == 1 else ("RGB", "420")
    image = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(image, QUALITY, *colours), image.shape


def _build(split, place, made_from, stamps, encode, num_threads, report):
    _replace(place, "stamps", stamps)
    _describe(place, made_from, None)
    count, done = len(split), _resume(place)
    sample = _examples(split, np.linspace(0, count - 1, SAMPLE, dtype=int))
    stored = [len(encode(example)[0]) for example in sample]
    need = (count - done) * (np.mean(stored) + INDEX.itemsize + NAME)
    free = shutil.disk_usage(place).free
    plan = (
        f"{place}: {count - done:,} of {count:,} images to store, about "
        f"{need / 1e9:,.2f} GB; {free / 1e9:,.2f} GB are free"
    )
    if need > free:
        raise DataError(f"{plan}. Free some or set another config.dataset.cache_dir.")
    report(plan)

    def encode_block(indices):
        return [(example, *encode(example)) for example in _examples(split, indices)]

    began = reported = time.monotonic()
    first = done
    num_threads = num_threads or len(os.sched_getaffinity(0))
    try:  # around the `with`, whose end writes what a full disk has not taken
        with (
            concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
            open(place / "examples", "ab") as data,
            open(place / "index", "ab") as index,
        ):
            while done < count:
                stop = min(done + CHUNK, count)
                starts = range(done, stop, BLOCK)
                blocks = [range(i, min(i + BLOCK, stop)) for i in starts]
                found = pool.map(encode_block, blocks)
                _append(data, index, itertools.chain.from_iterable(found), report)
                done = stop
                if time.monotonic() - reported > REPORT_SECONDS:
                    reported = time.monotonic()
                    rate = (done - first) / (reported - began)
                    report(f"{place}: {done:,} of {count:,} images, {rate:,.0f}/s")
            size = data.tell()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError(
            f"{place}: the disk is full after {done:,} of {count:,} images. Free some "
            "of it and start again: the rest will be added."
        ) from error
    _describe(place, made_from, size)


def _append(data, index, encoded, report):
    """Appends (example, bytes, shape) to the files; records follow their examples."""
    records = []
    for example, image, shape in encoded:
        if not image:
            fault = "is damaged" if len(example.image) else "cannot be read"
            report(
                f"{example.name} {fault}: the cache holds it as damaged, and each "
                "start tries it again"
            )
        name = example.name.encode()
        sizes = (data.tell(), len(image), len(name))
        records.append((*sizes, example.label, shape))
        data.write(image + name)
    _sync(data)
    index.write(np.array(records, INDEX).tobytes())
    _sync(index)


def _try_again(split, place, made_from, stamps, encode, report):
    """Stores the examples that were damaged and can be read now."""
    index = np.fromfile(place / "index", INDEX)
    before = np.fromfile(place / "stamps", stamps.dtype)
    changed, mended = False, 0
    with open(place / "examples", "ab") as data:
        for number in _damaged(place):
            (example,) = _examples(split, [number])
            image, shape = encode(example)
            if not image and before[number] == stamps[number]:
                continue
            name = example.name.encode()
            sizes = (data.tell(), len(image), len(name))
            index[number] = (*sizes, example.label, shape)
            data.write(image + name)
            changed, mended = True, mended + bool(image)
        _sync(data)
        size = data.tell()
    if not changed:
        return
    _replace(place, "stamps", stamps)  # first: without its record it is tried again
    _replace(place, "index", index)
    _describe(place, made_from, size)
    report(f"{place}: {mended:,} images that were damaged are whole now and stored")


def _replace(place, name, array):
    """Writes an array to a file atomically."""
    with open(place / f"{name}.tmp", "wb") as file:
        file.write(array.tobytes())
        _sync(file)
    os.replace(place / f"{name}.tmp", place / name)


def _resume(place):
    """Returns how many examples an earlier build stored; cuts off what follows."""
    for name in ("examples", "index"):
        (place / name).touch()
    # The last record may be cut; examples reach the disk before their records.
    count = (place / "index").stat().st_size // INDEX.itemsize
    records = np.fromfile(place / "index", INDEX, count)
    ends = records["offset"] + records["size"] + records["name_size"]
    done = int(np.searchsorted(ends, (place / "examples").stat().st_size, "right"))
    os.truncate(place / "index", done * INDEX.itemsize)
    os.truncate(place / "examples", ends[done - 1] if done else 0)
    return done


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
