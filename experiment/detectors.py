"""Builds the `Setup` of a detector, a network of models.DETECTORS."""

import dataclasses
import functools
import re
import typing

import jax
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

import models
from data_source import DataError, classes
from detection import (
    evaluator,
    inputs,
    objective,
    pictures,
    recall,
    results,
    sources,
    views,
)
from errors import ConfigError
from evaluation import results as evaluation_files
from experiment import build, checks, configuration, proposals, trained, workdir
from input_pipeline import GroupedPlan
from kernels import ops

# Fields of config.detection that say how the objective samples, and what it weighs.
OBJECTIVE = (
    "rpn_batch rpn_fg rpn_iou only_inside rpn_beta roi_batch roi_fg roi_iou "
    "roi_background box_beta spare_crowds"
).split()
# Those that say how an image is shown.
VIEW = (
    "short_side long_side train_short_sides use_difficult flip_vertical test_scales"
).split()


@dataclasses.dataclass(frozen=True)
class Setup(build.Setup):
    """As `build.Setup`, for a detector.

    `preprocessing` and `eval_preprocessing` are an `inputs.Preprocessing`.
    """

    def objective(self):
        return make_objective(self.config, self.trained_model, self.preprocessing)

    def eval_step(self):
        """Returns the function: (variables, batch) -> faster_rcnn.Detections."""
        return make_eval_step(self.config, self.model, self.eval_preprocessing)

    def evaluator(self, step):
        """Returns what `make_evaluator` does, for a jitted `eval_step`."""
        return make_evaluator(
            self.config, self.eval_split, step, self.eval_preprocessing, self.mesh
        )

    @property
    def tested_shape(self):
        return self.input_shape

    def describe_data(self):
        return sources.describe(self.train_split, self.eval_split)

    def chosen(self):
        """What was chosen for fields of the config that leave it open."""
        view, detection = self.preprocessing.view, self.config.detection
        found = []
        if not detection.buckets:
            buckets = " and ".join(f"{h}x{w}" for h, w in view.buckets)
            found.append(f"images padded to {buckets} (detection.buckets)")
        if not detection.max_boxes:
            found.append(f"at most {view.max_boxes} objects (detection.max_boxes)")
        return found

    def renumbered(self, number, report):
        """A copy with `number(split, report=...)` of both splits; reports for one."""
        return dataclasses.replace(
            self,
            train_split=number(self.train_split, report=report),
            eval_split=number(self.eval_split, report=lambda line: None),
        )


def setup(config, num_devices=None):
    """Builds the `Setup` of a checked config whose network is a detector.

    The errors are those of `build.setup`.
    """
    mesh = build.make_mesh(config.num_devices if num_devices is None else num_devices)
    train_split, eval_split = (
        open_split(config, name)
        for name in (config.dataset.train_split, config.dataset.eval_split)
    )
    build.check_hosts(train_split, eval_split)
    eval_split = alike(config, eval_split, train_split)
    if (part := untrained(config)) and _loads(config, part):
        raise ConfigError(
            f"config.init_from = {config.init_from!r}: it trained one stage alone, and "
            f"its {part} is as initialised; name the run of the step before, or leave "
            f"the {part} out by config.init_layers"
        )
    if config.detection.proposals:
        train_split = with_proposals(config, train_split, mesh, training=True)
    if untrained(config) == "rpn":
        eval_split = with_proposals(config, eval_split, mesh)
    shared = make_preprocessing(config, (train_split, eval_split))
    preprocessing = shared.for_split(train_split)
    view = preprocessing.view
    plan = GroupedPlan(view.groups(train_split), config.batch_size, config.seed)
    model = build.make_model(config, train_split.num_classes)
    shape = (*view.buckets[0], train_split.channels)
    variables = build.abstract_variables(model, shape)
    checks.check_parameters(config, variables["params"])
    if not train_split.class_counts().any():
        raise DataError(
            f"{train_split.name}, {train_split.split}: no image has objects"
        )
    found = Setup(
        config,
        mesh,
        train_split,
        eval_split,
        build.make_durations(config, len(train_split)),
        plan,
        None,
        preprocessing,
        views.TrainView(view, plan),
        shared.for_split(eval_split),
        shape,
        model,
        variables,
        build.rematerialised(config.model.remat, model, shape),
    )
    found.evaluator(None)  # what cannot be evaluated ends the run before it begins
    return found


