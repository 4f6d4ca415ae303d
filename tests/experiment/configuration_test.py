"""A config that cannot be run is refused with one line that names the field."""

import pytest
import runs

from configs import default, faster_rcnn, lenet5
from errors import ConfigError
from experiment import checks, configuration
from transforms import policies, resizing

VARIANTS = ["minibatch", "paper", "distortions", "modern"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_recipes_pass(variant):
    checks.check(lenet5.get_config(variant))


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"minibatch.*paper.*modern"):
        lenet5.get_config("papr")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 0, "config.batch_size = 0 must be greater than zero"),
        ("num_steps", 0, "config.num_steps = 0 must be greater"),
        ("num_epochs", -1.0, "config.num_epochs"),
        ("num_epochs", float("nan"), "not a finite number"),
        ("optimizer.learning_rate", -0.1, "config.optimizer.learning_rate = -0.1"),
        ("optimizer.weight_decay", -1e-4, "config.optimizer.weight_decay"),
        ("optimizer.ema_decay", 1.0, "config.optimizer.ema_decay = 1.0 must be less"),
        ("optimizer.name", "addam", "did you mean 'adam'"),
        ("optimizer.ema_every", 0, "config.optimizer.ema_every = 0 must be greater"),
        ("optimizer.rate_factors", (("(", 1.0),), "config.optimizer.rate_factors"),
        ("optimizer.rate_factors", (("bias", -1.0),), "config.optimizer.rate_factors"),
        ("optimizer.rate_factors", ("bias", 2.0), "config.optimizer.rate_factors"),
        ("optimizer.filter_rms", (("conv", 0.0),), "config.optimizer.filter_rms"),
        ("init_layers", ("*",), "config.init_layers"),
        ("init_layers", "conv1", "config.init_layers"),
        ("init_key", "ema", "config.init_key = 'ema' chooses weights of a source"),
        ("optimizer.accumulate", 3, "not divisible by config.optimizer.accumulate = 3"),
        ("model.name", "lenet6", "did you mean 'lenet5'"),
        ("model.dtype", "float16", "none of float32, bfloat16"),
        ("loss.name", "softmax", "softmax_cross_entropy"),
        ("schedule.name", "cosin", "did you mean 'cosine'"),
        ("dataset.placement", "gpu", "auto, device, host"),
        ("dataset.std", (0.0,), "config.dataset.std"),
        ("dataset.std", (float("inf"),), "config.dataset.std"),
        ("dataset.mean", (float("nan"),), "config.dataset.mean"),
        ("dataset.mean", (), "config.dataset.mean"),
        ("log.every_steps", 0, "config.log.every_steps"),
        ("augment.view", "inception", "did you mean 'inception_crop'"),
        ("augment.policy", "randaugmnt", "did you mean 'randaugment'"),
        ("augment.crop_mode", "wrap", "none of zeros, reflect"),
        ("augment.interpolation", "cubic", "did you mean 'bicubic'"),
        ("augment.brightness", 1.5, "augment.brightness = 1.5 must not be greater"),
        ("augment.hue", 0.6, "augment.hue = 0.6 must not be greater than 0.5"),
        ("augment.erasing", 2.0, "config.augment.erasing"),
        ("augment.mixup", -0.2, "config.augment.mixup"),
        ("augment.short_side", (512, 256), "config.augment.short_side"),
        ("augment.short_side", (256.5, 300), "must be whole pixels"),
        ("augment.area", (0.0, 1.0), "config.augment.area"),
        ("augment.area", (0.5, 1.1), "a share, up to 1"),
        ("augment.aspect", (0.75,), "config.augment.aspect"),
        ("augment.policy_ops", 0, "config.augment.policy_ops"),
        ("augment.repeats", 3, "divisible by config.augment.repeats = 3"),
        ("augment.image_sizes", ((5, 192), (0, 128)), "epochs rising from 0"),
        ("augment.image_sizes", (128, 192), "pairs"),
        ("augment.image_sizes", ((0, 128.5),), "whole pixels"),
        ("eval.protocol", "ten_crops", "did you mean 'ten_crop'"),
        ("eval.average", "probabilities", "softmax, logits"),
        ("eval.damaged", "skip", "fail, wrong"),
        ("eval.scales", (256,), "'single' has one scale, config.eval.short_side"),
        ("eval.image_size", -1, "config.eval.image_size = -1"),
        ("dataset.short_side", 0, "config.dataset.short_side"),
        ("optimizer.clip_norm", None, "config.optimizer.clip_norm = None: it must"),
        ("dataset.cache", None, "config.dataset.cache = None: it must have a value"),
        ("dataset.download", None, "config.dataset.download = None: it must have"),
        ("eval.batch_size", None, "eval.batch_size = None: it must .* such as 1000"),
        ("augment.image_sizes", ((0, 160), ("5", 192)), "epochs rising from 0"),
        ("schedule.boundaries", (1e999,), "config.schedule.boundaries = .inf,. must"),
        ("loss.name", "ml", "'ml' is .* lenet5_modern can raise without end"),
        ("dataset.interpolation", "linear", "did you mean 'bilinear'"),
    ],
)
def test_a_bad_value_is_named(field, value, message):
    config = lenet5.get_config("modern")
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message) as error:
        checks.check(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "most"), [("randaugment", 30.0), ("randaugment_timm", 10.0)]
)
def test_a_policy_s_magnitude_is_on_its_scale(policy, most):
    config = lenet5.get_config("modern")
    config.augment.policy, config.augment.policy_magnitude = policy, most
    checks.check(config)
    config.augment.policy_magnitude = most + 1
    with pytest.raises(ConfigError, match=f"the scale of {policy}"):
        checks.check(config)


