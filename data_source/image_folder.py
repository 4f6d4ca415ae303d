"""Data sets of image files: a folder for each class, or a CSV of path,label.

folder:PATH means PATH/{train,validation,test}/<class>/... if the split folders
themselves hold folders, otherwise PATH/<class>/...; if PATH holds nothing but one
folder of folders, as many archives do, that folder is meant. csv:PATH has lines
path,label or path,label,split under an optional header; its paths are relative to the
CSV's own folder. Splits may have their other usual names (SPLITS), and all these words
may be in capitals. Classes are numbered by the sorted names in the training split, 2
before 10 if all are whole numbers; a CSV with such labels has the classes 0, 1, 2, ...
A set that is only tested need have no training split, and may have any numbers.

Examples are sorted by path, whatever order the file system or the CSV has. If the files
have no splits, a share of each class is held out as "validation" (`held_out`). A slice
such as "train[:80%]" takes files in the order of a hash of their paths, so it is a fair
sample of all classes; a slice of a TFDS set is one too, because TFDS shuffles a set
when it prepares it.
"""

import array
import concurrent.futures
import csv
import functools
import hashlib
import itertools
import math
import os
import posixpath
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from data_source.classes import in_order
from data_source.split import (
    DataError,
    Example,
    Findings,
    Split,
    UnreadableFile,
    as_text,
)
from errors import shortened

