"""The papers' test protocols: the views of an image, and what is averaged over them.

single            one view: the image as in training without augmentation
ten_crop          AlexNet (2012), Section 4.1: corners and centre of the central square
crops_144         GoogLeNet (2014), Section 7: 4 scales, 3 squares, 6 crops
dense             VGG (2014), Section 3.2: slid over the whole image at several scales
multi_crop        VGG, Section 4.3: a grid of 5x5 crops at each of 3 scales
dense_multi_crop  VGG, Section 4.3: both, averaged
scales            ResNet (2015), Section 3.4: slid over the whole image at 5 scales
offsets           OverFeat (2013), Section 3.3: slid at the fine stride of its last pool

All except single show each view and its mirror image. The host makes the views, uint8,
and the device does the rest. Images are never padded, so images that differ in size go
into different batches.

AlexNet, GoogLeNet and VGG average the softmax outputs of views; ResNet and OverFeat
speak of scores. So average="softmax" is the default and "logits" the alternative.
Within a map, VGG averages the class scores before the softmax; OverFeat takes each
class's maximum over the map, here after the softmax.

Where the papers are silent, we read them as follows: "scales" has mirror images, as in
the two papers that ResNet's refers to; other papers' 10 crops are AlexNet's; OverFeat's
six sizes (Table 5) are of the shorter side, and the longer keeps the image's aspect.
"""

import collections
import concurrent.futures
import dataclasses
import typing
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import data_source
import models
from evaluation import evaluator, scoring
from kernels import ops
from transforms import decode, resizing

# These functions make the views, without mirror images, of a resizing.Rescaled.


def five_crops(image, size):
    """Returns the four corners and the centre of an image, each [size, size, C]."""
    below, right = image.shape[0] - size, image.shape[1] - size
    places = [(y, x) for y in (0, below) for x in (0, right)]
    places.append((round(below / 2), round(right / 2)))
    return [image[y : y + size, x : x + size] for y, x in places]


def squares(image):
    """Cuts three squares: left to right from a wide image, else top to bottom."""
    height, width = image.shape[:2]
    side, rest = min(height, width), abs(height - width)
    starts = (0, round(rest / 2), rest)
    if width > height:
        return [image[:, x : x + side] for x in starts]
    return [image[y : y + side, :] for y in starts]


def ten_crop(image, size, interpolation):
    del interpolation
    return five_crops(squares(image)[1], size)


def crops_144(image, size, interpolation):
    crops = []
    for square in squares(image):
        crops += five_crops(square, size)
        crops.append(resizing.resize(square, size, size, interpolation))
    return crops


def grid(image, size, interpolation):
    """Returns 5x5 crops, evenly spaced from the top left to the bottom right corner."""
    del interpolation
    ys, xs = (
        np.linspace(0, side - size, 5).round().astype(int) for side in image.shape[:2]
    )
    return [image[y : y + size, x : x + size] for y in ys for x in xs]


def whole(image, size, interpolation):
    del size, interpolation
    return [image[:, :]]


# A protocol averages these parts equally. Each part has its views, and a kind that says
# what the network makes of a view: "crop" gives logits, "map" the mean of a map of
# logits, "fine_map" a maximum.
PROTOCOLS = {
    "ten_crop": (("crop", ten_crop),),
    "crops_144": (("crop", crops_144),),
    "dense": (("map", whole),),
    "multi_crop": (("crop", grid),),
    "dense_multi_crop": (("map", whole), ("crop", grid)),
    "scales": (("map", whole),),
    "offsets": (("fine_map", whole),),
}
# Short sides in pixels, if a paper has several; otherwise a single crop's is used.
SCALES = {
    "crops_144": (256, 288, 320, 352),
    "dense": (256, 384, 512),
    "multi_crop": (256, 384, 512),
    "dense_multi_crop": (256, 384, 512),
    "scales": (224, 256, 384, 480, 640),
    "offsets": (245, 281, 317, 389, 425, 461),  # Table 5
}


