"""A split of a data set, its examples, and their errors."""

import dataclasses
import typing

import numpy as np

from errors import UserError


class DataError(UserError):
    """The data set is missing, incomplete, damaged or not an image/label set."""


class UnreadableFile(DataError):
    """The file of a known example cannot be read; `example` has its label and name."""

    def __init__(self, message, example):
        super().__init__(message)
        self.example = example


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set; `split` may be a slice such as "train[:50000]".

    `source[i]` is {"image": uint8 [H, W, C], "label": int}; `image_shape` holds None
    where images differ in size. Splits of image files support only `examples`.
    """

    name: str
    split: str
    source: typing.Any
    image_shape: tuple
    label_names: tuple

    @property
    def num_classes(self):
        return len(self.label_names)

    def __len__(self):
        return len(self.source)

    def arrays(self):
        """Returns all images uint8 [N, H, W, C] and labels int32 [N], read once.

        Afterwards `read` takes its examples from memory too.
        """
        return self.source.arrays()

    def read(self, indices):
        """Returns images uint8 [n, H, W, C] and labels int32 [n] of given examples."""
        return self.source.read(indices)

    def examples(self, indices):
        """Returns the given examples as a list of `Example`, with images as stored."""
        return self.source.examples(indices)


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
