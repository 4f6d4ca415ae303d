"""Data sets of image files: a folder for each class, or a CSV of path,label.

folder:PATH means PATH/{train,validation|val,test}/<class>/... if the split folders
themselves hold folders, otherwise PATH/<class>/...; csv:PATH has lines path,label or
path,label,split under an optional header of these words, and its paths are relative to
the CSV's own folder. Classes are numbered by the sorted names in the training split, 2
before 10 if all are whole numbers; a CSV with such labels has the classes 0, 1, 2, ...

Examples are sorted by path, whatever order the file system or the CSV has. If the files
have no splits, a hash of its path puts each file into "train" or "validation", where it
stays when other files come or go. A slice such as "train[:80%]" takes files in the
order of that hash, so it is a fair sample of all classes; a slice of a TFDS set is one
too, because TFDS shuffles a set when it prepares it.
"""

import array
import csv
import hashlib
import os
import posixpath
from pathlib import Path

import numpy as np

from data_source.classes import in_order
from data_source.split import DataError, Example, Split, UnreadableFile

SPLITS = {"train": "train", "validation": "validation", "val": "validation"}
SPLITS |= {"test": "test"}
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm".split()
)
IMAGE_SHAPE = (None, None, 3)  # images have any size; grey files are read as RGB


def open_split(name, split, *, holdout):
    """Opens a split of "folder:PATH" or "csv:PATH" for data_source.open_split.

    `holdout` is the share of files in "validation" if the files have no splits.

    Raises:
      DataError: the folder, file or split does not exist; a class has no images or is
        missing from the training split; a line of the CSV is wrong.
    """
    if not 0 <= holdout < 1:
        raise DataError(f"The share to hold out, {holdout}, is not in [0, 1).")
    data = find(name, holdout)
    if split == "auto":
        split = "validation" if "validation" in data.splits else "test"
    files = _select(name, data, split)
    if not len(files):
        raise DataError(f"Split {split!r} of {name!r} holds no examples.")
    source = FileSource(data.root, files)
    return Split(name, split, source, IMAGE_SHAPE, tuple(data.label_names))


def describe(name):
    """Returns (image_shape, num_classes) for data_source.describe."""
    return IMAGE_SHAPE, len(find(name, holdout=0).label_names)


def find(name, holdout):
    """Returns the `Folder` or `Table` that "folder:PATH" or "csv:PATH" names."""
    kind, _, path = name.partition(":")
    if not path:
        raise DataError(f"{name!r} lacks its path: {kind}:PATH.")
    path = Path(path).expanduser()
    return Folder(path, holdout) if kind == "folder" else Table(path, holdout)


class Files:
    """Keeps paths and labels in three buffers.

    ImageNet's 1,281,167 take 60 MB; as Python strings they would take 130 MB.
    """

    def __init__(self):
        self.text, self.ends = bytearray(), array.array("q", [0])
        self.labels = array.array("i")

    def add(self, path, label):
        self.text += os.fsencode(path)
        self.ends.append(len(self.text))
        self.labels.append(label)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return os.fsdecode(bytes(self.text[self.ends[index] : self.ends[index + 1]]))

    def hashes(self):
        """Returns a hash of each path, uint64 [N], evenly spread over all uint64."""
        digests = (_digest(self[i]) for i in range(len(self)))
        return np.frombuffer(b"".join(digests), ">u8")


def _digest(path):
    return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()


def _held_out(path, holdout):
    """Returns whether a file belongs to "validation"."""
    return int.from_bytes(_digest(path)) < holdout * 2**64


def _select(name, data, split):
    """Returns the files of a split, a slice, or a sum of these, in TFDS syntax."""
    if split in data.splits:
        return data.files(split)
    import tensorflow_datasets as tfds

    selected = Files()
    for part in split.split("+"):
        base = part.partition("[")[0].strip()
        try:
            if base not in data.splits:
                raise ValueError(f"{base!r} is unknown")
            files = data.files(base)
            info = tfds.core.SplitInfo(
                name=base, shard_lengths=[len(files)], num_bytes=0
            )
            part = tfds.core.ReadInstruction.from_spec(part.strip())
            (part,) = part.to_absolute({base: info})
        except ValueError as error:
            raise DataError(
                f"{name!r} has no split {split!r}: it has {sorted(data.splits)} and "
                f"slices of them such as 'train[:80%]' ({error})"
            ) from error
        order = np.argsort(files.hashes(), kind="stable")
        for i in np.sort(order[part.from_ : part.to]):
            selected.add(files[i], files.labels[i])
    return selected


class FileSource:
    """Random access to image files as they are stored; may be used by many threads."""

    def __init__(self, root, files):
        self._root, self._files = root, files

    def __len__(self):
        return len(self._files)

    def examples(self, indices):
        """Returns the examples as a list of `Example`, named by their paths.

        Raises:
          UnreadableFile: a file cannot be read.
        """
        return [self._example(range(len(self))[int(i)]) for i in indices]

    def _example(self, index):
        name = self._files[index]
        path = os.path.join(self._root, name)
        try:
            with open(path, "rb", buffering=0) as file:
                image = file.read()
        except OSError as error:
            raise UnreadableFile(
                f"{path} cannot be read: {error.strerror}.",
                Example(b"", self._files.labels[index], name),
            ) from error
        return Example(image, self._files.labels[index], name)


# Folders.


