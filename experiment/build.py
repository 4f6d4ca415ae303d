"""Builds the objects of a run from its config; no other module reads it for them.

`setup` builds everything that training needs, for the trainer and the sweep alike. The
functions that it calls build one part each, for callers that need only that part.
"""

import contextlib
import dataclasses
import fractions
import functools
import math
import os
import typing

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data_source
import input_pipeline
import models
from data_source import DataError, cache, report
from errors import ConfigError
from evaluation import eval_step, evaluator
from experiment import balance, checks
from kernels import ops
from models import layers
from training import (
    durations,
    losses,
    objective,
    optimizers,
    remat,
    schedules,
    train_step,
)
from transforms import augment, policies
from transforms import preprocessing as preprocessings

# Larger training splits stay on the host unless the config says otherwise.
ON_DEVICE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Setup:
    """A config's splits, network, views and durations; `setup` makes it.

    `dataclasses.replace(setup, config=...)` with a config that differs only in numbers,
    which may be traced, builds that config's optimizer, objective and evaluation.

    Attributes:
      durations: the `Durations` of the training.
      plan: which example each training step sees.
      class_weights: of the training's loss, one per class; or None.
      preprocessing, view: for training images; the view is None if jit does it all.
      eval_preprocessing: for evaluation images.
      input_shape: [H, W, C] of the network's input in training.
      variables: the network's variables, as shapes.
      trained_model: `model` with the rematerialised stages of config.model.remat.
      choice: the budget.Choice of those stages if config.model.remat is "auto" and
        they are chosen; or None.
    """

    score: typing.ClassVar = "error"  # the metric that chooses the best evaluation

    config: typing.Any
    mesh: Mesh
    train_split: data_source.Split
    eval_split: data_source.Split
    durations: "Durations"
    plan: input_pipeline.TrainPlan
    class_weights: np.ndarray | None
    preprocessing: preprocessings.Preprocessing
    view: preprocessings.TrainView | None
    eval_preprocessing: preprocessings.Preprocessing
    input_shape: tuple
    model: typing.Any
    variables: typing.Any
    trained_model: typing.Any
    choice: typing.Any = None

    def optimizer(self):
        """Returns (step -> learning rate, optax transformation)."""
        return make_optimizer(
            self.config, self.durations.epoch_steps, self.durations.total
        )

    def schedule(self):
        """Returns the function: step -> learning rate, as a program if it is long.

        Without jit, each operation is compiled on its own.
        """
        schedule, _ = self.optimizer()
        constant = self.config.schedule.name in ("constant", "plateau")
        return schedule if constant else jax.jit(schedule)

    def init(self):
        """Returns the function: seed -> train_step.TrainState at step 0."""
        _, tx = self.optimizer()
        ema = self.config.optimizer.ema_decay
        return train_step.make_init(self.model, tx, self.input_shape, ema)

    def objective(self):
        return make_objective(
            self.config, self.trained_model, self.preprocessing, self.class_weights
        )

    def train_step(self):
        """Returns the function: (state, batch, seed) -> (state, sums)."""
        optimizer = self.config.optimizer
        return train_step.make_train_step(
            self.objective(),
            self.optimizer()[1],
            accumulate=optimizer.accumulate,
            ema_decay=optimizer.ema_decay,
            ema_every=optimizer.ema_every,
        )

    def eval_step(self):
        """Returns the function: (variables, batch) -> sums."""
        loss = losses.make_loss(self.config.loss)
        prepare = functools.partial(
            preprocessings.network_input, preprocessing=self.eval_preprocessing
        )
        return eval_step.make_eval_step(self.model, prepare, loss)

    def evaluator(self, step):
        """Returns the evaluation.evaluator.Evaluator for a jitted `eval_step`."""
        return evaluator.Classification(
            step,
            self.eval_split,
            self.config.eval.batch_size,
            self.mesh,
            view=self.eval_preprocessing.view(self.eval_split.image_shape),
            reading={
                "damaged": self.config.eval.damaged,
                **reading(self.config.dataset),
            },
        )

    def feed(self, keys, first_step):
        """Feeds the arrays `keys` of each batch to the devices, from `first_step` on.

        config.dataset.placement decides whether the whole split lies on the devices or
        the host sends batches.
        """
        config, split, placement = self.config, self.train_split, self.placement()
        if placement == "device":
            return input_pipeline.DeviceFeed(
                split,
                self.plan,
                self.mesh,
                config.steps_per_dispatch,
                config.dataset.damaged,
            )
        return input_pipeline.HostFeed(
            split,
            self.plan,
            self.mesh,
            first_step,
            self.durations.total,
            keys=keys,
            view=self.view,
            damaged=config.dataset.damaged,
            **reading(config.dataset),
        )

    def placement(self):
        """Resolves config.dataset.placement: "device" or "host", never "auto"."""
        placement = self.config.dataset.placement
        if placement != "auto":
            return placement
        if self.view is not None:
            return "host"
        size = len(self.train_split) * math.prod(self.train_split.image_shape)
        return "device" if size <= ON_DEVICE_BYTES else "host"

    @property
    def tested_shape(self):
        """[H, W, C] of the network's input in evaluations."""
        return input_shape(self.eval_preprocessing, self.train_split.image_shape)

    def describe_data(self):
        """Says in lines what was found in the splits."""
        return report.describe(self.train_split, self.eval_split)

    def chosen(self):
        """What "auto" stands for in config.dataset, in words."""
        dataset, found = self.config.dataset, []
        if dataset.fit == "auto":
            preprocessing = self.eval_preprocessing
            size = "x".join([str(preprocessing.image_size)] * 2)
            found.append(f"fit {preprocessing.fit} (images that are not {size})")
        if dataset.placement == "auto":
            found.append(f"placement {self.placement()}")
        return found

    def renumbered(self, number, report):
        """A copy with `number(split, report=...)` of both splits; reports for one."""
        train_split = number(self.train_split, report=report)
        changed = {}
        if train_split is not self.train_split:
            weights, balanced = balance.find(self.config, train_split)
            plan = dataclasses.replace(self.plan, balance=balanced)
            changed = {"plan": plan, "class_weights": weights}
        return dataclasses.replace(
            self,
            train_split=train_split,
            eval_split=number(self.eval_split, report=lambda line: None),
            **changed,
        )

    def with_statistics(self, statistics):
        """A copy whose preprocessing has these statistics of the training images."""
        add = functools.partial(dataclasses.replace, statistics=statistics)
        return dataclasses.replace(
            self,
            preprocessing=add(self.preprocessing),
            eval_preprocessing=add(self.eval_preprocessing),
        )


