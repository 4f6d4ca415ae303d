"""Writes a data set of TFDS, or any image files, as an ordinary TFDS directory.

    python prepare.py cifar10 --data_dir=OUT
    python prepare.py imagenet2012 --manual_dir=TARS --data_dir=OUT
    python prepare.py folder:PATH --data_dir=OUT --name=birds

The first has tfds download and prepare a set of that name; archives that lie in
--manual_dir are not downloaded. MNIST, Fashion-MNIST, CIFAR, VOC and ImageNet need no
TensorFlow; all other sets do.

TARS holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as image-net.org provides
them; they are read in place, and nothing is unpacked. The examples, their order and
their division into shards are those of tfds' own preparation, which starts over after a
kill. Here each shard is read straight from the tars and gets its name only when it is
complete, so the same command resumes after a kill. Image files may be folder:PATH or
csv:PATH, as data_source/image_folder.py describes them.
"""

import argparse
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_source import (
    DataError,
    image_folder,
    is_files,
    records,
    report,
    tfds_directory,
    without_tensorflow,
)
from data_source.records import TFRecordWriter

IMAGENET_COUNTS = {"train": 1_281_167, "validation": 50_000}
IMAGENET_TARS = {
    "train": "ILSVRC2012_img_train.tar",
    "validation": "ILSVRC2012_img_val.tar",
}
ORIGIN = "origin.sha256"  # a file that says what the directory was prepared from
READERS = 16  # threads; disks and networks are faster with many reads at once


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """An image and where its bytes are: in a part of a tar, or in a whole file."""

    name: str
    label: str
    file: str
    offset: int
    size: int  # bytes
    time: int = 0  # nanoseconds: when a whole file was changed

    def read(self):
        with open(self.file, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) != self.size:
            raise DataError(f"{self.file} is cut inside {self.name}.")
        return data


def prepare_imagenet(
    manual_dir,
    data_dir,
    *,
    file_format="array_record",
    counts=IMAGENET_COUNTS,
    classes=None,
    validation_labels=None,
):
    """Prepares the official tars; returns the TFDS directory.

    The tars must hold `counts` {split: images} and `classes` (synsets; by default tfds'
    1000). `validation_labels` are synsets in the order of the file names, by default
    those that come with tfds.

    Raises:
      DataError: a tar is missing, cut or has other contents; the disk is too small.
    """
    import tensorflow_datasets as tfds

    builder = tfds_directory.stock_builder("imagenet2012", [data_dir], file_format)
    tars = {split: Path(manual_dir) / name for split, name in IMAGENET_TARS.items()}
    for tar in tars.values():
        if not tar.is_file():
            raise DataError(f"{tar} is missing: download it from image-net.org.")
    output = Output(builder.info, sum(tar.stat().st_size for tar in tars.values()))
    if output.is_done():
        return output.directory
    output.announce()
    if validation_labels is None:
        file = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
        validation_labels = file.read_text().split()
    pieces = {
        "train": _training_pieces(tars["train"]),
        "validation": _validation_pieces(tars["validation"], validation_labels),
    }
    classes = set(classes or builder.info.features["label"].names)
    for split, tar in tars.items():
        _check_count(tar, len(pieces[split]), counts[split])
        wrong = classes.symmetric_difference(piece.label for piece in pieces[split])
        if wrong:
            wrong = ", ".join(sorted(wrong)[:3])
            raise DataError(f"{tar} does not hold the classes it should: {wrong}.")

    def as_tfds(piece, data):
        # 22 images are CMYK and one is a PNG; tfds makes them RGB JPEGs, and so do we.
        return builder._fix_image(piece.name, io.BytesIO(data)).read()

    with without_tensorflow.stand_in():
        return output.write(pieces, as_tfds)


