"""Convolution with explicit padding, and pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from gradients import value_and_gradients

import models
from kernels import ops
from models import layers

NONE = ((0, 0), (0, 0))


CASES = [
    # height, width, window, strides, padding
    (8, 12, (2, 2), (2, 2), NONE),
    (9, 12, (3, 2), (3, 2), NONE),
    (9, 7, (2, 2), (2, 2), NONE),
    (9, 7, (3, 3), (2, 2), ((1, 1), (0, 1))),
    (8, 8, (2, 2), (2, 2), ((1, 1), (1, 1))),
    (2, 5, (3, 3), (2, 2), NONE),
    (2, 5, (5, 5), (2, 2), ((1, 0), (1, 1))),
    (9, 8, (1, 2), (2, 3), NONE),
    (9, 8, (3, 2), (1, 3), ((1, 1), (1, 0))),
]


@pytest.mark.parametrize("case", CASES)
def test_max_pool_is_flax_max_pool(case):
    """Values bit for bit; ties, which small whole numbers often have, to the same."""
    h, w, *window = case
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (3, h, w, 4)), jnp.float32)
    ours = value_and_gradients(lambda x: layers.max_pool(x, *window), x)
    theirs = value_and_gradients(lambda x: nn.max_pool(x, *window), x)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1] == 0, theirs[1] == 0)
    # A pixel's gradient is a sum over its windows, at most 4 here, in another order.
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-6)


def test_max_pool_gives_a_tie_to_the_first():
    x = jnp.asarray([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.jit(
        jax.grad(lambda x: layers.max_pool(x, (2, 2), (2, 2), NONE).sum())
    )(x)
    np.testing.assert_array_equal(gradient.reshape(2, 2), [[0, 1], [0, 0]])


def test_max_pool_forward_mode_batched_and_differentiated_twice():
    x, t = (
        jnp.asarray(np.random.default_rng(i).normal(size=(2, 7, 7, 3)), jnp.float32)
        for i in range(2)
    )
    pool = functools.partial(layers.max_pool, window=3, strides=2, padding=1)

    def tangent(f):
        return jax.jit(lambda x, t: jax.jvp(f, (x,), (t,))[1])(x, t)

    theirs = tangent(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
    np.testing.assert_array_equal(tangent(pool), theirs)
    gradient = jax.grad(lambda x: pool(x).sum())
    each = jax.jit(jax.vmap(gradient))(x[:, None])
    np.testing.assert_array_equal(each[:, 0], jax.jit(gradient)(x))
    # With J the derivative, which is constant near x, the square's Hessian is 2 J'J.
    square = jax.grad(lambda x: jnp.square(pool(x)).sum())
    transposed = jax.jit(lambda x, t: jax.vjp(pool, x)[1](2 * t)[0])
    np.testing.assert_allclose(
        tangent(square), transposed(x, tangent(pool)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_keeps_bytes_for_its_gradient(stride):
    """Between both passes overlapping windows need neither the image nor a copy."""

    def both_passes(x, gradient):
        y, pulled = jax.vjp(lambda x: layers.max_pool(jnp.sin(x), 3, stride, 1), x)
        y, gradient = jax.lax.optimization_barrier((y, gradient))
        return y, pulled(gradient)

    x = jax.ShapeDtypeStruct((4, 32, 32, 64), jnp.float32)
    y = jax.ShapeDtypeStruct((4, 32 // stride, 32 // stride, 64), jnp.float32)
    program = jax.jit(both_passes, compiler_options=ops.compiler_options("cpu"))
    planned = program.lower(x, y).compile().memory_analysis().temp_size_in_bytes
    assert planned < 2.5 * 4 * x.size  # 3.3 and 2.8 times its bytes with the image


def test_dropout_is_flax_dropout_and_keeps_bytes():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 64)), jnp.float32)
    options = {"compiler_options": ops.compiler_options("cpu")}

    def both_passes(layer, x, gradient):
        def apply(x):
            return layer.apply({}, x, rngs={"dropout": jax.random.key(0)})

        y, pulled = jax.vjp(apply, x)
        y, gradient = jax.lax.optimization_barrier((y, gradient))
        return y, pulled(gradient)

    ours, theirs = (
        jax.jit(
            functools.partial(both_passes, layer(0.3, deterministic=False)), **options
        )
        for layer in (layers.Dropout, nn.Dropout)
    )
    jax.tree.map(np.testing.assert_array_equal, ours(x, x), theirs(x, x))
    planned = ours.lower(x, x).compile().memory_analysis().temp_size_in_bytes
    assert planned < 4.8 * x.size  # 8 bytes a number with the random bits
    assert layers.Dropout(0.3, deterministic=True).apply({}, x) is x
    with pytest.raises(ValueError, match="broadcast_dims is not supported"):
        layers.Dropout(0.3, (1, 2), deterministic=True).apply({}, x)


@pytest.mark.parametrize("position", range(4))
def test_max_pool_keeps_a_nan(position):
    x = jnp.ones(4).at[position].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(layers.max_pool(x, (2, 2), (2, 2), NONE)).all()


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_avg_pool_is_flax_avg_pool(case, count_include_pad):
    h, w, *window = case
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, h, w, 4)), jnp.float32)
    args = (*window, count_include_pad)
    pool = functools.partial(layers.avg_pool, count_include_pad=count_include_pad)
    ours = value_and_gradients(lambda x: pool(x, *window), x)
    theirs = value_and_gradients(lambda x: nn.avg_pool(x, *args), x)
    for a, b in zip(ours, theirs, strict=True):
        # Up to nine numbers of size about 1 summed in another order.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strides", [1, 2])
def test_conv_is_nn_conv(strides):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 3)), jnp.float32)
    options = {"strides": strides, "padding": ((1, 0), (0, 2))}
    ours, theirs = layers.Conv(4, (3, 3), **options), nn.Conv(4, (3, 3), **options)
    results = []
    for layer in (ours, theirs):
        run = jax.jit(layer.init_with_output)
        results.append(jax.device_get(run(jax.random.key(0), x)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=0, atol=1e-5)
    # The same draws, which two programs may round otherwise.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, results[0][1], results[1][1])


@pytest.mark.parametrize("options", [{}, {"padding": "SAME"}, {"padding": "VALID"}])
def test_conv_wants_explicit_padding(options):
    with pytest.raises(ValueError, match="padding must be numbers"):
        layers.Conv(4, (3, 3), **options)


def windows(size, window, stride, padding, ceil):
    """(start, stop) of each window on one axis, by walking along it."""
    found, start = [], -padding
    while start + window <= size + padding:
        found.append((start, start + window))
        start += stride
    # A window that sticks out, unless nothing of it is image or padding ahead of it.
    if ceil and found[-1][1] < size + padding and start < size:
        found.append((start, start + window))
    return found


def pooled(x, window, stride, padding, ceil, reduce):
    """[H, W] pooled by loops; `reduce` gets pixels and a count with padding."""
    size = x.shape[0]
    spans = windows(size, window, stride, padding, ceil)
    result = np.empty((len(spans), len(spans)))
    for i, (top, bottom) in enumerate(spans):
        for j, (left, right) in enumerate(spans):
            pixels = x[max(top, 0) : bottom, max(left, 0) : right]
            rows = min(bottom, size + padding) - top
            columns = min(right, size + padding) - left
            result[i, j] = reduce(pixels, rows * columns)
    return result


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_flax_batch_norm(train):
    """Its values, and the moving averages after a step, to rounding."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1, 2, (4, 5, 5, 8)), jnp.float32)
    scale, bias, mean, var = rng.uniform(0.5, 2, (4, 8)).astype(np.float32)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    ours, theirs = (
        layer(use_running_average=not train, momentum=0.9).apply(
            variables, x, mutable=["batch_stats"]
        )
        for layer in (layers.BatchNorm, nn.BatchNorm)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), ours, theirs
    )
    assert train == (not np.array_equal(ours[1]["batch_stats"]["mean"], mean))