def setup(config, num_devices=None):
    """Builds the `Setup` of a checked config.

    `num_devices` defaults to config.num_devices.

    Raises:
      DataError: the data is not available.
      ConfigError: the parts do not fit together; the message names the field.
    """
    mesh = make_mesh(config.num_devices if num_devices is None else num_devices)
    names = config.dataset.train_split, config.dataset.eval_split
    train_split, eval_split = open_splits(config.dataset, names)
    check_labels(train_split, "train_split")
    check_labels(eval_split, "eval_split")
    check_hosts(train_split, eval_split)
    lengths = make_durations(config, len(train_split))
    preprocessing, view = make_view(
        config, train_split.image_shape, lengths.epoch_steps
    )
    check_curvature(config, view)
    shape = input_shape(preprocessing, train_split.image_shape)
    model = make_model(config, train_split.num_classes)
    variables = abstract_variables(model, shape)
    eval_preprocessing = make_preprocessing(config, eval_split.image_shape)
    check_short_side(config, eval_preprocessing)
    tested = input_shape(eval_preprocessing, eval_split.image_shape)
    sizes = {(pixels, pixels, shape[-1]) for _, pixels in config.augment.image_sizes}
    check_sizes(model, variables, "augment.image_sizes", sizes - {shape}, train=True)
    check_sizes(model, variables, "eval.image_size", {tested} - {shape}, train=False)
    checks.check_parameters(config, variables["params"])
    class_weights, balanced = balance.find(config, train_split)
    return Setup(
        config,
        mesh,
        train_split,
        eval_split,
        lengths,
        make_plan(config, len(train_split), balanced),
        class_weights,
        preprocessing,
        view,
        eval_preprocessing,
        shape,
        model,
        variables,
        rematerialised(config.model.remat, model, shape),
    )