def test_repeats_need_a_new_order_every_epoch():
    with pytest.raises(ConfigError, match="would never show"):
        runs.small_config(dataset__order="fixed", augment__repeats=2)


def test_the_choices_are_all_there_are():
    choices = checks.CHOICES
    assert choices["augment.policy"] == tuple(policies.POLICIES)
    assert choices["augment.view"] == policies.VIEWS
    assert choices["augment.interpolation"] == (*resizing.INTERPOLATIONS, "random")


def test_a_field_that_a_recipe_invents_is_refused():
    config = default.get_config()
    config.optimizer.learning_rte = 0.1
    with pytest.raises(ConfigError, match="did you mean 'optimizer.learning_rate'"):
        checks.check(config)


def test_arguments_that_the_optimizer_or_network_does_not_take():
    config = lenet5.get_config("modern")
    config.optimizer.kwargs.momentun = 0.9
    with pytest.raises(ConfigError, match="did you mean 'momentum'"):
        checks.check(config)
    config = lenet5.get_config("modern")
    config.model.fields.activaton = "relu"
    with pytest.raises(ConfigError, match="did you mean 'activation'"):
        checks.check(config)


@pytest.mark.parametrize(
    ("optimizer", "name", "value", "fits"),
    [
        ("sgd", "nesterov", "false", False),
        ("sgd", "nesterov", 0.9, False),
        ("sgd", "nesterov", None, False),
        ("sgd", "momentum", True, False),
        ("sgd", "momentum", None, True),
        ("sgd", "accumulator_dtype", "bfloat16", True),
        ("sgd", "accumulator_dtype", "half", False),
        ("adam", "b1", (0, 95), False),
        ("adam", "b1", None, False),
        ("adam", "b1", 0, True),
        ("adafactor", "clipping_threshold", None, True),
    ],
)
def test_an_argument_of_the_optimizer_is_of_its_kind(optimizer, name, value, fits):
    config = lenet5.get_config("modern")
    config.optimizer.name = optimizer
    config.optimizer.kwargs = {name: value}
    if fits:
        checks.check(config)
        return
    with pytest.raises(ConfigError, match=f"^config.optimizer.kwargs.{name} = "):
        checks.check(config)


@pytest.mark.parametrize("loss", ["map", "ml"])
def test_a_loss_without_targets_has_none_to_smooth(loss):
    config = lenet5.get_config("paper")
    config.loss.name = loss
    checks.check(config)
    config.loss.label_smoothing = 0.1
    with pytest.raises(ConfigError, match="smoothing = 0.1: .* no targets that could"):
        checks.check(config)


def test_steps_of_the_rate_need_boundaries():
    config = lenet5.get_config("modern")
    config.schedule.name = "step"
    with pytest.raises(ConfigError, match='name = "step" needs config.schedule.bound'):
        checks.check(config)


