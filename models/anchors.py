"""Anchors of Faster R-CNN (Ren, He, Girshick, Sun, 2015), Section 3.1.1.

https://arxiv.org/abs/1506.01497. Anchors are boxes of models/boxes.py, made on the host
in numpy. `caffe` has the rounded anchors of the authors' py-faster-rcnn, and `centred`
the unrounded ones of Detectron2. A size is the square root of an area in pixels, and a
ratio is height over width.
"""

import numpy as np

# The paper's nine anchors (Section 3.3); for COCO it adds the size 64.
SIZES, RATIOS = (128, 256, 512), (0.5, 1, 2)
# Caffe rounds the sides of windows of this size and enlarges them afterwards.
BASE = 16


def caffe(sizes=SIZES, ratios=RATIOS):
    """Returns float32 [A, 4]: Caffe's anchors at the map's first position, by ratio.

    Their centre is (8, 8). Caffe writes them as inclusive boxes, whose x2 and y2 are
    smaller by 1.
    """
    width = np.round(BASE / np.sqrt(ratios))
    height = np.round(width * ratios)
    windows = np.stack([width, height], 1)[:, None]
    scales = np.array(sizes)[:, None] / BASE
    return _around(BASE / 2, windows * scales)


def centred(sizes=SIZES, ratios=RATIOS):
    """Returns float32 [A, 4]: anchors around (0, 0), by size."""
    shape = np.stack([1 / np.sqrt(ratios), np.sqrt(ratios)], 1)
    return _around(0.0, np.array(sizes)[:, None, None] * shape)


STYLES = {"caffe": caffe, "centred": centred}


def grid(anchors, shape, stride):
    """Returns float32 [H * W * A, 4]: the anchors at each position of a map.

    Positions go row by row, and the A anchors of one follow each other, as the channels
    of the network's head do. `shape` is (H, W), and neighbours are `stride` pixels
    apart.
    """
    y, x = np.indices(shape) * stride
    shifts = np.stack([x, y, x, y], -1)[:, :, None]
    return (shifts + anchors).reshape(-1, 4).astype(np.float32)


def _around(centre, sides):
    half = sides.reshape(-1, 2) / 2
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)
