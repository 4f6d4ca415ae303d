"""Exact evaluation: every image of a split is counted once, whatever the batch size.

The last batch is filled up and carries a mask; errors are integers summed under it; the
number counted must be the number in the split.
"""

import functools
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import checkpoints
import configuration
import data_source
import feeds
import input_pipeline
import losses
import models
import workdir
from models import onednn


class Interrupted(Exception):
    """The evaluation was asked to stop before its end; it has no result."""


# What training and evaluation share: the parts that a config names.


def open_split(dataset, split):
    """A split of the data set that `config.dataset` names."""
    return data_source.open_split(
        dataset.name,
        split,
        data_dir=dataset.data_dir or None,
        download=dataset.download,
    )


def make_mesh(num_devices=0):
    """The devices in one row, called "data"; 0: all of them."""
    devices = jax.devices()[: num_devices or None]
    return Mesh(np.array(devices), ("data",))


make_loss = losses.make_loss


def make_model(config, num_classes):
    """The network of `config` as a linen module."""
    try:
        return models.create(
            config.model.name,
            num_classes=num_classes,
            dtype=jnp.dtype(config.model.dtype),
            **config.model.fields,
        )
    except (ValueError, TypeError) as e:
        raise configuration.ConfigError(f"config.model: {e}") from e


def make_preprocessing(config, image_shape):
    """From stored images of `image_shape` [H, W, C] to the input of the network."""
    if None in image_shape:
        raise configuration.ConfigError(
            f"config.dataset.name = {config.dataset.name!r}: images that differ in "
            "size are not supported yet"
        )
    try:
        preprocessing = input_pipeline.Preprocessing(
            image_size=config.dataset.image_size or max(image_shape[:2]),
            fit=config.dataset.fit,
            mean=config.dataset.mean,
            std=config.dataset.std,
        )
        input_shape(preprocessing, image_shape)
    except ValueError as e:
        raise configuration.ConfigError(f"config.dataset: {e}") from e
    return preprocessing


def input_shape(preprocessing, image_shape):
    """[H, W, C] of what the network gets for stored images of `image_shape`."""
    images = {"image": jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)}
    network_input = functools.partial(
        input_pipeline.network_input, preprocessing=preprocessing
    )
    return jax.eval_shape(network_input, images).shape[1:]


def abstract_variables(model, shape):
    """The network's variables as shapes; a clear error if it cannot take the images."""
    init = functools.partial(model.init, train=False)
    try:
        return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
    except (ValueError, TypeError) as e:
        raise configuration.ConfigError(
            f"{type(model).__name__} cannot take images of {shape}: {e}"
        ) from e


def load_variables(run, model, shape, which="latest"):
    """The trained variables of a run: (variables, step).

    Args:
      run: a workdir.Workdir.
      shape: [H, W, C] of the network's input.
      which: "latest", "best" (lowest error when it was saved) or a step.

    Returns:
      The Polyak average where the run kept one, else the parameters.

    Raises:
      CheckpointError: nothing saved, or nothing that can be read.
      IncompatibleCheckpoint: the checkpoint is of another network.
    """
    saved = checkpoints.Checkpoints(run.checkpoints)
    if which in ("latest", "best"):
        step = saved.best_step() if which == "best" else None
    elif which.isdecimal():
        step = int(which)
    else:
        raise configuration.ConfigError(
            f"--checkpoint={which} is neither latest, best nor a step"
        )
    restored = saved.restore(step=step)
    saved.close()
    if restored is None:
        raise checkpoints.CheckpointError(f"{run} holds no checkpoint yet")
    state, step, _ = restored
    variables = {"params": state["ema"] or state["params"]}
    if state["batch_stats"]:
        variables["batch_stats"] = state["batch_stats"]
    checkpoints.refuse_another_model(
        run.checkpoints / str(step),
        checkpoints.forms(variables),
        checkpoints.forms(abstract_variables(model, shape)),
    )
    return variables, step


