"""Brings images and their boxes to fixed shapes, for training and for testing.

An image is resized as in py-faster-rcnn, perhaps flipped, and put into the upper left
corner of a bucket, whose other pixels are 0. A bucket is a shape (H, W) of multiples of
the network's STRIDE, and a batch has images of one bucket. The arrays of an example are

    image       uint8 [H, W, C]
    image_size  int32 [2], the height and width of the image in its bucket
    boxes       float32 [G, 4] in pixels of `image`; G is max_boxes
    labels      int32 [G], from 0
    real        bool [G], the boxes that can be matched: neither padding nor crowd, nor
                difficult unless the view says so
    crowd       bool [G]

Where the objects have proposals (records.py), there are also

    proposals   float32 [M, 4] in pixels of `image`; M is max_proposals
    proposed    bool [M], those that are not padding

and a test at several scales has image_S and image_size_S of each other short side S.
"""

import dataclasses
import math

import numpy as np

import input_pipeline
from data_source import DataError
from errors import shortened
from models.faster_rcnn import STRIDE
from transforms import resizing


def resized_size(size, short_side, long_side):
    """Returns (height, width) of an image of `size` brought to a short side.

    If its long side would then be larger than `long_side`, it gets that long side.
    """
    scale = short_side / min(size)
    if round(scale * max(size)) > long_side:
        scale = long_side / max(size)
    return tuple(max(1, round(scale * side)) for side in size)


def names_at(short_side):
    """Returns the names of the image and its size at another scale of a test."""
    return f"image_{short_side}", f"image_size_{short_side}"


def fitting_buckets(sizes, short_side, long_side):
    """Returns the smallest buckets of images of `sizes`: of wide ones, and of tall."""
    resized = {resized_size(size, short_side, long_side) for size in sizes}
    wide = [size for size in resized if size[0] <= size[1]]
    tall = [size for size in resized if size[0] > size[1]]
    return tuple(
        tuple(STRIDE * math.ceil(side / STRIDE) for side in np.max(kind, 0).tolist())
        for kind in (wide, tall)
        if kind
    )


def bucket_of(size, buckets):
    """Returns the number of the first bucket that holds an image of `size`, or None."""
    rows, columns = size
    held = (i for i, (h, w) in enumerate(buckets) if rows <= h and columns <= w)
    return next(held, None)


