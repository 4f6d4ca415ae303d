"""Evaluates saved runs under a test protocol, and keeps the scores of every image.

Every image of a split is counted once, whatever the batch size. `evaluate_run` is for
one run, `evaluate_ensemble` for several and their average; both take any of the papers'
protocols (evaluation/protocols.py). Training evaluates one view of each image with
evaluation/evaluator.py.
"""

import dataclasses
import math
import sys
import time
import typing

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data_source
import input_pipeline
import models
from data_source import classes, report
from errors import ConfigError
from evaluation import evaluator, population, protocols, results, scoring
from experiment import (
    balance,
    build,
    checks,
    configuration,
    detectors,
    trained,
    workdir,
)
from kernels import ops
from training import losses
from transforms import preprocessing as preprocessings

# Fields that training reads, and of tests only those with --batch_stats=population.
OF_TRAINING = {f"dataset.{n}" for n in ("balance", "damaged", "order", "train_split")}
# Fields that no test reads.
UNREAD = {"dataset.placement", "eval.every_epochs"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of one run.

    Attributes:
      record: the content of evaluation-<step>.json.
      split: name of the split, which holds `size` images.
      protocol: how the images were shown.
      worst: the classes with the largest error, as text.
      damaged: names of images that could not be read.
      files: names of the files written in the run directory.
      failed: why they are missing, unless nothing may be written there.
    """

    run: str
    split: str
    size: int
    record: dict
    protocol: dict
    worst: str
    damaged: list
    files: list
    failed: list

    def __str__(self):
        record = self.record
        errors = evaluator.describe_errors(
            record, self.split, self.size, record["step"]
        )
        found = [f"loss {record['loss']:.4f}"]
        if classes := scoring.describe_classes(record):
            found.insert(0, classes)
        if "top5_error" in record:
            found.insert(0, f"top-5 error {record['top5_error']:.2f} %")
        lines = [
            f"{errors} of {self.run}",
            f"{', '.join(found)}; "
            + ", ".join(f"{k} {v}" for k, v in self.protocol.items()),
            *(f"damaged, counted as an error: {name}" for name in self.damaged),
            *_worst(self.worst),
        ]
        if self.files:
            lines.append(f"written: {', '.join(self.files)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The evaluations of several runs, and of the average of their scores."""

    members: list
    average: str
    score: dict
    worst: str

    @property
    def failed(self):
        return [reason for member in self.members for reason in member.failed]

    def __str__(self):
        return "\n".join(
            [
                *map(str, self.members),
                f"ensemble of {len(self.members)} runs, {self.average} averaged: "
                f"{scoring.describe(self.score)}",
                *_worst(self.worst),
            ]
        )


def _worst(lines):
    return [f"classes with the largest error:\n{lines}"] if lines else []


def evaluate_run(run, config, checkpoint="latest", batch_stats="moving"):
    """Evaluates a checkpoint of a run on `config.dataset.eval_split`.

    Args:
      run: a workdir.Workdir.
      config: the run's own, or one that differs only in fields that do not affect the
        network.
      checkpoint: "latest", "best" or a step.
      batch_stats: statistics for batch normalisation: the checkpoint's "moving"
        averages, or those of the "population", from a pass over the training data.

    Returns:
      The `Evaluation`; of a detector, a detectors.Evaluation. It is also written to
      <run>/evaluation-<step>.json, with tables beside it. The names end with what was
      changed of the run's own test (evaluation/results.py).
    """
    _check_is_read(run, config, batch_stats)
    changes = configuration.changed(run.config(), config)
    if "eval.average" in changes and config.eval.protocol == "single":
        raise ConfigError(
            f"config.eval.average = {config.eval.average!r} changes nothing: the "
            "protocol 'single' has one view of each image, and there is one run"
        )
    if models.is_detector(config.model.name):
        if batch_stats != "moving":
            raise ConfigError(f"--batch_stats={batch_stats} is for classifiers")
        checks.check_enough_devices(config, jax.device_count(), jax.process_count())
        return detectors.evaluate_run(run, config, checkpoint)
    test = _open(run, config, checkpoint, batch_stats)
    return _run(test, batch_stats)[0]


def evaluate_ensemble(runs, configs, checkpoint="latest", batch_stats="moving"):
    """Evaluates each of several runs as `evaluate_run` does; returns the `Ensemble`.

    Each has its own network, preprocessing and protocol; they must have the same
    examples in the same order. `config.eval.average` says what is averaged over them.
    """
    if any(models.is_detector(config.model.name) for config in configs):
        raise ConfigError("an ensemble is of classifiers, not of detectors")
    averages = {config.eval.average for config in configs}
    if len(averages) > 1:
        raise ConfigError(
            "config.eval.average is not the same in all runs; choose with "
            "--change=eval.average=softmax"
        )
    for run, config in zip(runs, configs, strict=True):
        checks.check_average(config)
        _check_is_read(run, config, batch_stats)
    tests = [
        _open(run, config, checkpoint, batch_stats)
        for run, config in zip(runs, configs, strict=True)
    ]
    _check_joined([test.split for test in tests])
    # What a member has in memory goes with its test.
    found = [_run(tests.pop(0), batch_stats) for _ in runs]
    evaluations, members = zip(*found, strict=True)
    # One set may have two names, as mnist and mnist:3.0.1, and so do its images then.
    members = [dataclasses.replace(x, id=members[0].id) for x in members]
    (average,) = averages
    total = scoring.ensemble(members, average, report=trained.say)
    worst = scoring.worst_classes(total)
    return Ensemble(list(evaluations), average, scoring.score(total), worst)


def _check_is_read(run, config, batch_stats):
    """Raises ConfigError if `config` changes a field of the run that no test reads."""
    changes = configuration.changed(run.config(), config)
    for name in changes.keys() & {"dataset.holdout", "dataset.holdout_by"}:
        if "dataset.name" not in changes:
            raise ConfigError(
                f"config.{name} = {changes[name]!r} holds out other images, and the "
                "run was trained on some of them"
            )
    for name in changes.keys() & UNREAD:
        raise ConfigError(f"config.{name} = {changes[name]!r}: no test reads it")
    for name in changes.keys() & {"dataset.cache_dir", "dataset.cache_side"}:
        if not config.dataset.cache:
            raise ConfigError(f"config.{name} is read with config.dataset.cache")
    if batch_stats == "population" and "dataset.name" not in changes:
        return
    for name in changes.keys() & OF_TRAINING:
        raise ConfigError(
            f"config.{name} = {changes[name]!r}: a test does not read it, except for "
            "a pass over the run's own data (--batch_stats=population)"
        )


def _check_joined(splits):
    """Raises PredictionsError if the scores of these splits cannot be averaged."""
    first = splits[0]
    for number, split in enumerate(splits[1:], 2):
        of = f"number 1 and number {number} of the ensemble"
        if set(split.label_names) != set(first.label_names):
            differ = classes.compared(first.label_names, split.label_names)
            raise scoring.PredictionsError(f"{of} have other classes: {differ}")
        if split.digest() != first.digest():
            has, have = (
                f"{len(x):,} images of {x.name}, {x.split}" for x in (first, split)
            )
            raise scoring.PredictionsError(
                f"{of} are for other examples, or in another order: {has}; {have}"
            )


class _Test(typing.NamedTuple):
    """A run that can be tested, with the data, and how the network is shown it."""

    opened: trained.Trained
    split: data_source.Split
    protocol: protocols.Protocol
    steps: dict


def _open(run, config, checkpoint, batch_stats):
    """Opens the `_Test` of a run; what cannot be tested is refused here."""
    checks.check_enough_devices(config, jax.device_count(), jax.process_count())
    dataset = config.dataset
    if config.eval.protocol != "single" and dataset.cache:
        # The cache's images may be smaller than a protocol asks for.
        dataset = dataset.copy_and_resolve_references()
        dataset.cache = ""
    split = trained.open_split(dataset, dataset.eval_split)
    height, width, _ = split.image_shape
    if dataset.cache and (not height or min(height, width) >= dataset.cache_side):
        trained.say(
            f"the images are those of the cache ({dataset.cache}, short sides of at "
            f"most {dataset.cache_side} pixels), as in the training's own evaluations; "
            "--change=dataset.cache= reads the originals"
        )
    build.check_labels(split, "eval_split")
    build.check_hosts(split)
    changes = configuration.changed(run.config(), config)
    others, seen = "dataset.name" in changes, None
    if others or "dataset.eval_split" in changes:
        seen = trained.trained_on(split, run, config.dataset)
    if split.findings and jax.process_index() == 0:
        print(report.describe(split, others=others and seen is None), flush=True)
    if seen:
        trained.say(
            f"warning: by their names, {seen:,} of the {len(split):,} images of "
            f"{split.split} are those that {run} was trained on; its error on them "
            "says little of others"
        )
    elif others and seen == 0:
        trained.say(
            f"note: by its names, {split.name} is the data of {run} in another place; "
            f"{split.split} was not trained on"
        )
    split = trained.of_run(split, run, config, config.dataset.eval_split)
    opened = trained.open_run(run, checkpoint, config=config, split=split)
    if batch_stats == "population":
        _check_population(opened)
    single, fit = config.eval.protocol == "single", opened.preprocessing.fit
    if single and fit == "pad" and "dataset.interpolation" in changes:
        raise ConfigError(
            f"config.dataset.interpolation = {changes['dataset.interpolation']!r} "
            "changes nothing: images are not resized (dataset.fit = 'pad')"
        )
    protocol = make_protocol(config, opened.preprocessing, split.image_shape)
    steps = make_steps(opened, opened.variables, protocol)
    return _Test(opened, split, protocol, steps)


def _run(test, batch_stats):
    """Returns (Evaluation, scoring.Predictions) of a `_Test`."""
    opened, split, protocol, steps = test
    run, config, variables = opened.run, opened.config, opened.variables
    if batch_stats == "population":
        variables = _population_variables(opened, run.config().dataset)
    predictions, damaged = predict_split(config, split, steps, variables, protocol)
    found = scoring.score(predictions)
    found["loss"] = mean_loss(losses.make_loss(config.loss), predictions, ~damaged)
    shown = protocol.describe()
    damaged = predictions.id[damaged].tolist()
    changes = configuration.changed(run.config(), config)
    data = {"dataset": split.name, "split": split.split}
    if config.dataset.cache and config.eval.protocol == "single":
        data["cache"] = config.dataset.cache
    record = {"step": opened.step, **data, **found, **shown}
    if variables.get("batch_stats"):
        record["batch_stats"] = batch_stats
    record["changes"] = changes
    if damaged:
        record["damaged"] = damaged
    files, failed = [], []
    if jax.process_index() == 0:
        name = results.suffix(config.eval.protocol, batch_stats, changes)
        suffix = f"{opened.step}{name}"
        try:
            files = results.write(run, suffix, record, predictions)
        except workdir.ReadOnly as e:
            logging.warning("%s", e)
        except workdir.WorkdirError as e:
            failed.append(str(e))
    worst = scoring.worst_classes(predictions)
    evaluation = Evaluation(
        str(run), split.split, len(split), record, shown, worst, damaged, files, failed
    )
    return evaluation, predictions


# The network and its statistics.


def _check_population(opened):
    """Raises ConfigError for a network whose training had no batch's statistics."""
    if not opened.variables.get("batch_stats"):
        raise ConfigError(
            f"--batch_stats=population: {opened.config.model.name} has no batch "
            "normalisation"
        )
    if opened.config.model.frozen_statistics:
        raise ConfigError(
            "--batch_stats=population: config.model.frozen_statistics keeps those of "
            "config.init_from, with which this network was trained"
        )


def _population_variables(opened, trained_on):
    """Returns the variables with the statistics of a pass over the training data.

    If other data is tested, the pass reads that of the training, the run's own
    config.dataset `trained_on`. Its batches are those that a step normalised together:
    augmented, repeated and mixed as in the training, and in its micro-batches.
    """
    config, variables = opened.config, opened.variables
    if config.dataset.name != trained_on.name:
        config = config.copy_and_resolve_references()
        config.dataset = trained_on
    split = build.open_split(config.dataset, config.dataset.train_split)
    build.check_hosts(split)
    trained.check_split(split, opened.run, config, config.dataset.train_split)
    trained.say(f"batch statistics of a pass over {split.name}, {split.split}")
    batch_size, parts = config.batch_size, config.optimizer.accumulate
    if jax.process_count() > 1:
        checks.check_devices(config, jax.device_count(), jax.process_count())
    # Fewer devices, if all of them cannot share a batch, find the same statistics.
    devices = math.gcd(batch_size // parts, config.num_devices or jax.device_count())
    _, balanced = balance.find(config, split)
    preprocessing, view = build.make_view(
        config, split.image_shape, len(split) / batch_size
    )
    if view:  # show the size with which the training ended
        view = dataclasses.replace(view, sizes=((0, view.sizes[-1][1]),))
    objective = build.make_objective(
        config,
        opened.model,
        dataclasses.replace(preprocessing, statistics=opened.preprocessing.statistics),
    )

    def prepare(batch, key):
        return objective.inputs(batch, config.seed, key)[0]

    mesh = build.make_mesh(devices)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batches = input_pipeline.train_batches(
        split,
        build.make_plan(config, len(split), balanced),
        0,
        max(len(split) // batch_size, 1),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        view=view,
        damaged=config.dataset.damaged,
        **build.reading(config.dataset),
    )
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(
        population.make_population_step(opened.model, prepare),
        compiler_options=ops.compiler_options(jax.default_backend()),
    )
    sent = (
        {
            name: input_pipeline.put(batch[name][part::parts], sharding)
            for name in objective.keys
        }
        for batch in batches
        for part in range(parts)
    )
    with ops.for_mesh(mesh):
        statistics = population.population_statistics(
            step, variables, sent, config.seed
        )
    return jax.device_get({**variables, "batch_stats": statistics})


def make_protocol(config, preprocessing, image_shape):
    """Makes the protocol of `config.eval` for stored images `image_shape` [H, W, C]."""
    name = config.eval.protocol
    scales, view = (), None
    build.check_short_side(config, preprocessing)
    if name == "single":
        view = preprocessing.view(image_shape)
        if preprocessing.fit == "crop":
            scales = (preprocessing.short_side,)
    elif preprocessing.fit == "crop":
        usual = protocols.SCALES.get(name, (preprocessing.short_side,))
        scales = config.eval.scales or usual
        if config.eval.short_side and name in protocols.SCALES:
            trained.say(
                f"note: config.eval.short_side = {config.eval.short_side} is not used "
                f"by the protocol {name}, whose sides are {usual}; config.eval.scales "
                "sets them"
            )
    elif config.eval.scales or config.eval.short_side:
        scales = config.eval.scales or (config.eval.short_side,)
    else:
        raise ConfigError(
            f"config.eval.protocol = {name!r} rescales images, and this network saw "
            f"them without that (fit {preprocessing.fit!r}): say to which short sides "
            f"in pixels, such as --change=eval.scales={preprocessing.image_size}"
        )
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
        raise ConfigError(f"config.eval.protocol = {name!r}: {e}") from e


def make_steps(opened, variables, protocol):
    """Returns {kind of view: jitted `protocols.make_step`} for what `protocol` shows.

    Raises:
      ConfigError: the network of the trained.Trained cannot be tested this way.
    """
    config, model, preprocessing = opened.config, opened.model, opened.preprocessing
    size, image_shape = protocol.image_size, opened.image_shape
    shapes = {"crop": image_shape}
    if protocol.name != "single" or protocol.view:  # views have the right size already
        preprocessing = preprocessing.of_views()
        parts = protocols.PROTOCOLS.get(protocol.name, (("crop", None),))
        shapes = {
            kind: (size if kind == "crop" else min(protocol.scales),) * 2
            + image_shape[2:]
            for kind, _ in parts
        }

    def prepare(images):
        return preprocessings.network_input({"image": images}, preprocessing)

    steps = {}
    for kind, shape in shapes.items():
        if kind == "fine_map" and not hasattr(model, "fine_class_map"):
            raise ConfigError(
                f"config.eval.protocol = 'offsets': {config.model.name} has no last "
                "pool to offset, as the networks of OverFeat have; 'dense' and "
                "'scales' slide any network"
            )
        step = protocols.make_step(
            model,
            kind,
            prepare,
            average=protocol.average,
            image_size=opened.trained_shape[:2],
        )
        try:
            jax.eval_shape(
                step, variables, jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
            )
        except (ValueError, TypeError, flax.errors.FlaxError) as e:
            raise ConfigError(
                f"config.eval.protocol = {protocol.name!r}: {config.model.name} "
                f"cannot take images of {shape}: {e}"
            ) from e
        options = ops.compiler_options(jax.default_backend())
        steps[kind] = jax.jit(step, compiler_options=options)
    return steps


# From a split to the scores of its images.


def predict_split(config, split, steps, variables, protocol):
    """Returns scoring.Predictions of a split, and which images are damaged, bool [N].

    Each process evaluates every n-th image on its own devices.
    """
    split.preload()
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
        **build.reading(config.dataset),
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
        names,
        labels,
        logits,
        np.array(split.label_names),
        protocol.average,
        config.loss.name,
    )
    return predictions, damaged


REPORT_SECONDS = 30


def _reporter(count):
    """Returns a function that prints now and then how many of `count` were read."""
    last = time.monotonic()

    def report(done):
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS and jax.process_index() == 0:
            last = time.monotonic()
            print(f"evaluation: {done}/{count} images", file=sys.stderr, flush=True)

    return report


def _from_all_processes(rows, count):
    """Gathers rows 0 to count - 1 on all processes, of which each has every n-th."""
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


def mean_loss(loss, predictions, read):
    """Returns the loss per image that could be `read`, bool [N].

    It is not a number if one of their answers is none, or there are no images.
    """
    logits, labels = predictions.logits[read], predictions.label[read]
    total = 0.0
    for start in range(0, len(labels), 4096):
        part = slice(start, start + 4096)
        total += np.asarray(loss(logits[part], labels[part]), np.float64).sum()
    return total / len(labels) if len(labels) else math.nan
