"""Validates a config before data is opened; an error names the field."""

import functools
import inspect
import math
import re
import types
import typing

import optax

import models
from configs import default
from data_source import cache
from detection import evaluator, objective, views
from errors import ConfigError
from evaluation import protocols
from experiment.configuration import OPEN, flatten, literal, nearest
from models.faster_rcnn import TESTED, FasterRCNN
from training import memory, optimizers, remat
from transforms import policies, resizing, whitening

# What tests of a detector may change of its network, with their defaults.
DETECTION = {name: getattr(FasterRCNN, name) for name in TESTED}
# Fields of config.detection that they may change, too.
TESTED_DETECTION = (
    "short_side long_side buckets max_boxes damaged_boxes unclear stage proposals "
    "metric test_scales"
).split()
# Fields that no detector has, beside those of augment and loss.
OF_CLASSIFIERS = (
    "dataset.holdout dataset.holdout_by dataset.cache dataset.placement dataset.order "
    "dataset.balance dataset.image_size dataset.fit dataset.short_side dataset.whiten "
    "eval.protocol eval.scales eval.average eval.image_size eval.short_side "
    "optimizer.curvature_examples"
).split()
POSITIVE = (
    "batch_size num_steps steps_per_dispatch dataset.short_side "
    "dataset.cache_side dataset.prefetch augment.policy_ops augment.repeats "
    "loss.rubbish optimizer.learning_rate optimizer.accumulate optimizer.ema_every "
    "optimizer.curvature_examples schedule.decay_rate schedule.decay_epochs "
    "schedule.power schedule.patience eval.batch_size checkpoint.keep_last "
    "log.every_steps log.profile_steps detection.short_side detection.long_side "
    "detection.rpn_batch detection.roi_batch"
).split()
NOT_NEGATIVE = (
    "seed num_devices num_epochs dataset.image_size dataset.num_threads "
    "dataset.holdout dataset.balance eval.image_size eval.short_side augment.crop "
    "augment.translate "
    "augment.rotate augment.scale augment.squeeze augment.shear augment.brightness "
    "augment.contrast augment.saturation augment.hue augment.pca augment.erasing "
    "augment.mixup augment.cutmix augment.policy_magnitude augment.policy_std "
    "loss.label_smoothing loss.auxiliary_weight optimizer.per_examples "
    "optimizer.weight_decay "
    "optimizer.clip_norm optimizer.ema_decay schedule.warmup_epochs "
    "schedule.warmup_factor schedule.end_factor schedule.min_factor eval.every_epochs "
    "checkpoint.every_epochs checkpoint.every_steps checkpoint.keep_best "
    "detection.max_boxes detection.rpn_fg detection.rpn_beta detection.roi_fg "
    "detection.roi_iou detection.box_beta"
).split()
BELOW_ONE = ("dataset.holdout", "loss.label_smoothing", "optimizer.ema_decay")
AT_MOST = {
    "dataset.balance": 1,
    "augment.brightness": 1,
    "augment.contrast": 1,
    "augment.saturation": 1,
    "augment.hue": 0.5,
    "augment.erasing": 1,
    "detection.rpn_fg": 1,
    "detection.roi_fg": 1,
    "detection.roi_iou": 1,
}
CHOICES = {
    "dataset.placement": ("auto", "device", "host"),
    "dataset.order": ("shuffle", "fixed"),
    "dataset.fit": ("auto", "pad", "resize", "crop"),
    "dataset.holdout_by": ("class", "path"),
    "dataset.interpolation": tuple(resizing.INTERPOLATIONS),
    "dataset.whiten": ("", *whitening.KINDS),
    "dataset.damaged": ("replace", "fail"),
    "dataset.cache": ("", *cache.KINDS),
    "augment.view": policies.VIEWS,
    "augment.interpolation": (*resizing.INTERPOLATIONS, "random"),
    "augment.policy": tuple(policies.POLICIES),
    "augment.crop_mode": ("zeros", "reflect", "mean"),
    "detection.metric": tuple(evaluator.RULES),
    "detection.damaged_boxes": ("drop", "fail"),
    "detection.stage": tuple(objective.STAGES),
    "detection.unclear": ("upright", "stored"),
    "model.dtype": ("float32", "bfloat16"),
    "eval.protocol": ("single", *protocols.PROTOCOLS),
    "eval.average": ("softmax", "logits"),
    "eval.classes": ("same", "subset"),
    "eval.damaged": ("fail", "wrong"),
    "loss.name": ("softmax_cross_entropy", "binary_cross_entropy", "map", "ml"),
    "optimizer.decay_mask": ("all", "kernels"),
    "schedule.name": (
        "constant",
        "step",
        "polynomial",
        "cosine",
        "exponential",
        "plateau",
    ),
}


