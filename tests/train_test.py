"""Training in this process: determinism, sharding, recipes, and what goes wrong."""

import contextlib
import fractions
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

import input_pipeline
import models
import train
from errors import ConfigError
from evaluation import eval_step, evaluator
from experiment import build, checkpoints, checks, programs, trained, workdir
from training import durations, losses, objective, plateau, train_step
from transforms import preprocessing as preprocessings

EPOCH = fractions.Fraction(10)


def train_small(path, **changes):
    """Trains at a constant rate, so that a shorter training is a part of a longer."""
    settings = {
        "batch_size": 16,
        "dataset__train_split": "train[:160]",
        "schedule__name": "constant",
        "optimizer__learning_rate": 0.03,
        "checkpoint__keep_last": 3,
    }
    return runs.train_small(path, **settings | changes)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    line = train_small(path)
    return path, line


def state_at(path, step):
    """The state that a run saved after `step`."""
    saved = checkpoints.Checkpoints(workdir.Workdir(path).checkpoints)
    state, *_ = saved.restore(step=step)
    saved.close()
    return state


def test_memory_is_planned_once_for_each_size_of_images(capsys):
    """A detector's buckets alternate from step to step."""
    trainer, sizes = object.__new__(train.Trainer), [64, 32, 64, 64, 32]
    trainer.__dict__ |= {
        "first": True,
        "state": None,
        "sums": None,
        "seed": 0,
        "step": 0,
        "planned": set(),
        "feed": SimpleNamespace(take=lambda step, until: (sizes[step], 1)),
        "setup": SimpleNamespace(view=SimpleNamespace(size=sizes.__getitem__)),
        "memory": SimpleNamespace(expect=lambda *x: f"memory for {x[2]}"),
        "programs": SimpleNamespace(run_steps=lambda *x: (None, None)),
        "progress": SimpleNamespace(waiting=lambda seconds: None),
    }
    for _ in sizes:
        trainer._advance(len(sizes))
    assert trainer.step == 5
    assert capsys.readouterr().out == "memory for 64\nmemory for 32\n"


def test_the_last_line_says_error_count_and_place(reference):
    path, line = reference
    errors = int(line.split("(")[1].split()[0])
    assert f"error {100 * errors / 203:.2f} %" in line
    assert "203/203 images counted" in line
    assert str(path) in line
    assert errors < 203 * 0.5  # 30 steps leave chance (183) well behind


def test_a_run_directory_is_complete(reference):
    path, _ = reference
    names = {p.name for p in path.iterdir()}
    assert not [name for name in names if name.startswith("events")]
    assert names >= {
        "config.json",
        "dataset.json",
        "preprocessing.json",
        "environment.json",
        "parameters.txt",
        "metrics.jsonl",
        "checkpoints",
    }
    dataset = json.loads((path / "dataset.json").read_text())
    assert dataset["label_names"] == [str(d) for d in range(10)]
    environment = json.loads((path / "environment.json").read_text())[-1]
    assert environment["packages"]["jax"] == jax.__version__
    lines = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 30
    assert {"train/loss", "train/learning_rate", "progress/images_per_second"} <= set(
        lines[0]
    )
    images = [line["progress/images"] for line in lines if "train/loss" in line]
    assert images == [4 * 16] * 7 + [2 * 16]  # of 30 steps


def test_tensorboard_s_file_is_written_when_asked_for(tmp_path):
    train_small(tmp_path, num_steps=1, log__tensorboard=True)
    assert len([*tmp_path.glob("events*")]) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {
            "log__every_steps": 1,
            "steps_per_dispatch": 2,
            "eval__batch_size": 7,
            "checkpoint__every_steps": 3,
        },
    ],
)
def test_one_seed_gives_one_result(reference, tmp_path, change):
    train_small(tmp_path / "run", **change)
    again, _ = runs.final_state(tmp_path / "run")
    runs.assert_same_bits(again, runs.final_state(reference[0])[0])


def test_another_seed_gives_another_result(reference, tmp_path):
    train_small(tmp_path / "run", seed=1, num_epochs=1.0)
    other, _ = runs.final_state(tmp_path / "run")
    kernel = state_at(reference[0], 10)["params"]["head"]["fc"]["kernel"]
    assert not np.array_equal(other["params"]["head"]["fc"]["kernel"], kernel)


