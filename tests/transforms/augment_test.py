"""The augmentation of training images inside jit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from matplotlib import colors
from PIL import Image, ImageEnhance

from transforms import augment
from transforms.augment import Augmentation


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def many(function, count, image):
    """Calls `function(image, key)` for `count` keys."""
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(function, (None, 0)))(image, keys))


def test_shifts_and_mirrors_are_those_of_earlier_runs():
    # Results in README.md were trained with draws from the three parts of the key.
    images, keys = noise(20, 8, 8, 1), jax.random.split(jax.random.key(3), 20)
    change = jax.jit(augment.augment, static_argnums=2)
    got = change(images, keys, Augmentation(flip=True, crop=2, erasing=0.0))
    for image, key, result in zip(images, keys, got, strict=True):
        _, flip, crop = jax.random.split(key, 3)
        if jax.random.bernoulli(flip):
            image = image[:, ::-1]
        row, column = jax.random.randint(crop, (2,), 0, 5)
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(
            result, padded[row : row + 8, column : column + 8]
        )


def test_every_option_changes_the_images():
    images, keys = noise(3, 9, 9, 3), jax.random.split(jax.random.key(0), 3)
    change = jax.jit(augment.augment, static_argnums=2)
    on = {"flip": True, "crop": 2, "translate": 2.0, "rotate": 20.0, "erasing": 1.0}
    for name in "scale squeeze shear brightness contrast saturation hue pca".split():
        on[name] = 0.2
    for name, value in on.items():
        changed = change(images, keys, Augmentation(**{name: value}))
        assert changed.shape == images.shape
        assert not np.array_equal(changed, images), name
    zeros, reflect = (
        change(images, keys, Augmentation(crop=2, crop_mode=mode))
        for mode in ("zeros", "reflect")
    )
    assert (zeros == 0).sum() > (reflect == 0).sum()
    unknown = on.keys() ^ Augmentation.__dataclass_fields__.keys()
    assert unknown == {"crop_mode"}


def test_one_augmentation_does_not_change_what_another_draws():
    image = jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8)
    )
    keys = jax.random.split(jax.random.key(0), 8)
    change = jax.jit(augment.augment, static_argnums=2)
    flipped = change(image, keys, Augmentation(flip=True))
    both = change(flipped, keys, Augmentation(crop=2))
    at_once = change(image, keys, Augmentation(flip=True, crop=2))
    np.testing.assert_array_equal(both, at_once)
    np.testing.assert_array_equal(augment.augment(image, keys, Augmentation()), image)
    mirrored = np.asarray(image)[:, :, ::-1]
    which = [np.array_equal(f, m) for f, m in zip(flipped, mirrored, strict=True)]
    assert 0 < sum(which) < 8
    np.testing.assert_array_equal(
        np.asarray(flipped)[~np.array(which)], np.asarray(image)[~np.array(which)]
    )


def shift(image, rows, columns):
    """Like numpy.roll, with zeros where it would wrap around."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    to = [
        slice(max(n, 0), size + min(n, 0))
        for n, size in ((rows, height), (columns, width))
    ]
    of = [
        slice(max(-n, 0), size + min(-n, 0))
        for n, size in ((rows, height), (columns, width))
    ]
    out[tuple(to)] = image[tuple(of)]
    return out


def test_pad_and_crop_shifts_by_every_amount_and_no_more():
    image = np.random.default_rng(0).integers(1, 256, (7, 6, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 500)
    crop = jax.jit(jax.vmap(lambda key: augment.pad_and_crop(image, key, 2)))
    got = {np.asarray(i).tobytes() for i in crop(keys)}
    want = {shift(image, r, c).tobytes() for r in range(-2, 3) for c in range(-2, 3)}
    assert got == want


def test_reflection_repeats_no_edge():
    image = noise(7, 6, 3)
    got = many(lambda i, key: augment.pad_and_crop(i, key, 2, "reflect"), 500, image)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    want = {padded[r : r + 7, c : c + 6].tobytes() for r in range(5) for c in range(5)}
    assert {i.tobytes() for i in got} == want


def test_affine_identity_and_whole_pixels_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.float32)
    affine = jax.jit(augment.affine)
    eye = jnp.eye(2)
    np.testing.assert_array_equal(affine(image, eye, jnp.zeros(2)), image)
    for rows, columns in ((1, 0), (0, -2), (3, 5), (-4, 2), (20, 0)):
        moved = affine(image, eye, jnp.array([rows, columns], jnp.float32))
        np.testing.assert_array_equal(moved, shift(image, rows, columns))
    turned = affine(
        image[:, :8][:8], jnp.array([[0.0, 1.0], [-1.0, 0.0]]), jnp.zeros(2)
    )
    np.testing.assert_array_equal(turned, np.rot90(image[:8, :8], -1))