def check(config):
    """Raises ConfigError for the first field whose value cannot be run."""
    fields = flatten(config)
    known = flatten(default.get_config())
    for name in fields:
        if name not in known and not name.startswith(OPEN):
            raise ConfigError(f"config.{name}: no such field{nearest(name, known)}")

    for name in known:
        if name not in fields and not name.startswith(OPEN):
            raise ConfigError(
                f"config.{name} is missing; start from configs/default.py"
            )

    for name, value in fields.items():
        if value is None and known.get(name) is not None:
            raise ConfigError(
                f"config.{name} = None: it must have a value, such as {known[name]!r}, "
                "the default"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"config.{name} = {value} is not a finite number")
        if name in POSITIVE and value is not None and value <= 0:
            raise ConfigError(f"config.{name} = {value} must be greater than zero")
        if name in NOT_NEGATIVE and value < 0:
            raise ConfigError(f"config.{name} = {value} must not be negative")
        if name in BELOW_ONE and value >= 1:
            raise ConfigError(f"config.{name} = {value} must be less than one")
        if name in AT_MOST and value > AT_MOST[name]:
            raise ConfigError(
                f"config.{name} = {value} must not be greater than {AT_MOST[name]}"
            )
        if name in CHOICES and value not in CHOICES[name]:
            raise ConfigError(
                f"config.{name} = {value!r} is none of {', '.join(CHOICES[name])}"
                + nearest(value, CHOICES[name])
            )

    name = config.model.name
    try:
        accepted = models.fields(name)
    except ValueError as error:
        raise ConfigError(f"config.model.name: {error}") from error
    for name in config.model.fields:
        if name not in accepted:
            raise ConfigError(
                f"config.model.fields.{name}: {config.model.name} takes "
                f"{', '.join(accepted)}{nearest(name, accepted)}"
            )
    if config.seed >= 2**63:
        raise ConfigError(f"config.seed = {config.seed} does not fit into 64 bits")
    _check_memory(config.model)
    _check_task(config, fields, known)
    _check_loss(config)
    _check_augment(config)
    _check_classes(config)
    _check_images(config)
    _check_optimizer(config.optimizer)
    _check_schedule(config)
    layers = config.init_layers
    if not isinstance(layers, tuple) or not all(map(_is_expression, layers)):
        raise ConfigError(
            f"config.init_layers = {layers!r} is no tuple of regular expressions"
        )
    if config.init_key and not config.init_from:
        raise ConfigError(
            f"config.init_key = {config.init_key!r} chooses weights of a source: name "
            "it in config.init_from"
        )
    if config.batch_size % config.optimizer.accumulate:
        raise ConfigError(
            f"config.batch_size = {config.batch_size} is not divisible by "
            f"config.optimizer.accumulate = {config.optimizer.accumulate}"
        )
    for name in ("mean", "std"):
        values = config.dataset[name]
        if not values or not all(isinstance(v, int | float) for v in values):
            raise ConfigError(f"config.dataset.{name} = {values} must hold numbers")
    if not all(0 < v < math.inf for v in config.dataset.std):
        raise ConfigError("config.dataset.std must be finite and greater than zero")
    if not all(map(math.isfinite, config.dataset.mean)):
        raise ConfigError("config.dataset.mean must be finite")
    _check_eval(config)


def _check_memory(model):
    if not model.memory:
        return
    if model.remat != remat.AUTO:
        raise ConfigError(
            f"config.model.memory = {model.memory!r} is the budget of "
            f"config.model.remat = {remat.AUTO!r}, not of {model.remat!r}"
        )
    try:
        memory.parse(model.memory)
    except ValueError as error:
        raise ConfigError(f"config.model.memory: {error}") from error


