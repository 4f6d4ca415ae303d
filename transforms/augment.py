"""Changes training images inside jit: geometry, colour, holes, mixtures.

Images are [H, W, C], uint8 or float in 0..255, grey or RGB; each has its own key, and
each function changes one image. Only `mix` takes a batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

# ITU-R 601-2: the grey of RGB, as PIL's "L".
LUMA = (0.299, 0.587, 0.114)
# Eigenvalues, and eigenvectors as columns, of the covariance of ImageNet's RGB in 0..1,
# from fb.resnet.torch.
PCA_VALUES = (0.2175, 0.0188, 0.0045)
PCA_VECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
AFFINE = ("translate", "rotate", "scale", "squeeze", "shear")
JITTER = ("brightness", "contrast", "saturation")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The options of `augment`; all are off by default."""

    translate: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    squeeze: float = 0.0
    shear: float = 0.0
    flip: bool = False
    crop: int = 0
    crop_mode: str = "zeros"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    pca: float = 0.0
    erasing: float = 0.0


def augment(images, keys, options):
    """Applies, in this order, random_affine, horizontal_flip, pad_and_crop,
    color_jitter, random_hue, pca_noise and random_erasing.

    Takes images [B, H, W, C], keys [B] and an Augmentation, whose options that are 0 or
    False are skipped. Returns float32 after random_affine or a change of colour, else
    the dtype of images. Each part has its own key, so switching one on does not change
    what the others draw.
    """
    affine = {name: getattr(options, name) for name in AFFINE}
    jitter = {name: getattr(options, name) for name in JITTER}

    def one(image, key):
        keys = jax.random.split(key, 3)
        if any(affine.values()):
            image = random_affine(image, keys[0], **affine)
        if options.flip:
            image = horizontal_flip(image, keys[1])
        if options.crop:
            image = pad_and_crop(image, keys[2], options.crop, options.crop_mode)
        # These start at 3, because fold_in's first keys are those of split.
        if any(jitter.values()):
            image = color_jitter(image, jax.random.fold_in(key, 3), **jitter)
        if options.hue:
            image = random_hue(image, jax.random.fold_in(key, 4), options.hue)
        if options.pca:
            image = pca_noise(image, jax.random.fold_in(key, 5), options.pca)
        if options.erasing:
            image = random_erasing(image, jax.random.fold_in(key, 6), options.erasing)
        return image

    return jax.vmap(one)(images, keys)


# Geometry.


def pad_and_crop(image, key, pixels, mode="zeros"):
    """Shifts [H, W, C] by up to `pixels` either way on each axis.

    The border is filled with 0, which is the mean if mode="mean", where the mean has
    been subtracted before. mode="reflect" fills it with the mirrored image and does not
    repeat the edge (Wide ResNet, 2016, Section 3).
    """
    padded = jnp.pad(
        image,
        ((pixels, pixels), (pixels, pixels), (0, 0)),
        mode="reflect" if mode == "reflect" else "constant",
    )
    row, column = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def horizontal_flip(image, key):
    """Mirrors [H, W, C] left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_affine(
    image, key, *, translate=0.0, rotate=0.0, scale=0.0, squeeze=0.0, shear=0.0
):
    """LeNet-5's distortions (1998, Section III-A): a random planar affine map.

    Each parameter is uniform between plus and minus its limit: translate in pixels on
    each axis, rotate in degrees, shear horizontally in pixels per row; scale and
    squeeze are factors (1 + limit)^u with u uniform in -1..1. Squeezing compresses one
    axis while it stretches the other. The map is about the centre and bilinear, with
    background 0. The paper gives no limits and does not rotate. Returns float32
    [H, W, C].
    """
    draws = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
    offset = translate * draws[:2]
    angle = jnp.deg2rad(rotate * draws[2])
    scale, squeeze = (1 + scale) ** draws[3], (1 + squeeze) ** draws[4]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    lean = shear * draws[5]
    # This is rotation @ shear @ diag(scale squeeze, scale / squeeze) on (row, column).
    matrix = jnp.array([[cos - sin * lean, -sin], [sin + cos * lean, cos]])
    factors = jnp.array([[scale * squeeze, scale / squeeze]])
    return affine(image, matrix * factors, offset)


def affine(image, matrix, offset):
    """Moves the content at p (row, column from the centre) to matrix @ p + offset.

    Takes image [H, W, C], matrix [2, 2] and offset [2]. Interpolates bilinearly, with
    background 0, and returns float32.
    """
    height, width, channels = image.shape
    centre = (height - 1) / 2, (width - 1) / 2
    (a, b), (c, d) = matrix
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - (centre[0] + offset[0])
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - (centre[1] + offset[1])
    # The inverse matrix says where each output pixel comes from.
    row = (d * rows - b * columns) / (a * d - b * c) + centre[0]
    column = (a * columns - c * rows) / (a * d - b * c) + centre[1]
    top, left = jnp.floor(row), jnp.floor(column)
    down, across = (row - top)[..., None], (column - left)[..., None]
    # The border is one pixel of background. A flat gather of in-bounds indices makes
    # this fast on a CPU: over 100,000 images/s of 28x28 on two busy cores.
    flat = jnp.pad(image.astype(jnp.float32), ((1, 1), (1, 1), (0, 0)))
    flat = flat.reshape(-1, channels)

    def at(row, column):
        row = jnp.clip(row, -1, height).astype(jnp.int32) + 1
        column = jnp.clip(column, -1, width).astype(jnp.int32) + 1
        return flat.at[row * (width + 2) + column].get(mode="promise_in_bounds")

    above = (1 - across) * at(top, left) + across * at(top, left + 1)
    below = (1 - across) * at(top + 1, left) + across * at(top + 1, left + 1)
    return (1 - down) * above + down * below


# Colour.


def grey(image):
    """Returns luma [H, W, 1] of RGB [H, W, 3] by ITU-R 601-2; keeps a grey image."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (LUMA[i] * image[..., i : i + 1] for i in range(3))
    return red + green + blue


