"""Stores a smaller copy of a split: as JPEG, or as pixels mapped into memory.

This helps machines whose cores cannot feed their accelerator from the original files.
DIRECTORY/<data set>-<split>-<kind>-<side>/ holds

    examples    for each example in turn, its image and then its name
    index       one record per example (INDEX)
    cache.json  what the cache was made from, and whether it is complete
    lock        held by the process that builds

A record is appended to the index only once its example is on the disk, so a build that
was killed resumes where it stopped.
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

from data_source.split import DataError, Example
from transforms import resizing
from transforms.decode import DamagedImage, decode

KINDS = ("resized", "pixels")
FORMAT = 1  # version of the file format
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
SAMPLE = 64  # examples on which the fingerprint and the size estimate are based
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
    damaged: its bytes are empty. Several processes may call this at once; one builds,
    on `num_threads` threads (by default one per core).

    Raises:
      DataError: the disk is too small, or the cache was made from something else.
    """
    if kind not in KINDS:
        raise DataError(f"config.dataset.cache {kind!r} is none of {', '.join(KINDS)}")
    name = f"{split.name}-{split.split}-{kind}-{side}"
    place = Path(directory).expanduser() / re.sub(r"[^\w.-]+", "_", name)
    encode = functools.partial(
        _encode,
        kind=kind,
        side=side,
        channels=split.image_shape[-1],
        interpolation=interpolation,
    )
    sample = split.examples(np.linspace(0, len(split) - 1, SAMPLE, dtype=int))
    made_from = {
        "format": FORMAT,
        "examples": len(split),
        "kind": kind,
        "side": side,
        "channels": split.image_shape[-1],
        "interpolation": interpolation,
        "fingerprint": _fingerprint(sample, split.label_names),
    }
    if not _is_complete(place, made_from):
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_complete(place, made_from):
                _build(split, place, made_from, encode, sample, num_threads, report)
    source = CachedSource(place, kind, split.image_shape[-1])
    return dataclasses.replace(split, source=source, image_shape=source.image_shape)


class CachedSource:
    """The examples of a complete cache; may be used by many threads."""

    def __init__(self, place, kind, channels):
        self._kind, self._channels = kind, channels
        self._index = np.fromfile(place / "index", INDEX)
        # A plain array of the mapped file: a memmap's own slices are slow.
        self._bytes = np.asarray(np.memmap(place / "examples", np.uint8, "r"))
        shapes = self._index["shape"]
        alike = (shapes == shapes[0]).all()
        self.image_shape = (
            tuple(map(int, shapes[0])) if alike else (None, None, channels)
        )
        self._arrays = None

    def __len__(self):
        return len(self._index)

    def __getitem__(self, index):
        example = self.examples([index])[0]
        image = self._decode(example)
        return {"image": image, "label": example.label}

    def examples(self, indices):
        """Returns a list of `Example`; pixels are views of the mapped file."""
        found = []
        for index in indices:
            record = self._index[index]
            start, size = int(record["offset"]), int(record["size"])
            stop = start + size
            image = self._bytes[start:stop]
            if self._kind == "pixels" and size:
                image = image.reshape(record["shape"])
            else:
                image = image.tobytes()
            name = self._bytes[stop : stop + int(record["name_size"])]
            found.append(
                Example(image, int(record["label"]), name.tobytes().decode("utf-8"))
            )
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


def _fingerprint(sample, label_names):
    digest = hashlib.sha256("\n".join(label_names).encode())
    for example in sample:
        digest.update(np.int64(example.label).tobytes())
        image = example.image
        digest.update(image if isinstance(image, bytes) else image.tobytes())
    return digest.hexdigest()


def _is_complete(place, made_from):
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
    if differ:
        was = ", ".join(
            f"{k} {stored['made from'].get(k)!r} instead of {made_from[k]!r}"
            for k in differ
        )
        raise DataError(f"{place} was made from other data: {was}. {delete}.")
    if size is None:
        return False
    expected = {"examples": size, "index": made_from["examples"] * INDEX.itemsize}
    for name, number in expected.items():
        file = place / name
        found = file.stat().st_size if file.exists() else 0
        if found != number:
            raise DataError(f"{file} has {found} bytes, not {number}. {delete}.")
    return True


def _describe(place, made_from, size):
    """Writes cache.json atomically; a size of None marks the cache as incomplete."""
    text = json.dumps({"made from": made_from, "bytes": size}, indent=1)
    (place / "cache.json.tmp").write_text(text)
    os.replace(place / "cache.json.tmp", place / "cache.json")


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


def _build(split, place, made_from, encode, sample, num_threads, report):
    _describe(place, made_from, None)
    count, done = len(split), _resume(place)
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
        examples = split.examples(indices)
        return [(example, *encode(example)) for example in examples]

    began = reported = time.monotonic()
    first = done
    num_threads = num_threads or len(os.sched_getaffinity(0))
    with (
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
        open(place / "examples", "ab") as data,
        open(place / "index", "ab") as index,
    ):
        while done < count:
            stop = min(done + CHUNK, count)
            starts = range(done, stop, BLOCK)
            blocks = [range(i, min(i + BLOCK, stop)) for i in starts]
            records = []
            try:
                for example, image, shape in itertools.chain.from_iterable(
                    pool.map(encode_block, blocks)
                ):
                    if not image:
                        report(f"{example.name} is damaged, and so it is in the cache")
                    name = example.name.encode()
                    sizes = (data.tell(), len(image), len(name))
                    records.append((*sizes, example.label, shape))
                    data.write(image + name)
                _sync(data)
                index.write(np.array(records, INDEX).tobytes())
                _sync(index)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise DataError(
                    f"{place}: the disk is full after {done:,} of {count:,} images. "
                    f"Free some of it and start again: the rest will be added."
                ) from error
            done = stop
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                rate = (done - first) / (reported - began)
                report(f"{place}: {done:,} of {count:,} images, {rate:,.0f}/s")
        size = data.tell()
    _describe(place, made_from, size)


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
