"""Random access to the examples of a data set, without TensorFlow.

Read are directories prepared by TFDS: array_record, or tfrecord through an index of
record offsets; and image files (image_folder.py). tfds and, only for a download,
tensorflow are imported by the functions that need them.
"""

import bisect
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import itertools
import os
import re
import resource
import socket
import threading
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

EMBEDDED = Path(__file__).resolve().parent / "data"
PROBE_SECONDS = 5
# TFRecord files of this size have their index of records kept: to find the 1,281,167
# records of ImageNet, each is looked at, which takes 1 to 2.5 minutes on a local disk
# and more on a network's; the kept index of all is 10 MB and read in 0.2 s.
CACHED_FROM_BYTES = 2**26


class DataError(Exception):
    """The data set is missing, incomplete, damaged or not an image/label set."""


class UnreadableFile(DataError):
    """A file of a known example, which `example` is but for the image."""

    def __init__(self, message, example):
        super().__init__(message)
        self.example = example


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set; `split` may be a slice such as "train[:50000]".

    `source[i]` is {"image": uint8 [H, W, C], "label": int}; `image_shape` holds None
    where the sizes differ between images. Of image files there are only `examples`.
    """

    name: str
    split: str
    source: "Source"
    image_shape: tuple
    label_names: tuple

    @property
    def num_classes(self):
        return len(self.label_names)

    def __len__(self):
        return len(self.source)

    def arrays(self):
        """All images uint8 [N, H, W, C] and labels int32 [N], read once.

        `read` then takes its examples from memory too.
        """
        return self.source.arrays()

    def read(self, indices):
        """Images uint8 [n, H, W, C] and labels int32 [n] of the given examples."""
        return self.source.read(indices)

    def examples(self, indices):
        """The given examples as a list of `Example`, their images as stored."""
        return self.source.examples(indices)


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as stored, its class, and what it is called in messages and results.

    `image` is encoded bytes, or uint8 [H, W, C] where the pixels are in memory.
    """

    image: bytes | np.ndarray
    label: int
    name: str


def open_split(name, split, *, data_dir=None, download=True, holdout=0.1):
    """Opens a split of the data set `name`.

    It is a TFDS name ("mnist", "name/config:1.2.3"), or "folder:PATH" or "csv:PATH":
    image_folder.py says what these hold and what `holdout` is; the rest is about TFDS.

    A given `data_dir` is the only place searched; otherwise TFDS_DATA_DIR, the home
    folder's tensorflow_datasets and this repository's data/ are, in this order. A set
    found nowhere is downloaded and prepared by tfds into the first of them. The split
    "auto" is what to evaluate on: "validation" where there is one, or else "test".

    Raises:
      DataError: the set, split or features do not exist or cannot be had.
    """
    if name.startswith(("folder:", "csv:")):
        import image_folder

        return image_folder.open_split(name, split, holdout=holdout)
    builder = _find_builder(name, data_dir, download)
    info = builder.info
    image, label = _image_and_label(name, info.features)
    if split == "auto":
        split = "validation" if "validation" in info.splits else "test"
    try:
        part = info.splits[split]
        files = part.file_instructions
    except (KeyError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise DataError(
            f"{name!r} has no split {split!r}: it has {sorted(info.splits)} and slices "
            f"of them such as 'train[:80%]' ({reason})"
        ) from error
    if not files:
        raise DataError(f"Split {split!r} of {name!r} holds no examples.")
    source = Source(name, split, info.features, files, info.file_format.value)
    return Split(name, split, source, tuple(image.shape), tuple(label.names))


def describe(name, *, data_dir=None):
    """(image_shape, num_classes) of a data set, which need not be there if tfds has it.

    Raises:
      DataError: as for open_split.
    """
    if name.startswith(("folder:", "csv:")):
        import image_folder

        return image_folder.describe(name)
    try:
        builder = _find_builder(name, data_dir, download=False)
    except DataError:
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, try_gcs=False)
        except Exception:
            builder = None
        if builder is None:
            raise
    image, label = _image_and_label(name, builder.info.features)
    return tuple(image.shape), label.num_classes


