"""Decides which example is seen when, makes batches, and sends them to the devices.

A batch is a dict: image uint8 [B, H, W, C], the arrays of the examples' targets (for a
classifier: label int32 [B]), mask float32 [B] (1 real, 0 padding), index int32 [B] (the
example in its split) and epoch int32 [B] (with repeats: see TrainPlan.indices).

A batch is a pure function of (seed, step), and no iterator has a state. `TrainPlan`
gives the indices of any step, and an example's augmentation draws from (seed, epoch,
index), so a run resumes at step t by asking for step t. The number of host threads,
the prefetch depth and the number of processes never change what a batch holds.
"""

import dataclasses
import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

import data_source
from transforms import decode, generators

# Which examples, when.


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def _permutation(num_examples, seed, epoch):
    order = np.random.default_rng((seed, epoch)).permutation(num_examples)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


class Balance:
    """Draws classes more evenly than a split has them.

    An epoch, which still has N images, has the same number of each class every time:
    its share of N is in proportion to n^(1 - power) for a class of n images, so power 1
    draws all classes equally often. At the end of each epoch no image was drawn more
    than once more often than another of its class. A class without images is left out.

    Args:
      labels: the class of each example, int [N], none negative.
      power: above 0, at most 1.

    Attributes:
      counts, quotas: images of each class, int [K], in the split and in an epoch.
    """

    def __init__(self, labels, power):
        if not 0 < power <= 1:
            raise ValueError(f"power {power} must be above 0 and at most 1")
        self.counts = np.bincount(labels)
        self._members = np.split(
            np.argsort(labels, kind="stable").astype(np.int32),
            np.cumsum(self.counts)[:-1],
        )
        # 0 ** 0 is 1, which a class without images must not have.
        share = np.where(self.counts, self.counts ** (1.0 - power), 0.0)
        exact = len(labels) * share / share.sum()
        self.quotas = exact.astype(np.int64)
        rest = len(labels) - self.quotas.sum()
        largest = np.argsort(self.quotas - exact, kind="stable")[:rest]
        self.quotas[largest] += 1  # the largest remainders

    def epoch(self, seed, epoch):
        """Returns the examples int32 [N] of an epoch, class by class, and their turns.

        A turn, int32 [N], is how often the example was drawn before.
        """
        index, turn = [], []
        for label, (members, quota) in enumerate(
            zip(self._members, self.quotas.tolist(), strict=True)
        ):
            if not quota:
                continue
            # The class's own row: one order of its members after another.
            place = epoch * quota + np.arange(quota)
            turns, at = np.divmod(place, len(members))
            drawn = members[at]
            # The whole turns between the first and the last may have any order.
            for number in {int(turns[0]), int(turns[-1])}:
                # The 2 sets this stream apart from those of `_permutation` and views.
                rng = np.random.default_rng((seed, number, label, 2))
                rows = turns == number
                drawn[rows] = members[rng.permutation(len(members))[at[rows]]]
            index.append(drawn)
            turn.append(turns.astype(np.int32))
        return np.concatenate(index), np.concatenate(turn)


@functools.lru_cache(maxsize=2)
def _balanced(balance, seed, epoch):
    """Returns an epoch of a `Balance` in random order."""
    order = _permutation(balance.counts.sum(), seed, epoch)
    return tuple(array[order] for array in balance.epoch(seed, epoch))


