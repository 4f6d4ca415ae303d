"""RoIPool and RoIAlign against their definitions, written as loops in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import roi_pooling

STRIDE = 16


def draw(shape, count, seed=0):
    """A map float32 [H, W, 3] with equal values, and RoIs [N, 4] inside its image."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 3, (*shape, 3)).astype(np.float32) / 4
    sides = np.array(shape[::-1]) * STRIDE
    low = rng.uniform(0, sides - 1, (count, 2))
    high = np.minimum(low + rng.uniform(1, sides, (count, 2)), sides)
    return x, np.concatenate([low, high], 1).astype(np.float32)


def edge_cases(shape):
    """The whole image, single pixels, and corners that lie at a half after rounding."""
    height, width = np.multiply(shape, STRIDE)
    below = np.nextafter(np.float32(8), np.float32(0))
    rows = [(0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, width, height)]
    rows += [(8, 8, 25, 41), (24, 24, 57, 73), (below, below, below + 50, below + 34)]
    return np.float32(rows)


def half_away(x):
    """C's round, in the precision of x, for numbers that are not negative."""
    floor = np.floor(x)
    return int(floor + (x - floor >= 0.5))


def plain_edges(low, high, side, bins):
    one = np.float32(1)
    first = half_away(low * np.float32(1 / STRIDE))
    last = half_away((high - one) * np.float32(1 / STRIDE))
    size = np.float32(max(last - first + 1, 1)) / np.float32(bins)
    for i in range(bins):
        start, end = np.floor(np.float32(i) * size), np.ceil(np.float32(i + 1) * size)
        yield [min(max(int(z) + first, 0), side) for z in (start, end)]


def plain_roi_pool(x, rois, bins, dy):
    """The pooled RoIs, and the gradient of x for the gradient dy of these."""
    y, dx = np.zeros((len(rois), bins, bins, x.shape[-1]), np.float32), np.zeros_like(x)
    for r, (x1, y1, x2, y2) in enumerate(rois):
        columns = list(plain_edges(x1, x2, x.shape[1], bins))
        for i, (top, below) in enumerate(plain_edges(y1, y2, x.shape[0], bins)):
            for j, (left, right) in enumerate(columns):
                part = x[top:below, left:right]
                if part.size:
                    for c in range(x.shape[-1]):
                        place = divmod(part[..., c].argmax(), part.shape[1])
                        y[r, i, j, c] = part[(*place, c)]
                        dx[top + place[0], left + place[1], c] += dy[r, i, j, c]
    return y, dx


@functools.partial(jax.jit, static_argnums=2)
def pooled(x, rois, bins, dy):
    y, back = jax.vjp(lambda x: roi_pooling.roi_pool(x, rois, bins, STRIDE), x)
    return y, *back(dy)


@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize("shape", [(38, 63), (15, 20)])
def test_roi_pool_is_caffe_s_to_the_bit(shape, bins):
    x, rois = draw(shape, 40)
    rois = np.concatenate([rois, edge_cases(shape)])
    rng = np.random.default_rng(1)
    dy = rng.normal(size=(len(rois), bins, bins, 3)).astype(np.float32)
    expected = plain_roi_pool(x, rois, bins, dy)
    for own, other in zip(pooled(x, rois, bins, dy), expected, strict=True):
        assert own.dtype == np.float32
        np.testing.assert_array_equal(own, other)


