"""The interface of the kernels: which a program has, and that numbers agree."""

import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import native, ops, probes
from kernels.choice import choice

ONE, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
NHWC = ("NHWC", "HWIO", "NHWC")
built = pytest.mark.skipif(not native.available(), reason="no library was built")
called = pytest.mark.skipif(
    not all(map(probes.has_call, probes.CALLS)), reason="jaxlib has no oneDNN"
)


@pytest.fixture(autouse=True)
def every_kernel():
    with ops.every_kernel():
        yield


@pytest.fixture
def xla():
    ops.use("xla")
    yield
    ops.use("auto")


def network(kernels, images):
    """Each operation once, in the sizes for which `auto` has a kernel of its own."""
    blocks, winograd, strided, pointwise = kernels

    def conv(x, w, stride, pads):
        return ops.conv(x, w, (stride, stride), pads, dimension_numbers=NHWC)

    x = conv(images, blocks, 1, ONE)
    x = ops.once(x + ops.spread_pixels(x[0, 0, 0], x.shape))
    x = ops.max_pool(x, (3, 3), (2, 2), ONE)
    x = conv(x, winograd, 1, ONE)
    x = conv(x, strided, 2, ONE)
    x = conv(x, pointwise, 1, NONE)
    x = ops.avg_pool(x, (2, 2), (2, 2), NONE)
    return ops.sum_pixels(jnp.sin(x))


def loss(kernels, images):
    return jnp.square(network(kernels, images)).sum()


def arguments():
    rng = np.random.default_rng(0)

    def draw(*shape):
        scale = np.sqrt(np.prod(shape[:-1]))
        return jnp.asarray(rng.normal(size=shape) / scale, jnp.float32)

    shapes = ((3, 3, 2, 16), (3, 3, 16, 16), (5, 5, 16, 24), (1, 1, 24, 8))
    images = jnp.asarray(rng.normal(size=(8, 32, 32, 2)), jnp.float32)
    return [draw(*shape) for shape in shapes], images


def step():
    """A function, new to jit, that returns value and gradients."""
    return jax.value_and_grad(lambda kernels, images: loss(kernels, images), (0, 1))


def custom_calls(*given):
    """Names of the custom calls in the compiled program."""
    text = jax.jit(step()).lower(*given).compile().as_text()
    return set(re.findall(r'custom_call_target="([^"]*)"', text))


@built
@called
def test_auto_has_all_kernels():
    assert custom_calls(*arguments()) == {
        "__onednn$convolution",
        "__onednn$matmul",
        "convnets_kernel_gradient",
        "convnets_winograd",
        "convnets_winograd_kernel_gradient",
    }


def test_xla_has_none(xla):
    assert custom_calls(*arguments()) == set()
    program = str(jax.make_jaxpr(step())(*arguments()))
    for primitive in "onednn", "kernel_gradient", "pixel", "optimization_barrier":
        assert primitive not in program
    assert "custom_jvp" not in program and "platform_index" not in program
    for primitive in "conv_general_dilated", "reduce_window_max", "reduce_sum":
        assert primitive in program


def test_the_numbers_agree():
    given = arguments()
    ours = jax.jit(step())(*given)
    ops.use("xla")
    try:
        xlas = jax.jit(step())(*given)
    finally:
        ops.use("auto")
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(xlas), strict=True)
    for a, b in pairs:
        # Sums of up to 8,192 terms in another order.
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * scale)


def test_a_program_that_was_traced_before_is_traced_again():
    program, given = jax.jit(step()), arguments()
    program(*given)
    before = program.lower(*given).as_text()
    ops.use("xla")
    try:
        assert program.lower(*given).as_text() != before
    finally:
        ops.use("auto")
    assert program.lower(*given).as_text() == before


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="'cuda' is neither 'auto' nor 'xla'"):
        ops.use("cuda")


@built
@called
def test_describe(monkeypatch):
    one, several = ops.describe(1), ops.describe(8)
    assert one == ops.describe(1)
    assert json.loads(json.dumps(one)) == one
    assert one["convolution"] == "blocks+winograd+onednn"
    assert one["kernel_gradient"] == "native"
    assert several["convolution"] == "blocks+xla"
    assert several["kernel_gradient"] == several["sum"] == "xla"
    monkeypatch.setattr(native, "available", lambda: False)
    without = ops.describe(1)
    assert without["convolution"] == "blocks+onednn"
    assert without["kernel_gradient"] == "xla" and without["library"] == ""
    monkeypatch.setattr(choice, "onednn", {"convolution": "missing", "matmul": ""})
    without = ops.describe(1)
    assert without["convolution"] == "blocks+xla" and without["product"] == "onednn"


def test_describe_of_bfloat16_has_no_kernels_of_float32():
    found = ops.describe(1, "bfloat16")
    assert found["convolution"] == "blocks+xla" and found["library"] == ""
    assert found["kernel_gradient"] == found["product"] == "xla"
    assert found["sum"] == "turns" and found["pool"] == "taps"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux has it")
def test_describe_has_the_threads():
    """On another number of cores sums are rounded differently."""
    cores = os.sched_getaffinity(0)
    assert ops.describe()["threads"] == str(len(cores))
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert ops.describe()["threads"] == "1"
    finally:
        os.sched_setaffinity(0, cores)


def test_describe_says_xla(xla):
    assert ops.in_words(ops.describe()) == "kernels: XLA's own"
    assert ops.describe()["options"] == "xla_disable_hlo_passes=cse_barrier_expander"
    xlas = ops.describe()
    ops.use("auto")
    assert ops.describe() != xlas
    assert "pool taps" in ops.in_words(ops.describe())


def test_describe_for_several_devices_is_what_they_have():
    kernels, images = arguments()
    mesh = Mesh(jax.devices(), ("data",))
    images = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    with ops.for_mesh(mesh):
        assert not {call for call in custom_calls(kernels, images) if call[0] in "_c"}


def test_options(xla):
    assert ops.compiler_options("gpu") == {}
    assert ops.compiler_options("cpu").keys() == {"xla_disable_hlo_passes"}
    ops.use("auto")
    assert ops.compiler_options("gpu") == {}
    assert "xla_disable_hlo_passes" in ops.compiler_options("cpu")
