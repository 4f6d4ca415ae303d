"""Mean image, channels, global contrast and ZCA whitening, against numpy."""

import jax
import numpy as np
import pytest

from transforms import whitening


@pytest.fixture
def images():
    """Smooth colour images, uint8 [90, 4, 5, 3]: their numbers are correlated."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (90, 2, 5, 1)).repeat(2, 1)
    return (0.8 * coarse + rng.uniform(0, 50, (90, 4, 5, 3))).astype(np.uint8)


def parts(images):
    """Splits images into batches, of which the last is smaller."""
    return (images[i : i + 40] for i in range(0, len(images), 40))


def applied(kind, images):
    statistics = whitening.fit(kind, parts(images))
    assert all(a.dtype == np.float32 for a in statistics.values())
    apply = jax.jit(whitening.apply, static_argnums=0)
    return np.asarray(apply(kind, statistics, images.astype(np.float32)), np.float64)


def contrast_normalised(images):
    """pylearn2's global_contrast_normalize(scale=55), in float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    return 55 * flat / np.sqrt((flat**2).sum(1, keepdims=True))


def test_the_mean_image_is_that_of_each_pixel(images):
    exact = images - images.mean(0, dtype=np.float64)
    # Levels of up to 255 in float32.
    np.testing.assert_allclose(applied("mean_image", images), exact, atol=2e-5)


def test_channels_have_mean_0_and_deviation_1(images):
    exact = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    # Values of up to 3, from levels of up to 255 in float32.
    np.testing.assert_allclose(applied("channels", images), exact, atol=1e-6)
    found = whitening.fit("channels", parts(images))
    assert {k: v.shape for k, v in found.items()} == dict.fromkeys(
        ("mean", "std"), (1, 1, 3)
    )


def test_global_contrast(images):
    got = applied("gcn", images).reshape(90, -1)
    np.testing.assert_allclose(got, contrast_normalised(images), atol=2e-5)
    np.testing.assert_allclose((got**2).sum(1), 55**2, rtol=1e-5)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_image_has_no_contrast(level):
    # In float32 its mean is not exact; dividing the rest by its norm would be noise.
    flat = np.full((2, 32, 32, 3), level + 0.1, np.float32)
    assert abs(np.asarray(jax.jit(whitening.global_contrast)(flat))).max() == 0


def test_zca_whitens_and_stays_near_the_image(images):
    got = applied("gcn_zca", images).reshape(90, -1)
    flat = contrast_normalised(images)
    flat = flat - flat.mean(0)
    variances, directions = np.linalg.eigh(flat.T @ flat / 90 + 0.1 * np.eye(60))
    exact = flat @ directions @ np.diag(variances**-0.5) @ directions.T
    # Values of about 1, of 60 products in float32 with factors of up to 0.1**-0.5.
    np.testing.assert_allclose(got, exact, atol=1e-4)
    # Without the filter's bias of 0.1 this would be the identity.
    covariance = directions.T @ (got.T @ got / 90) @ directions
    np.testing.assert_allclose(covariance, np.diag(1 - 0.1 / variances), atol=1e-3)
    assert (1 - 0.1 / variances).max() > 0.99


def test_what_cannot_be_fitted_is_refused(images):
    with pytest.raises(
        ValueError, match="'zca' is none of mean_image, channels, gcn, gcn_zca"
    ):
        whitening.fit("zca", parts(images))
    with pytest.raises(ValueError, match="no training images"):
        whitening.fit("mean_image", [])
    flat = images.copy()
    flat[..., 1] = 7
    with pytest.raises(ValueError, match="'channels': a channel has the same level"):
        whitening.fit("channels", parts(flat))
    large = np.zeros((1, 65, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="images of 12480 numbers"):
        whitening.fit("gcn_zca", [large])
    assert whitening.fit("gcn", [large]) == {}
