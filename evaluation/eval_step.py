"""The compiled step of an exact evaluation."""

import jax.numpy as jnp

import input_pipeline


def make_eval_step(model, prepare, loss):
    """Makes (variables, batch) -> sums over the real examples; counts are integers.

    Of each class, [K], `images` counts its examples, `hits` those that the network
    finds, and `answers` how often it answers with the class.

    Args:
      model: a network of models/.
      prepare: maps a batch of stored images to the network's input.
      loss: maps logits [B, K] and labels [B] to losses [B].
    """

    def eval_step(variables, batch):
        logits = model.apply(variables, prepare(batch), train=False)
        labels, mask = batch["label"], batch["mask"]
        real = mask > 0
        readable, known = labels >= 0, labels != input_pipeline.UNREADABLE
        labels = jnp.where(readable, labels, input_pipeline.UNREADABLE - 1 - labels)
        labels = jnp.maximum(labels, 0)
        # The rank of the true class is the number of classes that score higher. Among
        # equal scores the class of lower number counts as higher, as in argmax.
        score = jnp.take_along_axis(logits, labels[:, None], axis=1)
        classes = jnp.arange(logits.shape[1])[None]
        ahead = (logits > score) | ((logits == score) & (classes < labels[:, None]))
        # Not-a-number compares false to everything and would look like a hit.
        lost = jnp.isnan(logits).any(axis=1) | ~readable
        rank = jnp.where(lost, jnp.inf, ahead.sum(1))
        answer = jnp.argmax(logits, axis=1)

        def of_each_class(number, where):
            counted = (number[:, None] == classes) & where[:, None]
            return jnp.sum(counted, axis=0, dtype=jnp.int32)

        return {
            "count": jnp.sum(real, dtype=jnp.int32),
            "read": jnp.sum(real & readable, dtype=jnp.int32),
            "errors": jnp.sum(real & (rank >= 1), dtype=jnp.int32),
            "top5_errors": jnp.sum(real & (rank >= 5), dtype=jnp.int32),
            "images": of_each_class(labels, real & known),
            "hits": of_each_class(labels, real & (rank < 1)),
            "answers": of_each_class(answer, real & ~lost),
            "loss": jnp.sum(jnp.where(real & readable, loss(logits, labels), 0.0)),
        }

    return eval_step