@pytest.mark.parametrize(("field", "value"), [("decay_rate", 1.0), ("min_factor", 1e3)])
def test_a_plateau_lowers_the_rate(field, value):
    config = lenet5.get_config("modern")
    config.schedule.name = "plateau"
    checks.check(config)
    config.schedule[field] = value
    with pytest.raises(ConfigError, match=f"schedule.{field} = {value} must be less"):
        checks.check(config)


def test_boundaries_need_factors():
    config = lenet5.get_config("paper")
    config.schedule.factors = (0.1,)
    with pytest.raises(ConfigError, match="config.schedule.factors"):
        checks.check(config)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "fits"),
    [(64, 1, 8, True), (60, 1, 8, False), (64, 16, 8, False), (64, 8, 8, True)],
)
def test_batch_must_divide_by_devices(batch_size, accumulate, devices, fits):
    config = runs.small_config(
        num_devices=0, batch_size=batch_size, optimizer__accumulate=accumulate
    )
    if fits:
        checks.check_devices(config, devices)
        return
    with pytest.raises(ConfigError, match="not divisible by 8 devices"):
        checks.check_devices(config, devices)


def test_more_devices_than_there_are():
    config = runs.small_config(num_devices=4)
    with pytest.raises(ConfigError, match="but there are 2"):
        checks.check_devices(config, 2)


