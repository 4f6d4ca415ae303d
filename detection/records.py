"""The annotated objects of images, whatever format they come from.

All formats become `Objects`, whose boxes are those of models/boxes.py: continuous, the
first pixel being (0, 0, 1, 1). voc_folder.py, coco_json.py and tfds_features.py each
convert one format. A box whose numbers leave it no width or height is left out, and a
box that reaches beyond its image is cut. `Damage` counts both and names the files.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_source import DataError
from data_source.classes import in_order
from errors import shortened
from transforms import decode

# A box that is cut by less is not reported: COCO rounds to a hundredth of a pixel.
BEYOND = 0.01
# EXIF's orientations that exchange height and width.
SIDEWAYS = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class Objects:
    """The annotated objects of one image, N of them.

    Attributes:
      name: the image's path, or its name in a TFDS set.
      image: the image's id in COCO, else the name of its file without the ending.
      size: (height, width) of the image in which the boxes were drawn.
      boxes: float32 [N, 4], inside that image.
      labels: int32 [N], from 0.
      difficult: bool [N], VOC's objects that neither count nor harm.
      crowd: bool [N], COCO's regions of many objects.
      area: float64 [N] in square pixels; COCO gives that of the object's outline.
      stamp: what changes when the image's file does; "" if it has none.
      proposals: float32 [M, 4], what another network proposes in the upright image.
    """

    name: str
    image: int | str
    size: tuple
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    stamp: str = ""
    proposals: np.ndarray = dataclasses.field(
        default_factory=functools.partial(np.zeros, (0, 4), np.float32)
    )

    def __len__(self):
        return len(self.labels)

    def upright(self, stored, orientation, unclear="upright"):
        """Returns the objects in the pixels of the upright image.

        EXIF may ask to turn an image, and some programs draw boxes without turning it.
        The size that the annotation gives tells which image was drawn on.

        Args:
          stored: (height, width) of the image as stored.
          orientation: EXIF's, 1 to 8; another number turns nothing.
          unclear: "upright" or "stored", what holds if both images have that size.

        Raises:
          DataError: neither image has the annotation's size.
        """
        stored = tuple(stored)
        turned = stored[::-1] if orientation in SIDEWAYS else stored
        if self.size not in (stored, turned):
            sizes = " nor ".join(f"{w}x{h}" for h, w in {stored: 0, turned: 0})
            raise DataError(
                f"{self.name}: the boxes are of an image of {self.size[1]}x"
                f"{self.size[0]} pixels, but the file has {sizes}"
            )
        as_it_is = unclear == "upright" if stored == turned else self.size == turned
        if as_it_is or orientation not in decode.TURNS:
            return self
        boxes = _turned(self.boxes, stored, orientation)
        return dataclasses.replace(self, size=turned, boxes=boxes)


class Annotations(NamedTuple):
    """The images of a split: a tuple of `Objects`, and the names of the classes.

    `categories` are COCO's ids of the classes, if the format has any.
    """

    images: tuple
    classes: tuple
    categories: tuple = ()


class Damage:
    """What is done with boxes that cannot be right, and which they were.

    `rule` is "drop" or "fail", which raises a DataError for a box that would be left
    out.
    """

    def __init__(self, rule="drop"):
        if rule not in ("drop", "fail"):
            raise ValueError(f"damaged {rule!r} is neither 'drop' nor 'fail'")
        self.rule = rule
        self.dropped, self.cut = [], []

    def drop(self, row, why):
        """Notes a row whose box is left out, or refuses it."""
        numbers = ", ".join(f"{value:g}" for value in row.raw)
        if self.rule == "fail":
            raise DataError(f"{row.where}: the box ({numbers}) {why}")
        self.dropped.append(f"{row.where} ({numbers})")

    def remarks(self):
        """Returns a line about each kind of boxes that were found."""
        kinds = {
            "left out, without a size or outside the image": self.dropped,
            "cut at the image's edge": self.cut,
        }
        return [
            f"boxes {what}: {len(found):,}, {shortened(found)}"
            for what, found in kinds.items()
            if found
        ]


class Row(NamedTuple):
    """An object as it was read.

    `where` names its file and its number; `raw` holds the format's x1, y1, x2, y2, and
    `box` ours; an `area` of None is that of the box.
    """

    where: str
    raw: tuple
    box: tuple
    label: int
    difficult: bool = False
    crowd: bool = False
    area: float | None = None


def objects(name, image, size, rows, damage):
    """Returns the `Objects` of the rows whose boxes can be right.

    Raises:
      DataError: one cannot, and `damage` says "fail".
    """
    kept = [(row, box) for row in rows if (box := _inside(row, size, damage))]
    rows, boxes = zip(*kept, strict=True) if kept else ((), ())
    sides = (box[2:] - box[:2] for box in np.reshape(boxes, (-1, 4)))
    areas = [
        math.prod(side) if row.area is None else row.area
        for row, side in zip(rows, sides, strict=True)
    ]
    return Objects(
        *(name, image, tuple(size)),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array([row.label for row in rows], np.int32),
        difficult=np.array([row.difficult for row in rows], bool),
        crowd=np.array([row.crowd for row in rows], bool),
        area=np.array(areas, np.float64),
    )


def _inside(row, size, damage):
    """Returns a row's box, cut to the image, or None if nothing is left of it."""
    height, width = size
    x1, y1, x2, y2 = row.raw
    box = np.clip(row.box, 0, [width, height, width, height])
    if x1 >= x2 or y1 >= y2:
        return damage.drop(row, "has no size")
    if (box[:2] >= box[2:]).any():
        return damage.drop(row, f"is outside the image of {width}x{height} pixels")
    if np.abs(box - row.box).max() > BEYOND:
        damage.cut.append(row.where)
    return tuple(box)