def _check_task(config, fields, known):
    """Refuses fields of the other task, which would be ignored in silence."""
    detector = models.is_detector(config.model.name)
    kind, foreign = "detectors", _is_of_detectors
    if detector:
        kind, foreign = "classifiers", _is_of_classifiers
    for name, value in fields.items():
        if foreign(name) and value != known.get(name, value):
            raise ConfigError(
                f"config.{name} = {value!r} is for {kind}, and config.model.name = "
                f"{config.model.name!r} is none"
            )
    if not detector:
        return
    if config.optimizer.name == "sdlm":
        raise ConfigError(
            "config.optimizer.name = 'sdlm' is for classifiers: it needs the curvature "
            "of their loss"
        )
    detection = config.detection
    for name in ("rpn_iou", "roi_background"):
        if not _are_numbers(detection[name], float | int, count=2):
            raise ConfigError(
                f"config.detection.{name} = {detection[name]} must be two numbers"
            )
    if not 0 <= detection.rpn_iou[1] <= detection.rpn_iou[0] <= 1:
        raise ConfigError(
            f"config.detection.rpn_iou = {detection.rpn_iou} must be the overlap of "
            "positives and a limit for negatives that is not higher"
        )
    low, high = detection.roi_background
    if not 0 <= low < high <= detection.roi_iou:
        raise ConfigError(
            f"config.detection.roi_background = {detection.roi_background} must be an "
            f"interval that ends at roi_iou = {detection.roi_iou} or below"
        )
    sides = detection.train_short_sides
    if not _are_numbers(sides, int) or min(sides, default=1) < 1:
        raise ConfigError(
            f"config.detection.train_short_sides = {sides} must hold whole pixels "
            "above zero"
        )
    for part in ("rpn", "roi"):
        batch, share = detection[f"{part}_batch"], detection[f"{part}_fg"]
        if round(batch * share) < 1:
            raise ConfigError(
                f"config.detection.{part}_fg = {share} of config.detection.{part}_batch"
                f" = {batch} is no example of an object"
            )
    if detection.proposals and detection.stage != "fast_rcnn":
        raise ConfigError(
            f"config.detection.proposals = {detection.proposals!r} is for "
            f"config.detection.stage = 'fast_rcnn', not {detection.stage!r}"
        )
    scales = detection.test_scales
    whole = _are_numbers(scales, int) and min(scales, default=1) > 0
    if not whole or list(scales) != sorted(set(scales)):
        raise ConfigError(
            f"config.detection.test_scales = {scales} must hold whole pixels above "
            "zero that rise"
        )
    if scales and detection.stage == "rpn":
        raise ConfigError(
            f"config.detection.test_scales = {scales}: proposals, which are all that "
            "config.detection.stage = 'rpn' tests, are of config.detection.short_side"
        )
    if not all(map(_is_bucket, detection.buckets)):
        raise ConfigError(
            f"config.detection.buckets = {detection.buckets} must hold pairs (height, "
            f"width) of multiples of {views.STRIDE}, above zero"
        )


def _is_bucket(bucket):
    if not isinstance(bucket, tuple) or not _are_numbers(bucket, int, count=2):
        return False
    return min(bucket) > 0 and not any(side % views.STRIDE for side in bucket)


def _are_numbers(values, kind, count=None):
    counted = count in (None, len(values))
    return counted and all(isinstance(value, kind) for value in values)


def _is_of_detectors(name):
    return name.startswith("detection.")


def _is_of_classifiers(name):
    return name in OF_CLASSIFIERS or (
        name.startswith(("augment.", "loss.")) and name != "augment.flip"
    )


def _check_eval(config):
    scales, single = config.eval.scales, config.eval.protocol == "single"
    if not all(isinstance(v, int) and v > 0 for v in scales):
        raise ConfigError(
            f"config.eval.scales = {scales} must be short sides in pixels, (256, 384)"
        )
    if scales and single:
        raise ConfigError(
            f"config.eval.scales = {scales}: the protocol 'single' has one scale, "
            "config.eval.short_side; choose another with config.eval.protocol"
        )
    if scales and config.eval.short_side:
        raise ConfigError(
            f"config.eval.scales = {scales} and config.eval.short_side = "
            f"{config.eval.short_side} are two choices of short sides; unset one, in a "
            "test by --change=eval.short_side=0"
        )
    if not single:
        check_average(config)


