"""Exact evaluation: every image of a split is counted once, whatever the batch size.

`evaluate` is for one view of each image and what training asks for: the last batch is
filled up and carries a mask, errors are integers summed under it. `evaluate_run` and
`evaluate_ensemble` are for saved runs: they take any of the test protocols
(protocols.py) and keep the scores of every image. The number counted must be the number
in the split.
"""

import contextlib
import dataclasses
import functools
import io
import math
import os
import re
import sys
import time

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data_source
import feeds
import input_pipeline
import models
import transforms
from data_source import cache
from evaluation import protocols, scoring
from experiment import checkpoints, configuration, workdir
from models import convolution
from training import losses, optimizers, train_step
from transforms import augment, policies

STATISTICS = "statistics.npz"


class Interrupted(Exception):
    """The evaluation was asked to stop before its end; it has no result."""


# What training and evaluation share: the parts that a config names.


def open_split(dataset, split):
    """A split of the data set that `config.dataset` names, from its cache if any."""
    opened = data_source.open_split(
        dataset.name,
        split,
        data_dir=dataset.data_dir or None,
        download=dataset.download,
        holdout=dataset.holdout,
    )
    if not dataset.cache:
        return opened
    return cache.open_cached(
        opened,
        dataset.cache,
        dataset.cache_dir,
        dataset.cache_side,
        interpolation=dataset.interpolation,
        num_threads=dataset.num_threads or None,
    )


def reading(dataset):
    """num_threads and prefetch of input_pipeline's batches."""
    cores = len(os.sched_getaffinity(0))
    return {
        "num_threads": dataset.num_threads or cores,
        "prefetch": dataset.prefetch,
    }


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


def make_preprocessing(config, image_shape, *, training=False):
    """From stored images of `image_shape` [H, W, C] to the input of the network.

    In training, and where config.eval has 0, the sizes are those of config.dataset.
    """
    dataset = config.dataset
    size, short_side = dataset.image_size, dataset.short_side
    if not training:
        size = config.eval.image_size or size
        short_side = config.eval.short_side or short_side
    if not size and None in image_shape:
        raise configuration.ConfigError(
            f"config.dataset.name = {dataset.name!r}: images differ in size; say "
            "config.dataset.image_size"
        )
    try:
        preprocessing = input_pipeline.Preprocessing(
            image_size=size or max(image_shape[:2]),
            fit=dataset.fit,
            mean=dataset.mean,
            std=dataset.std,
            short_side=short_side,
            interpolation=dataset.interpolation,
            whiten=dataset.whiten,
        )
        input_shape(preprocessing, image_shape)
    except ValueError as e:
        raise configuration.ConfigError(f"config.dataset: {e}") from e
    return preprocessing


def make_view(config, image_shape, epoch_steps):
    """(Preprocessing of training images, their input_pipeline.TrainView or None).

    None where all that a config asks of images of `image_shape` is done inside jit.
    """
    preprocessing = make_preprocessing(config, image_shape, training=True)
    augmentation = transforms.select(policies.HostAugmentation, config.augment)
    whole = None if augmentation.view else preprocessing.view(image_shape)
    if not (augmentation.view or augmentation.policy or whole):
        return preprocessing, None
    if config.dataset.placement == "device":
        raise configuration.ConfigError(
            'config.dataset.placement = "device": images that differ in size, crops '
            "and policies are made on the host"
        )
    if augmentation.view or whole:
        preprocessing = dataclasses.replace(preprocessing, fit="crop")
    sizes = config.augment.image_sizes or ((0.0, preprocessing.image_size),)
    sizes = tuple((optimizers.in_steps(e, epoch_steps), pixels) for e, pixels in sizes)
    return preprocessing, input_pipeline.TrainView(augmentation, sizes, whole)