def make_eval_step(model, preprocessing, loss):
    """(variables, batch) -> sums over the batch's real examples, integers where counts.

    `loss` takes (logits [B, K], labels [B]) and gives [B].
    """

    def eval_step(variables, batch):
        images = input_pipeline.network_input(batch, preprocessing)
        logits = model.apply(variables, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        real = mask > 0
        # The rank of the true class: how many classes score higher. Of equal scores the
        # class of lower number counts as higher, as argmax has it.
        score = jnp.take_along_axis(logits, labels[:, None], axis=1)
        classes = jnp.arange(logits.shape[1])[None]
        ahead = (logits > score) | ((logits == score) & (classes < labels[:, None]))
        # Not-a-number compares false to everything and would look like a hit.
        rank = jnp.where(jnp.isnan(logits).any(axis=1), np.inf, ahead.sum(1))
        return {
            "count": jnp.sum(real, dtype=jnp.int32),
            "errors": jnp.sum(real & (rank >= 1), dtype=jnp.int32),
            "top5_errors": jnp.sum(real & (rank >= 5), dtype=jnp.int32),
            "loss": jnp.sum(jnp.where(real, loss(logits, labels), 0.0)),
        }

    return eval_step


def evaluate(eval_step, variables, split, batch_size, mesh, *, stop=lambda: False):
    """Runs the jitted `eval_step` over all of `split`.

    Args:
      batch_size: images per step over all hosts; rounded up to the devices' multiple.
      stop: asked between batches; true ends the evaluation by raising Interrupted.

    Returns:
      A dict: error and top5_error in per cent, loss per image, errors, count.
    """
    devices = mesh.devices.size
    batch_size = math.ceil(min(batch_size, len(split)) / devices) * devices
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    pending = []
    for batch in input_pipeline.eval_batches(
        split,
        batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    ):
        if stop():
            raise Interrupted
        batch = {
            name: feeds.put(batch[name], sharding)
            for name in ("image", "label", "mask")
        }
        with onednn.permitted():
            pending.append(eval_step(variables, batch))
    sums = [jax.device_get(p) for p in pending]
    total = {
        name: sum(
            s[name].astype(np.float64 if name == "loss" else np.int64) for s in sums
        )
        for name in sums[0]
    }
    count = int(total["count"])
    if count != len(split):
        raise AssertionError(f"{count} images counted of {len(split)} in {split.name}")
    return {
        "error": 100 * int(total["errors"]) / count,
        "top5_error": 100 * int(total["top5_errors"]) / count,
        "loss": float(total["loss"]) / count,
        "errors": int(total["errors"]),
        "count": count,
    }


def make_population_step(model, prepare):
    """(variables, batch, key) -> mean and variance of what each batch norm sees.

    A tree like batch_stats, of one batch in training mode (`prepare(batch)` gives the
    network's input); the variance is the unbiased one, of m - 1.
    """

    def population_step(variables, batch, key):
        seen = {}

        def record(call, args, kwargs, context):
            if isinstance(context.module, nn.BatchNorm):
                x = args[0].astype(jnp.promote_types(args[0].dtype, jnp.float32))
                axes = tuple(range(x.ndim - 1))
                number = x.size // x.shape[-1]
                seen[context.module.path] = {
                    "mean": x.mean(axes),
                    "var": x.var(axes) * (number / (number - 1)),
                }
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            model.apply(
                variables,
                prepare(batch),
                train=True,
                mutable=["batch_stats", "auxiliary"],
                rngs={"dropout": key},
            )
        return flax.traverse_util.unflatten_dict(seen)

    return population_step


def population_statistics(population_step, variables, batches, seed=0):
    """Batch statistics of the population, as an alternative to moving averages.

    Ioffe and Szegedy (2015), algorithm 2: with the weights frozen, the mean over
    training batches of each batch's mean and of its unbiased variance.

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


def _population_variables(config, model, preprocessing, variables, mesh):
    """`variables` with the statistics of one pass over the training data."""
    if not variables.get("batch_stats"):
        raise configuration.ConfigError(
            f"--batch_stats=population: {config.model.name} has no batch normalisation"
        )
    split = open_split(config.dataset, config.dataset.train_split)
    batch_size = min(config.batch_size, len(split))
    plan = input_pipeline.TrainPlan(len(split), batch_size, config.seed)
    prepare = functools.partial(
        input_pipeline.network_input,
        preprocessing=preprocessing,
        augmentation=input_pipeline.Augmentation(**config.augment),
        seed=config.seed,
    )
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batches = input_pipeline.train_batches(
        split,
        plan,
        0,
        len(split) // batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    names = ("image", "index", "epoch")
    statistics = population_statistics(
        jax.jit(make_population_step(model, prepare)),
        variables,
        (
            {name: feeds.put(batch[name], sharding) for name in names}
            for batch in batches
        ),
        config.seed,
    )
    return {**variables, "batch_stats": statistics}


def describe(result, split, step):
    """The line that ends an evaluation."""
    return (
        f"{split.split} error {result['error']:.2f} % ({result['errors']} errors, "
        f"{result['count']}/{len(split)} images counted) after step {step}"
    )


def evaluate_run(run, config, which="latest", batch_stats="moving"):
    """Evaluates a checkpoint of a run on `config.dataset.eval_split`.

    Args:
      run: a workdir.Workdir.
      config: the run's own, or one that differs in what the network does not depend on.
      which: the checkpoint: "latest", "best" or a step.
      batch_stats: of batch normalisation: "moving" averages, which the checkpoint has,
        or those of the "population", from a pass over the training data.

    Returns:
      The line with the result, which is also written to <run>/evaluation-<step>.json.
    """
    configuration.check_devices(config, jax.device_count(), jax.process_count())
    split = open_split(config.dataset, config.dataset.eval_split)
    preprocessing = make_preprocessing(config, split.image_shape)
    shape = input_shape(preprocessing, split.image_shape)
    model = make_model(config, split.num_classes)
    variables, step = load_variables(run, model, shape, which)
    mesh = make_mesh(config.num_devices)
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    if batch_stats == "population":
        variables = _population_variables(config, model, preprocessing, variables, mesh)
    eval_step = jax.jit(make_eval_step(model, preprocessing, make_loss(config.loss)))
    result = evaluate(eval_step, variables, split, config.eval.batch_size, mesh)
    if jax.process_index() == 0:
        try:
            record = {"step": step, "split": split.split, **result}
            if variables.get("batch_stats"):
                record["batch_stats"] = batch_stats
            run.write_json(f"evaluation-{step}.json", record)
        except workdir.WorkdirError as e:
            logging.warning("%s", e)  # a run that can only be read is fine
    return f"{describe(result, split, step)} of {run}"
