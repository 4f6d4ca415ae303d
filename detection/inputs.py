"""The input of a detector, which its training and its evaluation make inside jit."""

import jax.numpy as jnp

from models.faster_rcnn import content


def network_input(batch, mean, std):
    """Normalises the images of a batch; what lies outside an image becomes 0.

    Args:
      batch: "image" uint8 [B, H, W, 3], padded below and right; "image_size" int
        [B, 2], the height and width of what is not padding.
      mean, std: per channel or one for all, in units of 0..255.

    Returns:
      float32 [B, H, W, 3].
    """
    images = batch["image"].astype(jnp.float32)
    mean, std = (
        jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std)
    )
    there = content(images.shape[1:3], batch["image_size"])
    return jnp.where(there[..., None], (images - mean) / std, 0)