def color_jitter(image, key, *, brightness=0.0, contrast=0.0, saturation=0.0):
    """Changes brightness, contrast and saturation in random order, by factors uniform
    in 1 +- their limits: the photometric distortion of Howard, 2013, "Some improvements
    on deep convolutional neural network based image classification".

    A factor f turns a pixel x into f x + (1 - f) y, clipped to 0..255 as in PIL, which
    Howard used; y is 0 for brightness, the mean of the image's grey for contrast, and
    the pixel's own grey for saturation. Howard's limits are 0.5, fb.resnet.torch's 0.4.
    Grey images have no saturation to change. Returns float32.
    """
    image = image.astype(jnp.float32)
    limits = jnp.array((brightness, contrast, saturation))
    kinds = [i for i, limit in enumerate((brightness, contrast, saturation)) if limit]
    order_key, factor_key = jax.random.split(key)
    order = jax.random.permutation(order_key, jnp.array(kinds))
    draws = jax.random.uniform(factor_key, (3,), minval=-1.0, maxval=1.0)
    factors = 1 + limits * draws
    for kind in order:
        luma, factor = grey(image), factors[kind]
        towards = jnp.where(kind == 2, luma, jnp.where(kind == 1, luma.mean(), 0))
        image = jnp.clip(factor * image + (1 - factor) * towards, 0, 255)
    return image


def random_hue(image, key, limit):
    """Turns the hue of [H, W, 3] by up to `limit` of a circle either way; float32.

    Grey images have no hue and keep their values.
    """
    turns = jax.random.uniform(key, minval=-limit, maxval=limit)
    return turn_hue(image.astype(jnp.float32), turns)


