"""Turns a stored image into the input of a network.

The host makes the view of an image that training or testing shows. jit does the rest on
a whole batch: size, random changes, whitening and normalisation.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from transforms import augment, policies, resizing, whitening


def example_keys(seed, epoch, index):
    """Returns keys [B] for the examples' augmentation, by (seed, epoch, index)."""

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), epoch)
    return jax.vmap(jax.random.fold_in)(keys, index)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The options of `preprocess`; a run keeps them beside its parameters."""

    image_size: int
    fit: str = "pad"
    mean: tuple = (0.0,)
    std: tuple = (1.0,)
    short_side: int = 256
    interpolation: str = "bilinear"
    whiten: str = ""
    # Arrays of whitening.fit; a run keeps them in statistics.npz.
    statistics: dict | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        for field in ("mean", "std"):  # from a number, or from JSON's list
            value = tuple(float(v) for v in np.ravel(getattr(self, field)))
            object.__setattr__(self, field, value)
        if self.fit not in ("pad", "resize", "crop"):
            raise ValueError(f"fit {self.fit!r} is none of 'pad', 'resize', 'crop'")
        if self.image_size < 1 or min(self.std) <= 0:
            raise ValueError(f"{self}: image_size and std must be positive")
        if self.fit == "crop" and self.short_side < self.image_size:
            raise ValueError(
                f"short_side {self.short_side} is less than image_size "
                f"{self.image_size}, which is cropped from it"
            )

    def as_dict(self):
        """Returns everything except the statistics, for JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, statistics=None))
        del fields["statistics"]
        return fields

    def of_views(self):
        """Returns these options for images that a view has brought to size already."""
        side = max(self.short_side, self.image_size)  # which nothing reads then
        return dataclasses.replace(self, fit="crop", short_side=side)

    def view(self, image_shape):
        """Returns image [H, W, C] -> its test view on the host; None if jit does all.

        `image_shape` has None where the stored images differ in size. Images of one
        size are resized inside jit if `interpolation` is bilinear.

        Raises:
          ValueError: images that differ in size would have to be padded.
        """
        if self.fit == "crop":
            return functools.partial(
                resizing.center_crop,
                size=self.image_size,
                short_side=self.short_side,
                interpolation=self.interpolation,
            )
        there = self.fit == "pad" or self.interpolation == "bilinear"
        there = there or tuple(image_shape[:2]) == 2 * (self.image_size,)
        if there and None not in image_shape:
            return None
        if self.fit == "pad":
            raise ValueError(
                "images that differ in size cannot be padded: set fit to 'crop' or "
                "'resize'"
            )
        return functools.partial(
            resizing.resize,
            height=self.image_size,
            width=self.image_size,
            interpolation=self.interpolation,
        )


@dataclasses.dataclass(frozen=True)
class TrainView:
    """Makes, on the host, the view of an image that a training step shows.

    `sizes` are (first step, pixels), starting at step 0. Without a random view the
    function `whole` brings the image to size; None keeps it as stored.
    """

    augmentation: policies.HostAugmentation
    sizes: tuple
    whole: Callable | None = None

    def size(self, step):
        return [pixels for first, pixels in self.sizes if first <= step][-1]

    @property
    def largest(self):
        """The (height, width) of the largest images of the training."""
        return 2 * (max(pixels for _, pixels in self.sizes),)

    def __call__(self, image, target, rng, step):
        """Takes an array or decode.LazyJpeg [H, W, C] and its target.

        Returns (uint8 [size, size, C], target).
        """
        if not self.augmentation.view:
            image = image[:, :]
        if self.whole:
            image = self.whole(image)
        return self.augmentation(image, rng, self.size(step)), target


def network_input(batch, preprocessing, augmentation=None, *, seed=0):
    """Returns the network's input, float32 [B, image_size, image_size, C]."""
    image = batch["image"]
    if augmentation is None:
        return preprocess(image, preprocessing)
    keys = example_keys(seed, batch["epoch"], batch["index"])
    if augmentation.crop_mode == "mean":
        image = preprocess(image, preprocessing)
        return augment.augment(image, keys, augmentation)
    image = augment.augment(image, keys, augmentation)
    return preprocess(image, preprocessing)


def fit_size(image, preprocessing):
    """Brings images to a size as the first part of `preprocess`; float32 in 0..255."""
    size, (batch, height, width, channels) = preprocessing.image_size, image.shape
    image = image.astype(jnp.float32)
    if preprocessing.fit == "crop":
        return image
    if preprocessing.fit == "resize":
        return jax.image.resize(image, (batch, size, size, channels), "bilinear")
    if max(height, width) > size:
        raise ValueError(
            f"images of {height}x{width} cannot be padded to {size}x{size}: raise "
            "image_size or set fit to 'crop' or 'resize'"
        )
    below, right = size - height, size - width
    pads = [(below // 2, below - below // 2), (right // 2, right - right // 2)]
    return jnp.pad(image, [(0, 0), *pads, (0, 0)])


def preprocess(image, preprocessing):
    """Brings images [B, H, W, C] of 0..255 to a square size, then (x - mean) / std.

    fit="pad" centres them on background 0 (an odd pixel goes below and right); "resize"
    is bilinear and antialiases when it shrinks; for "crop" and other interpolations,
    `Preprocessing.view` has set their size. Whitening, if any, comes next. mean and std
    are per channel or one for all, in units of 0..255; grey images take the average of
    several. The result is float32.

    Raises:
      ValueError: an image is too large to pad, or the number of means or stds is wrong.
    """
    mean, std, channels = preprocessing.mean, preprocessing.std, image.shape[-1]
    for name, value in (("mean", mean), ("std", std)):
        if len(value) not in (1, channels) and channels > 1:
            raise ValueError(
                f"{name} has {len(value)} values for images of {channels} channels"
            )
    image = fit_size(image, preprocessing)
    if preprocessing.whiten:
        image = whitening.apply(preprocessing.whiten, preprocessing.statistics, image)
    if channels == 1:
        mean, std = (np.mean(mean),), (np.mean(std),)
    mean = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return (image - mean) / std