@pytest.mark.parametrize(("read", "loss"), [(2, 0.25), (0, np.nan)])
def test_the_loss_of_no_image_is_no_number(read, loss):
    split = build.open_split(runs.small_config().dataset, "test[:3]")
    sums = {"count": np.int32(3), "read": np.int32(read), "loss": np.float32(0.5)}
    sums |= {"errors": np.int32(3), "top5_errors": np.int32(3)}
    sums |= dict.fromkeys(("images", "hits", "answers"), np.zeros(10, np.int32))

    def step(variables, batch):
        return sums

    mesh = build.make_mesh(1)
    found = evaluator.Classification(step, split, 3, mesh).run(None)
    np.testing.assert_equal(found.metrics["loss"], loss)


@pytest.mark.parametrize("placement", ["device", "host"])
def test_seeds_share_one_program(tmp_path, placement):
    """Otherwise each seed would be compiled again, despite the compilation cache."""
    programs = set()
    for seed in (0, 1):
        config = runs.small_config(seed=seed, dataset__placement=placement)
        run = workdir.Workdir(tmp_path / f"{seed}")
        trainer = train.Trainer(config, run, runs.NoStop)
        data, count = trainer.feed.take(0, 1)
        arguments = (trainer.state, trainer.sums, data, count, trainer.seed)
        programs.add(trainer.programs.compiled_steps.lower(*arguments).as_text())
        trainer.close()
    assert len(programs) == 1


def test_host_threads_and_prefetch_change_nothing_and_agree_with_the_device(
    reference, tmp_path
):
    states = []
    for threads, prefetch in ((1, 1), (3, 5)):
        path = tmp_path / f"run-{threads}"
        train_small(
            path,
            num_epochs=2.0,
            dataset__placement="host",
            dataset__num_threads=threads,
            dataset__prefetch=prefetch,
        )
        states.append(runs.final_state(path)[0])
    runs.assert_same_bits(*states)
    # Another program (no loop) makes the steps, so sums may round otherwise.
    runs.assert_close(states[0], state_at(reference[0], 20))


def test_eight_devices_give_what_one_gives(reference, tmp_path):
    train_small(tmp_path / "run", num_devices=8)
    runs.assert_close(
        runs.final_state(tmp_path / "run")[0], runs.final_state(reference[0])[0]
    )
    one, eight = (
        [json.loads(x) for x in (p / "metrics.jsonl").read_text().splitlines()]
        for p in (reference[0], tmp_path / "run")
    )
    losses = [
        [x["train/loss"] for x in run if "train/loss" in x] for run in (one, eight)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_four_devices_go_on_from_one_and_back(reference, tmp_path):
    for steps, devices in ((9, 1), (20, 4), (30, 1)):
        train_small(tmp_path / "run", num_devices=devices, num_steps=steps)
    runs.assert_close(
        runs.final_state(tmp_path / "run")[0], runs.final_state(reference[0])[0]
    )


def test_micro_batches_give_what_one_batch_gives(tmp_path):
    """The network has neither batch normalisation nor dropout."""
    for name, micro in (("one", 1), ("four", 4)):
        changes = {"num_epochs": 1.0, "optimizer__accumulate": micro}
        runs.train_small(tmp_path / name, model__name="tiny_networks:Pooled", **changes)
    one, four = (runs.final_state(tmp_path / name)[0] for name in ("one", "four"))
    runs.assert_close(four, one)


def test_a_stop_in_an_evaluation_saves_the_step_and_loses_nothing(
    reference, tmp_path, monkeypatch
):
    class Stop:
        requested = False

    stop, real = Stop(), evaluator.Classification.run

    def asked_meanwhile(*args, **kwargs):
        stop.requested = True
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Classification, "run", asked_meanwhile)
        with pytest.raises(train.Preempted, match="stopped at step 10 of 30"):
            train_small(tmp_path / "run", stop=stop)
    train_small(tmp_path / "run")
    runs.assert_same_bits(
        runs.final_state(tmp_path / "run")[0], runs.final_state(reference[0])[0]
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    evaluated = [json.loads(x)["step"] for x in lines if "eval/error" in x]
    assert evaluated == [10, 20, 30]
    # Its evaluation came after the stop, and "best" knows it.
    (error,) = [
        line["eval/error"]
        for line in map(json.loads, lines)
        if line["step"] == 10 and "eval/error" in line
    ]
    record = checkpoints._read_record(tmp_path / "run" / "checkpoints" / "10")
    assert record["metrics"] == {"error": pytest.approx(error)}


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path):
    settings = {"optimizer__learning_rate": 1e30, "checkpoint__every_steps": 1}
    with pytest.raises(
        train.NonFiniteLoss,
        match=r"loss of step [1-9]\d* is not finite.*learning_rate of less than 1e\+30",
    ):
        runs.train_small(tmp_path / "run", **settings)
    saved = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints")
    for step in saved.all_steps():
        state, *_ = saved.restore(step=step)
        for leaf in jax.tree.leaves(state["params"]):
            assert np.isfinite(leaf).all()


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    """The loss of the only step is that of the parameters before it."""
    run = workdir.Workdir(tmp_path / "run")
    changes = {
        "num_steps": 1,
        "optimizer__learning_rate": 3e38,  # near float32's largest number
        "optimizer__weight_decay": 10.0,
    }
    with pytest.raises(train.NonFiniteLoss, match="the parameters after step 1 are no"):
        train_small(run.path, **changes)
    assert run.read_json("result.json") == {"step": 1, "diverged": True}
    assert not checkpoints.Checkpoints(run.checkpoints).all_steps()