def input_shape(preprocessing, image_shape):
    """[H, W, C] of what the network gets for stored images of `image_shape`."""
    if preprocessing.fit == "crop" or preprocessing.view(image_shape):
        image_shape = (*2 * (preprocessing.image_size,), image_shape[-1])
    images = {"image": jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)}
    network_input = functools.partial(
        input_pipeline.network_input,
        preprocessing=dataclasses.replace(preprocessing, whiten=""),
    )
    return jax.eval_shape(network_input, images).shape[1:]


def check_sizes(model, variables, shapes):
    """Raises ConfigError for images [H, W, C] that the network's variables cannot take.

    Those that it is initialised for are not asked about.
    """
    for shape in shapes:
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            jax.eval_shape(
                functools.partial(model.apply, train=False), variables, images
            )
        except (ValueError, TypeError) as e:
            raise configuration.ConfigError(
                "config.augment.image_sizes and config.eval.image_size must be sizes "
                f"that the network can take beside its own: {e}"
            ) from e


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


def with_statistics(preprocessing, run):
    """`preprocessing` with the statistics that a run fitted, where it needs some."""
    if preprocessing.whiten in ("", "gcn"):
        return preprocessing
    return dataclasses.replace(preprocessing, statistics=run.read_arrays(STATISTICS))


def make_eval_step(model, preprocessing, loss):
    """(variables, batch) -> sums over the batch's real examples, integers where counts.

    `loss` takes (logits [B, K], labels [B]) and gives [B].
    """

    def eval_step(variables, batch):
        images = input_pipeline.network_input(batch, preprocessing)
        logits = model.apply(variables, images, train=False)
        labels, mask = batch["label"], batch["mask"]
        real = mask > 0
        readable = labels != input_pipeline.UNREADABLE
        labels = jnp.maximum(labels, 0)
        # The rank of the true class: how many classes score higher. Of equal scores the
        # class of lower number counts as higher, as argmax has it.
        score = jnp.take_along_axis(logits, labels[:, None], axis=1)
        classes = jnp.arange(logits.shape[1])[None]
        ahead = (logits > score) | ((logits == score) & (classes < labels[:, None]))
        # Not-a-number compares false to everything and would look like a hit.
        lost = jnp.isnan(logits).any(axis=1) | ~readable
        rank = jnp.where(lost, np.inf, ahead.sum(1))
        return {
            "count": jnp.sum(real, dtype=jnp.int32),
            "read": jnp.sum(real & readable, dtype=jnp.int32),
            "errors": jnp.sum(real & (rank >= 1), dtype=jnp.int32),
            "top5_errors": jnp.sum(real & (rank >= 5), dtype=jnp.int32),
            "loss": jnp.sum(jnp.where(real & readable, loss(logits, labels), 0.0)),
        }

    return eval_step


