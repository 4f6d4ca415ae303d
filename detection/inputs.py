"""The input of a detector, which its training and its evaluation make inside jit."""

import dataclasses
import functools
import typing

import jax.numpy as jnp
import numpy as np

from detection import views
from models.faster_rcnn import content


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What leads from a stored image to the network's input.

    Args:
      view: the `views.View` that brings images to fixed shapes on the host.
      mean, std: as for `network_input`.
    """

    view: views.View
    mean: tuple
    std: tuple
    whiten: typing.ClassVar = ""
    statistics: typing.ClassVar = None

    @property
    def network_input(self):
        """The function: a batch of the view's arrays -> the network's input."""
        return functools.partial(network_input, mean=self.mean, std=self.std)

    def seen(self, batch):
        """Returns what a call of the network takes of a batch, but for `train`.

        It is the input and its sizes, those at each scale of the test, and the
        proposals of another network, if there are any.
        """
        scaled = tuple(
            None if names[0] == "image" else self._at(batch, *names)
            for names in self.view.scales
        )
        proposals = None
        if self.view.max_proposals:
            proposals = batch["proposals"], batch["proposed"]
        return *self._at(batch, "image", "image_size"), scaled, proposals

    def for_split(self, split):
        """A copy with room for the proposals of the split's images, if it has any."""
        view = dataclasses.replace(self.view, max_proposals=split.most_proposals)
        return dataclasses.replace(self, view=view)

    def _at(self, batch, image, size):
        scale = {"image": batch[image], "image_size": batch[size]}
        return self.network_input(scale), batch[size]

    def as_dict(self):
        """Returns the fields for preprocessing.json."""
        return dataclasses.asdict(self.view) | {
            "mean": self.mean,
            "std": self.std,
        }


def from_dict(record):
    """Returns the `Preprocessing` of what its `as_dict` gave."""
    fields = dict(record)
    mean, std = fields.pop("mean"), fields.pop("std")
    return Preprocessing(views.View(**fields), mean, std)


def network_input(batch, mean, std):
    """Normalises the images of a batch; what lies outside an image becomes 0.

    Args:
      batch: "image" uint8 [B, H, W, C], padded below and right; "image_size" int
        [B, 2], the height and width of what is not padding.
      mean, std: per channel or one for all, in units of 0..255; grey images take the
        average of several.

    Returns:
      float32 [B, H, W, C].
    """
    images = batch["image"].astype(jnp.float32)
    if images.shape[-1] == 1:
        mean, std = np.mean(mean), np.mean(std)
    mean, std = (
        jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std)
    )
    there = content(images.shape[1:3], batch["image_size"])
    return jnp.where(there[..., None], (images - mean) / std, 0)