@dataclasses.dataclass(frozen=True)
class TrainPlan:
    """Says which examples each training step sees: an endless row of shuffled epochs.

    Epoch e is numpy's permutation for the generator (seed, e); with order="fixed" every
    epoch repeats epoch 0's (LeNet-5's fixed random order). Batches are cut from the row
    regardless of epochs, so one may hold the end of an epoch and the start of the next,
    and an epoch has num_examples / batch_size steps, which may be a fraction.

    repeats = r means repeated augmentation (Hoffer et al., 2019; Berman et al., 2019):
    a batch holds batch_size / r examples r times, and an epoch, which still has
    num_examples images, shows only the first 1 / r of its permutation. The repeats of
    an example lie batch_size / r apart.

    With `balance`, an epoch holds what it draws, in the order of the permutation.
    """

    num_examples: int
    batch_size: int
    seed: int
    order: str = "shuffle"
    repeats: int = 1
    balance: Balance | None = None

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
        if self.balance and self.order == "fixed":
            raise ValueError("order 'fixed' with balance would never show the rest")
        if self.balance and self.balance.counts.sum() != self.num_examples:
            raise ValueError(
                f"balance of {self.balance.counts.sum()} examples for a plan of "
                f"{self.num_examples}"
            )

    def indices(self, start_step, stop_step):
        """Returns example indices int32 [S, B] and epochs int32 [S, B] of those steps.

        With balance, the epoch is replaced by how often the example was drawn before.
        With repeats, it is replaced by repeats * epoch + the number of the repeat. In
        any case no example has the same number twice.
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
            rows = slice(at - first, at - first + count)
            part = slice(offset, offset + count)
            if self.balance:
                drawn, turns = _balanced(self.balance, self.seed, number)
                index[rows], epoch[rows] = drawn[part], turns[part]
            else:
                source = number if self.order == "shuffle" else 0
                order = _permutation(self.num_examples, self.seed, source)
                index[rows], epoch[rows] = order[part], number
            at += count
        index, epoch = (a.reshape(-1, distinct) for a in (index, epoch))
        repeat = np.repeat(np.arange(self.repeats, dtype=np.int32), distinct)
        number = self.repeats * np.tile(epoch, self.repeats) + repeat
        return np.tile(index, self.repeats), number


@functools.lru_cache(maxsize=8)
def _members(plan, group, epoch):
    """Returns the examples of a group in an epoch's random order."""
    order = _permutation(len(plan.groups), plan.seed, epoch)
    return order[plan.groups[order] == group]


