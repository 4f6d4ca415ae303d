"""Sums over pixels, and their transpose, in the form that XLA's CPU backend runs well.

That backend computes a sum of [n, C] over n one output at a time: it goes down all of n
for one channel, then for the next, and uses one number of each cache line. Batch
normalisation has four such sums and a bias has one; they took 3.5 of the 8 seconds of a
training step of ResNet-50. Here [n, C] is summed in turns. Each turn adds `_TERMS`
arrays of [n / _TERMS, C], which it reads from end to end. That takes a tenth of the
time and makes a smaller rounding error.

The gradient of a sum spreads a value over pixels, and the gradient of spreading is a
sum. So both are primitives, each the transpose of the other, and the sums in gradients
have the same form. Off the CPU, and in programs for several devices, where XLA would
have to exchange the parts, they are JAX's own operations.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kernels.choice import choice

_TERMS = 8  # the quickest of 4, 8, 16 and 32 for ResNet-50's layers
_LAST = 32  # XLA's own sum adds the last rows


def total(x, per_image=False):
    """Sums over all pixels: [B, ..., C] to [C], or with `per_image` to [B, C]."""
    x = x if per_image else x[None]
    x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    y = _plain_total(x) if choice.plain else _total_p.bind(x)
    return y if per_image else y[0]


def spread(x, shape):
    """Repeats values at all pixels: [C], or [B, C] per image, to the whole `shape`."""
    if choice.plain:
        ones = (1,) * (len(shape) - 2)
        return jnp.broadcast_to(x.reshape(-1, *ones, shape[-1]), shape)
    pixels = math.prod(shape[x.ndim - 1 : -1])
    x = x if x.ndim == 2 else x[None]
    return _spread_p.bind(x, pixels=pixels).reshape(shape)


# The primitives take [B, n, C] to [B, C], and back.


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
        x = lax.optimization_barrier(y)  # Without it XLA joins the turns again.
    return x.sum(1).astype(dtype)


def _spread(x, *, pixels):
    return lax.broadcast_in_dim(x, (len(x), pixels, x.shape[1]), (0, 2))


def _merged(primitive):
    """The batching rule of a primitive, which takes a batch as more images."""

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