def test_affine_is_bilinear_interpolation():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (7, 8, 2)).astype(np.float32)
    matrix, offset = np.array([[1.1, 0.3], [-0.2, 0.9]]), np.array([0.7, -1.3])
    centre = np.array([3.0, 3.5])
    want = np.zeros((7, 8, 2))
    for i, j in np.ndindex(7, 8):
        row, column = (
            np.linalg.solve(matrix, np.array([i, j]) - centre - offset) + centre
        )
        for p, q in np.ndindex(7, 8):
            weight = max(0, 1 - abs(row - p)) * max(0, 1 - abs(column - q))
            want[i, j] += weight * image[p, q]
    got = jax.jit(augment.affine)(
        image, jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)
    )
    # float32 coordinates of a few pixels are good to 1e-6, times a slope of 255.
    np.testing.assert_allclose(got, want, atol=2e-3)


def measured(image):
    """Centre of mass and covariance of an image [H, W, 1]."""
    image = np.asarray(image, np.float64)[..., 0]
    place = np.stack(np.mgrid[: image.shape[0], : image.shape[1]], -1).reshape(-1, 2)
    weight = image.ravel() / image.sum()
    centre = weight @ place
    return centre, (place - centre).T @ ((place - centre) * weight[:, None])


@pytest.mark.parametrize("kind", ["translate", "rotate", "scale", "squeeze", "shear"])
def test_each_distortion_does_what_its_name_says(kind):
    # A round blob of variance 9 on 41x41 shows every part in its first two moments;
    # bilinear sampling adds up to about 0.2 to a variance.
    grid = np.mgrid[:41, :41] - 20.0
    blob = np.exp(-(grid**2).sum(0) / 18)[..., None].astype(np.float32)
    limit = {
        "translate": 3.0,
        "rotate": 40.0,
        "scale": 0.3,
        "squeeze": 0.3,
        "shear": 0.5,
    }
    if kind == "rotate":  # a round blob would not show it
        blob = np.exp(-(grid[0] ** 2 / 18 + grid[1] ** 2 / 50))[..., None]
    distort = jax.vmap(
        lambda key: augment.random_affine(blob, key, **{kind: limit[kind]})
    )
    moments = [
        measured(i) for i in jax.jit(distort)(jax.random.split(jax.random.key(1), 64))
    ]
    shifts = np.array([centre - 20 for centre, _ in moments])
    rows, columns = (np.array([c[i, i] for _, c in moments]) for i in (0, 1))
    cross = np.array([c[0, 1] for _, c in moments])
    if kind == "translate":
        assert (abs(shifts) < 3.01).all() and (abs(shifts).max(0) > 2.5).all()
        np.testing.assert_allclose([rows, columns], 9, atol=0.3)
        return
    np.testing.assert_allclose(shifts, 0, atol=0.05)
    if kind == "scale":
        np.testing.assert_allclose(rows, columns, rtol=0.01)
        assert rows.min() < 9 / 1.5 and rows.max() > 9 * 1.5  # 1.3**2 = 1.69
        np.testing.assert_allclose(cross, 0, atol=0.01)
    elif kind == "squeeze":
        np.testing.assert_allclose(rows * columns, 81, rtol=0.06)
        assert (rows / columns).max() > 2 and (rows / columns).min() < 0.5
        np.testing.assert_allclose(cross, 0, atol=0.01)
    elif kind == "shear":  # columns move by shear x row: covariance 9 x shear
        np.testing.assert_allclose(rows, 9, atol=0.3)
        assert abs(cross).max() < 9.3 * 0.5 and abs(cross).max() > 9 * 0.4
        np.testing.assert_allclose(columns, 9 + (cross / 9) ** 2 * 9, atol=0.4)
    else:
        angle = np.degrees(np.arctan2(2 * cross, columns - rows) / 2)
        assert abs(angle).max() < 40.5 and abs(angle).max() > 35
        assert angle.min() < -30 and angle.max() > 30
        np.testing.assert_allclose(rows + columns, 34, atol=0.6)


