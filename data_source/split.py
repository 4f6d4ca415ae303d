"""A split of a data set, its examples, and their errors."""

import contextlib
import dataclasses
import functools
import math
import os
import typing

import numpy as np

from errors import UserError

# The label of an image that counts as an error; if it is of class k, -2 - k.
UNREADABLE = -1


class DataError(UserError):
    """The data set is missing, incomplete, damaged or not an image/label set."""


class UnreadableFile(DataError):
    """The file of a known example cannot be read; `example` has its label and name."""

    def __init__(self, message, example):
        super().__init__(message)
        self.example = example


def as_text(name):
    """Returns a file's name as text; a byte that is no UTF-8 is written as "\\xff"."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclasses.dataclass
class Findings:
    """What is to be said of a data set.

    Attributes:
      held_out: how "validation" was drawn from files, in words; "" if they have splits.
      files: how many files it was drawn from.
      remarks: lines about what is odd or was not read.
      ignored: {folder of a split: Counter of the kinds of its files that are not read,
        and of the links that are followed}.
    """

    held_out: str = ""
    files: int = 0
    remarks: list = dataclasses.field(default_factory=list)
    ignored: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set; `split` may be a slice such as "train[:50000]".

    `image_shape` holds None where images differ in size. Splits of image files support
    only `examples`; they have `findings`, and so has a TFDS set of which there is
    something to say.
    """

    name: str
    split: str
    source: typing.Any
    image_shape: tuple
    label_names: tuple
    findings: Findings | None = None

    @property
    def num_classes(self):
        return len(self.label_names)

    def class_counts(self):
        """Returns the images per class, int [K].

        It is None if the labels lie in the records, or if examples have none (-1).
        """
        labels = getattr(self.source, "labels", None)
        if labels is None or np.min(labels) < 0:
            return None
        return np.bincount(labels, minlength=self.num_classes)

    def __len__(self):
        return len(self.source)

    def arrays(self):
        """Returns all images uint8 [N, H, W, C] and labels int32 [N], read once.

        Afterwards `read` takes its examples from memory too.
        """
        return self.source.arrays()

    def preload(self):
        """Reads all images at once if they are small, so that `examples` is fast.

        If one is damaged, reading them one by one finds it again.
        """
        alike = None not in self.image_shape
        if alike and len(self) * math.prod(self.image_shape) <= 2**30:
            with contextlib.suppress(DataError):
                self.arrays()

    def has_labels(self):
        """Whether the first example has a label; a split has all of them or none."""
        if not len(self):
            return True
        try:
            (first,) = self.examples([0])
        except DataError:
            return True  # It is damaged, which is another matter.
        return first.label >= 0

    def labels(self):
        """Returns the class of each example, int32 [N].

        Of a large TFDS directory all records are read for it, with their images.

        Raises:
          DataError: a record is damaged, or the split has no classes.
        """
        labels = getattr(self.source, "labels", None)
        if labels is None:
            self.preload()
            labels = []
            for start in range(0, len(self), 1024):
                part = range(start, min(start + 1024, len(self)))
                labels += [example.label for example in self.examples(part)]
        labels = np.array(labels, np.int32)
        if labels.min() < 0:
            raise DataError(f"{self.name}, {self.split}: the split has no labels")
        return labels

    def read(self, indices):
        """Returns images uint8 [n, H, W, C] and labels int32 [n] of given examples."""
        return self.source.read(indices)

    def examples(self, indices):
        """Returns the given examples as a list of `Example`, with images as stored."""
        return self.source.examples(indices)

    def places(self):
        """Iterates over what tells each example from all others of the data set."""
        return self.source.places()

    def stamps(self):
        """Returns a hash of each example's place, size, time and label, uint64 [N].

        An example whose stamp is the same has not changed; no image is read for it.
        """
        return self.source.stamps()

    def digest(self):
        """Returns a hash, 16 hex digits, of the examples in their order.

        Of image files it is of every path and class, and of a TFDS set of the number of
        examples and of some of them (`records.SAMPLE`). It is the same in another
        place, in the other file format of TFDS, in a cache, at another time, and with
        the classes renumbered.
        """
        return self._digest

    @functools.cached_property
    def _digest(self):
        return self.source.digest(self.label_names)

    def renumbered(self, places, names):
        """Returns the split with `names`, whose class k has the number `places[k]`."""
        source = Renumbered(self.source, places)
        return dataclasses.replace(self, source=source, label_names=names)


@dataclasses.dataclass(frozen=True)
class Example:
    """An image as stored, its class, and what it is called in messages and results.

    `image` is encoded bytes, or uint8 [H, W, C] where the pixels are in memory.
    """

    image: bytes | np.ndarray
    label: int
    name: str

    @property
    def target(self):
        """The arrays, by name, that a batch holds of the example beside its image."""
        return {"label": np.int32(self.label)}

    @property
    def unreadable(self):
        """The target if the image cannot be read and counts as an error."""
        return {"label": np.int32(UNREADABLE - 1 - self.label)}


class Renumbered:
    """A split's source whose class k has the number `places[k]`.

    An example without a label, -1, stays without.
    """

    def __init__(self, source, places):
        self._source = source
        self._places = np.append(places, np.int32(-1))  # the last is that of -1

    def __len__(self):
        return len(self._source)

    @property
    def labels(self):
        return self._places[np.asarray(self._source.labels)]

    def places(self):
        return self._source.places()

    def digest(self, names):
        return self._source.digest([names[place] for place in self._places[:-1]])

    def arrays(self):
        images, labels = self._source.arrays()
        return images, self._places[labels]

    def read(self, indices):
        images, labels = self._source.read(indices)
        return images, self._places[labels]

    def examples(self, indices):
        try:
            return [self._example(x) for x in self._source.examples(indices)]
        except UnreadableFile as error:
            raise UnreadableFile(str(error), self._example(error.example)) from error

    def _example(self, example):
        return dataclasses.replace(example, label=int(self._places[example.label]))