class View(typing.NamedTuple):
    """A part of an image, uint8 [H, W, C], and its weight in the average."""

    kind: str
    image: np.ndarray
    weight: float


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol with its sizes in pixels.

    Args:
      image_size: side of a crop.
      scales: short sides of the rescaled image; for "single", the one, if any, from
        which its view is cropped.
      view: makes the view that "single" shows; None shows the image as stored.
      average: "softmax" or "logits".

    Raises:
      ValueError: a crop does not fit into a scale.
    """

    name: str
    image_size: int
    scales: tuple
    view: Callable | None = None
    interpolation: str = "bilinear"
    average: str = "softmax"

    def __post_init__(self):
        kinds = [kind for kind, _ in PROTOCOLS.get(self.name, (("crop", None),))]
        if "crop" in kinds and min(self.scales, default=self.image_size) < (
            self.image_size
        ):
            raise ValueError(
                f"crops of {self.image_size}x{self.image_size} do not fit into images "
                f"with a short side of {min(self.scales)}"
            )

    def views(self, image):
        """Returns the views of an image uint8 [H, W, C]; their weights add up to 1.

        Raises:
          ValueError: the image is too large to pad, or too long to rescale.
        """
        if self.name == "single":
            shown = self.view(image) if self.view else image
            return [View("crop", shown, 1.0)]
        rescaled = [
            resizing.Rescaled(image, side, self.interpolation) for side in self.scales
        ]
        shown, parts = [], PROTOCOLS[self.name]
        for kind, make in parts:
            found = [
                view
                for scaled in rescaled
                for view in make(scaled, self.image_size, self.interpolation)
            ]
            found += [view[:, ::-1] for view in found]
            weight = 1 / (len(parts) * len(found))
            shown += [View(kind, view, weight) for view in found]
        return shown

    def describe(self):
        """Returns a dict of what a result must say about its protocol."""
        record = {"protocol": self.name, "image_size": self.image_size}
        if self.name == "single":
            return record | ({"short_side": self.scales[0]} if self.scales else {})
        return record | {"scales": self.scales, "average": self.average}


# From views to scores.


def make_step(model, kind, prepare, *, average, image_size):
    """Makes (variables, views uint8 [B, H, W, C]) -> scores [B, K].

    Args:
      kind: kind of the views (`PROTOCOLS`).
      prepare: maps views to the network's input.
      average: "logits", or "softmax" for log probabilities, which are averaged as
        probabilities.
      image_size: size of the images that the network was trained on.

    Raises, when it is traced:
      ValueError: a "map" of the views has no position, as they are smaller.
    """

    def step(variables, images):
        x = prepare(images)
        if kind == "fine_map":
            scores = model.apply(variables, x, method="fine_class_map")
        elif kind == "map":
            scores = models.class_map(model, variables, x, image_size=image_size)
            if 0 in scores.shape:
                raise ValueError(
                    f"the map of class scores is empty, as they are smaller than the "
                    f"{image_size} of the training; config.eval.scales sets short sides"
                )
            scores = scores.mean((1, 2))
        else:
            scores = model.apply(variables, x, train=False)
        if average == "softmax":
            scores = jax.nn.log_softmax(scores)
        return scores.max((1, 2)) if kind == "fine_map" else scores

    return step


def average_scores(
    steps,
    variables,
    split,
    indices,
    protocol,
    mesh,
    *,
    batch_size,
    num_threads=2,
    prefetch=4,
    damaged="fail",
    report=lambda done: None,
):
    """Computes the scores of the given examples, averaged over their views.

    Each view size and each number of rows needs its own program: at most
    log2(batch_size) + 2 per size, usually one or two.

    Args:
      steps: {kind: a jitted `make_step`}.
      mesh: devices of this process, which evaluates its examples alone.
      batch_size: most views of protocol.image_size^2 pixels in a program; it takes
        correspondingly fewer larger ones (but at least one per device).
      damaged: for a file that cannot be read or an image that cannot be decoded, "fail"
        raises and "wrong" makes its scores not-a-number.
      report: called with the number of images read so far.

    Returns:
      names (list), labels int32 [n], scores float64 [n, K], and which images are
      damaged, bool [n]. With average="softmax" the scores are log probabilities.

    Raises:
      DataError: an image is damaged and `damaged` is "fail", or a record is damaged so
        that not even its label is known.
    """
    softmax = protocol.average == "softmax"
    number = len(indices)
    totals = np.full((number, split.num_classes), -np.inf if softmax else 0.0)
    weights = np.zeros(number)
    names, labels = [], np.zeros(number, np.int32)
    unreadable = np.zeros(number, bool)

    def rows():
        for example, shown in _load(split, indices, protocol, num_threads, prefetch):
            row = len(names)
            names.append(example.name)
            labels[row] = example.label
            report(len(names))
            if isinstance(shown, decode.DamagedImage):
                if damaged == "fail":
                    raise data_source.DataError(
                        f"{split.split}: {example.name} cannot be decoded ({shown}); "
                        f"{evaluator.ADVICE}"
                    ) from shown
                unreadable[row], totals[row], weights[row] = True, np.nan, 1.0
                continue
            for view in shown:
                yield row, view

    def add(places, scores):
        scores = np.asarray(scores, np.float64)
        for (row, weight), score in zip(places, scores, strict=False):
            weights[row] += weight
            if softmax:
                totals[row] = np.logaddexp(totals[row], np.log(weight) + score)
            else:
                totals[row] += weight * score

    sharding = NamedSharding(mesh, PartitionSpec("data"))
    pixels = batch_size * protocol.image_size**2
    pending = collections.deque()
    for kind, places, images in _batches(rows(), batch_size, pixels, mesh.devices.size):
        with ops.for_mesh(mesh):
            scores = steps[kind](variables, jax.device_put(images, sharding))
        pending.append((places, scores))
        if len(pending) > 2:  # the device works on the next while the host adds
            add(*pending.popleft())
    for places, scores in pending:
        add(places, scores)
    if len(names) != number or not np.allclose(weights, 1.0, atol=1e-9):
        raise AssertionError(f"not each view of {split.name} was counted once")
    if softmax:  # OverFeat's maxima are not probabilities yet
        totals = scoring.log_normalized(totals)
    return names, labels, totals, unreadable


def _load(split, indices, protocol, num_threads, prefetch):
    """Yields (Example, its views or a DamagedImage) in order; threads work ahead."""
    channels = split.image_shape[-1]

    def load(indices):
        try:
            examples = split.examples(indices)
        except data_source.UnreadableFile as error:
            if len(indices) > 1:
                return [x for index in indices for x in load([index])]
            return [(error.example, decode.DamagedImage(str(error)))]
        found = []
        for example in examples:
            image = example.image
            try:
                if not isinstance(image, np.ndarray):
                    image = decode.decode(image, channels)
                found.append((example, protocol.views(image)))
            except decode.DamagedImage as error:
                found.append((example, error))
            except ValueError as error:
                raise data_source.DataError(f"{example.name}: {error}") from error
        return found

    at_once = 64 if protocol.name == "single" else 1
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting = collections.deque()
        for start in range(0, len(indices), at_once):
            waiting.append(pool.submit(load, indices[start : start + at_once]))
            if len(waiting) > prefetch:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


WAITING_BYTES = 2**30  # most bytes of views whose batch is not yet full


def _batches(rows, batch_size, pixels, devices):
    """Yields (kind, [(row, weight)], images uint8 [B, H, W, C]) of views of one size.

    A batch has at most batch_size views and `pixels` pixels; its size is a multiple of
    `devices`. An unfinished batch, at the end or when too much waits, is padded with
    zeros to a batch size used before, or else to the next power of two.
    """
    waiting, known, size = {}, {}, 0

    def most(shape):
        count = min(batch_size, pixels // (shape[0] * shape[1]))
        return max(count // devices, 1) * devices

    def batch(key):
        nonlocal size
        kind, shape = key
        found = waiting.pop(key)
        size -= len(found) * int(np.prod(shape))
        used = known.setdefault(key, set())
        fits = [n for n in used if n >= len(found)]
        power = devices * 2 ** int(np.ceil(np.log2(max(len(found) / devices, 1))))
        count = min(fits) if fits else min(power, most(shape))
        used.add(count)
        images = np.zeros((count, *shape), np.uint8)
        for image, (_, view) in zip(images, found, strict=False):
            image[...] = view.image
        return kind, [(row, view.weight) for row, view in found], images

    for row, view in rows:
        key = view.kind, view.image.shape
        waiting.setdefault(key, []).append((row, view))
        size += view.image.size
        if len(waiting[key]) == most(view.image.shape):
            yield batch(key)
        elif size > WAITING_BYTES:
            yield batch(max(waiting, key=lambda k: len(waiting[k]) * np.prod(k[1])))
    while waiting:
        yield batch(next(iter(waiting)))