def prepare_files(name, data_dir, dataset, *, file_format="array_record", holdout=None):
    """Prepares "folder:PATH" or "csv:PATH" as the TFDS set `dataset`, version 1.0.0.

    Files keep their bytes; their paths become the feature file_name. `holdout`, by
    default 0.1, is for files without splits.

    Raises:
      DataError: as for image_folder.open_splits, or the disk is too small.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z]\w*", dataset):
        raise DataError(f"{dataset!r} is not a data set name such as 'birds'.")
    listing = image_folder.find(name, 0.1 if holdout is None else holdout)
    for label in listing.label_names:
        # tfds writes a name per line, and strips each when it reads them.
        if label != label.strip() or not {"\n", "\r"}.isdisjoint(label):
            raise DataError(
                f"{name}: a TFDS directory does not keep the class name {label!r}, "
                "with blanks at an end or a line break: rename it"
            )
    if holdout is not None and not listing.findings.held_out:
        raise DataError(f"{name} has splits, so nothing is held out: no --holdout.")
    splits, pieces = [], {}
    for split in ("train", "validation", "test"):
        if split not in listing.splits or not len(files := listing.files(split)):
            continue
        pieces[split] = []
        for i in range(len(files)):
            path = os.path.join(listing.root, files[i])
            label, found = listing.label_names[files.labels[i]], os.stat(path)
            pieces[split].append(
                Piece(files[i], label, path, 0, found.st_size, found.st_mtime_ns)
            )
        splits.append(image_folder.split_of(listing, name, split, files))
    print(report.describe(*splits), flush=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            dataset, tfds.core.Version("1.0.0"), f"{data_dir}/{dataset}/1.0.0", __name__
        ),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=image_folder.IMAGE_SHAPE),
                "label": tfds.features.ClassLabel(names=listing.label_names),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
    )
    info.set_file_format(file_format)
    # Name, label and checksums add less than 512 bytes to the image of a record.
    output = Output(info, sum(p.size + 512 for part in pieces.values() for p in part))
    if output.is_done(pieces):
        return output.directory
    output.announce()
    return output.write(pieces, lambda piece, data: data)


def _members(tar, file, start=0):
    """Returns the files of the tar at byte `start` of `file`, sorted by name."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            members = [m for m in archive if m.isfile()]
    except tarfile.TarError as error:
        raise DataError(
            f"{tar} is cut or damaged after byte {start}: {error}"
        ) from error
    return sorted(members, key=lambda member: member.name)


def _training_pieces(tar):
    """Lists the images of a tar that holds one tar per class, such as n01440764.tar.

    It reads only headers: 1.3 million times 512 bytes.
    """
    pieces = []
    with open(tar, "rb", buffering=0) as file:
        for archive in _members(tar, file):
            label = archive.name.removesuffix(".tar")
            for m in _members(tar, file, archive.offset_data):
                pieces.append(Piece(m.name, label, str(tar), m.offset_data, m.size))
    return pieces


def _validation_pieces(tar, labels):
    with open(tar, "rb", buffering=0) as file:
        members = _members(tar, file)
    _check_count(tar, len(members), len(labels))
    return [
        Piece(m.name, label, str(tar), m.offset_data, m.size)
        for m, label in zip(members, labels, strict=True)
    ]


def _check_count(tar, found, expected):
    if found != expected:
        raise DataError(
            f"{tar} holds {found:,} images, not {expected:,}: is its download complete?"
        )


class Output:
    """Builds a TFDS directory beside its final place and moves it there when complete.

    `size` is an upper bound on its bytes.
    """

    def __init__(self, info, size):
        self._info, self._size = info, size
        self._format = info.file_format.value
        self.directory = Path(info.data_dir)
        self._making = self.directory.with_name(
            f"{self.directory.name}.incomplete.{self._format}"
        )

    def is_done(self, pieces=None):
        """Returns whether the directory is there; `pieces` are as for `write`.

        Raises:
          DataError: it was prepared from other pieces, or in another file format.
        """
        info = self.directory / "dataset_info.json"
        if not info.is_file():
            return False
        stored = json.loads(info.read_text()).get("fileFormat", self._format)
        if stored != self._format:
            raise DataError(
                f"{self.directory} is prepared as {stored}, not as {self._format}: "
                f"--file_format={stored} keeps it; remove it for another format."
            )
        note = self.directory / ORIGIN
        if pieces and not note.exists():
            print(f"{self.directory}: an earlier version did not note its files.")
        elif pieces and note.read_text() != _origin(pieces):
            raise DataError(
                f"{self.directory} was prepared from other files, or some have changed "
                "since: remove it, or choose another --name."
            )
        return True

    def announce(self):
        """Prints how much disk space is needed and how much is free.

        Raises:
          DataError: there is not enough.
        """
        self._making.mkdir(parents=True, exist_ok=True)
        shards = self._making.glob(f"*.{self._format}-*")
        kept = sum(file.stat().st_size for file in shards)
        free = shutil.disk_usage(self._making).free
        needed = max(self._size - kept, 0)
        line = (
            f"{self.directory} needs {self._size / 1e9:.1f} GB, of which "
            f"{kept / 1e9:.1f} are there; {free / 1e9:.1f} GB are free"
        )
        if free < needed:
            raise DataError(f"{line}: that is not enough.")
        print(f"{line}.", flush=True)

    def write(self, pieces, convert):
        """Writes {split: list of Piece}; `convert(piece, bytes)` gives bytes to store.

        Returns the directory.

        Raises:
          DataError: another process writes it, or it was begun with other pieces.
        """
        with open(self._making / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"Another process writes {self._making}: wait for it, or end it."
                ) from None
            except OSError as error:  # a file system that has no flock
                print(
                    f"note: {self._making} cannot be locked ({error.strerror}), so "
                    "nothing keeps a second process from writing it",
                    flush=True,
                )
            return self._write(pieces, convert)

    def _write(self, pieces, convert):
        import tensorflow_datasets as tfds

        # Shards of an interrupted preparation can be kept only for the same images.
        origin, note = _origin(pieces), self._making / ORIGIN
        if note.exists() and note.read_text() != origin:
            raise DataError(f"{self._making} was begun with other files; remove it.")
        note.write_text(origin)
        splits = [
            self._write_split(split, part, convert) for split, part in pieces.items()
        ]
        self._info.set_splits(tfds.core.splits.SplitDict(splits))
        self._info.write_to_directory(self._making)
        (self._making / "lock").unlink()
        self._making.rename(self.directory)
        return self.directory

    def _write_split(self, split, pieces, convert):
        import tensorflow_datasets as tfds
        import tqdm
        from tensorflow_datasets.core import hashing, naming
        from tensorflow_datasets.core.utils import shard_utils

        hasher = hashing.Hasher(split)
        pieces = sorted(
            pieces, key=lambda piece: hasher.hash_key(os.fsencode(piece.name))
        )
        size = sum(piece.size for piece in pieces)
        number = shard_utils.ShardConfig.calculate_number_shards(size, len(pieces))
        ends = shard_utils.get_shard_boundaries(len(pieces), number)
        starts = [0, *ends[:-1]]
        template = naming.ShardedFileTemplate(
            data_dir=self._making,
            dataset_name=self._info.name,
            split=split,
            filetype_suffix=self._format,
        )
        paths = template.sharded_filepaths(number)
        for path, start, end in tqdm.tqdm(
            list(zip(paths, starts, ends, strict=True)), desc=split, unit="shard"
        ):
            self._write_shard(Path(path), pieces[start:end], convert)
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[
                end - start for start, end in zip(starts, ends, strict=True)
            ],
            num_bytes=sum(Path(path).stat().st_size for path in paths),
            filename_template=template,
        )

    def _write_shard(self, path, pieces, convert):
        if _num_records(path, self._format) == len(pieces):
            return
        partial = path.with_suffix(".partial")

        def examples():
            with ThreadPoolExecutor(READERS) as pool:
                for piece, data in zip(
                    pieces, pool.map(Piece.read, pieces), strict=True
                ):
                    yield self._info.features.serialize_example(
                        {
                            "image": convert(piece, data),
                            "label": piece.label,
                            "file_name": os.fsencode(piece.name),
                        }
                    )

        _write_records(partial, self._format, examples())
        os.replace(partial, path)


