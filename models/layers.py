"""Layers that more than one family uses.

A size, stride or padding is one number for both axes or a (height, width) pair; padding
may also be ((top, bottom), (left, right)). No layer pads unless it is told to.
"""

import contextlib
import contextvars
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kernels import ops


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def _pads(padding):
    return tuple(_pair(p) for p in _pair(padding))


_shapes_only = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only():
    """Traces initialisations inside with zeros for what `random_init` is given.

    Random numbers take half the time of a trace. This is for those who want shapes, or
    who have the kernels: flax traces each one's initialisation to check its shape.
    """
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def random_init(init):
    """Returns the initializer `init`, or that of zeros inside `shapes_only`."""
    return nn.initializers.zeros if _shapes_only.get() else init


def _refuse_changed(layer, *fields):
    """Raises ValueError if one of flax's fields that `layer` does not read is given."""
    defaults = {field.name: field.default for field in dataclasses.fields(layer)}
    for name in fields:
        if getattr(layer, name) is not defaults[name]:
            raise ValueError(
                f"{type(layer).__name__}: {name} is not supported; it must be "
                f"{defaults[name]!r}"
            )


class Conv(nn.Conv):
    """`nn.Conv` whose padding is given in numbers.

    With a stride, flax's 'SAME' pads differently from the papers and torch.

    Raises:
      ValueError: the padding is missing or a string, or a field of flax's is given that
        this layer does not have.
    """

    padding: int | tuple[int | tuple[int, int], ...] = None
    conv_general_dilated: object = ops.conv

    def __post_init__(self):
        if self.padding is None or isinstance(self.padding, str):
            raise ValueError(f"Conv: padding must be numbers, not {self.padding!r}")
        _refuse_changed(self, "input_dilation", "mask", "conv_general_dilated_cls")
        if isinstance(self.kernel_size, int):
            self.kernel_size = _pair(self.kernel_size)
        super().__post_init__()

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] to [B, h, w, features]."""
        groups = self.feature_group_count
        shape = (*self.kernel_size, x.shape[-1] // groups, self.features)
        init = random_init(self.kernel_init)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            shape = (self.features,)
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        x, kernel, bias = self.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = self.conv_general_dilated(
            x,
            kernel,
            _pair(self.strides),
            _pads(self.padding),
            rhs_dilation=_pair(self.kernel_dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision=self.precision,
        )
        return y if bias is None else y + ops.spread_pixels(bias, y.shape)


_frozen_statistics = contextvars.ContextVar("frozen_statistics", default=False)


@contextlib.contextmanager
def frozen_statistics(frozen=True):
    """Makes `BatchNorm` use its running averages, and leave them alone, in training."""
    token = _frozen_statistics.set(frozen)
    try:
        yield
    finally:
        _frozen_statistics.reset(token)


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` over the last axis, applied as x * a + b with a and b per channel.

    The parameters and statistics are flax's: the mean and E[x^2] - E[x]^2, in float32
    at least. But flax computes (x - mean) * a + bias, and XLA keeps x - mean for the
    gradient: one more array of x's size to write and to read.

    Raises:
      ValueError: use_running_average is not given, or a field of flax's is that this
        layer does not have.
    """

    def __post_init__(self):
        if self.use_running_average is None:
            raise ValueError("BatchNorm: use_running_average must be True or False")
        _refuse_changed(self, "axis", "axis_name", "axis_index_groups")
        _refuse_changed(self, "use_fast_variance", "force_float32_reductions")
        super().__post_init__()

    @nn.compact
    def __call__(self, x):
        """[..., C] to the same."""
        shape = (x.shape[-1],)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        mean = self.variable("batch_stats", "mean", zeros, None, shape, jnp.float32)
        var = self.variable("batch_stats", "var", ones, None, shape, jnp.float32)
        if self.use_running_average or _frozen_statistics.get():
            mu, sigma2 = mean.value, var.value
        else:
            y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            pixels = math.prod(x.shape[:-1])
            mu, square = (ops.sum_pixels(z) / pixels for z in (y, jnp.square(y)))
            sigma2 = jnp.maximum(square - jnp.square(mu), 0)  # below by rounding only
            if not self.is_initializing():
                for old, new in ((mean, mu), (var, sigma2)):
                    old.value = self.momentum * old.value + (1 - self.momentum) * new
        a = lax.rsqrt(sigma2 + self.epsilon)
        if self.use_scale:
            a *= self.param("scale", self.scale_init, shape, self.param_dtype)
        b = -mu * a
        if self.use_bias:
            b += self.param("bias", self.bias_init, shape, self.param_dtype)
        a, b = (ops.spread_pixels(z, x.shape) for z in (a, b))
        return (x * a + b).astype(self.dtype or x.dtype)