class Folder:
    """The splits, classes and files under a folder.

    Listing the training folder once gives the classes; `files` lists the files of a
    split (ImageNet's training images take 3.5 s from a local disk).
    """

    def __init__(self, root, holdout):
        self.root, self._holdout = root, holdout
        folders, _ = _entries(root)
        self._folders = {}
        for folder in folders:
            split = SPLITS.get(folder)
            if split and _entries(root / folder)[0]:
                if split in self._folders:
                    raise DataError(
                        f"{root} has both {self._folders[split]} and {folder}."
                    )
                self._folders[split] = folder
        self.splits = tuple(self._folders) or ("train", "validation")
        if "train" not in self.splits:
            raise DataError(
                f"{root} has no train folder beside {', '.join(self.splits)}; the "
                f"classes of the training images set the numbering."
            )
        training = root / self._folders.get("train", "")
        self.label_names = in_order(_entries(training)[0])
        if not self.label_names:
            raise DataError(
                f"{training} has no class folders; a data set is PATH/train/<class>/ "
                f"and PATH/validation/<class>/, or PATH/<class>/, of image files."
            )

    def files(self, split):
        folder = self._folders.get(split, "")
        classes, strays = _entries(self.root / folder)
        if strays:
            raise DataError(f"{self.root / folder / strays[0]} is in no class folder.")
        numbers = {label: number for number, label in enumerate(self.label_names)}
        files = Files()
        for label in classes:
            if label not in numbers:
                raise DataError(
                    f"{self.root / folder / label}: {self._folders['train']} has no "
                    f"class {label!r}."
                )
            paths = sorted(_images(self.root, posixpath.join(folder, label)))
            if not paths:
                raise DataError(f"{self.root / folder / label} holds no images.")
            for path in paths:
                if self._folders or _held_out(path, self._holdout) == (
                    split == "validation"
                ):
                    files.add(path, numbers[label])
        return files


def _entries(path):
    """Returns the sorted names of the folders and of the image files in a folder."""
    folders, images = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    images.append(entry.name)
    except OSError as error:
        raise DataError(f"{path} cannot be listed: {error.strerror}.") from error
    return sorted(folders), sorted(images)


def _images(root, folder):
    """Yields the paths, relative to root, of the image files in and under a folder."""
    folders, images = _entries(os.path.join(root, folder))
    yield from (f"{folder}/{name}" for name in images)
    for name in folders:
        yield from _images(root, f"{folder}/{name}")


# CSV.


class Table:
    """The splits, classes and files that a CSV names."""

    def __init__(self, path, holdout):
        self.root, self._csv, self._holdout = path.parent, path, holdout
        self._rows = _rows(path)
        if not self._rows:
            raise DataError(f"{path} names no images.")
        self.splits = {split for _, split, _ in self._rows.values()}
        defining = "train"
        if None in self.splits:
            self.splits, defining = {"train", "validation"}, None
        if "train" not in self.splits:
            raise DataError(f"{path} has no line of the split train.")
        labels = {row[0] for row in self._rows.values() if row[1] == defining}
        if all(label.isdecimal() for label in labels):
            numbers = sorted(map(int, labels))
            missing = set(range(numbers[-1] + 1)) - set(numbers)
            if missing:
                raise DataError(
                    f"{path} has no training image of class {min(missing)}; its labels "
                    f"go from {numbers[0]} to {numbers[-1]} and must count from 0."
                )
            self.label_names = list(map(str, numbers))
        else:
            self.label_names = in_order(labels)

    def files(self, split):
        """Returns the files of a split, all of which must exist.

        Listing each folder is much faster than looking at each file.
        """
        numbers = {label: number for number, label in enumerate(self.label_names)}
        files, present = Files(), {}
        for path in sorted(self._rows):
            label, given, line = self._rows[path]
            if given is None:
                given = "validation" if _held_out(path, self._holdout) else "train"
            if given != split:
                continue
            folder, _, name = path.rpartition("/")
            if folder not in present:
                try:
                    present[folder] = set(os.listdir(self.root / folder))
                except OSError:
                    present[folder] = ()
            if name not in present[folder]:
                raise DataError(f"{self._csv}, line {line}: {path} is missing.")
            if label not in numbers:
                raise DataError(
                    f"{self._csv}, line {line}: no training image has the class "
                    f"{label!r}."
                )
            files.add(path, numbers[label])
        return files


def _rows(file):
    """Reads a CSV as {path: (label, split or None, line number)}."""
    rows, width, line = {}, None, 1
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            for row in reader:
                line = reader.line_num
                row = [cell.strip() for cell in row]
                if not any(row):
                    continue
                if width is None:
                    width = len(row)
                    if row in (["path", "label"], ["path", "label", "split"]):
                        continue
                problem = None
                if len(row) != width or width not in (2, 3) or not all(row):
                    problem = f"{','.join(row)!r} is not path,label or path,label,split"
                elif width == 3 and row[2] not in SPLITS:
                    problem = f"the split {row[2]!r} is none of {', '.join(SPLITS)}"
                else:
                    path, label = posixpath.normpath(row[0]), row[1]
                    if label.isdecimal():
                        label = str(int(label))
                    if path in rows:
                        problem = f"{path} is in line {rows[path][2]} too"
                if problem:
                    raise DataError(f"{file}, line {line}: {problem}.")
                rows[path] = (label, SPLITS[row[2]] if width == 3 else None, line)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{file} cannot be read after line {line}: {reason}."
        ) from error
    return rows