# Data.


def open_split(dataset, split):
    """Opens one split for a trained network, from its cache if it has one."""
    return _cached(dataset, *_stored(dataset, (split,), tested=True))


def open_splits(dataset, splits):
    """Opens the splits of config.dataset that a training needs, or its cache's.

    Raises:
      ConfigError: the cache would make the network's input smaller.
    """
    opened = _stored(dataset, splits)
    if not dataset.cache:
        return opened
    for split in opened:
        sides = [side or 0 for side in split.image_shape[:2]]  # 0: of any size
        if min(sides) > dataset.cache_side and not dataset.image_size:
            raise ConfigError(
                f"config.dataset.cache_side = {dataset.cache_side} would make the "
                f"network's input smaller: the images of {split.name} are "
                f"{sides[0]}x{sides[1]}; say config.dataset.image_size, or raise "
                "cache_side"
            )
    return [_cached(dataset, split) for split in opened]


def _stored(dataset, splits, *, tested=False):
    """Opens splits as they are stored, without a cache."""
    return data_source.open_splits(
        dataset.name,
        splits,
        data_dir=dataset.data_dir or None,
        download=dataset.download,
        holdout=dataset.holdout,
        holdout_by=dataset.holdout_by,
        tested=tested,
    )


def _cached(dataset, split):
    """The split as its cache has it, if there is one."""
    if not dataset.cache:
        return split
    return cache.open_cached(
        split,
        dataset.cache,
        dataset.cache_dir,
        dataset.cache_side,
        interpolation=dataset.interpolation,
        num_threads=dataset.num_threads or None,
    )


def check_labels(split, field):
    """Raises ConfigError if the images of config.dataset's `field` have no labels."""
    if not split.has_labels():
        raise ConfigError(
            f"config.dataset.{field} = {split.split!r}: the images of this split of "
            f"{split.name} have no labels; choose another"
        )


def check_hosts(*splits):
    """Raises DataError if the processes of a run do not all have the same examples."""
    if jax.process_count() == 1:
        return
    for split in splits:
        digest = np.frombuffer(bytes.fromhex(split.digest()), np.uint8)
        digests = multihost_utils.process_allgather(digest)
        counts = multihost_utils.process_allgather(np.int32(len(split)))
        if (digests != digests[0]).any():
            raise DataError(
                f"{split.name}, {split.split}: the processes, which must read the same "
                "images in the same order and classes, read others; from process 0 on "
                f"they have {', '.join(map(str, counts.tolist()))}. Give each host the "
                "same copy"
            )


def reading(dataset):
    """Reader options for input_pipeline's train_batches and eval_batches."""
    cores = len(os.sched_getaffinity(0))
    return {
        "num_threads": dataset.num_threads or cores,
        "prefetch": dataset.prefetch,
    }


def make_plan(config, num_examples, balanced=None):
    return input_pipeline.TrainPlan(
        num_examples,
        config.batch_size,
        config.seed,
        order=config.dataset.order,
        repeats=config.augment.repeats,
        balance=balanced,
    )


def make_mesh(num_devices=0):
    """A mesh with one axis, "data", over the first `num_devices`; 0 means all."""
    devices = jax.devices()[: num_devices or None]
    return Mesh(np.array(devices), ("data",))


class Durations(typing.NamedTuple):
    """Steps per epoch, per evaluation and per save (Fractions), and in total."""

    epoch_steps: fractions.Fraction
    eval_every: fractions.Fraction
    save_every: fractions.Fraction
    total: int


def make_durations(config, num_examples):
    """The `Durations` of training on `num_examples` examples.

    Raises:
      ConfigError: training would be shorter than one step.
    """
    epoch_steps = fractions.Fraction(num_examples, config.batch_size)
    total = durations.in_steps(config.num_epochs, epoch_steps)
    if config.num_steps and config.num_epochs:
        total = config.num_steps
    if total < 1 and not (config.init_from and config.num_epochs == 0):
        raise ConfigError(
            f"config.num_epochs = {config.num_epochs} is less than one step of "
            f"config.batch_size = {config.batch_size} images; 0 is for the weights of "
            "config.init_from as they are"
        )
    return Durations(
        epoch_steps,
        durations.exact_steps(config.eval.every_epochs, epoch_steps),
        durations.exact_steps(config.checkpoint.every_epochs, epoch_steps),
        total,
    )


