"""oneDNN's convolution and matrix product, through custom calls of XLA's CPU backend.

jaxlib's builds for x86-64 contain oneDNN, the library under PyTorch's CPU convolutions.
XLA has custom calls that run it on XLA's own threads, but by default it makes none of
them, and it has none for gradients. Here the forward convolution also computes the
gradient in the image, and a matrix product computes the kernel's gradient of a 1x1
layer. Other kernels' gradients come from kernels/native.py where that was built, else
from XLA's own convolution. Where Winograd's algorithm applies, kernels/native.py
computes all three.

oneDNN's calls are no public interface: their configuration has changed between versions
of XLA, and a wrong one ends the process. So they are made only where kernels/probes.py
has seen them work, and only in programs for one device, because XLA cannot partition a
custom call. Nor can XLA store such a program; it crashes. While JAX's compilation cache
is on, the calls are therefore made only inside ops.every_kernel, which keeps those
programs out of the cache. Everywhere else the same functions are `lax`'s operations.
"""

import functools
import json
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kernels import native, probes
from kernels.choice import choice

KEEP_AFTER = "jax_persistent_cache_min_compile_time_secs"
_MERGED_CHANNELS = 16  # the quickest of 1, 16, 32 and 64 for ResNeXt-50's layers


def _cached():
    """Whether JAX's compilation cache is on."""
    config = jax.config
    return config.jax_enable_compilation_cache and config.jax_compilation_cache_dir


def conv(images, kernel, strides, padding, dilation, groups):
    """Convolution [N, H, W, Cin] * [Kh, Kw, Cin / groups, Cout] -> [N, Ho, Wo, Cout].

    `padding` is ((top, bottom), (left, right)) and not negative. Strides or dilation
    must be (1, 1).
    """
    return conv_p.bind(
        images,
        kernel,
        strides=tuple(strides),
        padding=tuple(map(tuple, padding)),
        dilation=tuple(dilation),
        groups=groups,
        layout="HWIO",
    )


def plain_conv(images, kernel, *, strides, padding, dilation, groups, layout):
    """Convolves by `lax`; the kernel's `layout` is "HWIO" or "HWOI"."""
    numbers = ("NHWC", layout, "NHWC")
    return lax.conv_general_dilated(
        images, kernel, strides, padding, None, dilation, numbers, groups
    )


def _image_gradient(dy, images, kernel, **options):
    """Transposes the convolution in the image: convolves dy with the turned kernel.

    Turning the kernel exchanges input and output channels, which without groups only
    changes the `layout`. With strides, pixels that lie r past a multiple of the stride
    see every stride-th tap alone, beginning with one that r decides. Each such phase of
    the gradient is a convolution without strides; the phases are interleaved at the
    end.
    """
    strides, padding = options["strides"], options["padding"]
    dilation = options["dilation"]
    height, width = images.aval.shape[1:3]
    turned, layout = _turned(kernel, options["groups"], options["layout"])
    rows = []
    for i in range(strides[0]):
        row = []
        for j in range(strides[1]):
            taps, pads, sizes = zip(
                _phase(
                    i, strides[0], dy.shape[1], height, kernel, 0, padding, dilation
                ),
                _phase(j, strides[1], dy.shape[2], width, kernel, 1, padding, dilation),
                strict=True,
            )
            part = turned[taps[0], taps[1]]
            if 0 in part.shape:
                shape = (len(dy), *sizes, images.aval.shape[3])
                row.append(jnp.zeros(shape, dy.dtype))
                continue
            row.append(
                _cropped_conv(
                    dy, part, pads, options | {"strides": (1, 1), "layout": layout}
                )
            )
        rows.append(row)
    if strides == (1, 1):
        return rows[0][0]
    y = jnp.stack([jnp.stack(row, 3) for row in rows], 2)
    n, h, a, w, b, c = y.shape
    return y.reshape(n, h * a, w * b, c)[:, :height, :width]