def test_one_batch_is_learnt_by_heart(tmp_path):
    line = runs.train_small(
        tmp_path / "run",
        batch_size=32,
        dataset__train_split="train[:32]",
        dataset__eval_split="train[:32]",
        num_epochs=60.0,
        optimizer__learning_rate=0.02,
        augment__crop=0,
        eval__every_epochs=0.0,
        checkpoint__every_epochs=0.0,
    )
    assert "error 0.00 % (0 errors, 32/32 images counted)" in line


@pytest.mark.slow
def test_the_1998_recipe_learns(tmp_path):
    line = runs.train_small(
        tmp_path / "run",
        "paper",
        batch_size=1,
        num_epochs=2.0,
        steps_per_dispatch=200,
        log__every_steps=320,
        dataset__train_split="train[:320]",
        optimizer__curvature_examples=100,
    )
    assert float(line.split("error ")[1].split()[0]) < 50
    state, _ = runs.final_state(tmp_path / "run")
    (curvature,) = optax.tree_utils.tree_get_all_with_path(
        state["opt_state"], "curvature"
    )
    leaves = jax.tree.leaves(curvature[1])
    assert all((h >= 0).all() for h in leaves)
    assert all((h > 0).any() for h in leaves)


def test_the_curvature_is_estimated_at_the_start_of_each_pass(tmp_path, monkeypatch):
    """A run that stopped within a pass goes on with what that pass began with."""
    found, real = [], programs.Curvature.__init__

    def noted(self, setup):
        def note(state, images, labels):
            found.append((int(state.step), len(images)))
            return state

        real(self, setup)
        self._set = note

    monkeypatch.setattr(programs.Curvature, "__init__", noted)
    changes = {
        "model__name": "tiny_networks:Pooled",
        "optimizer__name": "sdlm",
        "optimizer__kwargs": {"mu": 0.02},
        "optimizer__curvature_examples": 20,
        "eval__every_epochs": 0.0,
        "checkpoint__every_epochs": 0.0,
    }
    for end in (13, 20):
        train_small(tmp_path / "run", num_steps=end, **changes)
    assert found == [(0, 20), (10, 20)]


def test_polyak_average_is_kept_and_evaluated(tmp_path):
    train_small(
        tmp_path / "run",
        num_steps=3,
        optimizer__ema_decay=0.9,
        optimizer__ema_every=2,
        checkpoint__every_steps=1,
    )
    kernels, averages = (
        [
            state_at(tmp_path / "run", step)[name]["head"]["fc"]["kernel"]
            for step in (1, 2, 3)
        ]
        for name in ("params", "ema")
    )
    same = [np.array_equal(averages[i], averages[i + 1]) for i in (0, 1)]
    assert same == [False, True]  # the second step alone has changed it
    kernel, average = kernels[-1], averages[-1]
    assert not np.array_equal(kernel, average)
    config = workdir.Workdir(tmp_path / "run").config()
    model = build.make_model(config, 10)
    variables, _ = trained.load_variables(
        workdir.Workdir(tmp_path / "run"), model, (32, 32, 1)
    )
    np.testing.assert_array_equal(variables["params"]["head"]["fc"]["kernel"], average)
    state = train_step.make_init(model, optax.sgd(0.1), (32, 32, 1), ema=True)(0)
    state = state.replace(ema=jax.tree.map(jnp.zeros_like, state.params))
    assert train_step.evaluation_variables(state)["params"] is state.ema


