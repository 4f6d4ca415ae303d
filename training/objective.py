"""What training minimises: the only part of a training step that knows the task.

An objective is called as objective(variables, batch, seed, key) and returns
(losses [B], sums, batch_stats): the examples' losses, whose mean is minimised; scalars
that add up over batches; and the batch statistics after this batch. It also has

    keys              the arrays of a batch that travel to the devices
    zero_sums()       the values that `sums` start from
    scalars(sums, n)  {name: value} to report for the sums over n images
    progress(scalars) those scalars as text for the progress line
"""

import jax
import jax.numpy as jnp

from models import layers

MIX = 2**31 - 2  # a random stream apart from initialisation's, examples' and dropout's


class Classification:
    """The loss of a classifier, and how many images it assigns to a wrong class.

    Args:
      model: a network of models/.
      loss: maps logits [B, K] and labels [B] to losses [B].
      prepare: prepare(batch, seed=seed) gives the network's input for the stored images
        of a batch, with the training's random changes.
      auxiliary_weight: factor of the loss of each auxiliary head.
      mix: mix(images, labels, key) mixes the images of a batch
        (transforms.augment.mix). Errors are counted against the first label.
      frozen_statistics: batch normalisation uses the statistics it is given and does
        not change them.
    """

    keys = ("image", "label", "index", "epoch")

    def __init__(
        self,
        model,
        loss,
        prepare,
        *,
        auxiliary_weight=0.0,
        mix=None,
        frozen_statistics=False,
    ):
        self._model, self._loss, self._prepare = model, loss, prepare
        self._auxiliary_weight, self._mix = auxiliary_weight, mix
        self._frozen_statistics = frozen_statistics

    def __call__(self, variables, batch, seed, key):
        labels = batch["label"]
        images, other, weight = self.inputs(batch, seed, key)

        def loss(logits):
            losses = self._loss(logits, labels)
            if self._mix is None:
                return losses
            return weight * losses + (1 - weight) * self._loss(logits, other)

        with layers.frozen_statistics(self._frozen_statistics):
            logits, updated = self._model.apply(
                variables,
                images,
                train=True,
                mutable=["batch_stats", "auxiliary"],
                rngs={"dropout": key},
            )
        losses = loss(logits)
        for head in jax.tree.leaves(updated.get("auxiliary", {})):
            losses += self._auxiliary_weight * loss(head)
        wrong = jnp.argmax(logits, -1) != labels
        sums = {"errors": wrong.sum(dtype=jnp.int32)}
        return losses, sums, updated.get("batch_stats", {})

    def inputs(self, batch, seed, key):
        """Returns the images that the network sees, and of `mix` what else it gives."""
        images, labels = self._prepare(batch, seed=seed), batch["label"]
        if self._mix is None:
            return images, labels, 1.0
        return self._mix(images, labels, jax.random.fold_in(key, MIX))

    @staticmethod
    def zero_sums():
        return {"errors": jnp.zeros((), jnp.int32)}

    @staticmethod
    def scalars(sums, images):
        return {"train/error": 100.0 * sums["errors"] / images}

    @staticmethod
    def progress(scalars):
        return f"error {scalars['train/error']:5.2f} %"
