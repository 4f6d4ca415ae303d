"""Says, before training, on which data a run is trained and how it is evaluated."""

import re

import jax

import data_source
from configs import datasets, default
from errors import shortened
from experiment import balance, configuration
from kernels import ops
from training import optimizers
from training.durations import in_steps
from transforms import policies

# Fields that act only if another field has one of these values, or any that is not 0.
NEEDS = {
    "dataset.cache_dir dataset.cache_side": ("dataset.cache", ()),
    "init_layers": ("init_from", ()),
    "optimizer.ema_every": ("optimizer.ema_decay", ()),
    "optimizer.curvature_examples": ("optimizer.name", ("sdlm",)),
    "loss.rubbish": ("loss.name", ("map",)),
    "augment.crop_mode": ("augment.crop", ()),
    "augment.short_side": ("augment.view", ("rescale_crop",)),
    "augment.area augment.aspect": ("augment.view", ("inception_crop",)),
    "augment.policy_ops augment.policy_magnitude augment.policy_std": (
        "augment.policy",
        ("randaugment", "randaugment_timm"),
    ),
    "schedule.warmup_factor": ("schedule.warmup_epochs", ()),
    "schedule.boundaries schedule.factors": ("schedule.name", ("step",)),
    "schedule.end_factor": ("schedule.name", ("polynomial", "cosine")),
    "schedule.power": ("schedule.name", ("polynomial",)),
    "schedule.decay_rate": ("schedule.name", ("exponential", "plateau")),
    "schedule.decay_epochs schedule.staircase": ("schedule.name", ("exponential",)),
    "schedule.patience schedule.min_factor": ("schedule.name", ("plateau",)),
}


def title(setup, params):
    """Returns the line that says what is trained, and on what."""
    config, devices = setup.config, setup.mesh.devices
    number = jax.process_count()
    processes = f" of {number} processes" if number > 1 else ""
    parameters = sum(x.size for x in jax.tree.leaves(params))
    return (
        f"{config.model.name} on {setup.train_split.name}: {parameters:,} parameters, "
        f"{len(setup.train_split):,} training images of "
        f"{'x'.join(map(str, setup.input_shape))}, "
        f"{setup.durations.total:,} steps of {config.batch_size} on "
        f"{devices.size} {devices.flat[0].device_kind} devices{processes}; "
        f"{ops.in_words(ops.describe(devices.size, config.model.dtype))}"
    )


def describe(setup):
    """Describes a `build.Setup`: its splits, and what "auto" chose in its config."""
    config, dataset = setup.config, setup.config.dataset
    lines = [setup.describe_data()]
    chosen = []
    if dataset.eval_split == "auto":
        chosen.append(f"eval_split {setup.eval_split.split}")
    chosen += setup.chosen()
    if chosen:
        lines.append(f"  chosen by auto: {', '.join(chosen)}")
    if setup.choice:
        lines.append(f"  {setup.choice}")
    lines += [f"  {line}" for line in balance.describe(setup)]
    lines += _trained_on(setup.train_split, setup.eval_split)
    side, usual = dataset.short_side, default.get_config().dataset.short_side
    if side != usual and setup.eval_preprocessing.fit != "crop":
        lines.append(f"  dataset.short_side = {side} changes nothing without fit crop")
    if _normalised_twice(dataset):
        lines.append(
            f"warning: config.dataset.whiten = {dataset.whiten!r} normalises, and then "
            "config.dataset.mean and std do it again; without that they are (0.0,) and "
            "(1.0,)"
        )
    lines += _idle(setup)
    drawn = config.augment.interpolation
    if config.augment.policy and drawn not in policies.MOVES:
        lines.append(
            f"  augment.policy moves images bicubically, because PIL cannot do it by "
            f"augment.interpolation = {drawn!r}"
        )
    lines += _foreign_statistics(config, setup.input_shape[-1])
    lines += _never_reached(config, setup.durations)
    lines += _initial_average(config.optimizer, setup.durations.total)
    lines += _moving_statistics(config, setup.variables)
    parts = re.split("[+,]", setup.eval_split.split)
    tested = any(part.partition("[")[0].strip() == "test" for part in parts)
    if tested and config.checkpoint.keep_best:
        lines.append(
            "warning: the best checkpoint is chosen by its error on test, which is too "
            "low then; config.dataset.eval_split can name another split"
        )
    return "\n".join(lines)


def _trained_on(train_split, eval_split):
    """Yields a warning if images of the training are to be evaluated, too."""
    both = {*eval_split.places()}.intersection(train_split.places())
    if both:
        yield (
            f"warning: {len(both):,} of the {len(eval_split):,} images of "
            f"config.dataset.eval_split, {eval_split.split}, are trained on, too; "
            "config.dataset.train_split can leave them out"
        )