@dataclasses.dataclass(frozen=True, eq=False)
class GroupedPlan:
    """A plan whose batches hold examples of one group each, as images of one shape.

    Each group has its own endless row of shuffled epochs, a `TrainPlan`'s without the
    other groups' examples, and its batches are cut from it. A batch belongs to the
    epoch of its first example, and in an epoch the groups take turns at random. With
    one group the plan is a TrainPlan's.

    Args:
      groups: the group of each example, int [N], from 0.
    """

    balance: typing.ClassVar = None  # no group draws classes more evenly

    groups: np.ndarray
    batch_size: int
    seed: int

    def __post_init__(self):
        if min(len(self.groups), self.batch_size) < 1 or self.seed < 0:
            raise ValueError(
                f"{len(self.groups)} examples in batches of {self.batch_size} by the "
                f"seed {self.seed}: sizes start at 1 and seeds at 0"
            )

    def group(self, step):
        """Returns the group of a step's examples."""
        return self._turn(step)[0]

    def indices(self, start_step, stop_step):
        """Returns example indices int32 [S, B] and epochs int32 [S, B] of those steps.

        No example has the same epoch twice.
        """
        shape = stop_step - start_step, self.batch_size
        index, epoch = np.empty(shape, np.int32), np.empty(shape, np.int32)
        for row, step in enumerate(range(start_step, stop_step)):
            group, number = self._turn(step)
            place = number * self.batch_size + np.arange(self.batch_size)
            epoch[row], at = np.divmod(place, self._sizes[group])
            for e in np.unique(epoch[row]).tolist():
                now = epoch[row] == e
                index[row, now] = _members(self, group, e)[at[now]]
        return index, epoch

    @functools.cached_property
    def _sizes(self):
        return np.bincount(self.groups)

    def _batches(self, epoch):
        """Returns how many batches each group has before an epoch, int [G]."""
        return -(-epoch * self._sizes // self.batch_size)

    def _turn(self, step):
        """Returns the group of a step, and the batch's number in the group's row."""
        epoch = step * self.batch_size // len(self.groups)
        while self._batches(epoch).sum() > step:
            epoch -= 1
        before, after = self._batches(epoch), self._batches(epoch + 1)
        turns = np.repeat(np.arange(len(before)), after - before)
        # The 3 sets this stream apart from those of `_permutation` and views.
        turns = np.random.default_rng((self.seed, epoch, 3)).permutation(turns)
        at = step - before.sum()
        group = int(turns[at])
        return group, int(before[group] + np.count_nonzero(turns[:at] == group))


def eval_indices(num_examples, batch_size):
    """Returns each example once: index int32 [S, B], mask float32 [S, B], 0 if padded.

    Padding has index 0.
    """
    steps = -(-num_examples // batch_size)
    index = np.arange(steps * batch_size, dtype=np.int32)
    mask = (index < num_examples).astype(np.float32)
    index[num_examples:] = 0
    return index.reshape(steps, batch_size), mask.reshape(steps, batch_size)


def grouped_eval_indices(groups, batch_size):
    """Works as `eval_indices` with batches of one group each.

    A group's last batch is padded with its first example.
    """
    indices, masks = [], []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group).astype(np.int32)
        at, mask = eval_indices(len(members), batch_size)
        indices.append(members[at])
        masks.append(mask)
    return np.concatenate(indices), np.concatenate(masks)


def process_slice(batch_size, process_index, process_count):
    """Returns the rows of a global batch that one process loads.

    Raises:
      ValueError: the batch does not divide evenly.
    """
    if batch_size % process_count:
        raise ValueError(f"batch of {batch_size} over {process_count} processes")
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


# Host batches.

UNREADABLE = data_source.UNREADABLE


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

    From the call on, `num_threads` threads read up to `prefetch` batches ahead, or one
    each if there are more threads; 0 reads on demand. Closing or deleting the iterator
    stops them early.

    `view` maps (image, target, rng, step) to an image uint8 [H, W, C], of one size per
    step, and its target, a dict of arrays. Without it all images of the split must have
    one size. `rng` is a function of (seed, epoch, index). An image that cannot be read
    raises DataError; with `damaged` "replace" it is logged, and the next readable
    example of the split takes its place.
    """
    rows = process_slice(plan.batch_size, process_index, process_count)

    def load(step):
        index, epoch = (a[0, rows] for a in plan.indices(step, step + 1))
        if view:
            batch = views(step, index, epoch)
        else:
            batch = read_examples(split, index, damaged=damaged)
        mask = np.ones(len(index), np.float32)
        return batch | {"mask": mask, "index": index, "epoch": epoch}

    def views(step, index, epoch):
        # The 1 sets this stream apart from that of `_permutation`.
        numbers = np.stack([epoch, index, np.ones_like(index)], axis=1)
        states = generators.states(plan.seed, numbers)

        def show(at, image, target):
            return view(image, target, generators.generator(states[at]), step)

        return read_views(split, index, show, damaged)

    return stream(load, start, stop, num_threads, prefetch)


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

    The last batch is padded with mask 0. A batch size that does not divide evenly among
    the processes is rounded up, so all have the same number of batches of one size.
    `view` maps an image to uint8 [H, W, C] of one size. With `damaged` "wrong" an image
    that cannot be read becomes black and its label UNREADABLE, or if its class k is
    known, UNREADABLE - 1 - k; `num_threads`, `prefetch` and the other values of
    `damaged` are as for `train_batches`.
    """
    batch_size += -batch_size % process_count
    rows = process_slice(batch_size, process_index, process_count)
    indices, masks = eval_indices(len(split), batch_size)

    def load(step):
        index = indices[step, rows]
        batch = read_examples(split, index, view, damaged)
        places = {"index": index, "epoch": np.zeros_like(index)}
        return batch | {"mask": masks[step, rows]} | places

    return stream(load, 0, len(indices), num_threads, prefetch)


def read_examples(split, index, view=None, damaged="fail"):
    """Returns {"image": uint8 [n, H, W, C] in test `view`, and the targets' arrays}.

    `view` is Preprocessing.view for the split's images; `damaged` is as for
    `eval_batches`.
    """
    if view is None:
        try:
            return _read_stored(split, index)
        except data_source.DataError:
            if damaged == "fail":
                raise
        view = np.asarray  # one by one

    def show(at, image, target):
        return view(image[:, :]), target

    return read_views(split, index, show, damaged)


def read_all(split, damaged="fail"):
    """Returns all images uint8 [N, H, W, C] of one size, and their labels int32 [N].

    `damaged` is as for `train_batches`.
    """
    try:
        return split.arrays()
    except data_source.DataError:
        if damaged == "fail":
            raise
    found = read_examples(split, np.arange(len(split)), damaged=damaged)
    return found["image"], found["label"]


def _read_stored(split, index):
    image, label = split.read(index)
    return {"image": image, "label": label}


def read_views(split, index, show, damaged):
    """Applies `show` to each example; returns images uint8 [n, H, W, C] and targets.

    `show(at, image, target)` gives the image and the target of the example index[at].
    The results, {"image": ..., name: ...}, are stacked. `damaged` is as for
    `train_batches` and `eval_batches`.

    Raises:
      DataError: an image cannot be read and `damaged` is "fail", or it is "replace" and
        a hundred images in a row cannot be read.
    """
    images, targets = None, []
    for at in range(len(index)):
        image, target = _readable(split, int(index[at]), damaged, at, show)
        if images is None:
            images = _aligned((len(index), *image.shape))
        if image.shape != images.shape[1:]:
            raise data_source.DataError(
                f"{split.name}, {split.split}: image {index[at]} has the shape "
                f"{image.shape}, and image {index[0]} has {images.shape[1:]}"
            )
        images[at] = image
        targets.append(target)
    # For numbers this is twenty times as fast as np.stack.
    stacked = {name: np.array([t[name] for t in targets]) for name in targets[0]}
    return {"image": images, **stacked}


def _aligned(shape):
    """Returns an empty uint8 array that XLA's CPU backend takes without a copy.

    Its memory begins at a multiple of 64 bytes.
    """
    size = math.prod(shape)
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].reshape(shape)