@pytest.mark.parametrize(
    "field",
    [
        {"input_dilation": 2},
        {"mask": np.ones((3, 3, 1, 8))},
        {"conv_general_dilated_cls": jax.lax.conv_general_dilated},
    ],
)
def test_a_convolution_refuses_fields_that_it_does_not_read(field):
    layers.Conv(8, 3, padding=1)
    (name,) = field
    with pytest.raises(ValueError, match=f"Conv: {name} is not supported"):
        layers.Conv(8, 3, padding=1, **field)


@pytest.mark.parametrize(
    "field",
    [
        {"axis": 1},
        {"axis_name": "batch"},
        {"axis_index_groups": [[0]]},
        {"use_fast_variance": False},
        {"force_float32_reductions": False},
    ],
)
def test_batch_norm_refuses_fields_that_it_does_not_read(field):
    (name,) = field
    with pytest.raises(ValueError, match=f"BatchNorm: {name} is not supported"):
        layers.BatchNorm(use_running_average=True, **field)


def test_batch_norm_is_told_which_statistics_to_use():
    """By flax's default of None it would take the batch's in an evaluation too."""
    with pytest.raises(ValueError, match="use_running_average must be True or False"):
        layers.BatchNorm()


CEIL_CASES = [
    # size, window, stride, padding; what torch and Caffe give
    ((8, 3, 2, 0), 4),
    ((9, 3, 2, 0), 4),
    ((11, 2, 2, 0), 6),
    ((12, 3, 2, 1), 7),
    ((7, 3, 3, 1), 3),
    ((7, 3, 2, 1), 4),
    ((5, 2, 3, 1), 2),  # a third window would start in the padding
]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("case", "out"), CEIL_CASES)
def test_pools_walk_along_the_image(case, out, ceil):
    x = np.random.default_rng(0).normal(size=(case[0], case[0]))
    image = jnp.asarray(x, jnp.float32)[None, :, :, None]

    @jax.jit
    def pools(image):
        averages = [layers.avg_pool(image, *case[1:], count) for count in (True, False)]
        return layers.max_pool(image, *case[1:], ceil), *averages

    maximum, *averages = (np.asarray(x)[0, :, :, 0] for x in pools(image))
    expected = pooled(x, *case[1:], ceil, lambda pixels, _: pixels.max())
    if ceil:
        assert expected.shape == (out, out)
    np.testing.assert_array_equal(maximum, expected.astype(np.float32))
    means = (
        lambda pixels, seen: pixels.sum() / seen,  # counts the padding
        lambda pixels, _: pixels.mean(),
    )
    for average, mean in zip(averages, means, strict=True):
        np.testing.assert_allclose(
            average,
            pooled(x, *case[1:], False, mean),
            rtol=0,
            atol=1e-6,  # a sum of up to nine numbers of size 1
        )


