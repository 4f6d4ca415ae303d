"""Mean image, channel statistics, global contrast normalisation and ZCA whitening.

`fit` reads the training images once and returns arrays to keep; `apply` uses them
inside jit.
"""

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("mean_image", "channels", "gcn", "gcn_zca")

# These values are from pylearn2's CIFAR-10 ("gcn_whitened"), on which Maxout
# (Goodfellow et al., 2013) and Network in Network (Lin et al., 2013) were trained.
GCN_SCALE = 55.0  # norm of an image; nearly an RMS of 1 over 32x32x3
FILTER_BIAS = 0.1  # added to every variance before whitening
# Most numbers in an image (64x64x3); with more, the covariance exceeds 1.2 GB.
LARGEST = 12288


def fit(kind, batches):
    """Computes a training set's statistics: {name: float32 array}, empty for "gcn".

    Args:
      kind: "mean_image" gives "mean" [H, W, C]; "channels" gives "mean" and "std", both
        [1, 1, C]; "gcn_zca" gives "mean" [N] and "whiten" [N, N], N = H W C, of the
        images after "gcn".
      batches: iterable of images [B, H, W, C] in 0..255, all of one size; read once.

    Raises:
      ValueError: the kind is unknown, there are no images, they are too large to
        whiten, or a channel has the same level in all of them.
    """
    if kind not in KINDS:
        raise ValueError(f"whiten {kind!r} is none of {', '.join(KINDS)}")
    if kind == "gcn":
        return {}
    count, total, products, squares = 0, 0.0, 0.0, 0.0
    for images in batches:
        images = np.asarray(images, np.float64)
        if kind == "gcn_zca":
            if images[0].size > LARGEST:
                raise ValueError(
                    f"whiten 'gcn_zca': images of {images[0].size} numbers, at most "
                    f"{LARGEST} can be whitened"
                )
            images = global_contrast(images, np).reshape(len(images), -1)
            products = products + images.T @ images
        if kind == "channels":
            squares = squares + (images**2).mean((1, 2)).sum(0)
        count += len(images)
        total = total + images.sum(0)
    if not count:
        raise ValueError(f"whiten {kind!r}: no training images")
    mean = total / count
    if kind == "mean_image":
        return {"mean": mean.astype(np.float32)}
    if kind == "channels":
        mean = mean.mean((0, 1), keepdims=True)
        variance = np.maximum(squares / count - mean**2, 0)
        if variance.min() < 1e-6:
            raise ValueError(
                "whiten 'channels': a channel has the same level in all training images"
            )
        std = np.sqrt(variance)
        return {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    covariance = products / count - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    whiten = directions / np.sqrt(variances + FILTER_BIAS) @ directions.T
    return {"mean": mean.astype(np.float32), "whiten": whiten.astype(np.float32)}


def apply(kind, statistics, images):
    """Centres or whitens images float32 [B, H, W, C] of 0..255; returns float32.

    The statistics of "gcn_zca" take 36 MiB for 32x32x3, so they are an argument of the
    compiled program, not a constant in it.
    """
    if kind == "mean_image":
        return images - statistics["mean"][None]
    if kind == "channels":
        return (images - statistics["mean"][None]) / statistics["std"][None]
    images = global_contrast(images)
    if kind == "gcn":
        return images
    flat = images.reshape(len(images), -1) - statistics["mean"][None]
    # The small directions matter most; an accelerator's TF32 or bfloat16 loses them.
    flat = jnp.matmul(flat, statistics["whiten"], precision=jax.lax.Precision.HIGHEST)
    return flat.reshape(images.shape)


def global_contrast(images, numpy=jnp):
    """Subtracts the mean of each image [B, H, W, C] and scales it to norm GCN_SCALE.

    An image that is flat up to rounding becomes 0.
    """
    images = images - images.mean((1, 2, 3), keepdims=True)
    norm = numpy.sqrt((images**2).sum((1, 2, 3), keepdims=True))
    # A single pixel that differs by one level has a norm of 1.
    return GCN_SCALE * images / numpy.where(norm < 0.1, numpy.inf, norm)