@dataclasses.dataclass(frozen=True)
class View:
    """How an image and its objects are shown; sides are in pixels.

    Args:
      buckets: (H, W) of each.
      max_boxes: the number G of boxes, with padding.
      short_side, long_side: as for `resized_size`.
      train_short_sides: training draws one of these instead of `short_side`; () means
        that alone.
      flip, flip_vertical: training mirrors an image left to right, or top to bottom,
        with probability 1/2, anew in each epoch.
      use_difficult: whether difficult objects can be matched.
      max_proposals: the number M of proposals, with padding; 0 means there are none.
      test_scales: the short sides at which a test sees regions; () means short_side.
    """

    buckets: tuple
    max_boxes: int
    short_side: int = 600
    long_side: int = 1000
    train_short_sides: tuple = ()
    flip: bool = True
    flip_vertical: bool = False
    use_difficult: bool = False
    interpolation: str = "bilinear"
    max_proposals: int = 0
    test_scales: tuple = ()

    @property
    def scales(self):
        """The names of image and size at each scale at which a test sees regions."""
        own = {self.short_side: ("image", "image_size")}
        sides = self.test_scales or own
        return tuple(own.get(side) or names_at(side) for side in sides)

    @property
    def tested(self):
        """The names of the arrays that the network sees in a test."""
        names = dict.fromkeys(("image", "image_size", *sum(self.scales, ())))
        return *names, *(("proposals", "proposed") if self.max_proposals else ())

    def groups(self, split):
        """Returns the bucket of each image of a split, int [N], from 0.

        It is the first that holds the image at its largest size.

        Raises:
          DataError: none does; or an image has more than max_boxes objects.
        """
        largest = max(self.short_side, *self.train_short_sides, 0)
        return np.array([self._group(one, largest) for one in split.objects])

    def _group(self, objects, short_side):
        if len(objects) > self.max_boxes:
            raise DataError(
                f"{objects.name} has {len(objects)} objects, more than max_boxes = "
                f"{self.max_boxes}; 0 takes the number from the data"
            )
        size = resized_size(objects.size, short_side, self.long_side)
        number = bucket_of(size, self.buckets)
        if number is not None:
            return number
        there = shortened(f"{rows}x{columns}" for rows, columns in self.buckets)
        raise DataError(
            f"{objects.name} becomes an image of {size[0]}x{size[1]}, which no bucket "
            f"holds: {there} (height x width)"
        )

    def train(self, image, objects, rng, group):
        """Returns (uint8 [H, W, C], the other arrays) with random changes.

        An image that does not belong to the bucket `group`, because it takes the place
        of a damaged one, is shrunk into it.
        """
        short_side = rng.choice(self.train_short_sides or (self.short_side,))
        flips = (rng.random(2) < 0.5) & [self.flip, self.flip_vertical]
        bucket = self.buckets[group]
        size = _fitted(image, int(short_side), self.long_side, bucket)
        resized = self._resized(image, size, resizing.resize_fast)
        boxes = _scaled(self._boxes(objects), image.shape, size)
        if flips[0]:
            resized, boxes[:, [0, 2]] = resized[:, ::-1], size[1] - boxes[:, [2, 0]]
        if flips[1]:
            resized, boxes[:, [1, 3]] = resized[::-1], size[0] - boxes[:, [3, 1]]
        return _bucketed(resized, bucket), self._arrays(objects, boxes, size)

    def test(self, image, objects, group):
        """Works as `train` without random changes; `objects` is None if unreadable.

        A further array `readable`, bool [], says which. At another scale, the limit of
        the long side and the bucket grow with the short side.
        """
        shown, size = self._shown(image, self.short_side, self.buckets[group])
        boxes = np.zeros((0, 4), np.float32)
        if objects is not None:
            boxes = _scaled(self._boxes(objects), image.shape, size)
        arrays = self._arrays(objects, boxes, size)
        arrays["readable"] = np.bool_(objects is not None)
        for side in {*self.test_scales} - {self.short_side}:
            bucket = grown(self.buckets[group], side, self.short_side)
            arrays |= zip(names_at(side), self._shown(image, side, bucket), strict=True)
        return shown, arrays

    def _shown(self, image, short_side, bucket):
        """Returns the image at a scale of a test, in its bucket, and its size there."""
        long_side = self.long_side * short_side / self.short_side
        size = _fitted(image, short_side, long_side, bucket)
        resized = self._resized(image, size, resizing.resize)
        return _bucketed(resized, bucket), np.array(size, np.int32)

    def _boxes(self, objects):
        """Returns the boxes of objects, and below them their proposals, if any."""
        if not self.max_proposals:
            return objects.boxes
        return np.concatenate([objects.boxes, objects.proposals])

    def _resized(self, image, size, resize):
        pixels = image[:, :]
        if image.shape[:2] == size:
            return pixels
        return resize(pixels, *size, self.interpolation)

    def _arrays(self, objects, boxes, size):
        count = 0 if objects is None else len(objects)
        boxes, proposals = boxes[:count], boxes[count:]
        arrays = {
            "image_size": np.array(size, np.int32),
            "boxes": np.zeros((self.max_boxes, 4), np.float32),
            "labels": np.zeros(self.max_boxes, np.int32),
            "real": np.zeros(self.max_boxes, bool),
            "crowd": np.zeros(self.max_boxes, bool),
        }
        if count:
            real = ~objects.crowd & (self.use_difficult | ~objects.difficult)
            arrays["boxes"][:count], arrays["labels"][:count] = boxes, objects.labels
            arrays["real"][:count], arrays["crowd"][:count] = real, objects.crowd
        if self.max_proposals:
            padding = self.max_proposals - len(proposals)
            arrays["proposals"] = np.pad(proposals, ((0, padding), (0, 0)))
            arrays["proposed"] = np.arange(self.max_proposals) < len(proposals)
        return arrays


