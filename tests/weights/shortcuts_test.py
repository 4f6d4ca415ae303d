"""Zeros of option A elsewhere than ours, against a forward pass in numpy."""

import functools

import jax
import numpy as np
import pytest
import traced

import weights
from models import resnet
from models.layers import Classifier, PooledLinear

WIDTHS = (8, 16, 32)
BLOCKS = 2  # in each of the three stages
PLACES = {"after the channels": 0.0, "on both sides": 0.5, "before them": 1.0}


class Small(Classifier):
    """ResNet-14 of half the width."""

    num_classes: int = 5

    def setup(self):
        block = functools.partial(
            resnet.BasicBlock, shortcut="A", zero_init=False, dtype=np.float32
        )
        sizes = (BLOCKS,) * 3
        self.backbone = resnet.CifarBackbone(block, sizes, np.float32, WIDTHS[0])
        self.head = PooledLinear(self.num_classes, np.float32)


@functools.cache
def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 32, 32, 3)).astype(np.float32)


@functools.cache
def shapes():
    init = functools.partial(Small().init, train=False)
    return traced.eval_shape(init, jax.random.key(0), images())


@functools.cache
def ours():
    """The compiled forward pass of our network."""
    return jax.jit(functools.partial(Small().apply, train=False))


def convolve(x, kernel, stride=1):
    """x [B, C, H, W], kernel [out, in, 3, 3], padded by 1."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel)


class Theirs:
    """A network with akamaster's names; a share of its zeros is `before` the channels.

    With None it has no shortcuts.
    With true statistics they are those of `images`, as training would leave them;
    otherwise they are random.
    """

    def __init__(self, before, true_statistics, head="linear"):
        self.rng = np.random.default_rng(1)
        self.arrays, self.before, self.head = {}, before, head
        self.true_statistics = true_statistics
        self.logits = self.forward(np.float64(images()).transpose(0, 3, 1, 2))
        # The first pass has made the arrays, float32 as a file has them.
        self.logits = self.forward(np.float64(images()).transpose(0, 3, 1, 2))

    def array(self, name, make):
        if name not in self.arrays:
            self.arrays[name] = np.asarray(make(), np.float32)
        return np.float64(self.arrays[name])

    def normal(self, name, *shape):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return self.array(name, lambda: self.rng.normal(0, scale, shape))

    def norm(self, name, x):
        def uniform(kind, low, high):
            return self.array(
                f"{name}.{kind}", lambda: self.rng.uniform(low, high, x.shape[1])
            )

        axes = (0, 2, 3)
        if self.true_statistics:
            self.array(f"{name}.running_mean", lambda: x.mean(axes))
            self.array(f"{name}.running_var", lambda: x.var(axes))
        mean = uniform("running_mean", -0.5, 0.5)
        variance = uniform("running_var", 0.5, 1.5)
        scale, shift = uniform("weight", 0.5, 1), uniform("bias", -0.5, 0.5)
        scale /= np.sqrt(variance + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]

    def forward(self, x):
        def conv(name, x, width, stride=1):
            kernel = self.normal(f"{name}.weight", width, x.shape[1], 3, 3)
            return convolve(x, kernel, stride)

        x = np.maximum(self.norm("module.bn1", conv("module.conv1", x, WIDTHS[0])), 0)
        for stage, width in enumerate(WIDTHS, 1):
            for i in range(BLOCKS):
                block = f"module.layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                y = conv(f"{block}.conv1", x, width, stride)
                y = np.maximum(self.norm(f"{block}.bn1", y), 0)
                y = self.norm(f"{block}.bn2", conv(f"{block}.conv2", y, width))
                if self.before is not None:
                    new = width - x.shape[1]
                    zeros = int(self.before * new)
                    x = x[:, :, ::stride, ::stride]
                    y += np.pad(x, [(0, 0), (zeros, new - zeros), (0, 0), (0, 0)])
                x = np.maximum(y, 0)
        kernel = self.normal(f"module.{self.head}.weight", 5, WIDTHS[-1])
        bias = self.normal(f"module.{self.head}.bias", 5)
        return x.mean((2, 3)) @ kernel.T + bias

    def load(self):
        return weights.fit("x.th", "torch", self.arrays, "resnet20", shapes())


def young(arrays):
    """The arrays after few steps: running means, which begin at 0, have come 30 %."""
    return {
        name: np.float32(0.3) * value if name.endswith("running_mean") else value
        for name, value in arrays.items()
    }


def check_logits(theirs, variables):
    found = ours()(variables, images())
    scale = np.abs(theirs.logits).max()
    # Rounding in float32.
    np.testing.assert_allclose(found, theirs.logits, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("place", "head"),
    [
        ("after the channels", "linear"),
        ("on both sides", "fc"),
        ("before them", "head"),
    ],
)
def test_true_statistics_tell_where_the_zeros_are(place, head):
    """Even if the head's name would tell another place."""
    theirs = Theirs(PLACES[place], true_statistics=True, head=head)
    variables, report = theirs.load()
    assert f"are {place}, by their batch statistics" in str(report)
    assert ("reordered" in str(report)) == (place != "after the channels")
    check_logits(theirs, variables)
    theirs.arrays = young(theirs.arrays)
    assert f"are {place}, by their batch statistics" in str(theirs.load()[1])


def test_where_statistics_do_not_tell_the_name_of_the_head_does():
    for head, place in (("linear", "on both sides"), ("fc", "after the channels")):
        theirs = Theirs(PLACES[place], true_statistics=False, head=head)
        variables, report = theirs.load()
        assert f"are {place}, as its head is {head}" in str(report)
        assert ("dataset.mean=(123.675,116.28,103.53)" in str(report)) == (
            head == "linear"
        )
        check_logits(theirs, variables)


def test_where_nothing_tells_the_file_is_refused():
    theirs = Theirs(0.0, true_statistics=False, head="classifier")
    with pytest.raises(weights.WeightsError, match="x.th: neither .* on both sides or"):
        theirs.load()


def test_a_part_is_reordered_as_the_whole_would_be():
    theirs = Theirs(0.5, true_statistics=True)
    whole, _ = theirs.load()
    part, report = weights.fit(
        "x.th", "torch", theirs.arrays, "resnet20", shapes(), ("backbone",)
    )
    assert not report.missing
    part, whole = (x["params"]["backbone"] for x in (part, whole))
    jax.tree.map(np.testing.assert_array_equal, part, whole)


@pytest.mark.parametrize("theirs", ["plain20", "resnet20"])
def test_statistics_tell_a_plain_network(theirs):
    """Its arrays have the names and shapes of the other's."""
    before = None if theirs == "plain20" else 0.0
    arrays = Theirs(before, true_statistics=True, head="fc").arrays
    other = {"plain20": "resnet20", "resnet20": "plain20"}[theirs]
    for found in (arrays, young(arrays)):
        weights.fit("x.th", "torch", found, theirs, shapes())
        with pytest.raises(weights.WeightsError, match="one without, by their batch"):
            weights.fit("x.th", "torch", found, other, shapes())
