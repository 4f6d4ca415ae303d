"""What calls and training steps cost: seconds in turn, and the memory of a step."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kernels import ops
from training import memory, objective, train_step

ROUNDS = 5


def seconds(calls, rounds=ROUNDS):
    """Times functions in turn; returns {name: the median of its seconds}.

    Each is first called once without a clock. What a function returns is waited for.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            found[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in found.items()}


class Step:
    """A training step of a network on one batch of random images; calls train on.

    It is the forward pass with side heads, the gradients, and SGD with momentum.

    Args:
      model: a network of models/.
      shape: [H, W, C] of an image.
      batch_size: images in the batch.

    Attributes:
      memory: bytes that the compiled step plans: the state, the batch and everything
        that it computes.
    """

    def __init__(self, model, shape, batch_size):
        tx = optax.sgd(1e-3, momentum=0.9)
        task = objective.Classification(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            lambda batch, seed: batch["image"],
            auxiliary_weight=0.3,  # GoogLeNet, Section 5
        )
        rng = np.random.default_rng(0)
        images = rng.normal(size=(batch_size, *shape)).astype(np.float32)
        self._batch = {
            "image": jnp.asarray(images),
            "label": jnp.asarray(rng.integers(0, model.num_classes, batch_size)),
        }
        self._state = jax.jit(train_step.make_init(model, tx, shape, ema=False))(0)
        step = jax.jit(
            train_step.make_train_step(task, tx),
            donate_argnums=0,
            compiler_options=ops.compiler_options(jax.default_backend()),
        )
        with ops.every_kernel():  # as in training
            self._program = step.lower(self._state, self._batch, 0).compile()
        self.memory = memory.plan(self._program, self._state, self._batch).total

    def __call__(self):
        """Trains for one step; returns its sums."""
        self._state, sums = self._program(self._state, self._batch, 0)
        return sums


def steps(models, shapes, batch_size, rounds=ROUNDS):
    """Measures a training step of several networks, in turn.

    Args:
      models: {name: a network}.
      shapes: {name: [H, W, C] of its images}.

    Returns:
      {name: seconds} and {name: bytes}, as `seconds` and `Step.memory` have them.
    """
    made = {name: Step(models[name], shapes[name], batch_size) for name in models}
    return seconds(made, rounds), {name: step.memory for name, step in made.items()}
