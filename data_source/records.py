"""Random access to the examples in a TFDS directory's array_record, tfrecord files."""

import bisect
import contextlib
import functools
import hashlib
import itertools
import os
import re
import resource
import threading
import zlib
from pathlib import Path

import numpy as np
from absl import logging

from data_source.split import DataError, Example, as_text
from transforms import decode

# The index of a TFRecord file of at least this size is kept on disk. Finding the
# 1,281,167 records of ImageNet takes 1 to 2.5 minutes on a local disk, and longer over
# a network, because each record must be visited. The index of all is 10 MB and loads
# in 0.2 s.
CACHED_FROM_BYTES = 2**26
SAMPLE = 32  # examples, from the first to the last, by which a split is known again


class TFRecordFile:
    """Random access to the records of a TFRecord file by their offsets.

    A record is: length uint64, its crc uint32, data, crc uint32, all little-endian.
    Each read opens the file again, because some systems could not keep all of
    ImageNet's 1024 open.

    Raises:
      ValueError: the checksum of a length is wrong, or data are cut; only `read` checks
        the checksum of the data.
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
    """Returns offsets int64 [N + 1]: of a TFRecord file's records, and of its end."""
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
    """Returns a TFRecord's checksum, 4 bytes: a rotated CRC-32C plus a constant."""
    import google_crc32c

    crc = google_crc32c.value(data)
    crc = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return crc.to_bytes(4, "little")


class TFRecordWriter:
    """Writes a TFRecord file; has the methods of TensorFlow's class of this name."""

    def __init__(self, path):
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, record):
        for part in (len(record).to_bytes(8, "little"), record):
            self._file.write(part + _masked_crc(part))

    def flush(self):
        self._file.flush()


def _save(path, array):
    """Saves an array in a whole file or none; only logs a failure (a full disk)."""
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


def allow_many_files():
    """Lets this process have as many files open as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # macOS: "unlimited" is refused
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_file(path, file_format):
    if file_format == "tfrecord":
        return TFRecordFile(path)
    from array_record.python import array_record_module

    # tfds' own source passes these options too: without them each random read reads
    # 4 MB ahead. That source is not used because it logs an error for every group size
    # except 1 and starts a thread pool for each read.
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
            raise DataError(
                f"{name!r} is prepared as {file_format}, which is not supported."
            )
        import tensorflow_datasets as tfds

        self._what = f"split {split!r} of {name!r}"
        skip = tfds.decode.SkipDecoding()
        self._parse = functools.partial(
            features.deserialize_example_np, decoders={"image": skip}
        )
        self._shape = features["image"].shape
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
            allow_many_files()  # each stays open; ImageNet has 1024, the usual limit

    def __len__(self):
        return self._ends[-1]

    def read(self, indices):
        """Returns images uint8 [n, H, W, C] and labels int32 [n] of given examples."""
        if self._arrays is not None:
            images, labels = self._arrays
            return images[indices], labels[indices]
        indices = [int(i) for i in indices]
        return self._stack(indices, self._records(indices))

    def examples(self, indices):
        """Returns a list of `Example`; images are decoded only if they are in memory.

        Raises:
          DataError: one of them is damaged; the others can be read without it.
        """
        indices = [range(len(self))[int(i)] for i in indices]
        if self._arrays is not None:
            images, labels = self._arrays
            return [Example(images[i], int(labels[i]), self._name(i)) for i in indices]
        return list(map(self._example, indices, self._records(indices)))

    def _name(self, index, file_name=b""):
        """Returns the name of an example; `file_name` is a feature of some sets."""
        name = f"{self._what}, record {index}"
        return f"{name}, {as_text(file_name)}" if file_name else name

    def stamps(self):
        """Returns `Split.stamps`: of each record's number and its file's size and time.

        A prepared directory never changes, so the files themselves tell enough.
        """
        parts = []
        for file in self._files:
            found = os.stat(file.filename)
            name = os.path.basename(file.filename)
            key = f"{name} {found.st_size} {found.st_mtime_ns}".encode()
            digest = hashlib.blake2b(key, digest_size=8).digest()
            numbers = np.arange(file.skip, file.skip + file.take, dtype=np.uint64)
            parts.append(np.frombuffer(digest, "<u8") + numbers)
        return np.concatenate(parts)

    def places(self):
        return iter(self.stamps().tolist())

    def digest(self, names):
        """Returns `Split.digest`, with the `names` of the classes.

        It is of `SAMPLE` examples, without those that are damaged.
        """
        found = hashlib.blake2b(str(len(self)).encode(), digest_size=8)
        for index in np.linspace(0, len(self) - 1, SAMPLE, dtype=int):
            with contextlib.suppress(DataError):  # whoever reads it says so
                (record,) = self._records([index])
                stored = self._features(index, record)
                example = self._decode(index, record)
                found.update(f"{index} {names[example['label']]}".encode())
                # Two decoders of a JPEG may differ in its last bits.
                jpeg = bytes(stored["image"][:2]) == b"\xff\xd8"
                image = stored["image"] if jpeg else example["image"]
                found.update(np.ascontiguousarray(image))
        return found.hexdigest()

    def features(self, index):
        """Returns all features of an example; the image is as stored.

        Raises:
          DataError: the example is damaged.
        """
        return self._features(index, self._records([index])[0])

    def _example(self, index, record):
        found = self._features(index, record)
        name = self._name(index, found.get("file_name", b""))
        return Example(found["image"], int(found["label"]), name)

    def _features(self, index, record):
        try:
            return self._parse(record)
        except MemoryError:
            raise
        except Exception as error:
            file = self._files[bisect.bisect_right(self._ends, index)].filename
            raise DataError(
                f"Record {index} of {self._what} is damaged ({file}): "
                f"{type(error).__name__}: {error}"
            ) from error

    def arrays(self):
        """Returns all images uint8 [N, H, W, C] and labels int32 [N], read once."""
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
        """Returns the serialized examples, read file by file."""
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
            pixels = decode.decode(example["image"], self._shape[-1])
        except MemoryError:
            raise
        except Exception as error:
            raise DataError(
                f"Record {index} of {self._what} cannot be decoded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if None not in self._shape and pixels.shape != self._shape:
            raise DataError(
                f"Record {index} of {self._what}, upright, has the shape "
                f"{pixels.shape}, and the set's features.json says {self._shape}: "
                "store it upright, or prepare the set as one of images of any size."
            )
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
    """Decodes records with uncompressed pixels all at once; returns None for others.

    data/mnist holds PNGs of deflate level 0 inside compressed blocks, so a record is a
    fixed frame around the pixels, the label and two checksums. `image` and `label`,
    decoded from the first record, show where these are. Every other byte must be equal
    in all records, so the result equals decoding each one. The stored Adler-32 is
    checked as a decoder would check it. 60,000 examples take 0.4 s instead of 3.5 s.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter byte 0, pixels
    rows[:, 1:] = image.reshape(height, -1)
    marker = b"\n\x05label\x12\x05\x1a\x03\n\x01" + bytes([label % 128])
    first, length = records[0], len(records[0])
    at, label_at = first.find(rows.tobytes()), first.find(marker) + len(marker) - 1
    if at < 0 or marker not in first or any(len(r) != length for r in records):
        return None
    if re.search(b"eXIf|[itz][ET]Xt", first):  # they may say that the image is turned
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