def check_average(config):
    """Checks what is averaged over views or over the runs of an ensemble."""
    log_probabilities = config.loss.name == "softmax_cross_entropy"
    if config.eval.average == "softmax" and not log_probabilities:
        raise ConfigError(
            f"config.eval.average = 'softmax': config.loss.name = {config.loss.name!r} "
            "is not a loss of log probabilities; choose 'logits', "
            "in a test by --change=eval.average=logits"
        )


def _check_loss(config):
    loss = config.loss
    if loss.label_smoothing and loss.name in ("map", "ml"):
        raise ConfigError(
            f"config.loss.label_smoothing = {loss.label_smoothing}: config.loss.name = "
            f"{loss.name!r} has no targets that could be smoothed"
        )
    fixed = hasattr(models.constructor(config.model.name), "classify")
    if loss.name == "ml" and not fixed:
        raise ConfigError(
            "config.loss.name = 'ml' is the score of the image's class alone, which "
            f"the head of {config.model.name} can raise without end; it is for lenet5, "
            "whose output layer is fixed"
        )


def _check_classes(config):
    weights, balance = config.loss.class_weights, config.dataset.balance
    if isinstance(weights, tuple):
        numbers = all(isinstance(w, int | float) and 0 <= w < math.inf for w in weights)
        valid = numbers and any(weights)
    else:
        valid = weights in (None, "balanced")
    if not valid:
        raise ConfigError(
            f"config.loss.class_weights = {weights!r} must be 'balanced', None, or one "
            "number for each class, (1.0, 5.0), none negative and not all 0"
        )
    if balance and config.dataset.order == "fixed":
        raise ConfigError(
            f"config.dataset.balance = {balance} with config.dataset.order = 'fixed' "
            "would never show most images of the large classes"
        )
    if balance and weights == "balanced":
        raise ConfigError(
            f"config.loss.class_weights = 'balanced' with config.dataset.balance = "
            f"{balance} would make up for the sizes of the classes twice; choose one"
        )


def _check_images(config):
    dataset, augment = config.dataset, config.augment
    if dataset.cache and not dataset.cache_dir:
        raise ConfigError(
            f"config.dataset.cache = {dataset.cache!r} needs config.dataset.cache_dir"
        )
    sizes = [dataset.image_size, *(pixels for _, pixels in augment.image_sizes)]
    # Not config.eval.scales: protocols that rescale to them read the originals.
    sides = [*sizes, config.eval.short_side]
    crop = dataset.fit == "crop"  # which cuts eval.image_size from a short side
    sides.append(dataset.short_side if crop else config.eval.image_size)
    sides += augment.short_side if augment.view == "rescale_crop" else ()
    if dataset.cache and max(sides) > dataset.cache_side:
        raise ConfigError(
            f"config.dataset.cache_side = {dataset.cache_side} keeps less than the "
            f"{max(sides)} pixels of the short side that this config asks for: raise "
            'it, or config.dataset.cache = ""'
        )
    if augment.view == "rescale_crop" and max(sizes) > augment.short_side[0]:
        raise ConfigError(
            f"config.augment.short_side = {augment.short_side} is less than "
            f"{max(sizes)}, the pixels of a crop"
        )
    if (augment.view or dataset.fit == "crop") and not dataset.image_size:
        field = "augment.view" if augment.view else "dataset.fit"
        raise ConfigError(f"config.{field} needs config.dataset.image_size")
    other = config.eval.image_size not in (0, dataset.image_size)
    kinds = [kind for kind, _ in protocols.PROTOCOLS.get(config.eval.protocol, ())]
    of_one_size = dataset.whiten in ("mean_image", "gcn", "gcn_zca")
    if of_one_size and (other or augment.image_sizes):
        raise ConfigError(
            f"config.dataset.whiten = {dataset.whiten!r} is of images of one size: no "
            "config.eval.image_size or config.augment.image_sizes"
        )
    if of_one_size and {*kinds} - {"crop"}:
        raise ConfigError(
            f"config.dataset.whiten = {dataset.whiten!r} is of images of one size: "
            f"config.eval.protocol = {config.eval.protocol!r} shows larger ones"
        )
    if augment.image_sizes and not augment.view:
        raise ConfigError("config.augment.image_sizes needs config.augment.view")


