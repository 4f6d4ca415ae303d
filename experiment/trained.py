"""Opens a trained run, and writes what its network's users need for that."""

import concurrent.futures
import dataclasses
import functools
import os
import typing

import jax

from data_source import DataError, classes, is_files
from errors import ConfigError
from experiment import build, checkpoints, configuration, image_statistics, workdir
from experiment.workdir import Workdir, WorkdirError
from kernels import ops
from transforms import preprocessing as preprocessings

# Fields that make other examples of a split.
OTHERS = (
    "dataset.name",
    "dataset.data_dir",
    "detection.damaged_boxes",
    "detection.unclear",
)
PARTS = ("params", "ema", "batch_stats")  # of a checkpoint, without the optimizer's


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's network with its weights, and its preprocessing of stored images.

    Attributes:
      variables: numpy arrays: the Polyak average if the run kept one, else the
        parameters; and the batch statistics, if any.
      step: the step at which they were saved.
      image_shape: [H, W, C] of stored images, with None where sizes differ.
      input_shape: [H, W, C] of the network's input.
      trained_shape: the same in training.
    """

    run: Workdir
    config: typing.Any
    model: typing.Any
    variables: dict
    step: int
    preprocessing: preprocessings.Preprocessing
    image_shape: tuple
    input_shape: tuple
    trained_shape: tuple
    label_names: tuple

    @functools.cached_property
    def view(self):
        """The function: image [H, W, C] -> what the network sees; None: the image."""
        return self.preprocessing.view(self.image_shape)

    def inputs(self, images):
        """The network's input for images uint8 [B, H, W, C] in their `view`."""
        return preprocessings.network_input({"image": images}, self.preprocessing)


def open_run(run, checkpoint="latest", *, config=None, split=None):
    """Opens a trained run.

    Args:
      run: a workdir.Workdir.
      checkpoint: "latest", "best" (lowest error when it was saved) or a step.
      config: the run's own, or one that gives the same network.
      split: the data to look at, `numbered` as the run's; by default data like that
        of the training.

    Raises:
      WorkdirError: there is no run, or its files are damaged.
      CheckpointError: nothing is saved, or nothing that can be read.
      IncompatibleCheckpoint: the checkpoint belongs to another network.
      ConfigError: the network cannot take such images.
    """
    config = config or run.config()
    if split is None:
        image_shape, label_names = dataset(run)
    else:
        image_shape, label_names = split.image_shape, split.label_names
    preprocessing = image_statistics.read(
        run, build.make_preprocessing(config, image_shape)
    )
    shape = dataset(run)[0] if run.has("dataset.json") else image_shape
    if shape[-1] != image_shape[-1]:
        raise ConfigError(
            f"{run} learnt from images of {shape[-1]} channels, and those of "
            f"{split.name} have {image_shape[-1]} (image files are read as RGB, grey "
            "ones too; --mode=predict converts them)"
        )
    in_training = build.make_preprocessing(run.config(), shape, training=True)
    trained_shape = build.input_shape(in_training, shape)
    model = build.make_model(config, len(label_names))
    variables, step = load_variables(run, model, trained_shape, checkpoint)
    return Trained(
        run,
        config,
        model,
        variables,
        step,
        preprocessing,
        image_shape,
        build.input_shape(preprocessing, image_shape),
        trained_shape,
        label_names,
    )


def dataset(run):
    """Returns what a run recorded of its data: (image shape, names of its classes).

    Raises:
      WorkdirError: dataset.json is missing or damaged.
    """
    record = run.read_json("dataset.json")
    try:
        return tuple(record["image_shape"]), tuple(record["label_names"])
    except (KeyError, TypeError) as e:
        raise WorkdirError(f"{run.path / 'dataset.json'} is damaged: {e!r}") from e


def class_names(run):
    """The classes of a run's network by number; None if the run has no dataset.json."""
    return dataset(run)[1] if run.has("dataset.json") else None


