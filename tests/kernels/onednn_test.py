"""oneDNN's convolution and its gradients are the convolution's."""

import functools
import itertools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import value_and_gradients
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import onednn, ops, probes
from kernels.choice import choice

called = pytest.mark.skipif(
    not all(map(probes.has_call, probes.CALLS)), reason="jaxlib has no oneDNN"
)
NHWC = ("NHWC", "HWIO", "NHWC")
PADDINGS = (((0, 0), (0, 0)), ((1, 1), (1, 1)), ((2, 1), (0, 3)), ((5, 4), (4, 5)))
SIZES = ((9, 11), (12, 16))
# Not both strides and dilation: XLA's own gradient crashes on some of these (5x2,
# stride 2, dilation (2, 1), padding 1, 12x16 pixels).
CASES = [
    case
    for case in itertools.product(
        [(1, 1), (3, 3), (5, 2)],
        [(1, 1), (2, 2), (2, 3), (4, 4)],
        PADDINGS,
        [(1, 1), (2, 1)],
        [1, 2, 8],
    )
    if case[1] == (1, 1) or case[3] == (1, 1)
]


@pytest.fixture(autouse=True)
def every_kernel():
    with ops.every_kernel():
        yield


def draw(kernel, groups, size, dtype):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *size, 8))
    return jnp.asarray(images, dtype), jnp.asarray(
        rng.normal(size=(*kernel, 8 // groups, 16)), dtype
    )


def ours(strides, padding, dilation, groups):
    return lambda x, w: onednn.conv(x, w, strides, padding, dilation, groups)


def by_lax(strides, padding, dilation, groups):
    return lambda x, w: lax.conv_general_dilated(
        x, w, strides, padding, None, dilation, NHWC, groups
    )


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))]
)
@pytest.mark.parametrize("kernel, strides", sorted({case[:2] for case in CASES}))
def test_the_rules_of_the_gradients_in_float64(float64, kernel, strides, part):
    """float64 has lax's convolution in place of the calls, and the same rules."""
    cases = [case for case in CASES if case[:2] == (kernel, strides)]
    for i, case in list(enumerate(cases))[part::4]:
        x, w = draw(kernel, case[4], SIZES[i // 4 % 2], jnp.float64)
        results = value_and_gradients(ours(*case[1:]), x, w)
        expected = value_and_gradients(by_lax(*case[1:]), x, w)
        for a, b in zip(results, expected, strict=True):
            # At most 200 terms of size about 1.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11, err_msg=str(case))


# Each kernel, stride, padding, dilation and number of groups several times.
@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_the_calls_in_float32(case):
    kernel, *options = case
    x, w = draw(kernel, options[-1], SIZES[0], jnp.float32)
    results = value_and_gradients(ours(*options), x, w)
    expected = value_and_gradients(by_lax(*options), x, w)
    for a, b in zip(results, expected, strict=True):
        # Sums of at most 200 terms of size about 1 in another order.
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_forward_mode_and_second_derivatives(float64):
    options = ((2, 2), ((1, 1), (1, 1)), (1, 1), 2)
    x, w = draw((3, 3), 2, (7, 6), jnp.float64)

    def second(f):
        def loss(x, w):
            return jnp.sum(jnp.sin(f(x, w)))

        def slope(x, w):
            return jax.jvp(jax.grad(loss, (0, 1)), (x, w), (jnp.cos(x), jnp.cos(w)))[1]

        return jax.jit(slope)(x, w)

    for a, b in zip(second(ours(*options)), second(by_lax(*options)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)  # squares of the sums


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_images_kernels_or_both(axes):
    options = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x, w = draw((3, 3), 1, (6, 5), jnp.float32)
    many = [
        z if axis is None else jnp.stack([z, 2 * z, z + 1])
        for z, axis in zip((x, w), axes, strict=True)
    ]
    results, expected = (
        jax.jit(jax.vmap(functools.partial(value_and_gradients, f), axes))(*many)
        for f in (ours(*options), by_lax(*options))
    )
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)  # terms up to 3 times 3


def calls(sharding=None):
    """Names of the custom calls in the compiled program of a step."""
    x, w = draw((3, 3), 1, (6, 5), jnp.float32)
    x = jnp.concatenate([x] * 4)

    def loss(w, x):
        return jnp.sum(jnp.sin(ours((1, 1), ((1, 1), (1, 1)), (1, 1), 1)(x, w)))

    if sharding is not None:
        x = jax.device_put(x, sharding)
    program = jax.jit(jax.grad(loss)).lower(w, x).compile()
    return program.as_text().count("__onednn$")


@called
def test_the_calls_are_made_on_one_device_only():
    assert calls()
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    assert not calls(sharding)


@called
def test_without_onednn_it_is_laxs(monkeypatch):
    monkeypatch.setattr(choice, "onednn", dict.fromkeys(probes.CALLS, "missing"))
    assert not calls()


@called
def test_no_program_with_a_call_is_cached(tmp_path):
    """XLA crashes when it stores one; tests have the compilation cache on."""
    script = """if 1:
        import sys, jax, jax.numpy as jnp
        from kernels import onednn, ops

        jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

        def step(x, w):
            y = onednn.conv(x, w, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
            return y * jnp.sin(y)

        x, w = jnp.ones((2, 6, 5, 8)), jnp.ones((3, 3, 8, 8))
        with ops.every_kernel():
            program = jax.jit(step)
            program(x, w)
            assert "__onednn" in program.lower(x, w).compile().as_text()
        outside = jax.jit(lambda x, w: step(x, w) + 1)
        outside(x, w)
        assert "__onednn" not in outside.lower(x, w).compile().as_text()
    """
    folder = pathlib.Path(onednn.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=folder, check=True)
    names = [path.name for path in tmp_path.iterdir()]
    assert any("lambda" in name for name in names)
    assert not any("step" in name for name in names)


def test_no_images():
    x, w = jnp.zeros((0, 6, 5, 8)), jnp.ones((3, 3, 8, 4))
    y = jax.jit(ours((1, 1), ((1, 1), (1, 1)), (1, 1), 1))(x, w)
    assert y.shape == (0, 6, 5, 4)