def _normalised_twice(dataset):
    """Tells whether `whiten` takes away what mean or std are to take away after it."""
    scaled = dataset.whiten != "mean_image" and {*dataset.std} != {1.0}
    return bool(dataset.whiten) and (any(dataset.mean) or scaled)


def _foreign_statistics(config, channels):
    """Yields a warning if a recipe's mean and std belong to another data set.

    Weights of others, config.init_from, need the statistics that they were trained on,
    and ImageNet's are usual for anybody's photographs.
    """
    dataset = config.dataset
    mean, scaled = tuple(dataset.mean), {*dataset.std} != {1.0}
    name = dataset.name.partition("/")[0].partition(":")[0]
    # By the mean: a set's deviation is that of all its pixels, or the mean of images'.
    owners = [n for n, known in datasets.STATISTICS.items() if known[0] == mean]
    if dataset.whiten or config.init_from or not scaled or name in owners:
        return
    photographs = data_source.is_files(dataset.name) and owners == ["imagenet2012"]
    if not owners or photographs:
        return
    grey = channels == 1 and len(mean) > 1
    yield (
        "warning: config.dataset.mean and std are those of "
        f"{owners[0]}{', averaged for grey images' if grey else ''}; to have this "
        "training set's, add --config.dataset.whiten=channels "
        "--config.dataset.mean='(0.0,)' --config.dataset.std='(1.0,)'"
    )


def _idle(setup):
    """Yields a line for each field that differs from default.py and changes nothing."""
    ours, usual = map(configuration.flatten, (setup.config, default.get_config()))
    idle = [(name, *why) for names, why in NEEDS.items() for name in names.split()]
    for name, needed, values in idle:
        acts = ours[needed] in values if values else ours[needed]
        if ours[name] != usual[name] and not acts:
            value = f" = {' or '.join(values)}" if values else ""
            yield f"  {name} = {ours[name]!r} changes nothing without {needed}{value}"
    steps = setup.config.steps_per_dispatch
    if steps > 1 and setup.placement() == "host":
        yield f"  steps_per_dispatch = {steps} changes nothing with data from the host"


def _initial_average(optimizer, steps):
    """Yields a warning if the Polyak average ends with many of the first weights."""
    share = optimizer.ema_decay ** (steps // optimizer.ema_every)
    if optimizer.ema_decay and steps and share > 0.1:
        yield (
            f"warning: after the {steps:,} steps of this training the Polyak average, "
            f"with which it is evaluated, still has {share:.0%} of the weights that "
            "training starts from; --config.optimizer.ema_decay=0 evaluates without it"
        )


def _moving_statistics(config, variables):
    """Yields a note if layers that a factor of 0 freezes have statistics that move."""
    factors = config.optimizer.rate_factors
    frozen = {
        path.rpartition("/")[0]
        for path in optimizers.paths(variables["params"])
        if next((f for e, f in factors if re.search(e, path)), 1) == 0
    }
    paths = optimizers.paths(variables.get("batch_stats", {}))
    moving = frozen & {path.rpartition("/")[0] for path in paths}
    if moving and not config.model.frozen_statistics:
        yield (
            "note: config.optimizer.rate_factors freezes the parameters of "
            f"{shortened(sorted(moving))}, but not their batch statistics; "
            "config.model.frozen_statistics = True keeps those of all layers"
        )


def _never_reached(config, durations):
    """Yields a warning for each field with changes before a step, or after the last."""
    epochs = {
        "schedule.warmup_epochs": [config.schedule.warmup_epochs],
        "schedule.boundaries": config.schedule.boundaries,
        "optimizer.unfreeze": [epoch for _, epoch in config.optimizer.unfreeze],
        "augment.image_sizes": [epoch for epoch, _ in config.augment.image_sizes],
    }
    if config.schedule.name != "step":
        del epochs["schedule.boundaries"]
    for field, times in epochs.items():
        steps = {time: in_steps(time, durations.epoch_steps) for time in times}
        late = [
            f"epoch {time:g} is step {step:,}"
            for time, step in steps.items()
            if step >= durations.total > 0
        ]
        if late:
            yield (
                f"warning: config.{field}: {', '.join(late)}, and the training ends at "
                f"step {durations.total:,}, so nothing changes there"
            )
        early = [f"{time:g}" for time, step in steps.items() if time > 0 and not step]
        if early and durations.total:
            yield (
                f"warning: config.{field}: epoch {', '.join(early)} is less than half "
                "a step, so what is to hold until then never does"
            )