def _origin(pieces):
    """Returns a digest of {split: list of Piece}: of names, labels, sizes and times."""
    origin = hashlib.sha256()
    for split, part in pieces.items():
        for piece in part:
            time = f" {piece.time}" if piece.time else ""
            line = f"{split} {piece.name} {piece.label} {piece.size}{time}\n"
            origin.update(os.fsencode(line))
    return origin.hexdigest()


def _num_records(path, file_format):
    """Returns the number of records in a file; None if it is missing or damaged."""
    try:
        return records.open_file(path, file_format).num_records()
    except Exception:  # array_record raises another class for each kind of damage
        return None


def _write_records(path, file_format, records):
    if file_format == "tfrecord":
        with TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        return
    from array_record.python import array_record_module

    # Compressing JPEGs again saves nothing and makes writing 6 times slower.
    writer = array_record_module.ArrayRecordWriter(
        str(path), "group_size:1,uncompressed"
    )
    for record in records:
        writer.write(record)
    writer.close()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a name of TFDS, folder:PATH or csv:PATH")
    parser.add_argument("--data_dir", required=True, help="TFDS directory to write to")
    parser.add_argument("--manual_dir", help="where tars and other archives are")
    parser.add_argument("--name", help="folder, csv: name of the data set")
    parser.add_argument(
        "--holdout",
        type=float,
        help="folder, csv: share for validation if the files have no splits (0.1)",
    )
    parser.add_argument(
        "--file_format",
        choices=["array_record", "tfrecord"],
        default="array_record",
        help="tfrecord is what tf.data reads",
    )
    options = parser.parse_args(arguments)
    data_dir = Path(options.data_dir).expanduser()
    manual_dir = options.manual_dir and Path(options.manual_dir).expanduser()
    files = is_files(options.source)
    for flag in ("manual_dir",) if files else ("name", "holdout"):
        if getattr(options, flag) is not None:
            kind = "a name of TFDS" if files else "image files"
            parser.error(f"--{flag} is for {kind}, not for {options.source}")
    try:
        if options.source == "imagenet2012":
            if not manual_dir:
                parser.error("imagenet2012 needs --manual_dir")
            done = prepare_imagenet(
                manual_dir, data_dir, file_format=options.file_format
            )
        elif files:
            if not options.name:
                parser.error("image files need --name")
            done = prepare_files(
                options.source,
                data_dir,
                options.name,
                file_format=options.file_format,
                holdout=options.holdout,
            )
        else:
            done = tfds_directory.prepare(
                options.source,
                data_dir,
                manual_dir=manual_dir,
                file_format=options.file_format,
            )
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{done} is complete.")


if __name__ == "__main__":
    main()
