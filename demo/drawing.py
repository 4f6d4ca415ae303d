"""Places a drawing in its field as the data set's images were placed in theirs."""

import numpy as np

from transforms import resizing

FIELD = 28  # pixels along a side
MNIST_BOX = 20


def by_mass(drawing):
    """Places ink, uint8 [H, W, 1], as MNIST's: returns uint8 [28, 28, 1].

    The ink's longer side becomes 20 pixels, and its centre of mass comes to the pixel
    (14, 14), counted from 0, as far as no ink leaves the field (LeCun et al., 1998,
    Section III.A, and measured on MNIST). A field without ink stays empty.
    """
    ink = _resized(drawing, MNIST_BOX)
    mass = ink[..., 0].sum(dtype=np.float64)
    if not mass:
        return np.zeros((FIELD, FIELD, 1), np.uint8)
    centre = [
        (np.arange(side) * ink[..., 0].sum(1 - axis)).sum() / mass
        for axis, side in enumerate(ink.shape[:2])
    ]
    corner = np.round(FIELD / 2 - np.array(centre)).astype(int)
    return _at(ink, np.clip(corner, 0, FIELD - np.array(ink.shape[:2])))


def by_box(drawing):
    """Places ink as Fashion-MNIST's: its longer side fills the field, in the middle.

    Xiao, Rasul, Vollgraf, 2017, Section 2, https://arxiv.org/abs/1708.07747.
    """
    ink = _resized(drawing, FIELD)
    return _at(ink, (FIELD - np.array(ink.shape[:2])) // 2)


RULES = {"mnist": by_mass, "fashion_mnist": by_box}


def rule(dataset):
    """Returns the rule of a data set by its name ("mnist:3.0.1"); None without one."""
    return RULES.get(dataset.partition(":")[0].partition("/")[0])


def _resized(drawing, side):
    """Cuts the ink out and resizes it so that its longer side has `side` pixels."""
    rows, columns = (np.flatnonzero(drawing.any((axis, 2))) for axis in (1, 0))
    if not len(rows):
        return np.zeros((side, side, 1), np.uint8)
    ink = drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side / max(ink.shape)
    height, width = (max(round(scale * n), 1) for n in ink.shape[:2])
    return resizing.resize(ink, height, width, "box")


def _at(ink, corner):
    field = np.zeros((FIELD, FIELD, 1), np.uint8)
    (top, left), (height, width) = corner, ink.shape[:2]
    field[top : top + height, left : left + width] = ink
    return field