def _image_and_label(name, features):
    features = dict(features) if hasattr(features, "items") else {}
    image, label = features.get("image"), features.get("label")
    if not hasattr(image, "encoding_format") or not getattr(label, "num_classes", 0):
        raise DataError(
            f"{name!r} is not an image classification set: it needs an image feature "
            f"'image' and a class label 'label', and has {sorted(features)}."
        )
    if image.np_dtype != np.uint8:
        raise DataError(f"{name!r} has {image.np_dtype} images; only uint8 is read.")
    return image, label


def _find_builder(name, data_dir, download):
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d.*]+)?", name):
        raise DataError(f"{name!r} is no name of a data set, such as 'mnist'.")
    usual = [os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets", EMBEDDED]
    usual = [Path(d).expanduser() for d in usual if d]
    places = [Path(data_dir).expanduser()] if data_dir else usual
    if data_dir and not places[0].is_dir():
        raise DataError(f"The data directory {data_dir} does not exist.")
    import tensorflow_datasets as tfds

    for place in places:
        if directory := _prepared(place, name):
            try:
                return tfds.builder_from_directory(str(directory))
            except Exception as error:
                raise DataError(f"{directory} cannot be opened: {error}") from error
    elsewhere = [d for d in (_prepared(p, name) for p in usual) if d]
    if data_dir and elsewhere:
        # Downloading a second copy is hardly ever what was meant.
        raise DataError(
            f"The data directory {data_dir} does not hold {name!r}; it is prepared in "
            f"{elsewhere[0]} (found when no data directory is given)."
        )
    return _download(name, places, download)


def _prepared(place, name):
    """The newest prepared version of `name` under a TFDS directory, or None."""
    name, _, version = name.partition(":")
    base = place / name
    if not base.is_dir():
        return None

    def versions(pattern):  # tfds leaves names such as 3.0.1.incompleteABC behind
        found = (p.parent for p in base.glob(f"{pattern}/dataset_info.json"))
        return [d for d in found if re.fullmatch(r"\d+\.\d+\.\d+", d.name)]

    found = versions(version or "*")
    if not found and "/" not in name:
        found = versions(f"*/{version or '*'}")
        if len({d.parent for d in found}) > 1:
            configs = sorted({d.parent.name for d in found})
            raise DataError(f"{name!r} has several configs; name one: {configs}")
    return max(found, key=lambda d: [int(n) for n in d.name.split(".")], default=None)


def _download(name, places, download):
    """Prepares `name` with tfds as array_record in the first place of the list."""
    import tensorflow_datasets as tfds

    tried = "It is not prepared in " + ", ".join(map(str, places))
    try:
        builder = tfds.builder(
            name, data_dir=str(places[0]), file_format="array_record", try_gcs=False
        )
    except tfds.core.registered.DatasetNotFoundError:
        # With community sets this would import tensorflow and ask the network.
        known = set(tfds.list_builders(with_community_datasets=False))
        known |= {d.name for p in places if p.is_dir() for d in p.iterdir()}
        near = difflib.get_close_matches(name, known, 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise DataError(f"There is no data set {name!r}.{hint} {tried}.") from None
    except Exception as error:
        raise DataError(f"Data set {name!r}: {error}") from error
    elsewhere = (
        f"To prepare it on a machine with a network, run in Python: import "
        f"tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir='DIR', "
        f"file_format='array_record').download_and_prepare(); then copy DIR/{name} "
        f"to {places[0]}."
    )
    if not download:
        raise DataError(f"{name!r} is missing. {tried}. {elsewhere}")
    manual, problem = builder.MANUAL_DOWNLOAD_INSTRUCTIONS, None
    if manual and not (places[0] / "downloads/manual").is_dir():
        problem = f"{places[0]}/downloads/manual is missing; {' '.join(manual.split())}"
    elif not manual:
        urls = type(builder).url_infos or ()
        problem = next(map(_unreachable, urls), None)
    if problem:
        raise DataError(
            f"{name!r} is missing. {tried}, and cannot be downloaded ({problem}). "
            f"{elsewhere}"
        )
    try:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        builder.download_and_prepare()
    except Exception as error:  # a manual download, a full disk, a changed checksum
        raise DataError(
            f"{name!r} is missing. {tried}, and could not be prepared there by tfds: "
            f"{type(error).__name__}: {error}\n{elsewhere}"
        ) from error
    return builder


def _unreachable(url):
    """Why the host of `url` (or its proxy) takes no connection; None if it does.

    tfds itself retries for 204 s. The thread bounds the name look-up, which knows no
    time-out.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    host = urllib.parse.urlsplit(url).hostname
    if not urllib.request.proxy_bypass(host):
        url = urllib.request.getproxies().get(scheme, url)
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    problem = [f"no answer from {parts.hostname}:{port} in {PROBE_SECONDS} s"]

    def probe():
        try:
            socket.create_connection((parts.hostname, port), PROBE_SECONDS).close()
            problem[0] = None
        except OSError as error:
            problem[0] = f"no connection to {parts.hostname}:{port}: {error}"

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem[0]


# Reading examples.


class TFRecordFile:
    """Random access to the records of a TFRecord file by their offsets.

    A record is: length uint64, its crc uint32, data, crc uint32, all little-endian. The
    file is opened anew for each read; ImageNet's 1024 could not all stay open
    everywhere.

    Raises:
      ValueError: a length whose checksum is wrong, or data that are cut; `read` alone
        raises it for data whose checksum is wrong.
    """

    def __init__(self, path):
        self.path = path
        stat = os.stat(path)
        key = f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}"
        name = hashlib.sha256(os.fsencode(key)).hexdigest()
        cached = Path("~/.cache/convnets/tfrecord").expanduser() / f"{name}.npy"
        try:
            self.starts = np.load(cached)
        except (OSError, ValueError, EOFError):
            self.starts = _record_starts(path, stat.st_size)
            if stat.st_size >= CACHED_FROM_BYTES:
                _save(cached, self.starts)

    def num_records(self):
        return len(self.starts) - 1

    def read(self, positions):
        with open(self.path, "rb", buffering=0) as file:
            return [self._read(file.fileno(), int(p)) for p in positions]

    def _read(self, file, position):
        start, stop = map(int, self.starts[position : position + 2])
        stored = os.pread(file, stop - start - 12, start + 12)
        data = stored[:-4]
        if _masked_crc(data) != stored[-4:]:
            raise ValueError("its checksum is wrong")
        return data


def _record_starts(path, size):
    """Offsets int64 [N + 1] of the records of a TFRecord file, and its end."""
    starts = [0]
    with open(path, "rb", buffering=0) as file:
        while starts[-1] < size:
            head = os.pread(file.fileno(), 12, starts[-1])
            if _masked_crc(head[:8]) != head[8:]:
                raise ValueError(f"record {len(starts) - 1} is cut or damaged")
            starts.append(starts[-1] + 16 + int.from_bytes(head[:8], "little"))
    if starts[-1] != size:
        raise ValueError(f"record {len(starts) - 2} is cut or damaged")
    return np.array(starts)


def _masked_crc(data):
    """A TFRecord's checksum of its parts: CRC-32C, rotated and shifted; 4 bytes."""
    import google_crc32c

    crc = google_crc32c.value(data)
    crc = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return crc.to_bytes(4, "little")


def _save(path, array):
    """np.save that leaves a whole file or none; it may fail, as on a full disk."""
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.save(file, array)
        os.replace(partial, path)
    except OSError as error:
        logging.info("An index of records is not kept: %s", error)
        with contextlib.suppress(OSError):
            partial.unlink()


def open_file(path, file_format):
    if file_format == "tfrecord":
        return TFRecordFile(path)
    from array_record.python import array_record_module

    # What tfds' own source passes: without it each random read costs 4 MB of reading
    # ahead. That source is not used because it logs an error for every group size but
    # 1 and starts a thread pool for each read.
    return array_record_module.ArrayRecordReader(
        str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
    )


class Source:
    """Random access to the decoded examples of a split; may be used by many threads.

    `files` are the TFDS file instructions of the split: filename, skip, take,
    examples_in_shard. Files are opened when first read.
    """

    def __init__(self, name, split, features, files, file_format):
        if file_format not in ("array_record", "tfrecord"):
            raise DataError(f"{name!r} is prepared as {file_format}; that is not read.")
        import tensorflow_datasets as tfds

        self._what = f"split {split!r} of {name!r}"
        skip = tfds.decode.SkipDecoding()
        self._parse = functools.partial(
            features.deserialize_example_np, decoders={"image": skip}
        )
        channels = features["image"].shape[-1]
        self._mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)  # None: as stored
        self._format = file_format
        self._files = list(files)
        self._ends = list(itertools.accumulate(f.take for f in self._files))
        self._readers = [None] * len(self._files)
        self._locks = [threading.Lock() for _ in self._files]
        self._arrays = None
        for file in self._files:
            if not os.path.isfile(file.filename):
                raise DataError(f"{file.filename} is missing ({self._what}).")
        if file_format == "array_record":
            # Each file stays open; 1024 are ImageNet's and a process' usual limit.
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            with contextlib.suppress(ValueError):  # macOS: "unlimited" is refused
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        """The examples as a list of {"image": uint8 [H, W, C], "label": int}."""
        indices = [range(len(self))[int(i)] for i in indices]
        if self._arrays is not None:
            images, labels = self._arrays
            return [{"image": images[i], "label": int(labels[i])} for i in indices]
        return list(map(self._decode, indices, self._records(indices)))

    def read(self, indices):
        """Images uint8 [n, H, W, C] and labels int32 [n] of the given examples."""
        if self._arrays is not None:
            images, labels = self._arrays
            return images[indices], labels[indices]
        indices = [int(i) for i in indices]
        return self._stack(indices, self._records(indices))

    def examples(self, indices):
        """The examples as a list of `Example`; images decoded only if in memory.

        Raises:
          DataError: one of them is damaged; the others can be had without it.
        """
        indices = [range(len(self))[int(i)] for i in indices]
        if self._arrays is not None:
            images, labels = self._arrays
            return [Example(images[i], int(labels[i]), self._name(i)) for i in indices]
        return list(map(self._example, indices, self._records(indices)))

    def _name(self, index, file_name=b""):
        """What an example is called; `file_name` is of the set's own features."""
        name = f"{self._what}, record {index}"
        return f"{name}, {os.fsdecode(file_name)}" if file_name else name

    def _example(self, index, record):
        try:
            found = self._parse(record)
            name = self._name(index, found.get("file_name", b""))
            return Example(found["image"], int(found["label"]), name)
        except Exception as error:
            file = self._files[bisect.bisect_right(self._ends, index)].filename
            raise DataError(
                f"Record {index} of {self._what} is damaged ({file}): "
                f"{type(error).__name__}: {error}"
            ) from error

    def arrays(self):
        """All images uint8 [N, H, W, C] and labels int32 [N], read once."""
        if self._arrays is None:
            parts = []
            for start in range(0, len(self), 8192):
                indices = range(start, min(start + 8192, len(self)))
                parts.append(self._stack(indices, self._records(indices)))
            self._arrays = tuple(map(np.concatenate, zip(*parts, strict=True)))
        return self._arrays

    def _reader(self, number):
        with self._locks[number]:
            if self._readers[number] is None:
                file = self._files[number]
                try:
                    reader = open_file(file.filename, self._format)
                    count = reader.num_records()
                except Exception as error:
                    raise DataError(
                        f"{file.filename} cannot be read: {error} ({self._what})."
                    ) from error
                if count != file.examples_in_shard:
                    raise DataError(
                        f"{file.filename} holds {count} records; its dataset_info.json "
                        f"says {file.examples_in_shard} ({self._what})."
                    )
                self._readers[number] = reader
            return self._readers[number]

    def _records(self, indices):
        """The serialized examples, read file by file."""
        places = {}
        for at, index in enumerate(indices):
            number = bisect.bisect_right(self._ends, index)
            file = self._files[number]
            position = index - self._ends[number] + file.take + file.skip
            places.setdefault(number, []).append((position, at))
        records = [None] * len(indices)
        for number, wanted in places.items():
            reader = self._reader(number)
            positions = [position for position, _ in wanted]
            try:
                found = reader.read(positions)
            except Exception:
                found = [
                    self._read_one(reader, number, position, indices[at])
                    for position, at in wanted
                ]
            for (_, at), record in zip(wanted, found, strict=True):
                records[at] = record
        return records

    def _read_one(self, reader, number, position, index):
        """Reads one record, to find out which of many is damaged."""
        try:
            return reader.read([position])[0]
        except Exception as error:
            raise DataError(
                f"Record {index} of {self._what} is damaged "
                f"({self._files[number].filename}): {error}"
            ) from error

    def _decode(self, index, record):
        try:
            example = self._parse(record)
            with Image.open(io.BytesIO(example["image"])) as image:
                pixels = np.asarray(image.convert(self._mode))
        except Exception as error:
            raise DataError(
                f"Record {index} of {self._what} cannot be decoded: "
                f"{type(error).__name__}: {error}"
            ) from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return {"image": pixels, "label": int(example["label"])}

    def _stack(self, indices, records):
        first = self._decode(indices[0], records[0])
        fast = _decode_alike(records, first["image"], first["label"])
        if fast is not None:
            return fast
        examples = [first, *map(self._decode, indices[1:], records[1:])]
        for index, example in zip(indices, examples, strict=True):
            if example["image"].shape != first["image"].shape:
                raise DataError(
                    f"The images of {self._what} differ in size: {indices[0]} is "
                    f"{first['image'].shape}, {index} is {example['image'].shape}."
                )
        images = np.stack([example["image"] for example in examples])
        return images, np.array([example["label"] for example in examples], np.int32)


def _decode_alike(records, image, label):
    """Decodes records that store their pixels plainly, all at once; None for others.

    data/mnist holds PNGs of deflate level 0 inside compressed blocks, so that a record
    is a fixed frame around the pixels, the label and two checksums. `image` and
    `label`, decoded from the first record, say where these are; every other byte must
    be equal in all records, which makes the result equal to decoding each. The stored
    Adler-32 is checked as a decoder would. 60,000 examples take 0.4 s, not 3.5 s.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter byte 0, pixels
    rows[:, 1:] = image.reshape(height, -1)
    marker = b"\n\x05label\x12\x05\x1a\x03\n\x01" + bytes([label % 128])
    first, length = records[0], len(records[0])
    at, label_at = first.find(rows.tobytes()), first.find(marker) + len(marker) - 1
    if at < 0 or marker not in first or any(len(r) != length for r in records):
        return None
    end = at + rows.size
    table = np.frombuffer(b"".join(records), np.uint8).reshape(-1, length)
    frame = np.ones(length, bool)
    frame[[label_at, *range(end, end + 8)]] = False  # and Adler-32, PNG's CRC-32
    frame[at:end] = np.arange(rows.size) % rows.shape[1] == 0
    if not (table[:, frame] == table[0, frame]).all() or table[:, label_at].max() > 127:
        return None
    pixels = table[:, at:end]
    stored = table[:, end : end + 4].copy().view(">u4")[:, 0]
    if not np.array_equal(stored, [zlib.adler32(row) for row in pixels]):
        return None
    images = pixels.reshape(-1, *rows.shape)[:, :, 1:].reshape(-1, *image.shape)
    return images, table[:, label_at].astype(np.int32)
