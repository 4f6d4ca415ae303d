"""Layers that more than one family uses."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from models.convolution import conv_general_dilated


class Conv(nn.Conv):
    """`nn.Conv` with explicit padding: an int, or a (low, high) pair for each axis.

    'SAME' is refused because with a stride it pads otherwise than the papers and torch;
    no padding is 0.
    """

    padding: int | tuple[int | tuple[int, int], ...] = None
    conv_general_dilated: object = conv_general_dilated

    def __post_init__(self):
        if self.padding is None or isinstance(self.padding, str):
            raise ValueError(f"Conv: padding must be numbers, not {self.padding!r}")
        super().__post_init__()


def max_pool(x, window, strides, padding):
    """Maximum over windows: [B, H, W, C] to [B, h, w, C]; windows that fit only.

    `window` and `strides` are (height, width), `padding` ((top, bottom), (left, right))
    with minus infinity. At a tie the first, row by row, has the gradient, as in torch.
    """
    if _disjoint(x, window, strides, padding):
        # A chain of selections, because XLA's gradient of a pooling (select and
        # scatter) runs on one core at a few numbers per microsecond.
        views = _views(x, window)
        best = views[0]
        for view in views[1:]:
            better = (view > best) | (view != view)  # A NaN stays, as in lax.max.
            best = jnp.where(better, view, best)
        return best
    return nn.max_pool(x, window, strides, padding)


def avg_pool(x, window, strides, padding, count_include_pad=True):
    """Mean over windows, arguments as of `max_pool`; padding is zeros.

    They count in the mean or, with `count_include_pad=False`, do not.
    """
    if _disjoint(x, window, strides, padding):
        views = _views(x, window)
        return sum(views[1:], views[0]) / len(views)
    return nn.avg_pool(x, window, strides, padding, count_include_pad)


def _disjoint(x, window, strides, padding):
    """Whether windows tile the image, so that reshaping it lays them apart."""
    return (
        tuple(window) == tuple(strides)
        and not any(low or high for low, high in padding)
        and x.shape[-3] % window[0] == x.shape[-2] % window[1] == 0
    )


def _views(x, window):
    """The windows' first pixels, their second pixels, ..., each [..., h, w, C]."""
    *batch, h, w, c = x.shape
    x = x.reshape(*batch, h // window[0], window[0], w // window[1], window[1], c)
    return [
        lax.index_in_dim(lax.index_in_dim(x, i, -4, False), j, -2, False)
        for i in range(window[0])
        for j in range(window[1])
    ]