def evaluate(
    eval_step,
    variables,
    split,
    batch_size,
    mesh,
    *,
    view=None,
    stop=lambda: False,
    **reading,
):
    """Runs the jitted `eval_step` over all of `split`.

    Args:
      view: what the host makes of an image: Preprocessing.view.
      batch_size: images per step over all hosts; rounded up to the devices' multiple.
      stop: asked between batches; true ends the evaluation by raising Interrupted.
      reading: num_threads, prefetch and damaged of input_pipeline.eval_batches.

    Returns:
      A dict: error and top5_error in per cent, loss per image that could be read,
      errors, count.
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
        view=view,
        **reading,
    ):
        if stop():
            raise Interrupted
        batch = {
            name: feeds.put(batch[name], sharding)
            for name in ("image", "label", "mask")
        }
        with convolution.programs_for(mesh):
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
        "loss": float(total["loss"]) / max(int(total["read"]), 1),
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
    trained, view = make_view(config, split.image_shape, len(split) / batch_size)
    if view:  # the size that the training ended with
        view = dataclasses.replace(view, sizes=((0, view.sizes[-1][1]),))
    prepare = functools.partial(
        input_pipeline.network_input,
        preprocessing=dataclasses.replace(trained, statistics=preprocessing.statistics),
        augmentation=transforms.select(augment.Augmentation, config.augment),
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
        view=view,
        damaged=config.dataset.damaged,
        **reading(config.dataset),
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


# A run's checkpoint under a test protocol.


def make_protocol(config, preprocessing, image_shape):
    """The protocol of `config.eval` for stored images of `image_shape` [H, W, C]."""
    name = config.eval.protocol
    scales, view = (), None
    if name == "single":
        view = preprocessing.view(image_shape)
        if preprocessing.fit == "crop":
            scales = (preprocessing.short_side,)
    else:
        usual = (preprocessing.short_side,)
        scales = config.eval.scales or protocols.SCALES.get(name, usual)
    try:
        return protocols.Protocol(
            name,
            image_size=preprocessing.image_size,
            scales=tuple(scales),
            view=view,
            interpolation=preprocessing.interpolation,
            average="logits" if name == "single" else config.eval.average,
        )
    except ValueError as e:
        raise configuration.ConfigError(f"config.eval.protocol = {name!r}: {e}") from e


def make_steps(config, model, variables, protocol, preprocessing, image_shape):
    """{kind of view: compiled `protocols.make_step`} for what `protocol` shows.

    Raises:
      ConfigError: the network cannot be tested so.
    """
    size = protocol.image_size
    trained = make_preprocessing(config, image_shape, training=True)
    shapes = {"crop": image_shape}
    if protocol.name != "single" or protocol.view:  # views have their size
        preprocessing = dataclasses.replace(preprocessing, fit="crop")
        parts = protocols.PROTOCOLS.get(protocol.name, (("crop", None),))
        shapes = {
            kind: (size if kind == "crop" else min(protocol.scales),) * 2
            + image_shape[2:]
            for kind, _ in parts
        }

    def prepare(images):
        return input_pipeline.network_input({"image": images}, preprocessing)

    steps = {}
    for kind, shape in shapes.items():
        if kind == "fine_map" and not hasattr(model, "fine_class_map"):
            raise configuration.ConfigError(
                f"config.eval.protocol = 'offsets': {config.model.name} has no last "
                "pool to offset, as the networks of OverFeat have; 'dense' and "
                "'scales' slide any network"
            )
        step = protocols.make_step(
            model,
            kind,
            prepare,
            average=protocol.average,
            image_size=input_shape(trained, image_shape)[:2],
        )
        try:
            jax.eval_shape(
                step, variables, jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
            )
        except (ValueError, TypeError) as e:
            raise configuration.ConfigError(
                f"config.eval.protocol = {protocol.name!r}: {config.model.name} "
                f"cannot take images of {shape}: {e}"
            ) from e
        options = train_step.compiler_options(jax.default_backend())
        steps[kind] = jax.jit(step, compiler_options=options)
    return steps


def predict_split(config, split, steps, variables, protocol):
    """The scores of a split's images as scoring.Predictions, and the damaged ones.

    Each process evaluates every n-th image on its own devices.
    """
    same_size = None not in split.image_shape
    if same_size and len(split) * math.prod(split.image_shape) <= 2**30:
        # Read at once, `examples` is fast. A damaged one is found again, one by one.
        with contextlib.suppress(data_source.DataError):
            split.arrays()
    process, processes = jax.process_index(), jax.process_count()
    devices = jax.local_devices()[: config.num_devices or None]
    mesh = Mesh(np.array(devices), ("data",))
    indices = range(process, len(split), processes)
    names, labels, scores, damaged = protocols.average_scores(
        steps,
        jax.device_put(variables, NamedSharding(mesh, PartitionSpec())),
        split,
        indices,
        protocol,
        mesh,
        batch_size=config.eval.batch_size,
        damaged=config.eval.damaged,
        **reading(config.dataset),
        report=_reporter(len(indices)),
    )
    counted, names, labels, logits, damaged = (
        _from_all_processes(x, len(split))
        for x in (
            np.array(indices),
            np.array(names, str),
            labels,
            scores.astype(np.float32),
            damaged,
        )
    )
    if not np.array_equal(counted, np.arange(len(split))):
        raise AssertionError(f"not each image of {split.name} was counted once")
    predictions = scoring.Predictions(
        names, labels, logits, np.array(split.label_names), protocol.average
    )
    return predictions, names[damaged].tolist()


REPORT_SECONDS = 30


def _reporter(count):
    """A function that prints now and then how many of `count` images are read."""
    last = time.monotonic()

    def report(done):
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS and jax.process_index() == 0:
            last = time.monotonic()
            print(f"evaluation: {done}/{count} images", file=sys.stderr, flush=True)

    return report


def _from_all_processes(rows, count):
    """Rows 0 to count - 1, of which each process has every n-th, on all processes."""
    processes = jax.process_count()
    if processes == 1:
        return rows
    if rows.dtype.kind == "U":
        text = np.char.encode(rows, "utf-8", "surrogateescape")
        width = multihost_utils.process_allgather(np.int32(text.itemsize)).max()
        text = text.astype(f"S{width}")
        text = _from_all_processes(text.view(np.uint8).reshape(-1, width), count)
        return np.char.decode(text.view(f"S{width}")[:, 0], "utf-8", "surrogateescape")
    padded = np.zeros((-(-count // processes), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    parts = np.asarray(multihost_utils.process_allgather(padded))
    return np.swapaxes(parts, 0, 1).reshape(-1, *rows.shape[1:])[:count].copy()


def mean_loss(loss, predictions):
    """The loss per image that has an answer."""
    answered = ~np.isnan(predictions.logits).any(1)
    logits, labels = predictions.logits[answered], predictions.label[answered]
    total = 0.0
    for start in range(0, len(labels), 4096):
        part = slice(start, start + 4096)
        total += np.asarray(loss(logits[part], labels[part]), np.float64).sum()
    return total / max(len(labels), 1)


def evaluate_run(run, config, which="latest", batch_stats="moving"):
    """Evaluates a checkpoint of a run on `config.dataset.eval_split`.

    Args:
      run: a workdir.Workdir.
      config: the run's own, or one that differs in what the network does not depend on.
      which: the checkpoint: "latest", "best" or a step.
      batch_stats: of batch normalisation: "moving" averages, which the checkpoint has,
        or those of the "population", from a pass over the training data.

    Returns:
      The result as text, its first line the error. It is also written to
      <run>/evaluation-<step>.json, with tables beside it (`write_results`); the names
      end with the protocol, if it is not "single", and what else is not the run's own.
    """
    return _evaluate_run(run, config, which, batch_stats)[0]


def evaluate_ensemble(runs, configs, which="latest", batch_stats="moving"):
    """Evaluates several runs, as `evaluate_run` does each, and their average.

    Each has its own network, preprocessing and protocol; they must have the same
    examples in the same order. `config.eval.average` says what is averaged over them.
    """
    averages = {config.eval.average for config in configs}
    if len(averages) > 1:
        raise configuration.ConfigError(
            "config.eval.average is not the same in all runs; choose with "
            "--change=eval.average=softmax"
        )
    texts, members = [], []
    for run, config in zip(runs, configs, strict=True):
        text, predictions = _evaluate_run(run, config, which, batch_stats)
        texts.append(text)
        members.append(predictions)
    (average,) = averages
    total = scoring.ensemble(members, average)
    return "\n".join(
        [
            *texts,
            f"ensemble of {len(runs)} runs, {average} averaged: "
            f"{scoring.describe(scoring.score(total))}",
            *_worst(total),
        ]
    )


def _evaluate_run(run, config, which, batch_stats):
    """(text, predictions) of one run."""
    configuration.check_devices(config, jax.device_count(), jax.process_count())
    dataset = config.dataset
    if config.eval.protocol != "single" and dataset.cache:
        # Whose images may be smaller than a protocol asks for.
        dataset = dataset.copy_and_resolve_references()
        dataset.cache = ""
    split = open_split(dataset, dataset.eval_split)
    preprocessing = make_preprocessing(config, split.image_shape)
    preprocessing = with_statistics(preprocessing, run)
    protocol = make_protocol(config, preprocessing, split.image_shape)
    trained = make_preprocessing(config, split.image_shape, training=True)
    shape = input_shape(trained, split.image_shape)
    model = make_model(config, split.num_classes)
    variables, step = load_variables(run, model, shape, which)
    if batch_stats == "population":
        mesh = make_mesh(config.num_devices)
        variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        variables = _population_variables(config, model, preprocessing, variables, mesh)
        variables = jax.device_get(variables)
    steps = make_steps(
        config, model, variables, protocol, preprocessing, split.image_shape
    )
    predictions, damaged = predict_split(config, split, steps, variables, protocol)
    result = scoring.score(predictions)
    result["loss"] = mean_loss(make_loss(config.loss), predictions)
    record = {"step": step, "split": split.split, **result, **protocol.describe()}
    if variables.get("batch_stats"):
        record["batch_stats"] = batch_stats
    if damaged:
        record["damaged"] = damaged
    text = [
        f"{describe(result, split, step)} of {run}",
        f"top-5 error {result['top5_error']:.2f} %, loss {result['loss']:.4f}; "
        + ", ".join(f"{k} {v}" for k, v in protocol.describe().items()),
        *(f"damaged, counted as an error: {name}" for name in damaged),
        *_worst(predictions),
    ]
    if jax.process_index() == 0:
        suffix = _suffix(config, run.config(), batch_stats)
        try:
            files = write_results(run, f"{step}{suffix}", record, predictions)
            text.append(f"written: {', '.join(files)}")
        except workdir.WorkdirError as e:
            logging.warning("%s", e)  # a run that can only be read is fine
    return "\n".join(text), predictions


def _suffix(config, own, batch_stats):
    """What tells the files of an evaluation from those of the run's `own` config."""
    parts = [] if config.eval.protocol == "single" else [config.eval.protocol]
    parts += ["population"] if batch_stats == "population" else []
    fields = "eval_split", "scales", "average", "image_size", "short_side"
    for name in fields:
        section = "dataset" if name == "eval_split" else "eval"
        if (value := config[section][name]) != own[section][name]:
            parts.append(
                f"{name}_{re.sub('[^A-Za-z0-9]+', '_', str(value)).strip('_')}"
            )
    return "".join(f"-{part}" for part in parts)


def _worst(predictions):
    lines = scoring.worst_classes(predictions)
    return [f"classes with the largest error:\n{lines}"] if lines else []


MOST_DRAWN_CLASSES = 100


def write_results(run, suffix, record, predictions):
    """Writes what an evaluation found to <run>/<name>-<suffix>; returns the names.

    evaluation .json: the `record`; predictions .npz: all scores, for `python
    scoring.py`; classes .csv; confusion .csv, and .png where that can be read.
    """

    def binary(write):
        file = io.BytesIO()
        write(file)
        return file.getvalue()

    run.write_json(f"evaluation-{suffix}.json", record)
    files = {
        f"predictions-{suffix}.npz": binary(predictions.write),
        f"classes-{suffix}.csv": scoring.class_csv(predictions).encode(),
        f"confusion-{suffix}.csv": scoring.confusion_csv(predictions).encode(),
    }
    if len(predictions.label_names) <= MOST_DRAWN_CLASSES:
        draw = functools.partial(scoring.draw_confusion, predictions)
        files[f"confusion-{suffix}.png"] = binary(draw)
    for name, content in files.items():
        run.write_bytes(name, content)
    return [f"evaluation-{suffix}.json", *files]