def grown(bucket, short_side, own):
    """Returns the bucket for images at `short_side` that `bucket` holds at `own`."""
    return tuple(STRIDE * -(-side * short_side // (own * STRIDE)) for side in bucket)


def _fitted(image, short_side, long_side, bucket):
    """Returns `resized_size`, shrunk if the bucket cannot hold it."""
    size = resized_size(image.shape[:2], short_side, long_side)
    shrink = min(1, bucket[0] / size[0], bucket[1] / size[1])
    return tuple(max(1, int(shrink * side)) for side in size)


def _bucketed(image, bucket):
    found = np.zeros((*bucket, image.shape[-1]), np.uint8)
    found[: image.shape[0], : image.shape[1]] = image
    return found


def _scaled(boxes, shape, size):
    """Returns boxes [N, 4] of an image [H, W, C] after it was resized to `size`."""
    height, width = size[0] / shape[0], size[1] / shape[1]
    return (boxes * [width, height, width, height]).astype(np.float32)


def make_view(splits, *, buckets=(), known=(), max_boxes=0, **fields):
    """Returns the `View` of some splits, with further fields of it.

    Args:
      buckets: () means `known`, and the smallest that hold all other images.
      max_boxes: 0 means the largest number of objects in an image.
    """
    most = max(split.most_objects for split in splits)
    proposals = max(split.most_proposals for split in splits)
    view = View(tuple(buckets), max_boxes or most, max_proposals=proposals, **fields)
    if not buckets:
        sizes = {one.size for split in splits for one in split.objects}
        sides = max(view.short_side, *view.train_short_sides, 0), view.long_side
        others = [s for s in sizes if bucket_of(resized_size(s, *sides), known) is None]
        found = *known, *fitting_buckets(others, *sides)
        view = dataclasses.replace(view, buckets=found)
    return view


@dataclasses.dataclass(frozen=True)
class TrainView:
    """The view of a training step for input_pipeline.train_batches."""

    view: View
    plan: input_pipeline.GroupedPlan

    def __call__(self, image, objects, rng, step):
        return self.view.train(image, objects, rng, self.plan.group(step))

    def size(self, step):
        """Returns the bucket of a step's images."""
        return self.view.buckets[self.plan.group(step)]

    @property
    def largest(self):
        """The (height, width) of the largest images of the training."""
        used = [self.view.buckets[group] for group in np.unique(self.plan.groups)]
        return max(used, key=math.prod)


def eval_batches(
    split,
    view,
    batch_size,
    *,
    process_index=0,
    process_count=1,
    num_threads=4,
    prefetch=4,
    damaged="fail",
):
    """Iterates over this process' part of batches that hold every example once.

    It works as input_pipeline.eval_batches with batches of one bucket each. A batch has
    the arrays of `View.test`, and mask bool [B], False for padding; index and epoch
    int32 [B]. With `damaged` "wrong" an image that cannot be read is black and not
    `readable`.
    """
    batch_size += -batch_size % process_count
    rows = input_pipeline.process_slice(batch_size, process_index, process_count)
    groups = view.groups(split)
    indices, masks = input_pipeline.grouped_eval_indices(groups, batch_size)

    def load(step):
        index, group = indices[step, rows], groups[indices[step, 0]]

        def show(at, image, objects):
            return view.test(image, objects, group)

        batch = input_pipeline.read_views(split, index, show, damaged)
        places = {"index": index, "epoch": np.zeros_like(index)}
        return batch | {"mask": masks[step, rows] > 0} | places

    return input_pipeline.stream(load, 0, len(indices), num_threads, prefetch)
