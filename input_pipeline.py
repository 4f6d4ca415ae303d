"""From examples to batches, as a pure function of (seed, step).

A batch is a dict: image uint8 [B, H, W, C], label int32 [B], mask float32 [B] (1 real,
0 padding), index int32 [B] (the example in its split), epoch int32 [B] (with repeats:
see TrainPlan.indices). There is no iterator state: `TrainPlan` gives the indices of any
step, an example's augmentation draws from (seed, epoch, index), and so a run resumes at
step t by asking for step t. Host threads, prefetch depth and process count never change
what a batch holds.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

import data_source
from transforms import augment, decode, policies, resizing, whitening

# Which examples, when.


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _permutation(num_examples, seed, epoch):
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """Which examples each training step sees: an endless row of shuffled epochs.

    Epoch e is numpy's permutation for the generator (seed, e); with order="fixed" every
    epoch is epoch 0's (LeNet-5's fixed random order). Batches are cut from the row
    regardless of epochs, so one may hold the end of an epoch and the start of the next,
    and an epoch has num_examples / batch_size steps, a fraction.

    With repeats r, repeated augmentation (Hoffer et al., 2019; Berman et al., 2019): a
    batch holds batch_size / r examples r times, and an epoch, still of num_examples
    images, only the first 1 / r of its permutation. The repeats of an example lie
    batch_size / r apart.
    """

    num_examples: int
    batch_size: int
    seed: int
    order: str = "shuffle"
    repeats: int = 1

    def __post_init__(self):
        if self.order not in ("shuffle", "fixed"):
            raise ValueError(f"order {self.order!r} is neither 'shuffle' nor 'fixed'")
        sizes = self.num_examples, self.batch_size, self.repeats
        if min(sizes) < 1 or self.seed < 0:
            raise ValueError(f"{self}: sizes start at 1 and seeds at 0")
        if self.batch_size % self.repeats:
            raise ValueError(
                f"batch of {self.batch_size} with repeats={self.repeats}, which must "
                "divide it"
            )
        if self.order == "fixed" and self.repeats > 1:
            raise ValueError(
                f"order 'fixed' with repeats={self.repeats} would never show the rest"
            )

    def indices(self, start_step, stop_step):
        """Example indices int32 [S, B] and their epochs int32 [S, B] of those steps.

        With repeats, instead of the epoch, repeats * epoch + the number of the repeat:
        in either case no example has the same number twice.
        """
        distinct = self.batch_size // self.repeats
        first, stop = start_step * distinct, stop_step * distinct
        index = np.empty(stop - first, np.int32)
        epoch = np.empty_like(index)
        at = first
        while at < stop:
            number = at * self.repeats // self.num_examples
            start, end = (
                -(-e * self.num_examples // self.repeats) for e in (number, number + 1)
            )
            offset, count = at - start, min(end, stop) - at
            source = number if self.order == "shuffle" else 0
            order = _permutation(self.num_examples, self.seed, source)
            index[at - first :][:count] = order[offset : offset + count]
            epoch[at - first :][:count] = number
            at += count
        index, epoch = (a.reshape(-1, distinct) for a in (index, epoch))
        repeat = np.repeat(np.arange(self.repeats, dtype=np.int32), distinct)
        number = self.repeats * np.tile(epoch, self.repeats) + repeat
        return np.tile(index, self.repeats), number


def eval_indices(num_examples, batch_size):
    """Every example once: index int32 [S, B] and mask float32 [S, B], 0 where padded.

    Padding has index 0.
    """
    steps = -(-num_examples // batch_size)
    index = np.arange(steps * batch_size, dtype=np.int32)
    mask = (index < num_examples).astype(np.float32)
    index[num_examples:] = 0
    return index.reshape(steps, batch_size), mask.reshape(steps, batch_size)


def process_slice(batch_size, process_index, process_count):
    """The rows of a global batch that one process loads.

    Raises:
      ValueError: the batch does not divide evenly.
    """
    if batch_size % process_count:
        raise ValueError(f"batch of {batch_size} over {process_count} processes")
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


# Host batches.

UNREADABLE = -1  # the label of an image that counts as an error


def train_batches(
    split,
    plan,
    start,
    stop,
    *,
    process_index=0,
    process_count=1,
    num_threads=4,
    prefetch=4,
    view=None,
    damaged="fail",
):
    """Iterates over this process' part of the batches of steps [start, stop).

    `num_threads` read ahead up to `prefetch` batches, or one each if these are more,
    from the moment of the call; 0 reads when asked. The iterator's close() stops them
    early, as its deletion does.

    `view` is a function (image, rng, step) -> uint8 [H, W, C] of one size in a
    step; without it all images of the split must have one size. `rng` is a function of
    (seed, epoch, index). An image that cannot be read raises DataError, or with
    `damaged` "replace" is logged, and the next readable one of the split takes its
    place, label too.
    """
    rows = process_slice(plan.batch_size, process_index, process_count)

    def load(step):
        index, epoch = (a[0, rows] for a in plan.indices(step, step + 1))

        def show(at, image):
            # Not the stream of `_permutation`: of the same numbers but 0 and 0.
            seed = (plan.seed, int(epoch[at]), int(index[at]), 1)
            return view(image, np.random.default_rng(seed), step)

        read = _read_views(split, index, show, damaged) if view else split.read(index)
        return _batch(read, np.ones(len(index), np.float32), index, epoch)

    return _stream(load, start, stop, num_threads, prefetch)


def eval_batches(
    split,
    batch_size,
    *,
    process_index=0,
    process_count=1,
    num_threads=4,
    prefetch=4,
    view=None,
    damaged="fail",
):
    """Iterates over this process' part of batches that hold every example once.

    The last batch is filled up with mask 0. A batch size that does not divide evenly
    among the processes is rounded up, so that each has equally many, equal batches.
    `view` is a function image -> uint8 [H, W, C] of one size. With `damaged` "wrong" an
    image that cannot be read is black and its label UNREADABLE; `num_threads`,
    `prefetch` and else `damaged` are as for `train_batches`.
    """
    batch_size += -batch_size % process_count
    rows = process_slice(batch_size, process_index, process_count)
    indices, masks = eval_indices(len(split), batch_size)

    def load(step):
        index = indices[step, rows]
        read = read_examples(split, index, view, damaged)
        return _batch(read, masks[step, rows], index, np.zeros_like(index))

    return _stream(load, 0, len(indices), num_threads, prefetch)


def read_examples(split, index, view=None, damaged="fail"):
    """Images uint8 [n, H, W, C] in their test `view`, and labels int32 [n].

    `view` is Preprocessing.view of the split's images, `damaged` as for `eval_batches`.
    """
    if view is None:
        try:
            return split.read(index)
        except data_source.DataError:
            if damaged == "fail":
                raise
        view = np.asarray  # one by one
    return _read_views(split, index, lambda at, image: view(image[:, :]), damaged)


def _batch(read, mask, index, epoch):
    image, label = read
    return {
        "image": image,
        "label": label,
        "mask": mask,
        "index": index,
        "epoch": epoch,
    }


def _read_views(split, index, show, damaged):
    """What `show(at, image)` makes of the images of the examples index[at]; labels.

    Raises:
      DataError: an image cannot be read and `damaged` is "fail", or with "replace" a
        hundred in a row cannot.
    """
    images, labels = None, np.empty(len(index), np.int32)
    for at in range(len(index)):
        image, labels[at] = _readable(split, int(index[at]), damaged, at, show)
        if images is None:
            images = np.empty((len(index), *image.shape), np.uint8)
        images[at] = image
    return images, labels


def _readable(split, index, damaged, at, show):
    """(what is shown of example `index`, label), or of what stands for it."""
    error = None
    for number in range(min(100, len(split))):
        try:
            (example,) = split.examples([(index + number) % len(split)])
            image = decode.decode_lazily(example.image, split.image_shape[-1])
            return show(at, image), example.label
        except decode.DamagedImage as e:
            error = data_source.DataError(f"{example.name} is damaged: {e}")
        except data_source.DataError as e:
            error = e
        if damaged == "fail":
            raise error
        if damaged == "wrong":
            logging.warning("%s; it counts as an error", error)
            black = [64 if size is None else size for size in split.image_shape]
            return show(at, np.zeros(black, np.uint8)), UNREADABLE
        logging.warning("%s; the next image stands for it", error)
    raise data_source.DataError(f"{error}; nor can the images after it be read")


def _stream(load, start, stop, num_threads, prefetch):
    import grain

    # A thread makes a whole batch; more of them than the buffer holds would be idle.
    options = grain.ReadOptions(
        num_threads=num_threads if prefetch else 0,
        prefetch_buffer_size=max(prefetch, num_threads) if num_threads else 0,
    )
    # Not range(start, stop): Grain's range of length 0 is an error of its own.
    steps = grain.MapDataset.source(range(start, stop)).map(load)
    iterator = iter(steps.to_iter_dataset(options))
    iterator.start_prefetch()
    return iterator


# Inside jit.


def device_batch(images, labels, index, epoch):
    """The batch of the given examples [B] from arrays that live on the device."""
    batch = {
        "image": images.at[index].get(mode="promise_in_bounds"),
        "label": labels.at[index].get(mode="promise_in_bounds"),
        "mask": jnp.ones(index.shape, jnp.float32),
        "index": index,
        "epoch": epoch,
    }
    # Fused with the gather, what follows could round otherwise than on a host batch.
    return jax.lax.optimization_barrier(batch)


def example_keys(seed, epoch, index):
    """Keys [B] of the examples' augmentation: a function of (seed, epoch, index)."""

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
    # Arrays of images.whitening.fit; a run keeps them in statistics.npz.
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
        """Everything but the statistics, for JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, statistics=None))
        del fields["statistics"]
        return fields

    def view(self, image_shape):
        """image [H, W, C] -> its test view on the host; None where jit makes it all.

        `image_shape` has None where the stored images differ in size.
        """
        if self.fit == "crop":
            return functools.partial(
                resizing.center_crop,
                size=self.image_size,
                short_side=self.short_side,
                interpolation=self.interpolation,
            )
        if None not in image_shape:
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
    """What a training step shows of an image, made on the host.

    `sizes` are (first step, pixels), the first of step 0. Without a random view the
    image is shown `whole`, brought to size by that function, or as it is stored (None).
    """

    augmentation: policies.HostAugmentation
    sizes: tuple
    whole: Callable | None = None

    def size(self, step):
        return [pixels for first, pixels in self.sizes if first <= step][-1]

    def __call__(self, image, rng, step):
        """uint8 [size, size, C] of an array or decode.LazyJpeg [H, W, C]."""
        if not self.augmentation.view:
            image = image[:, :]
        if self.whole:
            image = self.whole(image)
        return self.augmentation(image, rng, self.size(step))


def network_input(batch, preprocessing, augmentation=None, *, seed=0, dtype=None):
    """What the network sees of a batch, [B, image_size, image_size, C] in dtype."""
    image = batch["image"]
    if augmentation is None:
        return preprocess(image, preprocessing, dtype=dtype)
    keys = example_keys(seed, batch["epoch"], batch["index"])
    if augmentation.crop_mode == "mean":
        image = preprocess(image, preprocessing)
        return augment.augment(image, keys, augmentation).astype(dtype or jnp.float32)
    image = augment.augment(image, keys, augmentation)
    return preprocess(image, preprocessing, dtype=dtype)


def fit_size(image, preprocessing):
    """The part of `preprocess` that brings images to a size; float32 of 0..255."""
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


def fit_statistics(split, preprocessing, **reading):
    """images.whitening.fit of a split's images, each once, in their test view.

    `reading` are num_threads, prefetch and damaged of `eval_batches`.
    """
    view = preprocessing.view(split.image_shape)
    sized = jax.jit(functools.partial(fit_size, preprocessing=preprocessing))

    def images():
        for batch in eval_batches(split, 256, view=view, **reading):
            yield np.asarray(sized(batch["image"]))[batch["mask"] > 0]

    return whitening.fit(preprocessing.whiten, images())


def preprocess(image, preprocessing, dtype=None):
    """Brings images [B, H, W, C] of 0..255 to a square size, then (x - mean) / std.

    fit="pad" centres them in background 0 (an odd rest goes below and right); "resize"
    is bilinear, antialiased when it shrinks; with "crop" they have their size from
    `Preprocessing.view`. Whitening, if asked for, is next. mean and std are per channel
    or one for all, in units of 0..255; grey images take the average of several.
    Computed in float32, returned in dtype (float32).

    Raises:
      ValueError: an image too large to pad, or a wrong number of means or stds.
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
    return ((image - mean) / std).astype(dtype or jnp.float32)
