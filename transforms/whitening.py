"""Mean image, global contrast normalisation and ZCA whitening.

`fit` looks at the training images once and gives arrays to keep; `apply` uses them
inside jit.
"""

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("mean_image", "gcn", "gcn_zca")

# Those of pylearn2's CIFAR-10 ("gcn_whitened"), which Maxout (Goodfellow et al., 2013)
# and Network in Network (Lin et al., 2013) were trained on.
GCN_SCALE = 55.0  # norm of an image: 1 for each pixel of 32x32x3, nearly
FILTER_BIAS = 0.1  # added to every variance before whitening
# Numbers in an image, 64x64x3; the covariance of more takes more than 1.2 GB.
LARGEST = 12288


def fit(kind, batches):
    """Statistics of a training set: {name: float32 array}, of "gcn" none.

    Args:
      kind: "mean_image": "mean" [H, W, C]. "gcn_zca": "mean" [N] and "whiten" [N, N],
        N = H W C, of the images after "gcn".
      batches: iterable of images [B, H, W, C] of 0..255, all of one size; read once.

    Raises:
      ValueError: an unknown kind, no images, or images too large to whiten.
    """
    if kind not in KINDS:
        raise ValueError(f"whiten {kind!r} is none of {', '.join(KINDS)}")
    if kind == "gcn":
        return {}
    count, total, products = 0, 0.0, 0.0
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
        count += len(images)
        total = total + images.sum(0)
    if not count:
        raise ValueError(f"whiten {kind!r}: no training images")
    mean = total / count
    if kind == "mean_image":
        return {"mean": mean.astype(np.float32)}
    covariance = products / count - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    whiten = directions / np.sqrt(variances + FILTER_BIAS) @ directions.T
    return {"mean": mean.astype(np.float32), "whiten": whiten.astype(np.float32)}


def apply(kind, statistics, images):
    """Images float32 [B, H, W, C] of 0..255, centred or whitened, as float32.

    Statistics of "gcn_zca" are 36 MiB for 32x32x3: an argument of the compiled program,
    not a constant of it.
    """
    if kind == "mean_image":
        return images - statistics["mean"][None]
    images = global_contrast(images)
    if kind == "gcn":
        return images
    flat = images.reshape(len(images), -1) - statistics["mean"][None]
    # Not in TF32 or bfloat16 on an accelerator: the small directions are what counts.
    flat = jnp.matmul(flat, statistics["whiten"], precision=jax.lax.Precision.HIGHEST)
    return flat.reshape(images.shape)


def global_contrast(images, numpy=jnp):
    """Each image [B, H, W, C] without its mean, scaled to the norm GCN_SCALE.

    One that is flat, but for rounding, becomes 0.
    """
    images = images - images.mean((1, 2, 3), keepdims=True)
    norm = numpy.sqrt((images**2).sum((1, 2, 3), keepdims=True))
    # A single pixel that differs by one level has a norm of 1.
    return GCN_SCALE * images / numpy.where(norm < 0.1, numpy.inf, norm)