def open_split(config, split):
    """Opens a split of config.dataset's data set of annotated objects."""
    dataset, detection = config.dataset, config.detection
    return sources.open_split(
        dataset.name,
        split,
        data_dir=dataset.data_dir or None,
        download=dataset.download,
        damaged=detection.damaged_boxes,
        unclear=detection.unclear,
    )


def alike(config, eval_split, train_split):
    """Returns the split to evaluate on with the classes numbered as in the training.

    Raises:
      DataError: it has other classes, or images of other channels.
    """
    name, here = eval_split.name, f"in config.dataset.eval_split = {eval_split.split!r}"
    if eval_split.channels != train_split.channels:
        raise DataError(
            f"{name} has images of {eval_split.channels} channels {here}, and of "
            f"{train_split.channels} in {train_split.split!r}"
        )
    advice = f"those here are {here}"
    if set(eval_split.label_names) < set(train_split.label_names):
        advice += "; --config.eval.classes=subset evaluates on some of the classes"
    return classes.numbered_as(
        eval_split,
        train_split.label_names,
        f"its split {train_split.split!r}",
        advice,
        subset=config.eval.classes == "subset",
        report=lambda line: trained.say(f"{line}: {here}"),
    )


def make_preprocessing(config, splits, known=()):
    """The `inputs.Preprocessing` of images of some splits.

    `known` are the buckets of the training, for images that they hold.
    """
    dataset, detection = config.dataset, config.detection
    channels = splits[0].channels
    for name in ("mean", "std"):
        values = dataset[name]
        if channels > 1 and len(values) not in (1, channels):
            raise ConfigError(
                f"config.dataset.{name} = {values} has {len(values)} values for images "
                f"of {channels} channels"
            )
    view = views.make_view(
        splits,
        buckets=detection.buckets,
        known=known,
        max_boxes=detection.max_boxes,
        flip=config.augment.flip,
        interpolation=dataset.interpolation,
        **{name: detection[name] for name in VIEW},
    )
    return inputs.Preprocessing(view, dataset.mean, dataset.std)


def make_objective(config, model, preprocessing):
    """The objective of a config: objective.Detection, or of one stage alone."""
    return objective.STAGES[config.detection.stage](
        model,
        preprocessing.network_input,
        frozen_statistics=config.model.frozen_statistics,
        **{name: config.detection[name] for name in OBJECTIVE},
    )


def make_step(model, preprocessing):
    """Makes the function: (variables, batch) -> faster_rcnn.Detections."""

    def step(variables, batch):
        return model.apply(variables, *preprocessing.seen(batch), train=False)

    return step


def make_eval_step(config, model, preprocessing):
    """Makes the step of `make_evaluator`: `make_step`, or proposals.make_step."""
    make = proposals.make_step if config.detection.stage == "rpn" else make_step
    return make(model, preprocessing)


def make_evaluator(config, split, step, preprocessing, mesh):
    """Returns the evaluator of a split for a jitted `make_eval_step`.

    It is a detection.evaluator.Detection, or where the region proposal network is
    trained alone a detection.recall.Recall.
    """
    rpn = config.detection.stage == "rpn"
    make = recall.Recall if rpn else evaluator.Detection
    try:
        return make(
            step,
            split,
            preprocessing.view,
            config.eval.batch_size,
            mesh,
            config.detection.metric,
            {"damaged": config.eval.damaged, **build.reading(config.dataset)},
        )
    except ValueError as error:
        raise ConfigError(f"config.detection: {error}") from error


# Runs that train one stage alone.


def untrained(config):
    """The part that a run of one stage leaves as initialised, "rpn" or "head", or "".

    A part that config.init_from gives counts as trained, unless that is a run which
    left it as initialised itself.
    """
    part = {"rpn": "head", "fast_rcnn": "rpn"}.get(config.detection.stage, "")
    if not part or not _loads(config, part):
        return part
    source = workdir.Workdir(config.init_from)
    other = source.config() if source.has("config.json") else None
    half = other and models.is_detector(other.model.name) and untrained(other)
    return part if half == part else ""