class FullyConnected(nn.Module):
    """A layer whose units see the whole map: [B, h, w, C] to [B, 1, 1, features].

    The kernel [h, w, C, features] takes the size of the map at initialisation. On a
    larger map it slides: the layer is then a convolution with the same parameters
    (OverFeat; VGG, section 3.2). The layers after it are `nn.Dense` on the last axis,
    which is a 1x1 convolution already.
    """

    features: int
    dtype: jnp.dtype | None = None
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        window = x.shape[1:3]
        if self.has_variable("params", "kernel"):
            window = self.get_variable("params", "kernel").shape[:2]
        shape = (*window, x.shape[-1], self.features)
        kernel = self.param("kernel", random_init(self.kernel_init), shape)
        bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if x.shape[1:3] == window:
            x = lax.dot(x.reshape(x.shape[0], -1), kernel.reshape(-1, self.features))
            x = x[:, None, None]
        else:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = ops.conv(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return x + bias.reshape(1, 1, 1, -1)


class Classifier(nn.Module):
    """A network made of a backbone and a head; its `setup` makes both.

    `self.backbone(x, train=...)` returns its stages' outputs by name, in order. The
    head, `self.head(map, train=..., window=...)`, returns class scores at each position
    of the last stage's map; `window` is for `global_avg_pool`.
    """

    def __call__(self, x, *, train):
        """Images [B, H, W, C] to logits [B, K], at least float32.

        Raises:
          ValueError: the images are too small, or so large that they give more than one
            position of scores.
        """
        scores = self.class_map(x, train=train)
        if scores.shape[1:3] != (1, 1):
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} give a map of class scores "
                f"{scores.shape[1]}x{scores.shape[2]}, not one: models.class_map"
            )
        return scores[:, 0, 0]

    def class_map(self, x, *, train, window=None):
        """Images [B, H, W, C] to class scores [B, h, w, K] (`models.class_map`)."""
        stages = self.backbone(x, train=train)
        for name, stage in stages.items():
            if 0 in stage.shape:
                raise ValueError(
                    f"images of {x.shape[1]}x{x.shape[2]} are too small: nothing is "
                    f"left of them after {name}"
                )
        self.auxiliary(stages, train=train)
        scores = self.head(list(stages.values())[-1], train=train, window=window)
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))

    def auxiliary(self, stages, *, train):
        """Sows the logits of auxiliary heads, if there are any, in "auxiliary"."""

    def features(self, x):
        """Images [B, H, W, C] to the head's input in evaluation, [B, h, w, D]."""
        return list(self.backbone(x, train=False).values())[-1]


class Dropout(nn.Dropout):
    """nn.Dropout with the same bits, which keeps a byte a number for its gradient.

    Without the barrier XLA keeps eight bytes, random numbers that tell the mask again.
    """

    @nn.compact
    def __call__(self, x):
        _refuse_changed(self, "broadcast_dims", "rng_collection")
        if self.deterministic or not self.rate:
            return x
        share = 1 - self.rate
        kept = ops.once(jax.random.bernoulli(self.make_rng("dropout"), share, x.shape))
        return jnp.where(kept, x / share, 0)


class PooledLinear(nn.Module):
    """The usual head: global average pooling, dropout and one linear layer, "fc".

    The last map [B, h, w, C] becomes class scores [B, 1, 1, K], or a map of them with
    the (height, width) of a `window` (`global_avg_pool`).
    """

    num_classes: int
    dtype: jnp.dtype
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init

    @nn.compact
    def __call__(self, x, *, train, window=None):
        x = global_avg_pool(x, window)
        x = Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="fc",
        )(x)


class MaxPool(nn.Module):
    """`max_pool` as a layer with a name."""

    window: int | tuple
    strides: int | tuple
    padding: int | tuple = 0
    ceil: bool = False

    def __call__(self, x):
        return max_pool(x, self.window, self.strides, self.padding, self.ceil)


