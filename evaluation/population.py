"""Batch statistics of the population, instead of training's moving averages.

The source is Ioffe and Szegedy (2015), algorithm 2, https://arxiv.org/abs/1502.03167.
"""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from errors import UserError


def make_population_step(model, prepare):
    """Makes (variables, batch, key) -> mean and variance of each batch norm's input.

    They are a tree like batch_stats, from one batch in training mode; `prepare(batch,
    key)` gives the network's input. The variance is unbiased, divided by m - 1.
    """

    def population_step(variables, batch, key):
        seen = {}

        def record(call, args, kwargs, context):
            if isinstance(context.module, nn.BatchNorm):
                x = args[0].astype(jnp.promote_types(args[0].dtype, jnp.float32))
                axes = tuple(range(x.ndim - 1))
                number = x.size // x.shape[-1]
                if number == 1:
                    raise UserError(
                        f"--batch_stats=population: {'.'.join(context.module.path)} "
                        "sees one number a batch and channel, which has no variance"
                    )
                seen[context.module.path] = {
                    "mean": x.mean(axes),
                    "var": x.var(axes) * (number / (number - 1)),
                }
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(
                variables,
                prepare(batch, key),
                train=True,
                mutable=["batch_stats", "auxiliary"],
                rngs={"dropout": key},
            )
        return flax.traverse_util.unflatten_dict(seen)

    return population_step


def population_statistics(population_step, variables, batches, seed=0):
    """Computes the population's batch statistics, instead of moving averages.

    As in Ioffe and Szegedy (2015), algorithm 2, the weights are frozen, and each
    batch's mean and unbiased variance are averaged over training batches.

    Args:
      population_step: what `make_population_step` made, compiled.
      batches: training batches, on the devices; at least one.
    """
    add = jax.jit(functools.partial(jax.tree.map, jnp.add))
    total, count = None, 0
    for batch in batches:
        key = jax.random.fold_in(jax.random.key(seed), count)
        statistics = population_step(variables, batch, key)
        total = statistics if total is None else add(total, statistics)
        count += 1
    return jax.tree.map(lambda x: x / count, total)