def trained_on(split, run, dataset):
    """Returns how many images of a `split` to test a run was trained on.

    It is None if `dataset`, a test's config.dataset, is not the run's own data, under
    whatever name: its training split has another digest than the run recorded.
    """
    own = run.config().dataset.copy_and_resolve_references()
    own.update(name=dataset.name, data_dir=dataset.data_dir, cache="")
    try:
        train_split = build.open_split(own, own.train_split)
    except DataError:  # the tested data need not have it
        return None
    if _examples(train_split) != _recorded(run).get("train"):
        return None
    return len({*split.places()}.intersection(train_split.places()))


def say(line):
    """Prints a line, in one process only."""
    if jax.process_index() == 0:
        print(line, flush=True)


def open_split(dataset, name):
    """Opens a split of a run's data as `build.open_split` does.

    The error of image files that are not there says what helps if they have moved.
    """
    try:
        return build.open_split(dataset, name)
    except DataError as error:
        _, _, path = dataset.name.partition(":")
        if is_files(dataset.name) and not os.path.exists(os.path.expanduser(path)):
            message = f"{str(error).rstrip('.')}; {configuration.MOVED}"
            raise DataError(message) from error
        raise


def of_run(split, run, config, name):
    """Returns a split to test or show, with its classes numbered as those of `run`.

    Args:
      config: the run's own, or one with changes for a test.
      name: what `config` calls the split.

    Raises:
      DataError, WorkdirError: as for `numbered` and `check_split`.
    """
    split = numbered(split, run, subset=config.eval.classes == "subset")
    check_split(split, run, config, name)
    return split


def numbered(split, run, *, subset=False, report=say):
    """Returns `split` with its classes numbered as the network of `run` knows them.

    `subset` allows data that lacks some of the classes. A change is reported.

    Raises:
      DataError: the split has other classes.
      WorkdirError: the run's record of its classes is damaged.
    """
    names = class_names(run)
    if names is None:
        report(
            f"warning: {run} has no dataset.json, so its classes are taken to be those "
            f"of {split.name} in their order"
        )
        return split
    advice = "a run goes on, and is tested, with the classes that it was trained on"
    if set(split.label_names) < set(names):
        advice += (
            "; --mode=evaluate --change=eval.classes=subset tests it on some of them"
        )
    return classes.numbered_as(split, names, run, advice, subset=subset, report=report)


def _examples(split):
    """What a run records of the examples of a split."""
    return {"split": split.split, "images": len(split), "digest": split.digest()}


def _recorded(run):
    """The `_examples` of the splits of a run: "train" and "eval".

    Earlier versions recorded none.
    """
    return run.has("dataset.json") and run.read_json("dataset.json").get("splits") or {}


def check_examples(run, setup):
    """Raises WorkdirError if a run was begun with other examples than `setup` has."""
    for part, before in _recorded(run).items():
        _compare(run, getattr(setup, f"{part}_split"), before)


def check_split(split, run, config, name):
    """Raises WorkdirError if a run was begun with other examples of its own `split`.

    Arguments are as for `of_run`. What `config` takes from elsewhere, or the run's own
    config does not name, is not compared.
    """
    own = run.config()
    if not configuration.changed(own, config).keys().isdisjoint(OTHERS):
        return
    for part, before in _recorded(run).items():
        if name == own.dataset[f"{part}_split"]:
            _compare(run, split, before)


def _compare(run, split, before):
    """Raises WorkdirError if `split` has other examples than `before`, a record."""
    now = _examples(split)
    if now == before:
        return
    number = f"{now['images']:,}"
    if now["images"] == before["images"]:
        number += ", but others, or in another order or other classes"
    raise WorkdirError(
        f"{run} was begun with {before['images']:,} images of {before['split']}, and "
        f"{split.name} now has {number}; a run goes on, and is tested, with the images "
        "that it began with: bring them back, or train in another --workdir. If "
        '"splits" is deleted from its dataset.json, it takes these'
    )