def test_roi_pool_needs_its_table():
    """In exact arithmetic, and with the rounded 1 / P, many bins would be others."""
    span, number = np.arange(65, dtype=np.float32)[:, None], np.arange(1, 15)
    table = np.ceil(np.float32(number) * (span / np.float32(14)))
    rounded = np.ceil(np.float32(number) * (span * np.float32(1 / np.float32(14))))
    exact = -(-number * span.astype(int) // 14)
    assert (rounded != table).sum() > 20 and (exact != table).any()
    start = np.zeros(64, np.float32)
    high = STRIDE * np.arange(64, dtype=np.float32) + 1
    _, end = roi_pooling._edges(start, high, 64, 14, STRIDE)
    np.testing.assert_array_equal(end, np.minimum(table[1:], 64))


def test_a_roi_outside_the_map_is_zero_and_gives_no_gradient():
    x, _ = draw((4, 5), 1)
    rois = np.float32([[400, 400, 480, 480]])
    y, dx = pooled(x, rois, 2, np.ones((1, 2, 2, 3), np.float32))
    assert not y.any() and not dx.any()


def test_roi_pool_keeps_what_is_not_a_number():
    x, rois = draw((4, 5), 1)
    x[2, 3, 1] = np.nan
    y = roi_pooling.roi_pool(x, np.float32([[0, 0, 80, 64]]), 1, STRIDE)
    np.testing.assert_array_equal(np.isnan(y[0, 0, 0]), [False, True, False])


def plain_sample(x, row, column):
    height, width, _ = x.shape
    if not (-1 <= row <= height and -1 <= column <= width):
        return np.zeros(x.shape[-1])
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top, left = int(row), int(column)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = row - top, column - left
    upper = (1 - u) * x[top, left] + u * x[top, right]
    return (1 - v) * upper + v * ((1 - u) * x[below, left] + u * x[below, right])


def plain_roi_align(x, rois, bins, samples, aligned):
    y = np.zeros((len(rois), bins, bins, x.shape[-1]))
    for r, roi in enumerate(np.float64(rois) / STRIDE - 0.5 * aligned):
        low, sides = roi[1::-1], roi[:1:-1] - roi[1::-1]
        sides = sides if aligned else np.maximum(sides, 1)
        counts = [samples or max(math.ceil(z / bins), 0) for z in sides]
        for i, j in np.ndindex(bins, bins):
            for k, m in np.ndindex(*counts):
                row = low[0] + (i + (k + 0.5) / counts[0]) * sides[0] / bins
                column = low[1] + (j + (m + 0.5) / counts[1]) * sides[1] / bins
                y[r, i, j] += plain_sample(x, row, column) / math.prod(counts)
    return y


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_is_its_definition(samples, aligned):
    shape = (15, 20)
    x, rois = draw(shape, 8)
    more = np.float32([[32, 16, 32 + 16 * 14, 16 + 16 * 7], [40, 40, 40, 40]])
    outside = np.float32([[-60, -9, 60, 70], [250, 200, 360, 280]])
    rois = np.concatenate([rois, edge_cases(shape)[:4], more, outside])
    options = {"samples": samples, "aligned": aligned}
    run = jax.jit(
        functools.partial(roi_pooling.roi_align, bins=7, stride=STRIDE, **options)
    )
    expected = plain_roi_align(x, rois, 7, samples, aligned)
    np.testing.assert_allclose(run(x, rois), expected, 0, 1e-5)


def test_the_gradient_of_roi_align_is_its_transpose_s():
    """The pooling is linear in the map: <dy, A x> = <A' dy, x>, in float64."""
    x, rois = draw((9, 8), 5)
    rng = np.random.default_rng(2)
    dy = rng.normal(size=(5, 3, 3, 3))
    with jax.enable_x64(True):
        run = functools.partial(
            roi_pooling.roi_align, rois=np.float64(rois), bins=3, stride=STRIDE
        )
        y, back = jax.vjp(run, jnp.float64(x))
        (dx,) = back(dy)
        np.testing.assert_allclose((y * dy).sum(), (dx * x).sum(), 1e-12)


@pytest.mark.parametrize("pool", [roi_pooling.roi_pool, roi_pooling.roi_align])
def test_many_images_at_once_are_each_alone(pool):
    images, rois = zip(*(draw((6, 7), 4, seed) for seed in range(3)), strict=True)
    images, rois = np.stack(images), np.stack(rois)

    def run(x, rois):
        return jax.value_and_grad(lambda x: (pool(x, rois, 3, STRIDE) ** 2).sum())(x)

    together = jax.jit(jax.vmap(run))(images, rois)
    for i in range(3):
        alone = run(images[i], rois[i])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_allclose(x[i], y, 1e-5, 1e-5)


@pytest.mark.parametrize("pool", [roi_pooling.roi_pool, roi_pooling.roi_align])
def test_boxes_get_no_gradient(pool):
    x, rois = draw((6, 7), 4)
    assert not jax.grad(lambda rois: pool(x, rois, 3, STRIDE).sum())(rois).any()
