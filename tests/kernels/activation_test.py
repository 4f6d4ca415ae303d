"""ReLU has flax's bits, and its gradient keeps the result alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import ops

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_flaxs(dtype):
    x = np.random.default_rng(0).normal(size=(3, 40))
    x[0, :5] = 0, -0.0, np.inf, -np.inf, np.nan
    x, t = jnp.asarray(x, dtype), jnp.arange(120.0, dtype=dtype).reshape(3, 40)
    found, expected = (
        (*jax.jvp(f, (x,), (t,)), jax.vjp(f, x)[1](t)[0], jax.vmap(f)(x))
        for f in (ops.relu, nn.relu)
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(np.float32(a), np.float32(b))


def test_the_second_derivative_is_zero():
    assert jax.grad(jax.grad(lambda x: ops.relu(3 * x)))(2.0) == 0


def test_the_gradient_of_a_chain_keeps_an_array_for_each_layer():
    """Of six convolutions, in arrays of one layer; flax's keeps nearly two."""
    images, kernels = jnp.ones((4, 32, 32, 16)), [jnp.ones((3, 3, 16, 16))] * 6

    def arrays(relu):
        def loss(kernels, x):
            for kernel in kernels:
                x = relu(ops.conv(x, kernel, (1, 1), ((1, 1), (1, 1)), **LAYOUT) + 1)
            return (x * x).sum()

        options = ops.compiler_options("cpu")
        with ops.every_kernel():
            program = jax.jit(jax.grad(loss), compiler_options=options)
            compiled = program.lower(kernels, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes / images.nbytes

    assert arrays(ops.relu) < 8.5
    assert arrays(nn.relu) > 12