# Colour.

LIMIT = 0.4  # fb.resnet.torch's
KINDS = ("brightness", "contrast", "saturation")


def jitter(image, count, **limits):
    return many(lambda i, key: augment.color_jitter(i, key, **limits), count, image)


def drawn_factors(kind, limit, count):
    """The factors of `count` keys, read off two pixels that none of them clips."""
    changed = jitter(
        np.float32([[[100, 120, 140], [120, 100, 80]]]), count, **{kind: limit}
    )
    changed = changed.astype(np.float64)
    if kind == "brightness":
        return changed[:, 0, 0, 0] / 100
    if kind == "contrast":
        return (changed[:, 0, 1, 0] - changed[:, 0, 0, 0]) / 20
    return (changed[:, 0, 0, 1] - changed[:, 0, 0, 0]) / 20


def adjusted(image, kind, factor):
    luma = image @ np.array([0.299, 0.587, 0.114])
    towards = {"brightness": 0, "contrast": luma.mean(), "saturation": luma[..., None]}
    return np.clip(factor * image + (1 - factor) * towards[kind], 0, 255)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_is_uniform_and_changes_what_pil_changes(kind):
    factors = drawn_factors(kind, LIMIT, 2000)
    assert 0.6 - 1e-5 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4 + 1e-5
    deviation = 2 * LIMIT / 12**0.5
    assert abs(factors.mean() - 1) < 5 * deviation / 2000**0.5
    assert factors.std() == pytest.approx(deviation, rel=0.05)
    image = noise(12, 13, 3)
    pil = getattr(ImageEnhance, "Color" if kind == "saturation" else kind.title())
    for factor, ours in zip(factors, jitter(image, 20, **{kind: LIMIT}), strict=False):
        # Factors are read off to 1e-5, and multiply levels of up to 255.
        np.testing.assert_allclose(ours, adjusted(image, kind, factor), atol=0.01)
        theirs = pil(Image.fromarray(image)).enhance(factor)
        # PIL cuts the result to whole levels and rounds greys, of which 0.4 counts.
        np.testing.assert_allclose(ours, np.asarray(theirs), atol=1.21)


def test_brightness_contrast_and_saturation_come_in_every_order():
    # Without clipping they commute: limits near 1 on all levels.
    image = noise(8, 8, 3)
    changed = jitter(image, 60, **dict.fromkeys(KINDS, 0.9))
    factors = {kind: drawn_factors(kind, 0.9, 60) for kind in KINDS}
    orders = list(itertools.permutations(KINDS))
    found = dict.fromkeys(orders, 0)
    for i, ours in enumerate(changed):
        near = []
        for order in orders:
            exact = image.astype(np.float64)
            for kind in order:
                exact = adjusted(exact, kind, factors[kind][i])
            if abs(exact - ours).max() < 0.02:
                near.append(order)
        assert near
        if len(near) == 1:
            found[near[0]] += 1
    assert min(found.values()) > 0


def test_a_grey_image_is_a_colour_image_without_saturation():
    image = noise(9, 8, 1)
    limits = {"brightness": 0.4, "contrast": 0.4}
    colour = jitter(np.repeat(image, 3, -1), 30, **limits)
    grey = jitter(image, 30, **limits)
    assert grey.shape == (30, 9, 8, 1)
    # The weights of grey add up to 1 only to rounding.
    np.testing.assert_allclose(np.repeat(grey, 3, -1), colour, atol=1e-3)
    alone = jitter(image, 30, saturation=0.4)
    np.testing.assert_allclose(alone, np.broadcast_to(image, alone.shape), atol=1e-3)


