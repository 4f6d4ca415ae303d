"""Makes the state that training starts from: restored, new, or with loaded weights."""

import functools
import json

import flax
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import weights
from data_source import classes
from errors import ConfigError, shortened
from experiment import build, image_statistics, trained
from training import train_step


def numbered(setup, run):
    """Returns `setup` with its classes numbered as the run, or its start, has them.

    The run's own record decides. A new run takes the order of config.init_from if the
    classes are the same and their head is loaded.

    Raises:
      DataError: the run was made from data of other classes.
      WorkdirError: it was begun with other examples.
    """
    config = setup.config
    if run.has("dataset.json") or run.checkpoints.exists():
        number = functools.partial(trained.numbered, run=run)
        setup = setup.renumbered(number, trained.say)
        trained.check_examples(run, setup)
        return setup
    names = weights.class_names(config.init_from)
    if (
        names is None
        or sorted(names) != sorted(setup.train_split.label_names)
        or not weights.takes_head(setup.variables, config.init_layers)
    ):
        return setup
    number = functools.partial(
        classes.numbered_as, names=names, owner=config.init_from, advice=""
    )
    return setup.renumbered(number, trained.say)


def load_start(setup):
    """Loads the network's variables from config.init_from; prints what was loaded.

    Variables that it lacks stay shapes. Returns None without config.init_from.

    Raises:
      WeightsError: the weights cannot be loaded, or their head is for other classes.
      ConfigError: config.model.frozen_statistics lacks statistics.
    """
    config = setup.config
    if not config.init_from:
        return None
    names = ("params", "batch_stats")
    found, report = weights.load(
        config.init_from,
        config.model.name,
        {name: setup.variables[name] for name in names if setup.variables.get(name)},
        config.init_layers,
        config.model.fields.to_dict(),
        config.init_key,
    )
    trained.say(report)
    _compare_preprocessing(setup)
    if config.model.frozen_statistics:
        _check_statistics(config, found.get("batch_stats"))
    if not report.new_scores:
        _check_classes(setup)
    takes_head = weights.takes_head(setup.variables, config.init_layers)
    if not setup.durations.total and (report.new_scores or not takes_head):
        trained.say(
            "warning: config.num_epochs = 0 trains nothing, so the head, which is new, "
            "stays random, and so are the answers"
        )
    return found


def _check_statistics(config, statistics):
    """Raises ConfigError unless all statistics, which are frozen, were loaded."""
    if not statistics:
        raise ConfigError(
            f"config.model.frozen_statistics: {config.model.name} has no batch "
            "normalisation"
        )
    flat = flax.traverse_util.flatten_dict(statistics, sep="/")
    new = [name for name, x in flat.items() if isinstance(x, jax.ShapeDtypeStruct)]
    if new:
        raise ConfigError(
            f"config.model.frozen_statistics keeps those of {config.init_from}, which "
            f"gives none for {shortened(new)}: config.init_layers = "
            f"{config.init_layers} must choose them, too"
        )


# Fields of a detector's preprocessing.json that its data decide.
_OF_DATA = {"buckets", "max_boxes", "max_proposals"}


def _compare_preprocessing(setup):
    """Warns of what the source's preprocessing, if it is known, has otherwise."""
    theirs = weights.preprocessing(setup.config.init_from)
    if theirs is None:
        return
    ours = json.loads(json.dumps(setup.eval_preprocessing.as_dict()))  # tuples as lists
    of_one_kind = ours.keys() <= theirs.keys()  # else a detector from a classifier
    names = ours.keys() - _OF_DATA if of_one_kind else ("mean", "std")
    differ = [
        f"{name} {theirs.get(name)!r} there and {ours[name]!r} here"
        for name in sorted(names)
        if theirs.get(name) != ours[name]
    ]
    if not of_one_kind and theirs.get("whiten"):
        differ.append(f"whiten {theirs['whiten']!r} there, which a detector has not")
    source = setup.config.init_from
    if differ:
        trained.say(
            f"warning: {source} has another preprocessing, which its weights may need: "
            f"{', '.join(differ)}"
        )
    elif image_statistics.needed(setup.eval_preprocessing):
        trained.say(
            f"note: images are whitened ({ours['whiten']}) by statistics of this "
            f"training set, and {source} has its own"
        )


def _check_classes(setup):
    """Compares the classes of the head that was loaded, if any, with the data's.

    Raises:
      WeightsError: they differ, and config.init_layers does not ask for the head.
    """
    config, split = setup.config, setup.train_split
    if not weights.takes_head(setup.variables, config.init_layers):
        return
    names = weights.class_names(config.init_from)
    if names is None:
        trained.say(
            f"note: {config.init_from} does not name its classes; its outputs are "
            f"taken to be those of {split.name} in their order"
        )
    elif names != split.label_names:
        differ = classes.compared(split.label_names, names)
        if not config.init_layers:
            raise weights.WeightsError(
                f"{config.init_from} has a head for other classes than {split.name}: "
                f"{differ}; config.init_layers = ('backbone',) starts with a new head, "
                "('.',) with this one as it is"
            )
        trained.say(
            f"warning: config.init_layers takes a head for other classes: {differ}"
        )


def restore(setup, saved, name=""):
    """Restores (state, step of its last evaluation) from the newest checkpoint.

    `saved` is the run's checkpoints.Checkpoints, and `name` goes before the line that
    says where the run is resumed. Returns None without a checkpoint.
    Raises ConfigError if that checkpoint is past the end of the training.
    """
    if not saved.exist():
        return None
    seed = np.int64(setup.config.seed)
    abstract = build.replicated_shapes(setup.mesh, setup.init(), seed)
    state, step, meta = saved.restore(abstract)
    total, config = setup.durations.total, setup.config
    if step > total:
        by_steps = config.num_steps and config.num_epochs  # 0 epochs train nothing
        field = "num_steps" if by_steps else "num_epochs"
        raise ConfigError(
            f"{name}config.{field} = {config[field]} ends at step {total}, but the run "
            f"is at step {step} already: nothing was changed; ask for more, or choose "
            "another --workdir"
        )
    if jax.process_index() == 0:
        print(f"{name}resuming from step {step} of {total}", flush=True)
    return state, meta["evaluated"]


def new_state(setup, start=None):
    """Makes the state at step 0, with the variables from `load_start`, if any."""
    replicated = NamedSharding(setup.mesh, PartitionSpec())
    # Runs once, so barely optimised; the values are bit-identical.
    options = {"xla_backend_optimization_level": 1}
    init = jax.jit(setup.init(), out_shardings=replicated, compiler_options=options)
    state = init(np.int64(setup.config.seed))
    init.clear_cache()  # GoogLeNet's program takes 70 MiB
    if start is None:
        return state
    own = {"params": state.params, "batch_stats": state.batch_stats}
    variables = jax.tree.map(
        lambda loaded, x: x if isinstance(loaded, jax.ShapeDtypeStruct) else loaded,
        start,
        {name: own[name] for name in start},
    )
    _, tx = setup.optimizer()
    start_from = functools.partial(train_step.start_from, tx=tx)
    return jax.jit(start_from, out_shardings=replicated)(state, variables)