def _check_augment(config):
    augment = config.augment
    for name in ("short_side", "area", "aspect"):
        values = augment[name]
        numbers = all(isinstance(v, int | float) for v in values)
        if len(values) != 2 or not numbers or not 0 < values[0] <= values[1]:
            raise ConfigError(
                f"config.augment.{name} = {values} must be two numbers above zero, the "
                "first not greater"
            )
    if augment.area[1] > 1:
        raise ConfigError(f"config.augment.area = {augment.area} is a share, up to 1")
    if not all(isinstance(v, int) for v in augment.short_side):
        raise ConfigError(
            f"config.augment.short_side = {augment.short_side} must be whole pixels"
        )
    scale = {"randaugment": 30, "randaugment_timm": 10}.get(augment.policy, math.inf)
    if augment.policy_magnitude > scale:
        raise ConfigError(
            f"config.augment.policy_magnitude = {augment.policy_magnitude} is greater "
            f"than {scale}, the end of the scale of {augment.policy}"
        )
    levels = ("brightness", "contrast", "saturation", "hue", "pca", "erasing")
    if augment.crop_mode == "mean" and (used := [n for n in levels if augment[n]]):
        raise ConfigError(
            "config.augment.crop_mode = 'mean' crops from normalised images, which "
            f"config.augment.{used[0]} does not know"
        )
    if config.batch_size % augment.repeats:
        raise ConfigError(
            f"config.batch_size = {config.batch_size} is not divisible by "
            f"config.augment.repeats = {augment.repeats}"
        )
    if augment.repeats > 1 and config.dataset.order == "fixed":
        raise ConfigError(
            f"config.augment.repeats = {augment.repeats} with config.dataset.order = "
            "'fixed' would never show most images"
        )
    sizes = augment.image_sizes
    pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in sizes)
    epochs = [epoch for epoch, _ in sizes] if pairs else []
    numbers = pairs and all(
        isinstance(e, int | float) and 0 <= e < math.inf for e in epochs
    )
    if not numbers or epochs != sorted(set(epochs)) or epochs[:1] not in ([], [0]):
        raise ConfigError(
            f"config.augment.image_sizes = {sizes} must be pairs (epoch, pixels), the "
            "epochs rising from 0"
        )
    if not all(isinstance(pixels, int) and pixels > 0 for _, pixels in sizes):
        raise ConfigError(
            f"config.augment.image_sizes = {sizes} must have whole pixels above zero"
        )


def _check_optimizer(optimizer):
    names = optimizer_names()
    if optimizer.name not in names:
        raise ConfigError(
            f"config.optimizer.name = {optimizer.name!r} is no optimizer of optax "
            f"whose learning rate may be a schedule{nearest(optimizer.name, names)}"
        )
    parameters = inspect.signature(optimizers.constructor(optimizer.name)).parameters
    accepted = set(parameters)
    masks = accepted & {"mask", "weight_decay_mask"}
    if optimizer.decay_mask != "all" and "weight_decay" in accepted and not masks:
        raise ConfigError(
            f"config.optimizer.decay_mask = {optimizer.decay_mask!r}: optax's "
            f"{optimizer.name} decays all parameters; 'all' says so"
        )
    accepted -= {"learning_rate", "weight_decay", "mask", "weight_decay_mask"}
    for name, value in optimizer.kwargs.items():
        if name not in accepted:
            raise ConfigError(
                f"config.optimizer.kwargs.{name}: {optimizer.name} takes "
                f"{', '.join(sorted(accepted))}{nearest(name, accepted)}"
            )
        if not _fits(value, parameters[name]):
            raise ConfigError(
                f"config.optimizer.kwargs.{name} = {value!r} is of another kind than "
                f"what {optimizer.name} takes; its default is "
                f"{parameters[name].default!r}"
            )
    for name in ("rate_factors", "unfreeze", "filter_rms"):
        for rule in optimizer[name]:
            if not _is_rule(rule) or (name == "filter_rms" and rule[1] == 0):
                raise ConfigError(
                    f"config.optimizer.{name}: {rule!r} is not a pair of a regular "
                    "expression and a number of at least 0 (a limit: above 0)"
                )