@pytest.mark.parametrize("turns", [0.0, 0.08, -0.3, 0.5, 1.0])
def test_hue_turns_as_in_hsv(turns):
    image = noise(16, 16, 3)
    image[0], image[1, :, 1] = image[0, :, :1], image[1, :, 0]  # grey, and ties
    hsv = colors.rgb_to_hsv(image / 255)
    hsv[..., 0] = (hsv[..., 0] + turns) % 1
    got = jax.jit(augment.turn_hue)(image.astype(np.float32), turns)
    np.testing.assert_allclose(got, 255 * colors.hsv_to_rgb(hsv), atol=1e-2)
    grey = np.float32([[[7], [9]]])
    np.testing.assert_array_equal(augment.turn_hue(grey, turns), grey)


def test_hue_is_uniform_within_its_limit():
    red = np.float32([[[255, 0, 0]]])
    turned = many(lambda i, key: augment.random_hue(i, key, 0.1), 1000, red)[:, 0, 0]
    assert (turned[:, 0] == 255).all()
    turns = (turned[:, 1] - turned[:, 2]) / 255 / 6
    assert -0.1001 < turns.min() < -0.098 and 0.098 < turns.max() < 0.1001
    assert turns.std() == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_pca_noise_has_the_paper_s_covariance():
    # More than 32,768 numbers: see what pca_noise says of matrices.
    image = noise(5, 4, 3)
    added = many(lambda i, key: augment.pca_noise(i, key, 0.1), 4000, image) - image
    np.testing.assert_allclose(added, added[:, :1, :1] + np.zeros((5, 4, 1)), atol=1e-4)
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [
            [-0.5675, 0.7192, 0.4009],
            [-0.5808, -0.0045, -0.8140],
            [-0.5836, -0.6948, 0.4203],
        ]
    )
    # To the four digits in which they are given.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=3e-4)
    draws = np.linalg.solve(vectors, added[:, 0, 0].T.astype(np.float64))
    draws /= 255 * values[:, None]
    assert (abs(draws.mean(1)) < 5 * 0.1 / 4000**0.5).all()
    # The deviation of a variance is sqrt(2 / 4000) of it, 2.2 %.
    np.testing.assert_allclose(np.cov(draws) / 0.01, np.eye(3), atol=0.11)
    grey = many(lambda i, key: augment.pca_noise(i, key, 0.1), 4000, image[..., :1])
    np.testing.assert_allclose(
        grey[:, 0, 0, 0] - image[0, 0, 0],
        added[:, 0, 0] @ np.array([0.299, 0.587, 0.114]),
        atol=1e-4,
    )


# Holes.


def erased(count, probability=1.0, **options):
    """The erased pixels of images [count, 40, 30], and the values put there."""
    image = np.full((40, 30, 3), 999, np.float32)
    images = many(
        lambda i, key: augment.random_erasing(i, key, probability, **options),
        count,
        image,
    )
    holes = (images != 999).any(-1)
    assert np.array_equal(holes, (images != 999).all(-1))
    rows, columns = holes.any(2), holes.any(1)
    assert np.array_equal(holes, rows[:, :, None] & columns[:, None])
    return rows, columns, images[holes]