def _readable(split, index, damaged, at, show):
    """Returns (image, target) shown for example `index` or for its replacement."""
    error = None
    for number in range(min(100, len(split))):
        example = None
        try:
            (example,) = split.examples([(index + number) % len(split)])
            image = decode.decode_lazily(example.image, split.image_shape[-1])
            return show(at, image, example.target)
        except decode.DamagedImage as e:
            error = data_source.DataError(f"{example.name} is damaged: {e}")
        except data_source.DataError as e:
            error, example = e, getattr(e, "example", None)
        if damaged == "fail":
            raise error
        if damaged == "wrong":
            _warn_once(f"{error}; it counts as an error")
            black = np.zeros([size or 64 for size in split.image_shape], np.uint8)
            unknown = {"label": np.int32(UNREADABLE)}
            return show(at, black, example.unreadable if example else unknown)
        _warn_once(f"{error}; the next image takes its place")
    raise data_source.DataError(f"{error}; nor can the images after it be read")


_said = set()  # what `_warn_once` has logged in this process


def _warn_once(line):
    """Logs a line that each epoch would repeat."""
    if line not in _said:
        _said.add(line)
        logging.warning("%s", line)


def stream(load, start, stop, num_threads, prefetch):
    """Iterates over load(step) of steps [start, stop), as `train_batches` says."""
    import grain

    # A thread makes a whole batch; more threads than the buffer holds would be idle.
    options = grain.ReadOptions(
        num_threads=num_threads if prefetch else 0,
        prefetch_buffer_size=max(prefetch, num_threads) if num_threads else 0,
    )
    # Grain's own range(start, stop) raises an error when its length is 0.
    steps = grain.MapDataset.source(range(start, stop)).map(load)
    iterator = iter(steps.to_iter_dataset(options))
    iterator.start_prefetch()
    return iterator


# Inside jit.


def device_batch(images, labels, index, epoch):
    """Makes the batch of the given examples [B] from arrays that live on the device."""
    batch = {
        "image": images.at[index].get(mode="promise_in_bounds"),
        "label": labels.at[index].get(mode="promise_in_bounds"),
        "mask": jnp.ones(index.shape, jnp.float32),
        "index": index,
        "epoch": epoch,
    }
    # Fused with the gather, later operations could round differently than on the host.
    return jax.lax.optimization_barrier(batch)


# How batches reach the devices.


class DeviceFeed:
    """Keeps the whole split on every device; only indices travel, for many steps.

    `damaged` is as for `train_batches`.
    """

    def __init__(self, split, plan, mesh, steps, damaged="fail"):
        replicated = NamedSharding(mesh, PartitionSpec())
        self._plan, self.steps = plan, steps
        self._columns = NamedSharding(mesh, PartitionSpec(None, "data"))
        self._local = process_slice(
            plan.batch_size, jax.process_index(), jax.process_count()
        )
        self._arrays = tuple(put(x, replicated) for x in read_all(split, damaged))

    def take(self, step, stop):
        """Returns (data for make_run_steps, number of steps), up to step `stop`."""
        count = min(self.steps, stop - step)
        places = self._plan.indices(step, step + count)
        padding = ((0, self.steps - count), (0, 0))
        places = [np.pad(p[:, self._local], padding) for p in places]
        index, epoch = (put(p, self._columns) for p in places)
        return (*self._arrays, index, epoch), count

    @staticmethod
    def fetch(data, i):
        images, labels, index, epoch = data
        return device_batch(images, labels, index[i], epoch[i])

    def close(self):
        pass


class HostFeed:
    """Host threads read, decode and send batches, one step at a time.

    Only the arrays named by `keys` are sent. `reading` holds further arguments of
    `train_batches`.
    """

    steps = 1

    def __init__(self, split, plan, mesh, first, last, *, keys, **reading):
        self._keys = keys
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._batches = train_batches(
            split,
            plan,
            first,
            last,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **reading,
        )

    def take(self, step, stop):
        del step, stop
        batch = next(self._batches)
        return {name: put(batch[name], self._sharding) for name in self._keys}, 1

    @staticmethod
    def fetch(data, i):
        del i
        return data

    def close(self):
        self._batches.close()


def put(local, sharding):
    """Makes a global array of which this process holds `local`."""
    return jax.make_array_from_process_local_data(sharding, local)