def test_polyak_average_takes_in_every_nth_step():
    """Parameters fall by one with every step from 0; the average sees -3, then -6."""
    model = models.create("lenet5_modern", num_classes=3)
    tx = optax.stateless(lambda g, p: jax.tree.map(lambda x: -jnp.ones_like(x), g))
    init = jax.jit(train_step.make_init(model, tx, (32, 32, 1), ema=0.5))
    state = jax.tree.map(jnp.zeros_like, init(0))
    step = jax.jit(
        train_step.make_train_step(
            objective.Classification(
                model,
                optax.softmax_cross_entropy_with_integer_labels,
                lambda batch, seed: batch["image"],
            ),
            tx,
            ema_decay=0.5,
            ema_every=3,
        )
    )
    batch = {"image": jnp.zeros((2, 32, 32, 1)), "label": jnp.zeros(2, jnp.int32)}
    seen = []
    for _ in range(7):
        state, _ = step(state, batch, 0)
        seen.append(float(state.ema["output"]["bias"][0]))
    assert seen == [0, 0, -1.5, -1.5, -1.5, -3.75, -3.75]


# Schedules, in epochs of ten steps, 100 steps in all, learning rate 0.1.


def rates(steps, **changes):
    changes = {f"schedule__{k}": v for k, v in changes.items()}
    config = runs.small_config(optimizer__learning_rate=0.1, num_epochs=10.0, **changes)
    schedule, _ = build.make_optimizer(config, EPOCH, 100)
    return [round(float(schedule(step)), 7) for step in steps]


def test_schedules():
    assert rates([0, 99], name="constant") == [0.1, 0.1]
    step = {"name": "step", "boundaries": (2.0, 5.0), "factors": (0.4, 0.02)}
    assert rates([0, 19, 20, 49, 50, 99], **step) == [
        0.1,
        0.1,
        0.04,
        0.04,
        0.002,
        0.002,
    ]
    # Boundaries count from the start of the training, with a warm-up as without.
    warm = {**step, "warmup_epochs": 1.0}
    assert rates([0, 5, 10, 19, 20, 50], **warm) == [0, 0.05, 0.1, 0.1, 0.04, 0.002]
    assert rates([0, 50, 100], name="cosine") == [0.1, 0.05, 0.0]
    assert rates([0, 50, 100], name="cosine", end_factor=0.1) == [0.1, 0.055, 0.01]
    assert rates([10, 55, 100], name="cosine", warmup_epochs=1.0) == [0.1, 0.05, 0.0]
    assert rates([0, 50, 100], name="polynomial", power=2.0) == [0.1, 0.025, 0.0]
    exponential = {"name": "exponential", "decay_rate": 0.5, "decay_epochs": 2.0}
    assert rates([0, 20, 40], **exponential) == [0.1, 0.05, 0.025]
    assert rates([19, 20], staircase=True, **exponential) == [0.1, 0.05]


def test_a_staircase_falls_on_its_step():
    """In a compiled program the quotient 41 / 41 of float32 is less than one."""
    config = runs.small_config(
        optimizer__learning_rate=1.0,
        schedule__name="exponential",
        schedule__decay_rate=0.5,
        schedule__decay_epochs=4.1,
        schedule__staircase=True,
    )
    schedule, _ = build.make_optimizer(config, EPOCH, 100)
    found = jax.jit(schedule)(jnp.array([0, 40, 41, 81, 82]))
    np.testing.assert_array_equal(found, [1, 1, 0.5, 0.5, 0.25])