def test_json_round_trip():
    config = lenet5.get_config("paper")
    config.model.fields.extra = (1, (2, 3))
    again = configuration.from_json(configuration.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.is_locked


def test_what_changed_has_the_fields_that_only_one_has():
    before, after = lenet5.get_config("modern"), lenet5.get_config("modern")
    assert configuration.changed(before, after) == {}
    before.model.fields.dropout, after.model.fields.width = 0.5, 2
    after.seed = 7
    found = configuration.changed(before, after)
    assert found == {
        "seed": 7,
        "model.fields.width": 2,
        "model.fields.dropout": None,
    }


def test_a_run_is_not_resumed_with_another_config():
    stored = runs.small_config()
    configuration.check_resumable(stored, runs.small_config(log__every_steps=1), "run")
    with pytest.raises(ConfigError) as error:
        configuration.check_resumable(
            stored, runs.small_config(optimizer__learning_rate=9.0), "run"
        )
    assert "config.optimizer.learning_rate: 0.05 in the run, 9.0 given" in str(
        error.value
    )


def test_the_name_of_a_folder_stays_but_for_the_slash_at_its_end():
    stored, slash, moved, tfds = (
        runs.small_config(dataset__name=name)
        for name in ("folder:/photos", "folder:/photos/", "folder:/moved", "mnist")
    )
    configuration.check_resumable(stored, slash, "run")
    configuration.check_resumable(slash, stored, "run")
    with pytest.raises(ConfigError, match="need a link in their old place; --mode=ev"):
        configuration.check_resumable(stored, moved, "run")
    with pytest.raises(ConfigError, match="choose another --workdir:"):
        configuration.check_resumable(tfds, moved, "run")


def test_a_run_without_a_checkpoint_may_be_removed():
    pair = runs.small_config(), runs.small_config(optimizer__accumulate=2)
    with pytest.raises(ConfigError, match="or remove it: it has no checkpoint yet"):
        configuration.check_resumable(*pair, "run", saved=False)
    with pytest.raises(ConfigError, match="choose another --workdir:"):
        configuration.check_resumable(*pair, "run", saved=True)


def test_a_run_of_an_earlier_version_keeps_what_it_held_out():
    """Its record has no holdout_by; only image files can be held out from training."""
    text = configuration.to_json(runs.small_config(dataset__name="folder:/photos"))
    stored = configuration.from_json(text.replace('"holdout_by": "class",', ""))
    assert stored.dataset.holdout_by == "path"
    given = runs.small_config(dataset__name="folder:/photos")
    with pytest.raises(ConfigError, match="config.dataset.holdout_by: 'path' in the"):
        configuration.check_resumable(stored, given, "run")
    old, new = (runs.small_config(dataset__holdout_by=by) for by in ("path", "class"))
    configuration.check_resumable(old, new, "run")


def test_what_fit_auto_chooses_is_the_pad_of_an_earlier_version():
    pad, auto, crop = (
        runs.small_config(dataset__fit=fit, dataset__image_size=32)
        for fit in ("pad", "auto", "crop")
    )
    configuration.check_resumable(pad, auto, "run")
    with pytest.raises(ConfigError, match="config.dataset.fit: 'crop' in the run"):
        configuration.check_resumable(crop, auto, "run")
    files = [
        runs.small_config(dataset__fit=fit, dataset__name="folder:photos")
        for fit in ("pad", "auto")
    ]
    with pytest.raises(ConfigError, match="config.dataset.fit: 'pad' in the run"):
        configuration.check_resumable(*files, "run")


def test_a_longer_training_is_the_same_run_unless_the_schedule_is_stretched():
    cosine, constant = (
        [runs.small_config(schedule__name=n, num_epochs=e) for e in (3.0, 5.0)]
        for n in ("cosine", "constant")
    )
    configuration.check_resumable(*constant, "run")
    with pytest.raises(ConfigError, match="config.num_epochs"):
        configuration.check_resumable(*cosine, "run")


def test_the_scales_of_a_protocol_are_numbers_of_pixels():
    config = default.get_config()
    config.eval.protocol = "dense"
    config.eval.scales = (256, 0)
    with pytest.raises(ConfigError, match="must be short sides"):
        checks.check(config)


def test_short_sides_are_chosen_once():
    config = default.get_config()
    config.eval.protocol = "dense"
    config.eval.scales, config.eval.short_side = (256,), 300
    with pytest.raises(ConfigError, match="short_side = 300 are two choices"):
        checks.check(config)


def test_a_loss_of_penalties_takes_averaged_logits_only():
    config = lenet5.get_config("minibatch")
    config.eval.protocol = "ten_crop"
    with pytest.raises(ConfigError, match="choose 'logits'"):
        checks.check(config)
    config.eval.average = "logits"
    checks.check(config)


@pytest.mark.parametrize("whiten", ["mean_image", "gcn", "gcn_zca"])
def test_what_is_whitened_has_one_size(whiten):
    """Global contrast normalisation gives a larger image less contrast."""
    config = default.get_config()
    config.dataset.whiten, config.dataset.image_size = whiten, 32
    config.dataset.mean, config.dataset.std = (0.0,), (1.0,)
    config.eval.protocol = "multi_crop"
    checks.check(config)
    config.eval.protocol = "dense"
    with pytest.raises(ConfigError, match="of one size: config.eval.protocol = 'dense"):
        checks.check(config)
    config.eval.protocol, config.eval.image_size = "single", 40
    with pytest.raises(ConfigError, match="of one size: no config.eval.image_size"):
        checks.check(config)


def test_an_optimizer_without_a_mask_refuses_one():
    config = lenet5.get_config("modern")
    config.optimizer.name = "novograd"
    config.optimizer.kwargs = {}
    checks.check(config)
    config.optimizer.decay_mask = "kernels"
    with pytest.raises(ConfigError, match="novograd decays all parameters; 'all'"):
        checks.check(config)


def test_a_cache_is_not_smaller_than_what_is_made_of_it():
    config = lenet5.get_config("modern")
    config.dataset.image_size = 384
    config.dataset.cache, config.dataset.cache_dir = "pixels", "cache"
    with pytest.raises(ConfigError, match="cache_side = 256 keeps less than the 384"):
        checks.check(config)
    config.dataset.cache_side = 384
    checks.check(config)
    config.augment.view = "inception_crop"
    config.augment.image_sizes = ((0, 160), (5, 400))
    for fit in ("resize", "crop"):  # which tests at short_side, 256 pixels
        config.dataset.fit = fit
        with pytest.raises(ConfigError, match="keeps less than the 400 pixels"):
            checks.check(config)
    config.augment.image_sizes = ((0, 160),)
    config.dataset.fit = "crop"
    config.eval.protocol, config.eval.scales = "dense", (384, 512)
    checks.check(config)  # a protocol of several scales reads the originals


def test_no_seed_repeats_another():
    config = lenet5.get_config("modern")
    config.seed = 2**32 - 1
    checks.check_start(config)
    config.seed = 2**32 + 7
    checks.check(config)  # a run of an earlier version can be evaluated
    with pytest.raises(ConfigError, match="would be those of the seed 7$"):
        checks.check_start(config)


def test_what_evaluates_can_be_changed():
    config = lenet5.get_config("modern").lock()
    changes = [
        "eval.protocol=dense",
        "config.eval.scales=36,40",
        "dataset.eval_split=test[:50]",
        "num_devices=1",
    ]
    changed = checks.change(config, changes)
    assert (changed.eval.protocol, changed.eval.scales) == ("dense", (36, 40))
    assert changed.dataset.eval_split == "test[:50]"
    assert config.eval.protocol == "single"
    one = checks.change(config, ["eval.protocol=dense", "eval.scales=36"])
    assert one.eval.scales == (36,)
    for change, message in (
        ("eval.protocl=dense", "did you mean 'eval.protocol'"),
        ("optimizer.learning_rate=1.0", "no field of eval or dataset"),
        ("eval.batch_size=many", "'many' is no value"),
        ("eval.batch_size=1.5", "--change=eval.batch_size=1.5"),
        ("eval.short_side=None", "config.eval.short_side = None: it must have"),
        ("eval.protocol=ten", "config.eval.protocol = 'ten'"),
        ("dataset.image_size=40", "of the training; a test has eval.image_size$"),
        ("dataset.short_side=40", "of the training; a test has eval.short_side$"),
    ):
        with pytest.raises(ConfigError, match=message):
            checks.change(config, [change])
    twice = ["eval.damaged=fail", "config.eval.damaged=wrong"]
    with pytest.raises(ConfigError, match="'eval.damaged' has another value already"):
        checks.change(config, twice)


def test_what_tests_a_detector_can_be_changed():
    config = faster_rcnn.get_config("digits").lock()
    changes = ["model.fields.refine=True", "detection.metric=voc"]
    changed = checks.change(config, changes)
    assert (changed.model.fields.refine, changed.detection.metric) == (True, "voc")
    assert "refine" not in config.model.fields
    changed = checks.change(config, ["detection.stage=rpn", "detection.max_boxes=9"])
    assert (changed.detection.stage, changed.detection.max_boxes) == ("rpn", 9)
    config = changed.lock()
    with pytest.raises(ConfigError, match="can only change the stage to rpn"):
        checks.change(config, ["detection.stage=joint"])
    for change, message in (
        ("model.fields.depth=50", "'model.fields.depth' is no field of eval"),
        ("model.fields.refin=True", "did you mean 'model.fields.refine'"),
        ("model.fields.voting=many", "'many' is no value"),
        ("eval.protocol=dense", "is for classifiers"),
        ("detection.use_difficult=True", "'detection.use_difficult' is no field of"),
        ("detection.roi_iou=0.4", "'detection.roi_iou' is no field of"),
        ("detection.train_short_sides=64", "'detection.train_short_sides' is no fi"),
        ("detection.stage=fast_rcnn", "can only change the stage to rpn"),
    ):
        with pytest.raises(ConfigError, match=message):
            checks.change(config, [change])


def test_what_evaluates_may_change_when_a_run_is_resumed():
    stored, given = lenet5.get_config("modern"), lenet5.get_config("modern")
    given.eval.protocol, given.eval.scales = "dense", (36,)
    given.eval.damaged, given.eval.batch_size = "wrong", 36
    configuration.check_resumable(stored, given, "run")


@pytest.mark.parametrize("field", ["rate_factors", "unfreeze", "filter_rms"])
def test_a_rule_that_others_hide_is_refused(field):
    """The first expression found in a path decides, so conv1 would not be special."""
    config = default.get_config()
    params = {"backbone": {"conv1": {"kernel": 0}, "conv2": {"kernel": 0}}, "head": 0}

    def check(*rules):
        config.optimizer[field] = rules
        checks.check_parameters(config, params)

    with pytest.raises(ConfigError, match=f"{field}: 'conv1' .* 'backbone', which"):
        check(("backbone", 0.1), ("conv1", 1.0))
    check(("conv1", 1.0), ("backbone", 0.1))
    check(("backbone", 0.1), ("conv1", 0.1))
    check(("conv1", 0.1), ("backbone/conv", 1.0), ("head", 0.1))
    check(("backbone", 0.1), ("head", 1.0), (".", 1.0))  # for whatever else there is
    with pytest.raises(ConfigError, match="no parameter of .* has 'conv9' in its path"):
        check(("conv9", 0.1))