# From a stored image to the network's input.


def make_preprocessing(config, image_shape, *, training=False):
    """The path from stored images of `image_shape` [H, W, C] to the network's input.

    In training, and where config.eval has 0, config.dataset sets the sizes.
    """
    dataset, fit = config.dataset, config.dataset.fit
    size, short_side = dataset.image_size, dataset.short_side
    if not training:
        size = config.eval.image_size or size
        short_side = config.eval.short_side or short_side
    if not size and None in image_shape:
        raise ConfigError(
            f"config.dataset.name = {dataset.name!r}: images differ in size; say "
            "config.dataset.image_size"
        )
    if fit == "auto":
        files = data_source.is_files(dataset.name)
        fit = "resize" if files or None in image_shape else "pad"
    try:
        preprocessing = preprocessings.Preprocessing(
            image_size=size or max(image_shape[:2]),
            fit=fit,
            mean=dataset.mean,
            std=dataset.std,
            short_side=short_side,
            interpolation=dataset.interpolation,
            whiten=dataset.whiten,
        )
        input_shape(preprocessing, image_shape)
    except ValueError as e:
        raise ConfigError(f"config.dataset: {e}") from e
    return preprocessing


def check_short_side(config, preprocessing):
    """Raises ConfigError if config.eval.short_side would change nothing."""
    side, fit = config.eval.short_side, preprocessing.fit
    if side and fit != "crop" and config.eval.protocol == "single":
        raise ConfigError(
            f"config.eval.short_side = {side}: the protocol 'single' cuts nothing from "
            f"it, because config.dataset.fit is {fit!r} here: leave it 0 "
            "(config.eval.image_size tests at another size)"
        )


def make_view(config, image_shape, epoch_steps):
    """Returns (Preprocessing of training images, their TrainView or None).

    The view is None if jit can do all that the config asks for `image_shape`.
    """
    preprocessing = make_preprocessing(config, image_shape, training=True)
    augmentation = augmentation_of(config, policies.HostAugmentation)
    whole = None if augmentation.view else preprocessing.view(image_shape)
    if not (augmentation.view or augmentation.policy or whole):
        return preprocessing, None
    if config.dataset.placement == "device":
        raise ConfigError(
            'config.dataset.placement = "device": images that differ in size or are '
            "not resized bilinearly, crops and policies are made on the host"
        )
    if augmentation.view or whole:
        preprocessing = preprocessing.of_views()
    sizes = config.augment.image_sizes or ((0.0, preprocessing.image_size),)
    sizes = tuple((durations.in_steps(e, epoch_steps), pixels) for e, pixels in sizes)
    return preprocessing, preprocessings.TrainView(augmentation, sizes, whole)


def check_curvature(config, view):
    """Raises ConfigError if "sdlm" would see other images than the training."""
    changed = view and (view.whole or view.augmentation.view)
    if config.optimizer.name == "sdlm" and changed:
        raise ConfigError(
            "config.optimizer.name = 'sdlm' finds the curvature on images as they are "
            "stored, and these are cropped or resized on the host first; it needs "
            "images of one size, without config.augment.view, fit 'crop', or resizing "
            "by another interpolation than bilinear"
        )


def augmentation_of(config, options):
    """Fills the dataclass `options` with the fields it shares with config.augment."""
    fields = dataclasses.fields(options)
    return options(**{field.name: config.augment[field.name] for field in fields})


def input_shape(preprocessing, image_shape):
    """[H, W, C] of the network's input for stored images of `image_shape`."""
    if preprocessing.fit == "crop" or preprocessing.view(image_shape):
        image_shape = (*2 * (preprocessing.image_size,), image_shape[-1])
    images = {"image": jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)}
    network_input = functools.partial(
        preprocessings.network_input,
        preprocessing=dataclasses.replace(preprocessing, whiten=""),
    )
    return jax.eval_shape(network_input, images).shape[1:]


