"""Brings option A's shortcuts of others to ours, by the order of channels.

ResNet's Section 3.3 fills the new channels of a stage with zeros and does not say where
they go. Ours come after the others. With zeros in front, or half of them on either side
(https://github.com/akamaster/pytorch_resnet_cifar10), the network is the same function
with the channels of each stage in another order, so the arrays are reordered.
"""

import re

import numpy as np

from weights import names
from weights.formats import WeightsError

# Where the zeros are, as the share of them that comes first.
PLACES = {"after the channels": 0.0, "on both sides": 0.5, "before them": 1.0}
OURS, BOTH, _ = PLACES
NONE = "plain"  # stands for a network without shortcuts


def reorder(source, arrays, head, plain):
    """Reorders the channels of `arrays` if their zeros are not where ours are.

    A wrong place shows in the batch statistics: a convolution's mean output is its
    kernel times the mean of its inputs, which follows from the layers before. Where
    they do not tell, the name of the head does.

    Args:
      source: the name of the file.
      arrays: {our name: array} of a ResNet, in our layout.
      head: what the file calls the head.
      plain: whether ours has no shortcuts.

    Returns:
      (arrays, notes).

    Raises:
      WeightsError: the place of the zeros cannot be told, or only one of the networks
        has shortcuts.
    """
    blocks = _blocks(arrays)
    try:
        if not _pads(arrays, blocks):
            return arrays, []
    except KeyError as error:
        raise WeightsError(
            f"{source} lacks {error}, so that the shortcuts cannot be told"
        ) from error
    place, why = _by_statistics(arrays, blocks, plain), "by their batch statistics"
    if place is not None and plain != (place == NONE):
        without, there = ("ours", "theirs") if plain else ("theirs", "ours")
        raise WeightsError(
            f"{source}: {there} is a network with shortcuts and {without} one without, "
            f"{why}"
        )
    if plain:
        return arrays, []
    if place is None:
        place, why = {"linear": BOTH, "fc": OURS}.get(head), f"as its head is {head}"
    if place is None:
        raise WeightsError(
            f"{source}: neither the batch statistics nor the name of the head tell "
            f"whether the zeros of the shortcuts are {' or '.join(PLACES)}"
        )
    notes = [f"the zeros of their shortcuts (option A) are {place}, {why}"]
    if place == OURS:
        return arrays, notes
    notes[0] += f": the channels are reordered to ours, which have them {OURS}"
    if (place, head) == (BOTH, "linear"):
        notes.append(f"so are those of akamaster's: {names.IMAGENET}")
    return _reordered(arrays, blocks, PLACES[place]), notes


def _blocks(arrays):
    """[("backbone/conv2_1", number of its last convolution), ...] in order."""
    last = {}
    for name in arrays:
        if found := re.fullmatch(r"params/backbone/conv(\d)_(\d+)/conv(\d)/.*", name):
            place = int(found[1]), int(found[2])
            last[place] = max(last.get(place, 0), int(found[3]))
    return [(f"backbone/conv{s}_{b}", last[s, b]) for s, b in sorted(last)]


def _pads(arrays, blocks):
    """Whether a block has more channels than the one before and no projection."""
    projected = any("/shortcut/" in name for name in arrays)
    return not projected and any(
        np.diff(_widths(arrays, block)).item() > 0 for block in blocks
    )


def _widths(arrays, block):
    """The number of channels that enter a block, and that leave it."""
    name, last = block
    first = arrays[f"params/{name}/conv1/kernel"]
    return first.shape[-2], arrays[f"params/{name}/conv{last}/kernel"].shape[-1]


def _reordered(arrays, blocks, before):
    """The arrays with the channels of each stage in our order; `before`: of PLACES."""
    arrays, order = dict(arrays), np.arange(_widths(arrays, blocks[0])[0])

    def take(names, axis):
        for name in names:
            if name in arrays:
                arrays[name] = np.take(arrays[name], order, axis)

    for block in blocks:
        name, last = block
        entering, leaving = _widths(arrays, block)
        take([f"params/{name}/conv1/kernel"], -2)
        moved = order + int(before * (leaving - entering))
        order = np.concatenate([moved, np.setdiff1d(np.arange(leaving), moved)])
        take([f"params/{name}/conv{last}/kernel"], -1)
        take([f"params/{name}/bn{last}/{kind}" for kind in ("scale", "bias")], 0)
        take([f"batch_stats/{name}/bn{last}/{kind}" for kind in ("mean", "var")], 0)
    take(["params/head/fc/kernel"], 0)
    return arrays


def _by_statistics(arrays, blocks, plain):
    """The place that the batch statistics show, or NONE; None if they show neither."""
    places = PLACES | {NONE: None}
    try:
        errors = {place: _error(arrays, blocks, places[place]) for place in places}
    except KeyError:  # an array is not there
        return None

    def clear(place, other):
        # 1 is the error of a guess that all channels of a layer have one mean.
        return errors[place] < min(0.5, 0.5 * errors[other])

    place, other = sorted(PLACES, key=errors.get)[:2]
    if clear(NONE, place):
        return NONE
    return place if clear(place, NONE if plain else other) else None


def _error(arrays, blocks, before):
    """How far the means of the layers that see zeros are from what they should be.

    The share of the zeros that come `before` the channels is None without shortcuts.
    It is the mean squared error of each such first convolution of a block, in units of
    the variance of its means, up to one factor: after few steps, running means are a
    share of the true ones. Inputs of a ReLU are taken for normally distributed and
    independent.
    """

    def norm(layer):
        bias, scale = (arrays[f"params/{layer}/{kind}"] for kind in ("bias", "scale"))
        return np.float64(bias), np.float64(scale) ** 2

    mean, variance = _rectified(*norm("backbone/bn1"))
    errors, padded = [], False
    for block in blocks:
        name, last = block
        entering, leaving = _widths(arrays, block)
        if padded:
            kernel = np.float64(arrays[f"params/{name}/conv1/kernel"]).sum((0, 1))
            found = arrays[f"batch_stats/{name}/bn1/mean"]
            # New networks have means of 0.
            tiny = np.finfo(np.float32).tiny
            made = mean @ kernel
            made *= max(made @ found, 0) / max(made @ made, tiny)
            errors.append(np.mean((made - found) ** 2) / max(np.var(found), tiny))
        new = leaving - entering
        padded |= new > 0
        first, second = norm(f"{name}/bn{last}")
        if before is not None:
            zeros = int(before * new), new - int(before * new)
            first = first + np.pad(mean, zeros)
            second = second + np.pad(variance, zeros)
        mean, variance = _rectified(first, second)
    return float(np.median(errors))


def _rectified(mean, variance):
    """The mean and the variance of max(0, x) for a normally distributed x."""
    from scipy import special

    deviation = np.sqrt(variance) + 1e-12
    z = mean / deviation
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    share = special.ndtr(z)
    first = mean * share + deviation * density
    second = (mean**2 + variance) * share + mean * deviation * density
    return first, np.maximum(second - first**2, 0)