def load_variables(run, model, shape, checkpoint="latest"):
    """Loads (variables, step) of a checkpoint; `shape` is [H, W, C] of the input.

    Raises:
      CheckpointError, IncompatibleCheckpoint: as for `open_run`.
    """
    saved = checkpoints.Checkpoints(run.checkpoints)
    if checkpoint not in ("latest", "best") and not checkpoint.isdecimal():
        raise ConfigError(
            f"--checkpoint={checkpoint} is neither latest, best nor a step"
        )
    step = int(checkpoint) if checkpoint.isdecimal() else None
    best = checkpoint == "best"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(saved.restore, step=step, best=best, parts=PARTS)
        expected = build.abstract_variables(model, shape)
    restored = reading.result()
    saved.close()
    if restored is None:
        raise checkpoints.CheckpointError(f"{run} holds no checkpoint yet")
    state, step, _ = restored
    variables = {"params": state.get("ema") or state["params"]}
    if state.get("batch_stats"):
        variables["batch_stats"] = state["batch_stats"]
    checkpoints.refuse_another_model(
        run.checkpoints / str(step),
        checkpoints.forms(variables),
        checkpoints.forms(expected),
    )
    return variables, step


def changed_since(run, setup):
    """Says which code, packages or kernels a run's last start did not have; or "".

    What is unknown of one of the two, as in a record of an earlier version, is not
    compared.
    """
    if not run.starts():
        return ""
    now = workdir.environment(setup.mesh.devices.flat, _kernels(setup))
    before, now = map(_programs, (run.starts()[-1], now))
    changed = [
        f"{name} {before[name]!r} before, {now[name]!r} now"
        for name in now
        if name in before and before[name] != now[name]
    ]
    return f"other than at the run's last start: {'; '.join(changed)}" * bool(changed)


def _programs(start):
    """What computed a run, by a record of `workdir.environment`: {name: version}."""
    found = {"code": start.get("git"), "python": start.get("python")}
    found |= (start.get("packages") or {}) | (start.get("kernels") or {})
    return {name: version for name, version in found.items() if version is not None}


def _kernels(setup):
    return ops.describe(setup.mesh.devices.size, setup.config.model.dtype)


def describe(run, setup, params):
    """Records what the network's users need later, and what this start runs on.

    A record that is there stays as it is.

    Raises:
      WorkdirError: the run was made from images of another shape or other classes.
    """
    from clu import parameter_overview

    from experiment import budget

    split, preprocessing = setup.train_split, setup.eval_preprocessing
    if run.has("dataset.json"):
        image_shape, names = dataset(run)
        if image_shape != tuple(split.image_shape):
            raise WorkdirError(
                f"{run} was made from images of the shape {image_shape}, and "
                f"{split.name} has {tuple(split.image_shape)}; train it in another "
                "--workdir"
            )
        if names != tuple(split.label_names):
            differ = classes.compared(split.label_names, names)
            raise WorkdirError(
                f"{run} was made with other classes than {split.name} has: {differ}"
            )
    else:
        record = {
            "name": split.name,
            "image_shape": split.image_shape,
            "input_shape": setup.tested_shape,
            "label_names": split.label_names,
            "splits": {
                "train": _examples(setup.train_split),
                "eval": _examples(setup.eval_split),
            },
        }
        run.write_json("dataset.json", record)
    if not run.has("preprocessing.json"):
        run.write_json("preprocessing.json", preprocessing.as_dict())
    image_statistics.keep(setup, run)
    budget.keep(setup, run)
    if not run.has("parameters.txt"):
        text = parameter_overview.get_parameter_overview(params, include_stats=False)
        run.write_text("parameters.txt", text + "\n")
    run.add_environment(setup.mesh.devices.flat, _kernels(setup))