class AvgPool(nn.Module):
    """`avg_pool` as a layer with a name."""

    window: int | tuple
    strides: int | tuple
    padding: int | tuple = 0
    count_include_pad: bool = True

    def __call__(self, x):
        options = (self.padding, self.count_include_pad)
        return avg_pool(x, self.window, self.strides, *options)


def max_pool(x, window, strides, padding=0, ceil=False):
    """Maximum over windows: [B, H, W, C] to [B, h, w, C].

    Padding is minus infinity. Windows that fit count, h = floor(...); with `ceil`
    also the last one that sticks out, unless it starts in the padding (Caffe, torch).
    At a tie the first, row by row, has the gradient, as in torch.
    """
    window, strides, pads = _pair(window), _pair(strides), _pads(padding)
    pads = _ceil_pads(x, window, strides, pads) if ceil else pads
    return ops.max_pool(x, window, strides, pads)


def avg_pool(x, window, strides, padding=0, count_include_pad=True):
    """Mean over windows that fit, arguments as of `max_pool`; padding is zeros.

    They count in the mean or, with `count_include_pad=False`, do not.
    """
    window, strides, pads = _pair(window), _pair(strides), _pads(padding)
    if count_include_pad or not any(map(any, pads)):
        return ops.avg_pool(x, window, strides, pads)
    counts = []
    for axis in range(2):
        size, (low, high) = x.shape[1 + axis], pads[axis]
        starts = np.arange(-low, size + high - window[axis] + 1, strides[axis])
        ends = np.minimum(starts + window[axis], size)
        counts.append(ends - np.maximum(starts, 0))
    count = np.outer(*counts)[None, :, :, None]
    total = ops.avg_pool(x, window, strides, pads) * np.prod(window)
    return total / count.astype(x.dtype)


def global_avg_pool(x, window=None):
    """Mean over the map, [B, h, w, C] to [B, 1, 1, C].

    With the (height, width) of a `window`, the means over all such parts of the map.
    """
    if window is None or tuple(window) == x.shape[1:3]:
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = ops.sum_pixels(y, per_image=True) / (x.shape[1] * x.shape[2])
        return y.astype(x.dtype)[:, None, None]
    return avg_pool(x, window, 1)


class LocalResponseNorm(nn.Module):
    """Local response normalisation across channels (AlexNet, section 3.3).

        b_i = a_i / (k + alpha * sum over the n channels around i of a_j^2) ^ beta

    with the sum cut off at the first and the last channel. With `divide`, alpha is
    divided by n, as cuda-convnet (the authors' code), Caffe, torch and ONNX do.
    Without it, this is the formula as printed, which TensorFlow computes.
    """

    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    divide: bool = True

    def __call__(self, x):
        low = (self.n - 1) // 2
        pads = ((0, 0),) * (x.ndim - 1) + ((low, self.n - 1 - low),)
        window = (1,) * (x.ndim - 1) + (self.n,)
        total = lax.reduce_window(
            jnp.square(x), np.zeros((), x.dtype), lax.add, window, (1,) * x.ndim, pads
        )
        alpha = self.alpha / self.n if self.divide else self.alpha
        return x / (self.k + alpha * total) ** self.beta


class SqueezeExcite(nn.Module):
    """Scales each channel by a function of all channels' means (SENet, section 3).

    [B, H, W, C] to the same. The function: C / reduction units with ReLU, then C units
    with a sigmoid.
    """

    reduction: int = 16
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        scale = global_avg_pool(x)
        scale = nn.Dense(channels // self.reduction, dtype=self.dtype, name="fc1")(
            scale
        )
        scale = nn.Dense(channels, dtype=self.dtype, name="fc2")(nn.relu(scale))
        return x * ops.spread_pixels(nn.sigmoid(scale)[:, 0, 0], x.shape)


# These may have no parameters, and yet their gradient needs their input.
KEEPS_INPUT = (nn.BatchNorm, MaxPool, LocalResponseNorm)


def _ceil_pads(x, window, strides, pads):
    """`pads` with as much more below and right as the last windows need."""
    result = []
    for size, k, s, (low, high) in zip(
        x.shape[1:3], window, strides, pads, strict=True
    ):
        count = -(-(size + low + high - k) // s) + 1
        if (count - 1) * s >= size + low:
            count -= 1
        result.append((low, max(high, (count - 1) * s + k - size - low)))
    return tuple(result)