def image_size(height, width, file):
    """Returns (height, width) of an annotation, or else of the upright image file.

    Raises:
      DataError: neither says it.
    """
    try:
        size = int(height), int(width)
    except (TypeError, ValueError):
        size = 0, 0
    if min(size) > 0:
        return size
    try:
        stored, orientation = header(file)
    except OSError as error:
        raise DataError(
            f"{file}: its size cannot be read: {error}; its boxes need it, whatever "
            "config.dataset.damaged and config.eval.damaged say: write it into the "
            "annotation, or take the image out"
        ) from error
    return stored[::-1] if orientation in SIDEWAYS else stored


def header(file):
    """Returns ((height, width) as stored, EXIF's orientation) of an image file."""
    with Image.open(file) as image:
        orientation = decode.orientation(image)
        # PIL turns the size of a TIFF before it turns the pixels.
        turned = image.format == "TIFF" and orientation in SIDEWAYS
        return image.size if turned else image.size[::-1], orientation


def number(value, where):
    """Returns a finite float; `where` begins the error of anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} is {value!r}, not a number")
    return number


class Classes:
    """The names of classes in the order of their labels.

    Capitals, and blanks but for one between words, make no difference to a name.
    """

    def __init__(self, names):
        self.names = tuple(" ".join(name.split()) for name in names)
        self._labels = {name.casefold(): i for i, name in enumerate(self.names)}
        if len(self._labels) < len(self.names):
            raise DataError(f"two classes have one name: {', '.join(self.names)}")

    @classmethod
    def among(cls, names):
        """Makes classes, in order, of names that occur many times."""
        names = sorted({" ".join(name.split()) for name in names})
        first = {name.casefold(): name for name in reversed(names)}
        return cls(in_order(first.values()))

    def label(self, name, where):
        """Returns the label of a name; `where` begins the error of an unknown one."""
        label = self._labels.get(" ".join(name.split()).casefold())
        if label is None:
            names = shortened(self.names)
            raise DataError(f"{where}: {name!r} is none of the classes {names}")
        return label


def _turned(boxes, stored, orientation):
    """Turns boxes [N, 4] in a stored image (height, width) as decode.TURNS turns it."""
    height, width = stored
    x1, y1, x2, y2 = boxes.T
    if orientation in (2, 3, 7, 8):  # the columns are mirrored
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):  # the rows are mirrored
        y1, y2 = height - y2, height - y1
    turned = (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)
    return np.stack(turned, 1).astype(np.float32)