def test_a_decay_within_less_than_a_step_is_refused(tmp_path):
    """The rate once stayed constant, without a word."""
    changes = {"schedule__name": "exponential", "schedule__decay_epochs": 0.04}
    words = r"config.schedule.decay_epochs = 0.04 .* half a step; one is 0.1 epochs"
    with pytest.raises(ConfigError, match=words):
        runs.train_small(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_learning_rate_scales_with_the_batch():
    config = runs.small_config(
        optimizer__learning_rate=0.1,
        optimizer__per_examples=256,
        schedule__name="constant",
    )
    schedule, _ = build.make_optimizer(config, EPOCH, 100)
    assert float(schedule(0)) == pytest.approx(0.1 * 32 / 256)


def test_plateau_divides_when_the_error_stops_improving():
    tx = plateau.scale_by_plateau()
    state = tx.init({"w": jnp.ones(3)})
    scales = []
    for error in (5.0, 4.0, 4.0, 4.0, 3.9, 3.9, 3.9):
        state = plateau.observe(state, error, factor=0.1, patience=2)
        updates, _ = tx.update({"w": jnp.ones(3)}, state)
        scales.append(round(float(updates["w"][0]), 5))
    assert scales == [1, 1, 1, 0.1, 0.1, 0.1, 0.01]
    for _ in range(9):
        state = plateau.observe(state, 3.9, factor=0.1, patience=2, min_factor=1e-3)
    assert float(state.plateau.scale) == pytest.approx(1e-3)


def test_a_report_asks_the_device_for_no_learning_rate(tmp_path):
    """The state is that of a later step, for which the report would have to wait."""
    config = runs.small_config(schedule__name="plateau", schedule__warmup_epochs=0.0)
    run = workdir.Workdir(tmp_path / "run")
    with contextlib.closing(train.Trainer(config, run, runs.NoStop)) as trainer:
        trainer.scale, trainer.state = 0.5, None
        rate = trainer._learning_rate(1)
    assert rate == 0.5 * float(trainer.schedule(0)) > 0


@pytest.mark.slow
def test_plateau_survives_a_resume(tmp_path):
    settings = {
        "schedule__name": "plateau",
        "schedule__patience": 1,
        "optimizer__learning_rate": 1e-6,  # nothing improves by much
        "num_epochs": 2.0,
        "eval__every_epochs": 0.5,
    }
    train_small(tmp_path / "whole", **settings)
    for steps in (12, 20):
        train_small(tmp_path / "parts", num_steps=steps, **settings)
    whole, parts = (runs.final_state(tmp_path / n)[0] for n in ("whole", "parts"))
    runs.assert_same_bits(whole, parts)
    found = optax.tree_utils.tree_get_all_with_path(whole["opt_state"], "scale")
    (scale,) = (value for _, value in found if value.ndim == 0)  # not of the network
    assert scale < 0.5
    rates = []
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        reports = [x for x in map(json.loads, lines) if "train/learning_rate" in x]
        rates.append({x["step"]: x["train/learning_rate"] for x in reports})
    assert rates[0][20] == rates[1][20] < max(rates[0].values())


def optimizer_of(**changes):
    changes = {"optimizer__learning_rate": 0.5, "schedule__name": "constant"} | changes
    config = runs.small_config(**changes)
    return build.make_optimizer(config, EPOCH, 100)[1]


@pytest.mark.parametrize("name", checks.optimizer_names())
def test_any_optax_optimizer_by_name(name):
    tx = optimizer_of(optimizer__name=name, optimizer__kwargs={})
    params = {"w": jnp.ones((2, 2))}
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(updates["w"][0, 0]) < 0


@pytest.mark.parametrize("name", ["sm3", "rprop", "optimistic_adam"])
def test_an_optimizer_that_takes_no_schedule_is_refused(name):
    """They ended in a traceback when config.json was written."""
    with pytest.raises(ConfigError, match=f"'{name}' is no .* may be a schedule"):
        optimizer_of(optimizer__name=name, optimizer__kwargs={})


def test_adafactors_own_decay_leaves_biases_when_told_so():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = optimizer_of(
        optimizer__name="adafactor",
        optimizer__kwargs={"weight_decay_rate": 0.1},
        optimizer__weight_decay=0.0,
        optimizer__decay_mask="kernels",
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    assert (updates["kernel"] < 0).all()
    assert (updates["bias"] == 0).all()


def test_weight_decay_leaves_biases_when_told_so():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name in ("sgd", "adamw"):  # added to the gradient, or the optimizer's own
        for mask, bias in (("all", True), ("kernels", False)):
            tx = optimizer_of(
                optimizer__name=name,
                optimizer__kwargs={},
                optimizer__weight_decay=0.1,
                optimizer__decay_mask=mask,
            )
            updates, _ = tx.update(zeros, tx.init(params), params)
            np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
            np.testing.assert_allclose(updates["bias"], -0.05 * bias, rtol=1e-6)


def test_clipping_by_the_global_norm():
    tx = optimizer_of(
        optimizer__clip_norm=1.0, optimizer__kwargs={}, optimizer__weight_decay=0.0
    )
    params = {"w": jnp.zeros(4)}
    updates, _ = tx.update({"w": jnp.full(4, 5.0)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * 0.5, rtol=1e-6)


# Evaluation.


@pytest.fixture(scope="module")
def tested(reference):
    """The reference's weights, 203 images, the evaluation step, and the logits."""
    config = runs.small_config()
    split = build.open_split(config.dataset, "test[:203]")
    model = build.make_model(config, 10)
    preprocessing = build.make_preprocessing(config, split.image_shape)
    variables, _ = trained.load_variables(
        workdir.Workdir(reference[0]), model, (32, 32, 1)
    )
    loss = losses.make_loss(config.loss)
    prepare = functools.partial(
        preprocessings.network_input, preprocessing=preprocessing
    )
    step = jax.jit(eval_step.make_eval_step(model, prepare, loss))
    images, labels = split.arrays()
    inputs = (np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))) - np.float32(20)) / 200
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, inputs)
    mean = float(loss(logits, labels).mean())
    return variables, split, step, np.asarray(logits), labels, mean


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 100, 203, 10_000])
def test_evaluation_counts_every_image_once(tested, batch_size, devices):
    if batch_size == 1 and devices > 1:
        pytest.skip("rounded up to the devices, which 7 covers")
    variables, split, step, logits, labels, mean = tested
    mesh = build.make_mesh(devices)
    counter = evaluator.Classification(step, split, batch_size, mesh)
    result = counter.run(variables).metrics

    order = np.argsort(-logits, axis=1)
    assert result["count"] == 203
    assert result["errors"] == (order[:, 0] != labels).sum()
    assert result["loss"] == pytest.approx(mean, rel=1e-5)
    top5 = (order[:, :5] == labels[:, None]).any(1)
    assert result["top5_error"] == 100 * (203 - top5.sum()) / 203
    table = np.zeros((10, 10), int)
    np.add.at(table, (labels, order[:, 0]), 1)
    hits, images, answers = np.diag(table), table.sum(1), table.sum(0)
    assert result["balanced_error"] == pytest.approx(100 * (1 - hits / images).mean())
    f1 = 2 * hits / (images + answers)
    assert result["macro_f1"] == pytest.approx(100 * f1.mean())
    assert result["imbalance"] == 25 / 15