def _loads(config, part):
    """Says whether config.init_from gives a part of the network, "rpn" or "head"."""
    loaded = (config.init_layers or (".",)) if config.init_from else ()
    return any(re.search(layer, f"{part}/cls/kernel") for layer in loaded)


def with_proposals(config, split, mesh, *, training=False):
    """Returns a split with the proposals of the run config.detection.proposals.

    Raises:
      ConfigError: that run has no trained region proposal network.
      DataError: it sees images of other channels.
    """
    run, start = map(workdir.Workdir, (config.detection.proposals, config.init_from))
    other = run.config()
    if not models.is_detector(other.model.name) or untrained(other) == "rpn":
        raise ConfigError(
            f"config.detection.proposals = {str(run)!r}: it has no region proposal "
            "network that was trained; name the run of the step before"
        )
    proposals.check(run)
    if other.dataset.name != config.dataset.name:
        trained.say(
            f"note: the proposals are of a network that learnt from "
            f"{other.dataset.name!r}, not from {config.dataset.name!r}"
        )
    own = not untrained(config)  # it has a region proposal network of its own
    if training and own and run.path.resolve() != start.path.resolve():
        trained.say(
            f"note: the second stage learns from the proposals of {run}, and the run's "
            f"own network, which proposes in tests, is that of {start}"
        )
    opened = open_run(run, split=split)
    return proposals.added(split, run, opened, mesh, training=training)


# A trained run.


class Opened(typing.NamedTuple):
    """A run's detector with its weights.

    `variables` and `step` are as in `trained.Trained`; `preprocessing` is for the
    images of the split with which it was opened, or for those of the training.
    """

    config: typing.Any
    model: typing.Any
    variables: dict
    step: int
    preprocessing: inputs.Preprocessing
    channels: int
    label_names: tuple


def open_run(run, checkpoint="latest", *, config=None, split=None):
    """Opens a trained run of a detector.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" or a step.
      config: the run's own, or one that gives the same network.
      split: the images to look at; by default they are like those of the training.

    The errors are those of `trained.open_run`; DataError for a split whose images have
    other channels; and without a split ConfigError for a network of which one stage was
    not trained.
    """
    config = config or run.config()
    if split is None and (part := untrained(config)):
        raise ConfigError(
            f"{run} trained one stage alone, and its {part} is as initialised; the run "
            "of the last step has the whole detector (docs/detection.md)"
        )
    (*_, channels), label_names = trained.dataset(run)
    if split is not None and split.channels != channels:
        raise DataError(
            f"{run} sees images of {channels} channels, and {split.name} has "
            f"{split.channels}"
        )
    preprocessing = _recorded(run)
    if split is not None:
        known = preprocessing.view.buckets
        preprocessing = make_preprocessing(config, (split,), known)
    model = build.make_model(config, len(label_names))
    shape = (*preprocessing.view.buckets[0], channels)
    variables, step = trained.load_variables(run, model, shape, checkpoint)
    return Opened(config, model, variables, step, preprocessing, channels, label_names)