SPLITS = dict.fromkeys(("train", "training"), "train")
SPLITS |= dict.fromkeys(("validation", "val", "valid", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing"), "test")
NUMBERS = {"train": 0, "validation": 1, "test": 2}  # of splits in `Table`
EARLIER_SPLITS = ("train", "validation", "val", "test")
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .bmp .gif .tif .tiff .ppm .pgm .pbm".split()
)
# What file managers, archives and network drives leave behind, beside hidden files.
LITTER = frozenset(
    {"@eadir", "__macosx", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"}
    | {"$recycle.bin", "#recycle", "@recycle", "system volume information"}
)
HIDDEN = "hidden or left by other programs"  # a kind of files that are not read
LINKS = "links"  # are read; counted beside the kinds of files that are not
# The words of a CSV's header, the most telling first.
COLUMNS = {
    "path": "path filepath file_path image_path img_path filename file_name image_name "
    "file image img image_id id name".split(),
    "label": "label class category target class_name label_name labels classes "
    "y".split(),
    "split": "split set subset partition".split(),
}
ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
TAKEN = 4096  # paths that are copied at once, by an index of each byte
STAT_THREADS = 32  # a network drive answers many questions at once
STAT_PART = 4096  # files that a thread asks for in one task
IMAGE_SHAPE = (None, None, 3)  # images have any size; grey files are read as RGB


def open_splits(name, splits, *, holdout, by="class", tested=False):
    """Opens splits of "folder:PATH" or "csv:PATH" for data_source.open_splits.

    `holdout` is the share of files in "validation" if the files have no splits; `by`
    is for `held_out`. Files without splits are listed once for all of `splits`. With
    `tested`, the classes need not be what a training asks of them.

    Raises:
      DataError: the folder, file or split does not exist; there is one class, or a
        class has no images or is missing from the training split; a line of the CSV is
        wrong.
    """
    listing = find(name, holdout, by, tested)
    return [_open_split(name, listing, split) for split in splits]


def _open_split(name, listing, split):
    if split == "auto":
        split = "validation" if "validation" in listing.splits else "test"
        if split not in listing.splits:
            remarks = listing.findings.remarks
            seen = f" ({'; '.join(remarks)})" if remarks else ""
            raise DataError(
                f"{name!r} has only the split train{seen}: say what to evaluate on, "
                "such as config.dataset.train_split = 'train[:90%]' and "
                "config.dataset.eval_split = 'train[90%:]'."
            )
    files = _select(name, listing, split)
    if not len(files):
        held, why = listing.findings.held_out, "."
        if held and split == "validation":
            why = (
                f": {held} is held out, and the only image of a class is for training. "
                "Raise config.dataset.holdout, or add images."
            )
        raise DataError(f"Split {split!r} of {name!r} holds no examples{why}")
    return split_of(listing, name, split, files)


def split_of(listing, name, split, files):
    """Returns the `Split` of these `Files` of a `Folder` or `Table`."""
    source = FileSource(listing.root, files)
    classes = tuple(listing.label_names)
    return Split(name, split, source, IMAGE_SHAPE, classes, listing.findings)


def describe(name):
    """Returns (image_shape, num_classes) for data_source.describe."""
    return IMAGE_SHAPE, len(find(name, holdout=0).label_names)


def find(name, holdout, by="class", tested=False):
    """Returns the `Folder` or `Table` that "folder:PATH" or "csv:PATH" names."""
    if not 0 <= holdout < 1:
        raise DataError(f"The share to hold out, {holdout}, is not in [0, 1).")
    kind, _, path = name.partition(":")
    if not path:
        raise DataError(f"{name!r} lacks its path: {kind}:PATH.")
    kind = Folder if kind == "folder" else Table
    return kind(Path(path).expanduser(), holdout, by, tested)


class Files:
    """Keeps paths and labels in three buffers.

    ImageNet's 1,281,167 take 60 MB; as Python strings they would take 130 MB.
    """

    def __init__(self):
        self.text, self.ends = bytearray(), array.array("q", [0])
        self.labels = array.array("i")

    def add(self, path, label):
        self.text += path.encode(*ENCODING)
        self.ends.append(len(self.text))
        self.labels.append(label)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.text[self.ends[index] : self.ends[index + 1]].decode(*ENCODING)

    def __iter__(self):
        return (str(path, *ENCODING) for path in self._stored())

    def _stored(self):
        text = memoryview(self.text)
        return (text[start:stop] for start, stop in itertools.pairwise(self.ends))

    def take(self, indices):
        """Returns the files of these indices, int [n], in their order."""
        taken, ends = Files(), np.frombuffer(self.ends, np.int64)
        text = np.frombuffer(self.text, np.uint8)
        for at in range(0, len(indices), TAKEN):
            part = indices[at : at + TAKEN]
            sizes = ends[part + 1] - ends[part]
            stops = len(taken.text) + np.cumsum(sizes)
            shift = np.repeat(ends[part] - stops + sizes, sizes)
            places = np.arange(len(taken.text), stops[-1])
            taken.text += text[places + shift].tobytes()
            taken.ends.frombytes(stops.tobytes())
        taken.labels.frombytes(np.array(self.labels)[indices].tobytes())
        return taken

    def hashes(self):
        """Returns a hash of each path, uint64 [N], evenly spread over all uint64."""
        numbers = (int.from_bytes(_digest(path)) for path in self._stored())
        return np.fromiter(numbers, np.uint64, len(self))

    def order(self):
        """Returns the order of the paths, int [N]; equal ones stay in theirs."""
        paths = np.fromiter(self, np.dtypes.StringDType(), len(self))
        return np.argsort(paths, kind="stable")

    def held_out(self, share, by):
        """Returns which files belong to "validation", bool [N]: see `held_out`."""
        held, hashes = np.zeros(len(self), bool), self.hashes()
        labels = np.array(self.labels)
        ends = np.cumsum(np.bincount(labels))
        for members in np.split(np.argsort(labels, kind="stable"), ends[:-1]):
            held[members] = held_out(hashes[members], share, by)
        return held


def _digest(data):
    return hashlib.blake2b(data, digest_size=8).digest()


def held_out(hashes, share, by):
    """Returns which files of one class belong to "validation", bool [N].

    With `by` "class" it is that share of them, rounded, but at least one, and one stays
    for training; a single file is for training. They are the first by a hash of their
    paths, so another class or place changes nothing, and a file that comes or goes
    moves few others. With "path", the earlier rule, each file's hash decides alone.
    """
    if by == "path":
        return hashes < math.ceil(share * 2**64)
    count = min(max(round(share * len(hashes)), 1), len(hashes) - 1) if share else 0
    return hashes < np.partition(hashes, count)[count]  # the first that stays


def check_classes(names, where):
    """Raises DataError if there is one class, for which every answer is right."""
    if len(names) == 1:
        raise DataError(f"{where} holds one class, {names[0]!r}, and two are needed.")


def _plain(name):
    """Returns what names that look alike, such as é in one sign or two, share."""
    return unicodedata.normalize("NFC", name).casefold()


def _alike(names):
    """Returns a warning of one line about names that look alike, if any, in a list."""
    groups = defaultdict(list)
    for name in names:
        groups[_plain(name)].append(name)
    pairs = [" and ".join(map(ascii, g)) for g in groups.values() if len(g) > 1]
    if not pairs:
        return []
    return [
        "warning: classes that differ only by capitals or by Unicode form are kept "
        f"apart: {'; '.join(pairs)}"
    ]


def _only(label, names):
    """Says which of `names`, if any, looks like a class that is not among them."""
    like = [name for name in names if _plain(name) == _plain(label)]
    return f", only {like[0]!a} in other capitals or Unicode form" if like else ""


def _select(name, data, split):
    """Returns the files of a split, a slice, or a sum of these, in TFDS syntax."""
    if split in data.splits:
        return data.files(split)
    selected = Files()
    for part in split.split("+"):
        base = part.partition("[")[0].strip()
        try:
            if base not in data.splits:
                raise ValueError(f"{base!r} is unknown")
            files = data.files(base)
            start, stop = slice_bounds(part.strip(), len(files))
        except ValueError as error:
            raise DataError(
                f"{name!r} has no split {split!r}: it has {sorted(data.splits)} and "
                f"slices of them such as 'train[:80%]' ({error})"
            ) from error
        order = np.argsort(files.hashes(), kind="stable")
        for i in np.sort(order[start:stop]):
            selected.add(files[i], files.labels[i])
    return selected


def slice_bounds(part, count):
    """Returns the first and the last example, plus 1, of a slice of `count` examples.

    `part` is of TFDS' syntax, such as "train" or "train[:80%]".

    Raises:
      ValueError: it is not.
    """
    import tensorflow_datasets as tfds

    base = part.partition("[")[0].strip()
    info = tfds.core.SplitInfo(name=base, shard_lengths=[count], num_bytes=0)
    (part,) = tfds.core.ReadInstruction.from_spec(part).to_absolute({base: info})
    return part.from_, part.to


class FileSource:
    """Random access to image files as they are stored; may be used by many threads."""

    def __init__(self, root, files):
        self._root, self._files = root, files

    def __len__(self):
        return len(self._files)

    @property
    def labels(self):
        return np.array(self._files.labels, np.int32)

    def places(self):
        return iter(self._files)

    def digest(self, names):
        """Returns `Split.digest`, with the `names` of the classes."""
        found = hashlib.blake2b(self._files.text, digest_size=8)
        found.update(np.array(self._files.ends, "<i8"))
        names = b"".join(_digest(name.encode(*ENCODING)) for name in names)
        found.update(np.frombuffer(names, "<u8")[self.labels])
        return found.hexdigest()

    def stamps(self):
        """Returns `Split.stamps`: of each path with its file's size, time and label."""

        def part(start):
            stop = min(start + STAT_PART, len(self))
            return b"".join(map(self._stamp, range(start, stop)))

        with concurrent.futures.ThreadPoolExecutor(STAT_THREADS) as pool:
            parts = pool.map(part, range(0, len(self), STAT_PART))
            return np.frombuffer(b"".join(parts), "<u8")

    def _stamp(self, index):
        name, label = self._files[index], self._files.labels[index]
        try:
            found = os.stat(os.path.join(self._root, name))
            state = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            state = "missing"
        return _digest(f"{label} {state} {name}".encode(*ENCODING))

    def examples(self, indices):
        """Returns the examples as a list of `Example`, named by their paths.

        Raises:
          UnreadableFile: a file cannot be read.
        """
        return [self._example(range(len(self))[int(i)]) for i in indices]

    def _example(self, index):
        path = os.path.join(self._root, self._files[index])
        name, label = as_text(self._files[index]), self._files.labels[index]
        try:
            with open(path, "rb", buffering=0) as file:
                image = file.read()
        except OSError as error:
            raise UnreadableFile(
                f"{as_text(path)} cannot be read: {error.strerror}.",
                Example(b"", label, name),
            ) from error
        return Example(image, label, name)


# Folders.


class Folder:
    """The splits, classes and files under a folder.

    Listing the training folder once gives the classes; `files` lists the files of a
    split (a million take 3.7 s: docs/performance.md, "Cost of growth").
    """

    def __init__(self, root, holdout, by, tested):
        self._holdout, self._by = holdout, by
        self.findings = Findings()
        self.root = root = self._innermost(root)
        self._folders = self._split_folders()
        self.splits = tuple(self._folders) or ("train", "validation")
        if not self._folders:
            self.findings.held_out = _drawn(holdout, by)
        if "train" not in self.splits and not tested:
            read = [f"{f} (read as {split})" for split, f in self._folders.items()]
            raise DataError(
                f"{as_text(root)} has no train folder beside {', '.join(read)}; the "
                "classes of the training images set the numbering. If these folders "
                "are classes, list the images in a CSV (csv:PATH)."
            )
        training = self._folders.get("train", "")
        parts = [training] if "train" in self.splits else self._folders.values()
        names = {as_text(name) for part in parts for name in _entries(root / part)[0]}
        training = as_text(root / training)
        if not names:
            raise DataError(
                f"{training} has no class folders; a data set is PATH/train/<class>/ "
                f"and PATH/validation/<class>/, or PATH/<class>/, of image files."
            )
        self.label_names = in_order(names)
        if not tested:
            check_classes(self.label_names, training)
        self.findings.remarks += _alike(self.label_names)

    def _innermost(self, root):
        """Returns the folder that holds the splits or classes: `root` or its only one.

        An only folder with images of its own is a class, and train is a split.
        """
        while True:
            folders, images, _ = _entries(root)
            if len(folders) != 1 or images or folders[0].lower() in SPLITS:
                return root
            inner, images, _ = _entries(root / folders[0])
            if not inner or images:
                return root
            self.findings.remarks.append(
                f"{as_text(root)} holds only the folder {as_text(folders[0])}, "
                "which is read"
            )
            root = root / folders[0]

    def _split_folders(self):
        """Returns {split: folder} of the folders that are splits, {} if there are none.

        Raises:
          DataError: two folders are the same split, or it is not clear what is what.
        """
        root, where, found = self.root, as_text(self.root), {}
        folders, images, ignored = _entries(root)
        earlier = self._by == "path"
        if earlier:
            named = {f: SPLITS[f] for f in folders if f in EARLIER_SPLITS}
        else:
            named = {f: SPLITS[f.lower()] for f in folders if f.lower() in SPLITS}
        for folder, split in named.items():
            if _entries(root / folder)[0]:
                if split in found:
                    raise DataError(f"{where} has both {found[split]} and {folder}.")
                found[split] = folder
        if not found:
            if named and not earlier:
                rest = (root / f for f in folders if f not in named)
                if not any(map(_holds_images, rest)):
                    raise DataError(
                        f"{where}: {', '.join(named)} hold no class folders; a data "
                        "set is PATH/train/<class>/ and PATH/validation/<class>/, or "
                        "PATH/<class>/, of image files."
                    )
                remark = f"read as classes, not as splits: {', '.join(named)}"
                self.findings.remarks.append(remark)
            return {}
        others = [f for f in folders if f not in found.values()]
        if list(found) == ["train"] and not earlier:
            for folder in others:
                if folder not in named and _holds_images(root / folder):
                    raise DataError(
                        f"{where}/{found['train']} may be a split or a class: it holds "
                        f"folders, and beside it {as_text(folder)} holds images. Put "
                        f"all classes under {found['train']}, move {as_text(folder)} "
                        "elsewhere, or list the images in a CSV (csv:PATH)."
                    )
        others += [f"images beside them ({len(images):,})"] if images else []
        if others:
            self.findings.remarks.append(
                f"read as splits: {', '.join(found.values())}; not read: "
                + ", ".join(map(as_text, others))
            )
        del ignored[LINKS]  # the splits' own are followed, others are not read
        self.findings.ignored[""] = ignored
        return found

    def files(self, split):
        if self._folders:
            return self._list(self._folders[split])
        files, held = self._whole
        return files.take(np.flatnonzero(held == (split != "train")))

    @functools.cached_property
    def _whole(self):
        """The files without splits, and which are of "validation", bool [N]."""
        files = self._list("")
        self.findings.files = len(files)
        self.findings.remarks += _like_splits(files)
        return files, files.held_out(self._holdout, self._by)

    def _list(self, folder):
        """Returns the files of the class folders in `folder`, which is in the root."""
        classes, strays, ignored = _entries(self.root / folder)
        if strays:
            stray = as_text(self.root / folder / strays[0])
            raise DataError(f"{stray} is in no class folder.")
        numbers = {label: number for number, label in enumerate(self.label_names)}
        files = Files()
        for label in classes:
            name, where = as_text(label), as_text(self.root / folder / label)
            if name not in numbers:
                raise DataError(
                    f"{where}: {self._folders['train']} has no "
                    f"class {name!r}{_only(name, self.label_names)}."
                )
            here, before = Counter(), len(files)
            for path in _images(self.root, posixpath.join(folder, label), here):
                files.add(path, numbers[name])
            if len(files) == before:
                others = f", but {kinds(here)}" if kinds(here) else ""
                raise DataError(
                    f"{where} holds no images{others}: add some, or delete the folder."
                )
            ignored += here
        self.findings.ignored[folder] = ignored
        return files


def _drawn(holdout, by):
    """Says how "validation" is drawn from files without splits."""
    if by == "class":
        return f"{holdout:g} of each class"
    return f'{holdout:g} of all files, by the earlier rule of holdout_by = "path"'


def is_litter(name):
    """Whether a file or folder is hidden, or left by another program."""
    return name.startswith(".") or name.lower() in LITTER


def _entries(path):
    """Returns a folder's folders and image files, sorted, and a Counter of the rest."""
    folders, images, others = [], [], Counter()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                lower = name.lower()
                _, dot, kind = lower.rpartition(".")
                kind = dot and dot + kind
                if is_litter(name):
                    others[HIDDEN] += 1
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif kind in EXTENSIONS:
                    images.append(name)
                else:
                    others[as_text(kind) or "without extension"] += 1
                    continue
                if entry.is_symlink():
                    others[LINKS] += 1
    except OSError as error:
        raise DataError(
            f"{as_text(path)} cannot be listed: {error.strerror}."
        ) from error
    return sorted(folders), sorted(images), others


def _images(root, folder, others):
    """Yields the paths, relative to root, of the image files in and under a folder.

    They are sorted, because "/" takes part in the order of the names. The kinds of
    other files are added to the Counter `others`.
    """
    folders, images, here = _entries(os.path.join(root, folder))
    others.update(here)
    for name in sorted(images + [f"{name}/" for name in folders]):
        if name.endswith("/"):
            yield from _images(root, f"{folder}/{name[:-1]}", others)
        else:
            yield f"{folder}/{name}"


def _like_splits(files):
    """Returns, in a list, a warning if folders in the classes may be splits.

    Of a class they are the outermost, below a folder that holds all of its images.
    """
    if files.text.count(b"/") == len(files):
        return []  # as in most sets
    inner, holders = defaultdict(set), defaultdict(list)
    for folder in {path.rpartition("/")[0] for path in files}:
        inner[folder.partition("/")[0]].add(folder)
    for label, folders in inner.items():
        outer = posixpath.commonpath(folders)
        for name in {f.removeprefix(outer).split("/")[1] for f in folders - {outer}}:
            holders[as_text(name)].append(as_text(label))
    shared = sorted(name for name, labels in holders.items() if len(labels) > 1)
    shared = shared if len(shared) > 1 else []
    names = shared or sorted(name for name in holders if name.lower() in SPLITS)
    if not names:
        return []
    labels = sorted({label for name in names for label in holders[name]})
    return [
        f"warning: folders of the classes {shortened(labels)} have the names "
        f"{shortened(names)}: are these splits? A split is PATH/train/<class>/, "
        "PATH/validation/<class>/ or PATH/test/<class>/."
    ]


def _holds_images(folder):
    return any(_images(folder.parent, folder.name, Counter()))


def kinds(others):
    """Says what a Counter of kinds of files holds: "3 .txt, 1 without extension"."""
    others = Counter({kind: n for kind, n in others.items() if kind != LINKS})
    most = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:6]
    words = [f"{number:,} {kind}" for kind, number in most]
    rest = others.total() - sum(number for _, number in most)
    return ", ".join([*words, f"{rest:,} others"] if rest else words)


# CSV.


class Table:
    """The splits, classes and files that a CSV names; attributes are as in Folder.

    Its lines are kept in columns, sorted by path: the paths with the place of their
    label in `_labels`, the numbers of the lines, and those of the splits.
    """

    def __init__(self, path, holdout, by, tested):
        self.root, self.findings = path.parent, Findings()
        self._csv = as_text(path)
        self._read(path)
        labels, path = self._labels, self._csv
        if not labels:
            raise DataError(f"{path} names no images.")
        without = self._splits[0] < 0
        if without:
            self._splits = self._files.held_out(holdout, by)  # train 0, validation 1
            self.splits = {"train", "validation"}
            self.findings.held_out = _drawn(holdout, by)
            self.findings.files = len(self._files)
        else:
            self.splits = {s for s, n in NUMBERS.items() if n in self._splits}
        if "train" in self.splits and not without:
            training = np.array(self._files.labels)[self._splits == NUMBERS["train"]]
            labels = [self._labels[number] for number in np.unique(training)]
        self.label_names = in_order(labels)
        if not tested:
            self._check_training()
        self.findings.remarks += _alike(self.label_names)

    def _check_training(self):
        """Raises DataError if a network cannot be trained on the lines."""
        names, path = self.label_names, self._csv
        if "train" not in self.splits:
            raise DataError(f"{path} has no line of the split train.")
        if all(map(str.isdecimal, names)):
            numbers = list(map(int, names))
            gap = next((k for k, n in enumerate(numbers) if k != n), None)
            if gap is not None:
                raise DataError(
                    f"{path} has no training image of class {gap}; its labels "
                    f"go from {numbers[0]} to {numbers[-1]} and must count from 0: "
                    "renumber them, or write names for numbers."
                )
        check_classes(names, path)

    def _read(self, path):
        """Fills the columns; the split of a line without one has the number -1.

        Raises:
          DataError: lines are wrong, of which it names the first.
        """
        files, lines, splits, labels = Files(), array.array("q"), array.array("b"), {}
        problem = None
        try:
            for name, label, split, line in _rows(path, self.findings.remarks):
                files.add(name, labels.setdefault(label, len(labels)))
                lines.append(line)
                splits.append(NUMBERS.get(split, -1))
        except DataError as error:
            problem = error
        if all(map(str.isdecimal, labels)):  # then 007 is 7
            merged = {}
            places = [merged.setdefault(int(label), len(merged)) for label in labels]
            places = np.array(places, np.int32)[np.array(files.labels)]
            files.labels, labels = array.array("i", places.tobytes()), map(str, merged)
        order = files.order()
        self._files, self._labels = files.take(order), list(labels)
        self._lines, self._splits = np.array(lines)[order], np.array(splits)[order]
        if repeated := self._repeated():
            raise DataError(repeated)
        if problem:
            raise problem

    def _repeated(self):
        """Says which line is the first whose path is in a line before it, if any."""
        pairs = itertools.pairwise(self._files)
        at = [i for i, (path, after) in enumerate(pairs) if path == after]
        if not at:
            return None
        first = min(at, key=lambda i: self._lines[i + 1])
        line, again = self._lines[first : first + 2]
        return f"{self._csv}, line {again}: {self._files[first]} is in line {line} too."

    def files(self, split):
        """Returns the files of a split, all of which must exist.

        Listing each folder is much faster than looking at each file.
        """
        rows = np.flatnonzero(self._splits == NUMBERS[split])
        files = self._files.take(rows)
        numbers = {label: number for number, label in enumerate(self.label_names)}

        @functools.lru_cache(maxsize=4)  # a folder and those in it take turns
        def present(folder):
            place = self.root / folder
            try:
                with os.scandir(place) as entries:
                    found = (e for e in entries if not e.is_dir(follow_symlinks=False))
                    return {entry.name for entry in found}
            except (FileNotFoundError, NotADirectoryError):
                return frozenset()
            except OSError as error:
                raise DataError(
                    f"{as_text(place)} cannot be listed: {error.strerror}."
                ) from error

        for i, path in enumerate(files):
            folder, _, name = path.rpartition("/")
            label, problem = self._labels[files.labels[i]], None
            if name not in present(folder):
                problem = f"{path} is missing"
                if os.path.isdir(self.root / path):
                    problem = f"{path} is a folder"
                elif self._lines[rows[i]] == 1 and re.fullmatch(r"[\w -]+", path):
                    problem += " (a header names its columns path and label)"
            elif label not in numbers:
                like = _only(label, self.label_names)
                problem = f"no training image has the class {label!r}{like}"
            if problem:
                raise DataError(f"{self._csv}, line {self._lines[rows[i]]}: {problem}.")
            files.labels[i] = numbers[label]
        return files


def _rows(file, remarks):
    """Yields (path, label, split or None, line number) of a CSV's lines.

    It adds to the list `remarks` what is odd.

    Raises:
      DataError: a line is wrong.
    """
    columns, line = None, 1
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            for row in reader:
                line = reader.line_num
                row = [cell.strip() for cell in row]
                if not any(row):
                    continue
                if columns is None:
                    width, (columns, unread) = len(row), _header(row)
                    if columns:
                        if unread:
                            remarks.append(f"columns not read: {', '.join(unread)}")
                        continue
                    columns = tuple(range(width))
                used = [row[c] for c in columns if c < len(row)]
                split = SPLITS.get(used[2].lower()) if len(used) > 2 else None
                problem = None
                if len(row) != width or len(columns) not in (2, 3) or not all(used):
                    problem = f"{','.join(row)!r} is not path,label or path,label,split"
                    problem += ", with commas" * (len(row) == 1)
                elif len(used) == 3 and not split:
                    problem = f"the split {used[2]!r} is none of {', '.join(SPLITS)}"
                if problem:
                    raise DataError(f"{as_text(file)}, line {line}: {problem}.")
                path, label = posixpath.normpath(used[0]), used[1]
                yield path, label, split, line
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeError):
            reason = f"it is not in UTF-8 ({error})"
        raise DataError(
            f"{as_text(file)} cannot be read after line {line}: {reason}."
        ) from error


def _header(row):
    """Returns (columns of path, label and, if any, split; names of the others).

    The columns are None if the row is no header, which names a path and a label.
    """
    words = [cell.lower().replace(" ", "_").replace("-", "_") for cell in row]
    found = [
        next((words.index(word) for word in known if word in words), None)
        for known in COLUMNS.values()
    ]
    if None in found[:2]:
        return None, []
    columns = tuple(c for c in found if c is not None)
    return columns, [cell for i, cell in enumerate(row) if cell and i not in columns]