def turn_hue(image, turns):
    """Adds `turns` to the hue of HSV: one goes from red via green and blue to red."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(-1)
    chroma = value - image.min(-1)
    some = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / some,
        jnp.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    # A channel has its full value within a sixth of its own hue (0, 2, 4), and loses
    # all chroma from two sixths on.
    own = jnp.array([0.0, 2.0, 4.0])[None, None]
    away = jnp.abs((sixths[..., None] + 6 * turns - own + 3) % 6 - 3)
    return value[..., None] - chroma[..., None] * jnp.clip(away - 1, 0, 1)


def pca_noise(image, key, std):
    """Adds AlexNet's colour noise (2012, Section 4.1), sum_i a_i l_i p_i, to pixels.

    a_i is normal with deviation `std` (0.1 in the paper) and drawn once per image; l_i
    and p_i are eigenvalues and eigenvectors of RGB in 0..1 (PCA_VALUES, PCA_VECTORS),
    and the sum is scaled to 0..255. A grey image gets the grey of the colour that an
    RGB image would get. Values may leave 0..255. Returns float32.
    """
    draws = 255 * std * jax.random.normal(key, (3,))
    # This is not a matrix product, because XLA's CPU backend (jaxlib 0.10.2) computes
    # many small ones wrong, https://github.com/jax-ml/jax/issues/39103.
    noise = sum(
        draws[i] * PCA_VALUES[i] * jnp.array([row[i] for row in PCA_VECTORS])
        for i in range(3)
    )[None, None]
    if image.shape[-1] == 1:
        noise = grey(noise)
    return image.astype(jnp.float32) + noise


# Holes and mixtures.


def random_erasing(image, key, probability, area=(0.02, 0.33), aspect=(0.3, 1 / 0.3)):
    """Fills a rectangle with noise with the given probability (Zhong et al., 2017).

    The rectangle's share of the image and its height / width are uniform in their
    ranges; the noise is uniform in 0..255 for each pixel and channel (the paper's
    "RE-R"). As in the authors' code, a rectangle that does not fit is drawn again (here
    at most ten times; then nothing is erased) and one that fits is placed uniformly.
    """
    height, width, _ = image.shape
    apply_key, shape_key, place_key, noise_key = jax.random.split(key, 4)
    share, ratio = jax.random.uniform(shape_key, (2, 10))
    share = (area[0] + (area[1] - area[0]) * share) * height * width
    ratio = aspect[0] + (aspect[1] - aspect[0]) * ratio
    rows = jnp.round(jnp.sqrt(share * ratio)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(share / ratio)).astype(jnp.int32)
    fits = (rows < height) & (columns < width)
    first = jnp.argmax(fits)
    erase = jax.random.bernoulli(apply_key, probability) & fits[first]
    rows, columns = rows[first], columns[first]
    top, left = jax.random.randint(
        place_key, (2,), 0, jnp.array([height - rows + 1, width - columns + 1])
    )
    inside = _box(height, width, top, left, top + rows, left + columns)
    # A random word makes four levels, because drawing words takes most of the time.
    words = jax.random.bits(noise_key, (-(-image.size // 4),))
    noise = jax.lax.bitcast_convert_type(words, jnp.uint8).ravel()[: image.size]
    noise = noise.reshape(image.shape).astype(image.dtype)
    return jnp.where(erase & inside, noise, image)


def _box(height, width, top, left, bottom, right):
    """Returns bool [H, W, 1], true from (top, left) to just before (bottom, right)."""
    row = jnp.arange(height)[:, None, None]
    column = jnp.arange(width)[None, :, None]
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def mix(images, labels, key, mixup_alpha=0.0, cutmix_alpha=0.0):
    """Mixes each image of a batch with the one before it.

    mixup (Zhang et al., 2017) averages the two images with weights l and 1 - l. cutmix
    (Yun et al., 2019, Section 3.1) takes a rectangle from the other image; its sides
    are sqrt(1 - l) of the image's, it is placed uniformly and cut off at the edges. l
    has a beta distribution with (alpha, alpha). If both are on, each gets half of the
    batches. As in torchvision, the whole batch shares one l and one rectangle, and the
    other image is the one before; across devices, one image per device travels.

    Args:
      images: [B, H, W, C] of any range.
      labels: [B].
      key: one for the batch, a function of the run's seed and the step.
      mixup_alpha, cutmix_alpha: 0 turns it off.

    Returns:
      (images float32, other labels [B], weight): the loss is
      weight * loss(labels) + (1 - weight) * loss(other labels).
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, labels, jnp.ones(())
    _, height, width, _ = images.shape
    choice_key, mixup_key, cutmix_key, place_key = jax.random.split(key, 4)
    images = images.astype(jnp.float32)
    if mixup_alpha:
        weight = jax.random.beta(mixup_key, mixup_alpha, mixup_alpha)
        share = jnp.full((height, width, 1), weight)
    if cutmix_alpha:
        kept = jax.random.beta(cutmix_key, cutmix_alpha, cutmix_alpha)
        size = jnp.array([height, width])
        half = (jnp.sqrt(1 - kept) / 2 * size).astype(jnp.int32)
        centre = jax.random.randint(place_key, (2,), 0, size)
        corners = *(centre - half), *(centre + half)
        own = 1 - _box(height, width, *corners).astype(jnp.float32)
        if mixup_alpha:
            cut = jax.random.bernoulli(choice_key)
            share = jnp.where(cut, own, share)
            weight = jnp.where(cut, own.mean(), weight)
        else:
            share, weight = own, own.mean()
    other = jnp.roll(images, 1, axis=0)
    mixed = share[None] * images + (1 - share[None]) * other
    return mixed, jnp.roll(labels, 1, axis=0), weight