def _recorded(run):
    """Returns the `inputs.Preprocessing` of a run's training."""
    record = run.read_json("preprocessing.json")
    try:
        return inputs.from_dict(configuration.tuples(record))
    except (KeyError, TypeError) as error:
        path = run.path / "preprocessing.json"
        raise workdir.WorkdirError(f"{path} is damaged: {error!r}") from error


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of a detector: its `evaluator.Result`, and the files written.

    `failed` says why they are missing, unless nothing may be written there.
    """

    run: str
    step: int
    result: evaluator.Result
    files: tuple
    record: dict
    failed: list

    def __str__(self):
        lines = [f"{self.result.describe(self.step)} of {self.run}"]
        if "AP50" in self.record:
            names = [n for n in self.result.reported if n not in ("error", "mAP")]
            numbers = (f"{name} {self.record[name]:.1f}" for name in names)
            lines.append(", ".join(numbers))
        lines += [
            f"  {row.name}: AP {row.ap:.1f} %, {row.objects:,} objects, "
            f"{row.detections:,} detections"
            for row in self.result.classes
        ]
        if self.result.classes and not any(x.detections for x in self.result.classes):
            lines.append(
                "note: nothing is found in any image, as by a network that has learnt "
                "nothing or whose numbers are not finite"
            )
        if self.files:
            lines.append(f"written: {', '.join(self.files)}")
        return "\n".join(lines)


def evaluate_run(run, config, checkpoint="latest"):
    """Evaluates a checkpoint of a run on `config.dataset.eval_split`.

    Returns:
      The `Evaluation`. It is also written to <run>/evaluation-<step>.json, with the
      detections in COCO's results format, a CSV of the classes, the images with the
      most mistakes, and the curves of precision by recall beside it.
    """
    _check_changes(run.config(), config)
    split = open_split(config, config.dataset.eval_split)
    build.check_hosts(split)
    split = trained.of_run(split, run, config, config.dataset.eval_split)
    for remark in [*split.remarks, *sources.shared_ids(split)]:
        trained.say(f"note: {split.name}: {remark}")
    mesh = build.make_mesh(config.num_devices)
    if untrained(config) == "rpn":
        split = with_proposals(config, split, mesh)
    opened = open_run(run, checkpoint, config=config, split=split)
    options = ops.compiler_options(jax.default_backend())
    step = jax.jit(
        make_eval_step(config, opened.model, opened.preprocessing),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
        compiler_options=options,
    )
    judge = make_evaluator(config, split, step, opened.preprocessing, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    found = judge.detections(jax.device_put(opened.variables, replicated))
    result = judge.score(found)
    changes = configuration.changed(run.config(), config)
    record = {
        "step": opened.step,
        "dataset": split.name,
        "split": split.split,
        "metric": result.rule,
        **result.metrics,
        "changes": changes,
    }
    files, failed = (), []
    if jax.process_index() == 0:
        suffix = f"{opened.step}{evaluation_files.suffix('single', 'moving', changes)}"
        try:
            files = _write(run, suffix, record, split, found, result)
        except workdir.ReadOnly as e:
            logging.warning("%s", e)
        except workdir.WorkdirError as e:
            failed.append(str(e))
    return Evaluation(str(run), opened.step, result, files, record, failed)


def _check_changes(own, config):
    """Raises ConfigError if a run cannot be tested as `config` changes its `own`."""
    before, now = own.detection, config.detection
    if now.stage != before.stage and untrained(own) == "rpn":
        raise ConfigError(
            f"config.detection.stage = {now.stage!r} tests a region proposal network, "
            "and that of this run is as initialised"
        )
    if now.proposals not in ("", before.proposals) and untrained(config) != "rpn":
        raise ConfigError(
            f"config.detection.proposals = {now.proposals!r}: a network with a region "
            "proposal network that was trained is tested on its own proposals"
        )


def _write(run, suffix, record, split, found, result):
    """Writes what an evaluation found to <run>/<name>-<suffix>; returns the names."""
    name = f"evaluation-{suffix}.json"
    run.write_json(name, record)
    if not result.classes:  # proposals have none
        return (name,)
    texts = {
        f"detections-{suffix}.json": results.coco_results(split, found),
        f"classes-{suffix}.csv": results.class_csv(result),
    }
    for file, text in texts.items():
        run.write_text(file, text)
    if lacking := results.unnumbered(split, found):
        trained.say(
            f"note: detections-{suffix}.json leaves out {lacking:,} detections of "
            f"classes that {split.name} lacks, as they have no id there"
        )
    files = [name, *texts]
    draw_curves = functools.partial(pictures.draw_curves, rule=result.rule)
    draw = {
        f"worst-{suffix}.png": pictures.draw_worst,
        f"precision-{suffix}.png": draw_curves,
    }
    for file, picture in draw.items():
        try:
            picture(run.path / file, split, found)
            files.append(file)
        except Exception as error:  # a picture never costs a result
            logging.warning("no %s: %s", file, " ".join(repr(error).split()))
    return tuple(files)