# The network.


def make_model(config, num_classes):
    """Creates the network of `config`, a linen module."""
    try:
        return models.create(
            config.model.name,
            num_classes=num_classes,
            dtype=jnp.dtype(config.model.dtype),
            **config.model.fields,
        )
    except (ValueError, TypeError) as e:
        raise ConfigError(f"config.model: {e}") from e


def rematerialised(stages, model, shape):
    """Returns `model` with `stages` rematerialised in training (config.model.remat).

    With "auto" it returns `model`; budget.py chooses later.
    """
    if stages in ("", remat.AUTO):
        return model
    try:
        return remat.rematerialised(model, stages.split(","), shape)
    except ValueError as e:
        raise ConfigError(f"config.model.remat = {stages!r}: {e}") from e


def replicated_shapes(mesh, function, *args):
    """Returns the shapes of what `function(*args)` returns, replicated on `mesh`."""
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(function, *args),
    )


def abstract_variables(model, shape):
    """The network's variables as shapes.

    Raises:
      ConfigError: the network cannot take images of `shape` [H, W, C].
    """
    init = functools.partial(model.init, train=False)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with refusing(model, shape), layers.shapes_only(), ops.portable():  # the quickest
        return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), images)


@contextlib.contextmanager
def refusing(model, shape):
    """Turns what is raised inside into a ConfigError: a trace of `model` failed."""
    try:
        yield
    except (ValueError, TypeError, flax.errors.FlaxError) as e:
        raise ConfigError(
            f"{type(model).__name__} cannot take images of {shape}: {e}"
        ) from e


def check_sizes(model, variables, field, shapes, *, train):
    """Raises ConfigError for images [H, W, C] that the network's variables cannot take.

    `shapes` are the sizes of config's `field` that initialisation has not checked; in
    training side heads see them, too.
    """
    mutable = ["batch_stats", "auxiliary"]
    apply = functools.partial(model.apply, train=train, mutable=mutable)
    rngs = {"dropout": jax.eval_shape(jax.random.key, 0)}
    for shape in shapes:
        images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        try:
            jax.eval_shape(apply, variables, images, rngs=rngs)
        except (ValueError, TypeError, flax.errors.FlaxError) as e:
            raise ConfigError(
                f"config.{field}: the network cannot take images of "
                f"{shape[0]}x{shape[1]} beside those of its own size: {e}"
            ) from e


# The optimizer and the objective.


def make_optimizer(config, epoch_steps, total_steps):
    """Returns a config's (step -> learning rate, optax transformation)."""
    optimizer = config.optimizer
    rate = optimizer.learning_rate
    if optimizer.per_examples:
        rate *= config.batch_size / optimizer.per_examples
    schedule = schedules.make_schedule(
        rate=rate, epoch_steps=epoch_steps, total_steps=total_steps, **config.schedule
    )
    tx = optimizers.make_optimizer(
        optimizer.name,
        schedule,
        kwargs=optimizer.kwargs,
        weight_decay=optimizer.weight_decay,
        decay_mask=optimizer.decay_mask,
        clip_norm=optimizer.clip_norm,
        plateau=config.schedule.name == "plateau",
        rate_factors=optimizer.rate_factors,
        unfreeze=[
            (expression, durations.in_steps(epoch, epoch_steps))
            for expression, epoch in optimizer.unfreeze
        ],
        filter_rms=optimizer.filter_rms,
    )
    return schedule, tx


def make_objective(config, model, preprocessing, class_weights=None):
    """The training.objective of a config."""
    mix = None
    if config.augment.mixup or config.augment.cutmix:
        mix = functools.partial(
            augment.mix,
            mixup_alpha=config.augment.mixup,
            cutmix_alpha=config.augment.cutmix,
        )
    return objective.Classification(
        model,
        losses.weighted(losses.make_loss(config.loss), class_weights),
        functools.partial(
            preprocessings.network_input,
            preprocessing=preprocessing,
            augmentation=augmentation_of(config, augment.Augmentation),
        ),
        auxiliary_weight=config.loss.auxiliary_weight,
        mix=mix,
        frozen_statistics=config.model.frozen_statistics,
    )