def _fits(value, parameter):
    """Whether an optimizer's parameter takes a value: a truth, a number or a dtype."""
    default = parameter.default
    if value is None:
        return default is None or type(None) in typing.get_args(parameter.annotation)
    if "dtype" in parameter.name:
        return value in ("float32", "bfloat16", "float16")
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float)


def _is_rule(rule):
    if not isinstance(rule, tuple) or len(rule) != 2 or not _is_expression(rule[0]):
        return False
    return isinstance(rule[1], int | float) and 0 <= rule[1] < math.inf


def _is_expression(text):
    try:
        return isinstance(text, str) and bool(re.compile(text))
    except re.error:
        return False


def check_start(config):
    """Raises ConfigError for what can be evaluated, and not trained.

    A training lacks what another one must give it, or its seed repeats another seed.
    """
    if config.seed >= 2**32:  # jax.random.key takes its lower 32 bits
        raise ConfigError(
            f"config.seed = {config.seed} does not fit into 32 bits: the first weights "
            f"would be those of the seed {config.seed % 2**32}"
        )
    if config.detection.stage == "fast_rcnn" and not config.detection.proposals:
        raise ConfigError(
            "config.detection.stage = 'fast_rcnn' trains on the proposals of another "
            "run: name it in config.detection.proposals"
        )
    if config.model.frozen_statistics and not config.init_from:
        raise ConfigError(
            "config.model.frozen_statistics keeps the statistics of another training: "
            "name it in config.init_from"
        )


def check_parameters(config, params):
    """Raises ConfigError for an expression that matches no parameter's path.

    Of rules, also for one that another always precedes.
    """
    rules = {
        f"optimizer.{name}": config.optimizer[name]
        for name in ("rate_factors", "unfreeze", "filter_rms")
    }
    expressions = {"init_layers": config.init_layers}
    expressions |= {field: [e for e, _ in found] for field, found in rules.items()}
    names = optimizers.paths(params)
    for field, values in expressions.items():
        for expression in values:
            if not any(re.search(expression, name) for name in names):
                raise ConfigError(
                    f"config.{field}: no parameter of {config.model.name} has "
                    f"{expression!r} in its path; they are {', '.join(names)}"
                )
    for field, found in rules.items():
        _check_order(field, found, names)


def _check_order(field, rules, names):
    """Raises ConfigError for a rule that one with another value wholly hides."""
    found = [{name for name in names if re.search(rule, name)} for rule, _ in rules]
    for place, (expression, value) in enumerate(rules):
        for (earlier, other), paths in zip(rules[:place], found, strict=False):
            if found[place] <= paths and other != value:
                raise ConfigError(
                    f"config.{field}: {expression!r} decides nothing, since the first "
                    f"expression found decides, and {earlier!r}, which comes before "
                    "it, is found wherever it is; exchange them, or leave it out"
                )


def _check_schedule(config):
    schedule = config.schedule
    for name in ("boundaries", "factors"):
        values = schedule[name]
        if not all(isinstance(v, int | float) and 0 <= v < math.inf for v in values):
            raise ConfigError(
                f"config.schedule.{name} = {values} must be numbers, none negative"
            )
    if schedule.name == "step":
        times, factors = schedule.boundaries, schedule.factors
        if not times:
            raise ConfigError(
                'config.schedule.name = "step" needs config.schedule.boundaries and '
                "factors; without them the rate stays what it is"
            )
        if len(times) != len(factors) or list(times) != sorted(set(times)):
            raise ConfigError(
                f"config.schedule.boundaries = {times} must rise and have one of "
                f"config.schedule.factors = {factors} each"
            )
    for name in ("decay_rate", "min_factor"):
        if schedule.name == "plateau" and schedule[name] >= 1:
            raise ConfigError(
                f"config.schedule.{name} = {schedule[name]} must be less than one"
            )
    if schedule.name == "plateau" and not config.eval.every_epochs:
        raise ConfigError(
            'config.schedule.name = "plateau" needs config.eval.every_epochs > 0'
        )


