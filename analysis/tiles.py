"""Lays many small images out on one; draws nothing else and needs no matplotlib."""

import math

import numpy as np


def tiled(images, columns):
    """Lays images uint8 [N, h, w, C] out in rows, with white lines between."""
    number, height, width, channels = images.shape
    rows = math.ceil(number / columns)
    shape = rows * (height + 1) - 1, columns * (width + 1) - 1, channels
    sheet = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def filters(kernel):
    """Makes images uint8 [K, h, w, C] of filters [h, w, C, K] (AlexNet, Figure 3).

    C is 1 or 3. Each is scaled by its own largest weight; 0 is mid-grey.
    """
    kernel = np.asarray(kernel, np.float32)
    largest = np.abs(kernel).max((0, 1, 2), keepdims=True)
    grey = 127.5 + 127.5 * kernel / np.maximum(largest, 1e-12)
    return np.round(grey).astype(np.uint8).transpose(3, 0, 1, 2)