def test_not_a_number_is_an_error_and_ties_are_decided_as_argmax_does():
    class Constant:
        def apply(self, variables, images, *, train):
            return variables

    def identity(logits, labels):
        return labels * 0.0

    step = eval_step.make_eval_step(Constant(), lambda b: b["image"], identity)
    logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [jnp.nan, 0.0, 0.0]])
    batch = {
        "image": jnp.zeros((3, 2, 2, 1), jnp.uint8),
        "label": jnp.array([0, 1, 0]),
        "mask": jnp.ones(3),
    }
    assert step(logits, batch)["errors"] == 2
    batch["mask"] = jnp.array([1.0, 0.0, 1.0])
    sums = step(logits, batch)
    assert (sums["count"], sums["errors"]) == (2, 1)
    counts = {name: sums[name].tolist() for name in ("images", "hits", "answers")}
    assert counts == {"images": [2, 0, 0], "hits": [1, 0, 0], "answers": [1, 0, 0]}
    # Class 1, which cannot be read, is counted; an unknown class is not.
    batch["label"] = jnp.array([0, input_pipeline.UNREADABLE - 2, -1])
    sums = step(logits, batch | {"mask": jnp.ones(3)})
    assert (sums["count"], sums["read"], sums["errors"]) == (3, 1, 2)
    counts = {name: sums[name].tolist() for name in ("images", "hits", "answers")}
    assert counts == {"images": [1, 1, 0], "hits": [1, 0, 0], "answers": [1, 0, 0]}


def test_due_and_next_due_agree_for_fractional_epochs():
    thirds = fractions.Fraction(7, 3)
    found = [step for step in range(1, 15) if durations.due(step, thirds)]
    assert found == [3, 5, 7, 10, 12, 14]
    for every in (thirds, fractions.Fraction(5), fractions.Fraction(1, 2)):
        times = [s for s in range(1, 50) if durations.due(s, every)]
        step, found = 0, []
        while (step := durations.next_due(step, every)) < 50:
            found.append(step)
        assert times == found
    assert not durations.due(10, 0)
    assert durations.next_due(10, 0) == float("inf")


def test_config_errors_come_from_the_data_too(tmp_path):
    with pytest.raises(ConfigError, match="less than one step"):
        runs.train_small(tmp_path / "run", num_epochs=0.01)