def test_a_rectangle_is_erased_with_its_probability_and_filled_with_noise():
    rows, columns, filled = erased(2000, 0.25)
    # Binomial: 500 +- 5 deviations.
    assert abs(rows.any(1).sum() - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    height, width = (x.sum(1)[x.any(1)] for x in (rows, columns))
    share = height * width / 1200
    # A side of four pixels or more is rounded by up to an eighth.
    assert 0.017 < share.min() < 0.03 and 0.3 < share.max() < 0.35
    for sides in (rows, columns):  # in one piece, and reaching all edges
        starts = np.diff(sides.astype(int), axis=1, prepend=0) == 1
        assert starts.sum(1).max() == 1
        assert sides[:, 0].any() and sides[:, -1].any()
    assert (filled == filled.round()).all()
    assert filled.min() == 0 and filled.max() == 255
    assert filled.mean() == pytest.approx(127.5, abs=1)
    image = noise(40, 30, 1)
    erase = jax.jit(augment.random_erasing, static_argnums=2)
    assert erase(image, jax.random.key(0), 1.0).dtype == np.uint8


def test_the_rectangle_s_area_and_aspect_are_uniform():
    rows, columns, _ = erased(2000, area=(0.05, 0.1))  # which all fit
    height, width = rows.sum(1), columns.sum(1)
    # A uniform variable's mean; rounding of sides of 4 to 20 pixels averages out.
    share = height * width / 1200
    assert share.mean() == pytest.approx(0.075, rel=0.02)
    assert (height / width).mean() == pytest.approx((0.3 + 1 / 0.3) / 2, rel=0.04)


def test_a_rectangle_that_never_fits_is_left_out():
    assert not erased(20, aspect=(5.0, 6.0), area=(0.9, 1.0))[0].any()


# Mixtures.


BATCH = np.random.default_rng(0).uniform(-1, 1, (8, 16, 12, 3)).astype(np.float32)
LABELS = np.arange(8)


@jax.jit
def mixup(key):
    return augment.mix(BATCH, LABELS, key, mixup_alpha=0.2)


@jax.jit
def cutmix(key):
    return augment.mix(BATCH, LABELS, key, cutmix_alpha=1.0)


@jax.jit
def either(key):
    return augment.mix(BATCH, LABELS, key, mixup_alpha=0.2, cutmix_alpha=1.0)


def test_mixup_averages_two_images_and_their_labels():
    keys = jax.random.split(jax.random.key(0), 2000)
    images, labels, weight = mixup(keys[0])
    np.testing.assert_array_equal(labels, np.roll(LABELS, 1))
    other = BATCH[np.roll(np.arange(8), 1)]
    np.testing.assert_allclose(images, weight * BATCH + (1 - weight) * other, atol=1e-6)
    weights = np.asarray(jax.jit(jax.vmap(lambda key: mixup(key)[2]))(keys))
    # Beta(a, a): mean 1/2, variance 1 / (8 a + 4), here 0.179.
    assert abs(weights.mean() - 0.5) < 5 * (0.179 / 2000) ** 0.5
    assert weights.var() == pytest.approx(1 / 5.6, abs=0.012)


def test_cutmix_puts_a_rectangle_of_one_image_into_another():
    other = BATCH[np.roll(np.arange(8), 1)]
    inside = 0
    for key in jax.random.split(jax.random.key(0), 200):
        images, labels, weight = jax.device_get(cutmix(key))
        np.testing.assert_array_equal(labels, np.roll(LABELS, 1))
        cut = (images == other).all((0, 3))
        np.testing.assert_array_equal(np.where(cut[..., None], other, BATCH), images)
        assert weight == pytest.approx(1 - cut.mean(), rel=1e-6)
        rows, columns = cut.any(1), cut.any(0)
        np.testing.assert_array_equal(cut, rows[:, None] & columns)
        if cut.any() and not (cut[0] | cut[-1]).any() and not cut[:, [0, -1]].any():
            # Each half is cut to whole pixels: up to two less than of the same shape.
            inside += 1
            assert abs(rows.sum() / 16 - columns.sum() / 12) < 2 / 12
    assert inside > 10


def test_with_both_each_has_half_of_the_batches():
    keys = jax.random.split(jax.random.key(0), 400)
    cuts = 0
    for key in keys:
        images, _, weight = jax.device_get(either(key))
        pairs = (images == BATCH) | (images == np.roll(BATCH, 1, 0))
        cuts += bool(pairs.all())
        share = (images == BATCH).all((0, 3)).mean()
        if pairs.all():
            assert weight == pytest.approx(share, rel=1e-6)
    assert abs(cuts - 200) < 5 * 10  # binomial, a deviation of 10


def test_without_either_nothing_is_mixed():
    images, labels, weight = augment.mix(BATCH, LABELS, jax.random.key(0))
    assert images is BATCH and labels is LABELS and weight == 1


@pytest.mark.slow
def test_a_batch_over_devices_is_mixed_to_the_same_bits():
    sharding = NamedSharding(Mesh(jax.devices(), "data"), PartitionSpec("data"))
    mix = jax.jit(augment.mix, static_argnums=(3, 4))
    images, labels = jax.device_put((BATCH, LABELS), sharding)
    for key in jax.random.split(jax.random.key(0), 4):
        alone = mix(BATCH, LABELS, key, 0.2, 1.0)
        together = mix(images, labels, key, 0.2, 1.0)
        jax.tree.map(np.testing.assert_array_equal, alone, together)
    assert together[0].sharding.is_equivalent_to(sharding, 4)