def _phase(r, stride, out, size, kernel, axis, padding, dilation):
    """Returns, for one axis of a phase, (turned kernel's taps, dy's pads, pixels)."""
    taps, low, step = kernel.shape[axis], padding[axis][0], dilation[axis]
    pixels = -(-size // stride)
    if stride == 1:
        before = (taps - 1) * step - low
        seen = out + before - (taps - 1) * step
        return slice(None), (before, pixels - seen), pixels
    # Output m + (r + low - tap) / stride sees pixel m * stride + r.
    first = (r + low) % stride
    count = len(range(first, taps, stride))
    shift = (r + low - first) // stride
    before = count - 1 - shift
    # The turned kernel has tap t at taps - 1 - t, so the last tap comes first.
    last = first + (count - 1) * stride
    chosen = slice(taps - 1 - last, taps - first, stride) if count else slice(0, 0)
    return chosen, (before, pixels - (out + before - (count - 1))), pixels


def _cropped_conv(images, kernel, padding, options):
    """Convolves with padding that may be negative, which crops."""
    (top, bottom), (left, right) = (
        (max(0, -low), max(0, -high)) for low, high in padding
    )
    h, w = images.shape[1:3]
    images = images[:, top : h - bottom, left : w - right]
    pads = tuple((max(0, low), max(0, high)) for low, high in padding)
    return conv_p.bind(images, kernel, **options | {"padding": pads})


def _turned(kernel, groups, layout):
    """Returns (the kernel turned to map outputs to inputs, its layout)."""
    kernel = kernel[::-1, ::-1]
    if groups == 1:
        return kernel, "HWOI" if layout == "HWIO" else "HWIO"
    *window, cin, cout = kernel.shape
    kernel = kernel.reshape(*window, cin, groups, cout // groups)
    kernel = kernel.transpose(0, 1, 4, 3, 2)
    return kernel.reshape(*window, -1, groups * cin), layout


def _kernel_gradient(dy, images, kernel, **options):
    """Transposes the convolution in the kernel; a 1x1 layer takes a matrix product."""
    shape, layout = kernel.aval.shape, options.pop("layout")
    if layout == "HWIO" and options["groups"] == 1 and _pointwise(shape, options):
        cin, cout = shape[2:]
        dw = gram_p.bind(images.reshape(-1, cin), dy.reshape(-1, cout))
        return dw.reshape(shape)
    dw = _kernel_gradient_p.bind(images, dy, window=shape[:2], **options)
    return dw if layout == "HWIO" else dw.swapaxes(2, 3)


def _lax_kernel_gradient(images, dy, *, window, groups, **options):
    """Computes the kernel's gradient by XLA: convolves images [Cin, H, W, N] with dy.

    XLA is up to a thousand times slower with groups than without them, and without them
    it is slow for few channels. So groups are merged until they have as many channels
    as `_MERGED_CHANNELS`, and only the groups' own part of each dense convolution is
    kept.
    """
    # Without the barrier XLA computes images and dy again in the transposed order,
    # which took two thirds of a step of ResNet-20.
    images, dy = lax.optimization_barrier((images, dy))
    dy = dy.transpose(1, 2, 0, 3)
    if groups == 1:
        return _correlation(_transposed(images), dy, window, **options)
    images, dy = lax.optimization_barrier((_transposed_p.bind(images), dy))
    cin = len(images) // groups
    merged = math.gcd(groups, max(1, _MERGED_CHANNELS // cin))
    parts = groups // merged
    dw = []
    for pair in zip(jnp.split(images, parts), jnp.split(dy, parts, 3), strict=True):
        part = _correlation(*pair, window, **options)
        part = part.reshape(*window, merged, cin, merged, -1)
        dw.append(jnp.einsum("hwmcmo->hwcmo", part).reshape(*window, cin, -1))
    return jnp.concatenate(dw, 3)


def _transposed(images):
    """Transposes [N, H, W, C] to [C, H, W, N]."""
    return images.transpose(3, 1, 2, 0)


def _correlation(images, dy, window, *, strides, padding, dilation):
    """Returns the kernel's gradient [Kh, Kw, Cin, Cout].

    `images` are [Cin, H, W, N] and dy is [Ho, Wo, N, Cout].
    """
    pads = []
    for axis, (low, _) in enumerate(padding):
        seen = (window[axis] - 1) * dilation[axis] + 1
        seen += (dy.shape[axis] - 1) * strides[axis]
        pads.append((low, seen - images.shape[1 + axis] - low))
    numbers = ("NHWC", "HWIO", "NHWC")
    dw = lax.conv_general_dilated(images, dy, dilation, pads, None, strides, numbers)
    return dw.transpose(1, 2, 0, 3)


def _pointwise(shape, options):
    """Whether a kernel of this shape multiplies each pixel by itself."""
    return shape[:2] == (1, 1) == options["strides"] and not any(
        map(any, options["padding"])
    )


# The primitives are bilinear, so both gradients, forward mode and whatever is built on
# them follow from the rules above.


def _conv_shape(images, kernel, **options):
    y = jax.eval_shape(functools.partial(plain_conv, **options), images, kernel)
    return jax.core.ShapedArray(y.shape, y.dtype)


def _batched_conv(operands, axes, **options):
    images, kernel = operands
    if axes[1] is None:  # The batch is more images.
        images = jnp.moveaxis(images, axes[0], 0)
        y = conv_p.bind(images.reshape(-1, *images.shape[2:]), kernel, **options)
        return y.reshape(*images.shape[:2], *y.shape[1:]), 0
    kernel = jnp.moveaxis(kernel, axes[1], 0)
    many = [images] * len(kernel)
    if axes[0] is not None:
        many = jnp.moveaxis(images, axes[0], 0)
    each = [conv_p.bind(*xw, **options) for xw in zip(many, kernel, strict=True)]
    return jnp.stack(each), 0


def _winograd_applies(images, kernel, y, *, layout, padding, **options):
    cin, window = images.shape[3], kernel.shape[:2]
    return native.winograd_applies(cin, y.shape, window, **options) and (
        native.available()
    )


def _winograd(images, kernel, *, layout, padding, **options):
    del options  # Where Winograd's algorithm applies, they have their defaults.
    return native.winograd(images, kernel, padding=padding, layout=layout)


def _conv_call(context, images, kernel, **options):
    activations = {
        "dims": 4,
        "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]},
    }
    filters = {
        "input_feature_dim": options["layout"].index("I"),
        "output_feature_dim": options["layout"].index("O"),
        "spatial_dims": [0, 1],
    }
    config = {
        "dims": 4,
        "input": activations,
        "kernel": {"dims": 4, "filter": filters},
        "output": activations,
        "window": {
            "pad_left": [low for low, _ in options["padding"]],
            "pad_right": [high for _, high in options["padding"]],
            "strides": options["strides"],
            "window_dilations": options["dilation"],
        },
        "feature_groups": options["groups"],
    }
    config = {"onednn_conv_config": config}
    return _call(context, "__onednn$convolution", (images, kernel), config)


def _kernel_gradient_shape(images, dy, *, window, groups, **options):
    shape = (*window, images.shape[3] // groups, dy.shape[3])
    return jax.core.ShapedArray(shape, images.dtype)


def _image_of_kernel_gradient(dw, images, dy, *, window, **options):
    kernel, options = dw, options | {"layout": "HWIO"}
    return _image_gradient(dy, images, kernel, **options)


def _dy_of_kernel_gradient(dw, images, dy, *, window, **options):
    return conv_p.bind(images, dw, layout="HWIO", **options)


def _batched_kernel_gradient(operands, axes, **options):
    pairs = list(zip(operands, axes, strict=True))
    count = next(x.shape[axis] for x, axis in pairs if axis is not None)
    many = [
        [x] * count if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs
    ]
    each = [_kernel_gradient_p.bind(*xy, **options) for xy in zip(*many, strict=True)]
    return jnp.stack(each), 0


def _transposed_in_memory(images):
    """Transposes all images at once, which XLA would leave to each of the parts."""
    return with_layout_constraint(_transposed(images), Layout((0, 1, 2, 3)))


def plain_gram(a, b):
    """Multiplies a' b: [N, A] and [N, B] to [A, B]."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _batched_gram(operands, axes):
    return jax.vmap(plain_gram, axes)(*operands), 0


def _gram_call(context, a, b):
    config = {"onednn_matmul_config": {"transpose_a": True}}
    return _call(context, "__onednn$matmul", (a, b), config)


def _call(context, target, operands, config):
    if choice.uncached:  # no compilation takes infinitely long: this one is not kept
        jax.config.update(KEEP_AFTER, math.inf)
    # In version 2 of the interface the configuration is a string.
    lower = jax.ffi.ffi_lowering(
        target, api_version=2, backend_config=json.dumps(config)
    )
    return lower(context, *operands)


def _has_call(name):
    """Whether a call works, and its program would stay out of the compilation cache."""
    return (choice.uncached or not _cached()) and probes.has_call(name)


def _register(primitive, plain, *calls):
    """Gives a primitive its lowerings: on one CPU device the first call that is able.

    `calls` are pairs of a lowering and a predicate, f(*avals, **options). `plain`
    computes everything else.
    """
    plain_lowering = mlir.lower_fun(plain, multiple_results=False)

    def on_cpu(context, *operands, **options):
        avals = (*context.avals_in, *context.avals_out)
        devices = getattr(context.module_context.axis_context, "num_devices", None)
        fit = all(x.dtype == jnp.float32 and x.size for x in avals)
        able = (call for call, able in calls if able(*avals, **options))
        call = next(able, plain_lowering) if devices == 1 and fit else plain_lowering
        return call(context, *operands, **options)

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=_STATIC))
    mlir.register_lowering(primitive, plain_lowering)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")


_STATIC = ("strides", "padding", "dilation", "groups", "layout", "window")

conv_p = Primitive("onednn_conv")
conv_p.def_abstract_eval(_conv_shape)
ad.defbilinear(conv_p, _image_gradient, _kernel_gradient)
batching.primitive_batchers[conv_p] = _batched_conv
_register(
    conv_p,
    plain_conv,
    (mlir.lower_fun(_winograd, multiple_results=False), _winograd_applies),
    (_conv_call, lambda *_, **__: _has_call("convolution")),
)

_kernel_gradient_p = Primitive("kernel_gradient")
_kernel_gradient_p.def_abstract_eval(_kernel_gradient_shape)
ad.defbilinear(_kernel_gradient_p, _image_of_kernel_gradient, _dy_of_kernel_gradient)
batching.primitive_batchers[_kernel_gradient_p] = _batched_kernel_gradient
_register(
    _kernel_gradient_p,
    _lax_kernel_gradient,
    (
        mlir.lower_fun(native.kernel_gradient, multiple_results=False),
        lambda *_, **__: native.available(),
    ),
)

gram_p = Primitive("onednn_gram")
gram_p.def_abstract_eval(
    lambda a, b: jax.core.ShapedArray((a.shape[1], b.shape[1]), a.dtype)
)
ad.defbilinear(
    gram_p,
    lambda dy, a, b: lax.dot(b, dy.T),
    lambda dy, a, b: lax.dot(a, dy),
)
batching.primitive_batchers[gram_p] = _batched_gram
_register(gram_p, plain_gram, (_gram_call, lambda *_, **__: _has_call("matmul")))

_transposed_p = Primitive("onednn_transposed")
_transposed_p.def_abstract_eval(
    lambda x: jax.core.ShapedArray(x.shape[3:] + x.shape[1:3] + x.shape[:1], x.dtype)
)
ad.deflinear2(_transposed_p, lambda dy, x: [_transposed(dy)])
batching.primitive_batchers[_transposed_p] = lambda operands, axes: (
    jax.vmap(_transposed, axes)(*operands),
    0,
)
_register(
    _transposed_p,
    _transposed,
    (
        mlir.lower_fun(_transposed_in_memory, multiple_results=False),
        lambda *_, **__: True,
    ),
)