def check_devices(config, num_devices, num_processes=1):
    """Raises ConfigError if training cannot split its batch over the devices."""
    check_enough_devices(config, num_devices, num_processes)
    used = config.num_devices or num_devices
    micro_batch = config.batch_size // config.optimizer.accumulate
    if micro_batch % used:
        raise ConfigError(
            f"config.batch_size = {config.batch_size} in "
            f"{config.optimizer.accumulate} micro-batches is not divisible by "
            f"{used} devices; choose another or set config.num_devices"
        )


def check_enough_devices(config, num_devices, num_processes=1):
    """Raises ConfigError if there are not the devices that the config asks for."""
    if config.num_devices > num_devices:
        raise ConfigError(
            f"config.num_devices = {config.num_devices}, but there are {num_devices}"
        )
    if config.num_devices and num_processes > 1:
        raise ConfigError("config.num_devices must be 0 with several processes")


def change(config, changes):
    """A checked copy of a run's config with `changes`, strings "field=value".

    Only fields that evaluation reads may change: eval, dataset without the sizes of the
    training's images, and num_devices; for a detector also the fields of detection and
    of its network that concern tests. Its stage may only become "rpn", which takes
    stored proposals and test_scales away.
    """
    fields, values = flatten(config), {}
    free, what = ("eval.", "dataset.", "num_devices"), "eval or dataset"
    if models.is_detector(config.model.name):
        tested = {f"model.fields.{name}": value for name, value in DETECTION.items()}
        read = [f"detection.{name}" for name in TESTED_DETECTION]
        fields, free = tested | fields, (*free, *read, *tested)
        what = "eval, dataset, or detection and its network that tests read"
    for text in changes:
        name, _, value = text.partition("=")
        name = name.removeprefix("config.")
        if name not in fields or not name.startswith(free):
            names = [n for n in fields if n.startswith(free)]
            raise ConfigError(
                f"--change={text}: {name!r} is no field of {what}, nor "
                f"num_devices{nearest(name, names)}"
            )
        if name in values:
            raise ConfigError(f"--change={text}: {name!r} has another value already")
        if name in ("dataset.image_size", "dataset.short_side"):
            raise ConfigError(
                f"--change={text} is of the training; a test has eval.{name[8:]}"
            )
        if not isinstance(fields[name], str):
            try:
                value = literal(value)
            except ValueError as e:
                raise ConfigError(f"--change={text}: {value!r} is no value") from e
            if isinstance(fields[name], tuple) and not isinstance(value, tuple):
                value = (value,)
        values[name] = value
    if values.get("detection.stage") == "rpn":  # which has no use for these
        for name, unset in (("detection.proposals", ""), ("detection.test_scales", ())):
            values.setdefault(name, unset)
    stage = values.get("detection.stage", "rpn")
    if stage not in ("rpn", fields.get("detection.stage")):
        raise ConfigError(
            f"--change=detection.stage={stage}: a test can only change the stage to "
            "rpn, which finds the recall of proposals"
        )
    config = config.copy_and_resolve_references()
    with config.unlocked():  # the run may have left a field of its network alone
        for name in [name for name in values if name.startswith("model.fields.")]:
            config.model.fields[name.rpartition(".")[2]] = values.pop(name)
    try:
        config.update_from_flattened_dict(values)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"--change={' --change='.join(changes)}: {e}") from e
    check(config)
    return config


@functools.cache
def optimizer_names():
    """Our optimizers, and the optax functions that build one from a schedule."""
    names = {
        name
        for name, function in vars(optax).items()
        if isinstance(function, types.FunctionType | functools.partial)
        and not name.startswith(("_", "scale_by", "noisy", "inject", "lbfgs"))
        and "learning_rate" in inspect.signature(function).parameters
    }
    names -= {"sm3", "rprop", "optimistic_adam"}  # they take a number only
    return sorted(names | optimizers.OWN.keys())
