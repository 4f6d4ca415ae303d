"""Sums over pixels, and their transpose, in the form that XLA's CPU backend runs well.

That backend computes a sum of [n, C] over n output by output: down all of n for a
channel, then for the next, one number of a cache line at a time. Batch normalisation
has four such sums and a bias one; they were 3.5 of the 8 seconds of a training step of
ResNet-50. Here [n, C] is summed in turns, each the sum of `_TERMS` arrays of
[n / _TERMS, C] that are read from end to end: a tenth of the time, and a smaller
rounding error.

What differentiates into a sum is a value spread over pixels, and a sum into that. So
both are primitives, each the other's transpose, and the sums of gradients are of the
same form. Off the CPU, and in programs for several devices, where XLA would have to
exchange the parts, they are JAX's own operations.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kernels.choice import choice

_TERMS = 8  # of 4, 8, 16 and 32 the quickest for ResNet-50's layers
_LAST = 32  # rows that are left to XLA's own sum


def total(x, per_image=False):
    """The sum over all pixels: [B, ..., C] to [C], or `per_image` to [B, C]."""
    x = x if per_image else x[None]
    x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    y = _plain_total(x) if choice.plain else _total_p.bind(x)
    return y if per_image else y[0]


def spread(x, shape):
    """A value at all pixels: [C], or [B, C] of each image, to `shape` [B, ..., C]."""
    if choice.plain:
        ones = (1,) * (len(shape) - 2)
        return jnp.broadcast_to(x.reshape(-1, *ones, shape[-1]), shape)
    pixels = math.prod(shape[x.ndim - 1 : -1])
    x = x if x.ndim == 2 else x[None]
    return _spread_p.bind(x, pixels=pixels).reshape(shape)


# The primitives: [B, n, C] to [B, C], and back.


def _plain_total(x):
    return x.sum(1)


def _total_in_turns(x):
    dtype, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
    while x.shape[1] > _LAST:
        b, n, c = x.shape
        whole = n // _TERMS * _TERMS
        y = x[:, :whole].reshape(b, _TERMS, -1, c).sum(1)
        if whole < n:
            y = jnp.concatenate([y, x[:, whole:]], 1)
        x = lax.optimization_barrier(y)  # Without it XLA joins the sums again.
    return x.sum(1).astype(dtype)


def _spread(x, *, pixels):
    return lax.broadcast_in_dim(x, (len(x), pixels, x.shape[1]), (0, 2))


def _merged(primitive):
    """The batching rule: what a batch adds are more images."""

    def rule(operands, axes, **options):
        (x,), (axis,) = operands, axes
        x = jnp.moveaxis(x, axis, 0)
        y = primitive.bind(x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), **options)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    return rule


def _shape(function):
    def rule(x, **options):
        y = jax.eval_shape(lambda x: function(x, **options), x)
        return jax.core.ShapedArray(y.shape, y.dtype)

    return rule


_total_p = Primitive("pixel_total")
_total_p.def_impl(jax.jit(_total_p.bind))
_total_p.def_abstract_eval(_shape(_plain_total))
ad.deflinear2(_total_p, lambda dy, x: [_spread_p.bind(dy, pixels=x.aval.shape[1])])
batching.primitive_batchers[_total_p] = _merged(_total_p)

_spread_p = Primitive("pixel_spread")
_spread_p.def_impl(jax.jit(_spread_p.bind, static_argnames="pixels"))
_spread_p.def_abstract_eval(_shape(_spread))
ad.deflinear2(_spread_p, lambda dy, x, pixels: [_total_p.bind(dy)])
batching.primitive_batchers[_spread_p] = _merged(_spread_p)


def _lower_total_on_cpu(context, x):
    devices = getattr(context.module_context.axis_context, "num_devices", None)
    return (_by_turns if devices == 1 else _plainly)(context, x)


_plainly = mlir.lower_fun(_plain_total, multiple_results=False)
_by_turns = mlir.lower_fun(_total_in_turns, multiple_results=False)
mlir.register_lowering(_total_p, _plainly)
mlir.register_lowering(_total_p, _lower_total_on_cpu, platform="cpu")
mlir.register_lowering(_spread_p, mlir.lower_fun(_spread, multiple_results=False))