@pytest.mark.parametrize(("size", "out"), [(112, 56), (113, 56), (55, 27), (14, 7)])
def test_ceil_mode_gives_caffes_sizes(size, out):
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    pool = functools.partial(layers.max_pool, window=3, strides=2, ceil=True)
    assert traced.eval_shape(pool, image).shape == (1, out, out, 1)


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("n", [3, 4, 5])
def test_local_response_norm_is_its_formula(n, divide):
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 7)).astype(np.float32)
    norm = layers.LocalResponseNorm(n=n, alpha=0.3, beta=0.75, k=2.0, divide=divide)
    alpha = 0.3 / n if divide else 0.3
    expected = np.empty_like(x)
    for i in range(7):
        first = max(0, i - (n - 1) // 2)
        total = np.square(x[..., first : i + n // 2 + 1]).sum(-1)
        expected[..., i] = x[..., i] / (2 + alpha * total) ** 0.75
    np.testing.assert_allclose(norm.apply({}, x), expected, rtol=1e-5)


def test_local_response_norm_as_tensorflow_has_it():
    """Five equal activations of 2, k 2, alpha 0.1: 2 / (2 + 0.1 * 20) ** 0.75."""
    norm = layers.LocalResponseNorm(alpha=0.1, divide=False)
    middle = norm.apply({}, jnp.full((1, 1, 1, 5), 2.0))[0, 0, 0, 2]
    np.testing.assert_allclose(middle, 0.7071, atol=5e-5)


def test_fully_connected_is_dense_on_its_map_and_slides_over_a_larger_one():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 3)), jnp.float32)
    layer = layers.FullyConnected(7)
    variables = layer.init(jax.random.key(0), x[:, :3, :2])
    kernel, bias = variables["params"]["kernel"], jnp.arange(7.0)
    assert kernel.shape == (3, 2, 3, 7)
    variables = {"params": {"kernel": kernel, "bias": bias}}
    slid = layer.apply(variables, x)
    assert slid.shape == (2, 3, 3, 7)
    for i in range(3):
        for j in range(3):
            window = x[:, i : i + 3, j : j + 2]
            dense = window.reshape(2, -1) @ kernel.reshape(-1, 7) + bias[None]
            alone = layer.apply(variables, window)
            # Sums of 18 products of size about 1, in another order.
            np.testing.assert_allclose(alone[:, 0, 0], dense, rtol=0, atol=1e-5)
            np.testing.assert_allclose(slid[:, i, j], dense, rtol=0, atol=1e-5)


def test_global_avg_pool_over_windows():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), jnp.float32)
    assert layers.global_avg_pool(x).shape == (2, 1, 1, 3)
    slid = layers.global_avg_pool(x, (3, 3))
    assert slid.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(
        slid[:, 1, 2], x[:, 1:4, 2:5].mean((1, 2)), rtol=0, atol=1e-6
    )


def test_squeeze_excite_scales_channels():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 8)), jnp.float32)
    layer = layers.SqueezeExcite(reduction=4)
    run = jax.jit(layer.init_with_output)
    y, variables = jax.device_get(run(jax.random.key(0), x))
    params, x = variables["params"], np.asarray(x)
    assert params["fc1"]["kernel"].shape == (8, 2)
    assert params["fc2"]["kernel"].shape == (2, 8)
    hidden = np.maximum(x.mean((1, 2)) @ params["fc1"]["kernel"], 0)
    scale = 1 / (1 + np.exp(-hidden @ params["fc2"]["kernel"]))
    np.testing.assert_allclose(y, x * scale[:, None, None], rtol=0, atol=1e-5)


def test_a_trace_for_shapes_alone_has_the_same_shapes():
    for name, size in (("lenet5", (32, 32, 1)), ("densenet_40_12", (32, 32, 3))):
        model = models.create(name, num_classes=10)
        init = functools.partial(model.init, train=False)
        images = jax.ShapeDtypeStruct((1, *size), jnp.float32)
        plain = jax.eval_shape(init, jax.random.key(0), images)
        with layers.shapes_only():
            assert jax.eval_shape(init, jax.random.key(0), images) == plain
            conv = layers.Conv(4, 3, padding=1)
            x = jnp.ones((1, 5, 5, 2))
            assert not conv.init(jax.random.key(0), x)["params"]["kernel"].any()
        assert conv.init(jax.random.key(0), x)["params"]["kernel"].all()
