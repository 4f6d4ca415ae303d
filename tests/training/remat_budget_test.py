"""Stages are chosen by what they save and cost, so that a step fits into a budget."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny_networks

import input_pipeline
import models
import train
from detection import views
from errors import ConfigError
from experiment import budget, build, checks, tasks, workdir
from sweep import grid, together
from training import memory, remat, remat_budget
from transforms import policies, preprocessing

KIB, MIB = 2**10, 2**20


# Sizes.


def test_sizes_are_parsed():
    texts = {"2GiB": 2**31, "800MiB": 800 * 2**20, "1.5 KiB": 1536, "1000": 1000}
    assert {text: memory.parse(text) for text in texts} == texts


@pytest.mark.parametrize("text", ["2GB", "-1GiB", "GiB", "0", "0.1", "2 G", "", "1e9"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is no size such as 2GiB"):
        memory.parse(text)


def test_a_budget_needs_auto_and_must_be_a_size():
    with pytest.raises(ConfigError, match="config.model.memory = '2GiB'.*not of 'all'"):
        runs.small_config(model__memory="2GiB", model__remat="all")
    with pytest.raises(ConfigError, match="config.model.memory: '2GB' is no size"):
        runs.small_config(model__memory="2GB", model__remat="auto")
    checks.check(runs.small_config(model__memory="2GiB", model__remat="auto"))


# The ranking.


@pytest.fixture(scope="module")
def made_up():
    """The `remat_budget.Measured` of `Staged` for three images of 8x8x1."""
    model, images = tiny_networks.Staged(5), jnp.zeros((3, 8, 8, 1))
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    network = remat_budget.Measured(model)

    def loss(params, variables):
        variables = variables | {"params": params}
        logits, _ = network.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return logits.sum()

    jax.eval_shape(jax.grad(loss), variables["params"], variables)
    return network


def test_costs_by_hand(made_up):
    # The inputs of bn and conv2 are saved, and conv1 is computed again for them.
    one, two, three = 64 * (2 + 4), 64 * (36 + 4), 16 * (8 + 16) + 16 * (16 + 16)
    head = 4 * 5
    assert made_up.forward == 3 * (one + two + three + head)
    assert made_up.stages == {
        "conv1": remat_budget.Stage(3 * 4 * 2 * 128, 3 * 64 * 2, 3 * one, False),
        "conv2": remat_budget.Stage(3 * 4 * 2 * 128, 3 * 64 * 36, 3 * two, True),
        "conv3": remat_budget.Stage(3 * 4 * 4 * 64, 3 * 16 * 24, 3 * three, True),
    }
    step = 3 * (two + three + head) + one
    assert made_up.slowdown(("conv2",)) == pytest.approx(64 * 36 / step)
    assert made_up.slowdown(()) == 0


def test_stages_are_ranked_by_bytes_per_multiply_add(made_up):
    """conv1, which is frozen, saves nothing although it would come first."""
    assert made_up.ranked() == ("conv3", "conv2")


@pytest.mark.usefixtures("shallow")
def test_a_blocks_last_product_is_computed_again_if_its_gradient_needs_it():
    """A block of ResNet ends with a normalisation, one of Wide ResNet does not."""
    found = {}
    for name in ("resnet20", "wrn_16_4"):
        model = models.create(name, num_classes=10)
        network = remat_budget.Measured(model)
        variables = build.abstract_variables(model, (8, 8, 3))
        apply = functools.partial(network.apply, train=True, mutable=["batch_stats"])
        jax.eval_shape(apply, variables, jnp.zeros((1, 8, 8, 3)))
        stage = network.stages["conv3"]
        found[name] = stage.again / stage.forward
    assert found["resnet20"] == 1
    assert 0.4 < found["wrn_16_4"] < 0.6


# The search.

RANKING = tuple("abcdefgh")


def search(totals, limit, ranking=RANKING):
    """Searches among plans of these totals; returns the number of stages and calls."""
    calls = []

    def plan_of(names):
        calls.append(len(names))
        return memory.Plan(0, 0, 0, totals[len(names)])

    names, plan = remat_budget.shortest(ranking, plan_of, limit)
    assert names == ranking[: len(names)] and plan.total == totals[len(names)]
    assert len(set(calls)) == len(calls) and plan.total <= limit
    return len(names), len(calls)


def test_nothing_is_rematerialised_if_the_step_fits():
    assert search([100] + 8 * [50], 100) == (0, 1)


def test_the_shortest_beginning_that_fits_is_found_by_bisection():
    totals = [100, 90, 80, 70, 60, 50, 40, 30, 20]
    for count in range(1, 9):
        found, calls = search(totals, totals[count])
        assert found == count and calls <= 2 + 3


def test_plans_that_are_not_monotone_still_give_one_that_fits():
    rng = np.random.default_rng(0)
    for _ in range(100):
        totals = rng.integers(1, 100, 9).tolist()
        if min(totals[0], totals[8]) <= 50:
            search(totals, 50)


def test_no_beginning_fits():
    with pytest.raises(memory.OutOfMemory) as error:
        search([100 * KIB] + 8 * [60 * KIB], 50 * KIB)
    text = str(error.value)
    assert "does not fit into 0.05 MiB a device" in text
    assert "with a, b, c, d, e, f, g, h rematerialised, is 0.06 MiB" in text
    assert "config.optimizer.accumulate = N" in text and "batch_size" in text
    with pytest.raises(memory.OutOfMemory, match="as it is, is.*no stages"):
        search([100], 50, ())


# Trainings.

TINY = {
    "model__name": "tiny_networks:Staged",
    "model__remat": "auto",
    "num_steps": 2,
    "schedule__name": "constant",
}


def setup_of(**changes):
    return tasks.setup(runs.small_config(**(TINY | changes)))


@pytest.fixture
def planned(monkeypatch):
    """Steps are planned at 200 MiB, and at 100 MiB with stages; none is compiled."""
    sizes = itertools.chain((200,), itertools.repeat(100))

    def plan_step(run_steps, mesh, arguments):
        return memory.Plan(0, 0, 0, scratch=next(sizes) * MIB)

    monkeypatch.setattr(memory, "plan_step", plan_step)


@pytest.fixture
def compiled():
    """The names of the functions that are compiled."""
    names = []

    def note(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_training_chooses_once_and_a_resume_keeps_the_choice(
    compiled, tmp_path, capsys, monkeypatch
):
    """The budget is the device's memory, of which there is more by the resume."""
    plans, plan_step = [], memory.plan_step

    def note(*arguments):
        """Compiles neither of the first two: without stages, and with all."""
        made_up = [memory.Plan(0, 0, 0, size * MIB) for size in (100, 90)]
        count = len(plans)
        plans.append(made_up[count] if count < 2 else plan_step(*arguments))
        return plans[-1]

    monkeypatch.setattr(memory, "plan_step", note)
    monkeypatch.setattr(memory, "limit", lambda _: (99 * MIB, "a small device"))
    runs.train_small(tmp_path / "run", **TINY)
    # With one stage, which the search planned and which then trained.
    assert len([name for name in compiled if "run_steps" in name]) == 1
    record = json.loads((tmp_path / "run" / "remat.json").read_text())
    assert record["stages"] == ["conv3"] and record["planned"] == plans[2].total
    assert (record["memory"], record["budget"]) == ("", 99 * MIB)
    line = f"  rematerialised: conv3 ({memory.written(plans[2].total)} planned of "
    line += f"99.0 MiB; {100 * record['slowdown']:.0f} % more multiply-adds a step)"
    assert line in capsys.readouterr().out.splitlines()
    config = workdir.Workdir(tmp_path / "run").config()
    assert (config.model.remat, config.model.memory) == ("auto", "")

    monkeypatch.setattr(memory, "limit", lambda _: (2**40, "a large device"))
    run = workdir.Workdir(tmp_path / "run")
    trainer = train.Trainer(runs.small_config(**TINY), run, runs.NoStop)
    trainer.close()
    assert isinstance(trainer.setup.trained_model, remat.Rematerialised)
    assert dataclasses.asdict(trainer.setup.choice) == record | {"stages": ("conv3",)}
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_resume_has_the_bits_of_an_uninterrupted_run(tmp_path, monkeypatch):
    """Only a part of the stages is computed twice; after the stop none need be."""
    whole, parts, changes = (
        tmp_path / "whole",
        tmp_path / "parts",
        TINY | {"num_steps": 14},
    )
    plan_step = memory.plan_step

    def too_large_at_first(run_steps, mesh, arguments):
        plan = plan_step(run_steps, mesh, arguments)
        return dataclasses.replace(plan, scratch=next(scratch))

    monkeypatch.setattr(memory, "plan_step", too_large_at_first)
    monkeypatch.setattr(memory, "limit", lambda _: (99 * MIB, "a small device"))
    scratch = itertools.chain((100 * MIB,), itertools.repeat(0))
    runs.train_small(whole, **changes)
    scratch = itertools.chain((100 * MIB,), itertools.repeat(0))
    with pytest.raises(train.Preempted, match="stopped at step 8 of 14"):
        runs.train_small(parts, stop=runs.StopAfter(2), **changes)
    monkeypatch.setattr(memory, "limit", lambda _: (2**40, "a large device"))
    runs.train_small(parts, **changes)
    assert budget.read(workdir.Workdir(parts)).stages == ("conv3",)
    runs.assert_same_bits(*(runs.final_state(path)[0] for path in (whole, parts)))


def test_a_step_that_fits_is_left_as_it_is(planned):
    setup = setup_of(model__memory="200MiB")
    found, made = budget.choose(setup)
    assert found.trained_model is setup.model and made is not None
    line = "rematerialised: nothing (200.0 MiB planned of 200.0 MiB)"
    assert str(found.choice) == line


@pytest.mark.parametrize("factors", [(1, 2), (1, 0.5)])
def test_processes_choose_by_the_least_budget_and_the_largest_plan(
    factors, planned, monkeypatch
):
    """Each once chose by its own plans, and two could have chosen other stages."""
    setup = setup_of()
    monkeypatch.setattr(memory, "limit", lambda _: (300 * MIB, "a device"))
    agreed = []

    def gather(number):
        agreed.append(np.float32(number) * np.float32(factors))
        return agreed[-1]

    monkeypatch.setattr(budget.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    choice = budget.choose(setup)[0].choice
    sizes = [sum(x) / sum(factors) / MIB for x in agreed]
    assert sizes[:2] == [300, 200]  # the budget, and the plan of no stages
    assert choice.budget == 300 * min(factors) * MIB
    assert len(choice.stages) == 1  # alone, this process would have chosen none
    assert choice.planned == sizes[-1] * max(factors) * MIB


def test_nothing_is_written_if_no_step_fits(planned, tmp_path):
    words = r"fit into 99.0 MiB .*with conv3, conv2 rematerialised, is 100.0 MiB"
    with pytest.raises(memory.OutOfMemory, match=words):
        runs.train_small(tmp_path / "run", model__memory="99MiB", **TINY)
    assert not (tmp_path / "run").exists()


def test_a_record_is_for_one_budget_and_number_of_devices(tmp_path, monkeypatch):
    run = workdir.Workdir(tmp_path)
    monkeypatch.setattr(budget, "choose", lambda setup: ("a new choice", None))
    assert budget.find(setup_of(), run)[0] == "a new choice"
    setup = setup_of(model__memory="2GiB")
    choice = budget.Choice("2GiB", 1, ("conv3",), 2**31, 2**30, 0.1)
    budget.keep(dataclasses.replace(setup, choice=choice), run)
    found, made = budget.find(setup, run)
    assert found.choice == choice and made is None
    assert isinstance(found.trained_model, remat.Rematerialised)
    for size, devices in (("1GiB", 1), ("2GiB", 2)):
        other = setup_of(model__memory=size, num_devices=devices)
        assert budget.find(other, run)[0] == "a new choice"
    given = setup_of(model__remat="conv2")
    assert budget.find(given, run) == (given, None)
    run.write_json("remat.json", {"memory": "2GiB"})
    with pytest.raises(workdir.WorkdirError, match="remat.json is damaged"):
        budget.find(setup, run)


def test_a_device_that_does_not_say_its_memory_needs_a_size(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda _: (None, ""))
    with pytest.raises(ConfigError, match="config.model.memory = ''.*give a size"):
        budget.choose(setup_of())


@pytest.mark.parametrize(("stages", "groups"), [("conv2", [2]), ("auto", [1, 1])])
def test_runs_that_choose_share_no_program(stages, groups, tmp_path):
    config = runs.small_config(**(TINY | {"model__remat": stages}))
    seeds = [{"seed": seed} for seed in (0, 1)]
    swept = grid.make_runs(config, workdir.Workdir(tmp_path), seeds)
    assert list(map(len, together.sharing(swept))) == groups


def test_the_largest_images_count():
    augmentation = policies.HostAugmentation()
    sizes = (0, 128), (10, 160), (20, 144)
    assert preprocessing.TrainView(augmentation, sizes).largest == (160, 160)
    view = views.View(((64, 96), (96, 64), (128, 128)), 5, 64, 128, flip=False)
    plan = input_pipeline.GroupedPlan(np.array([0, 1, 1]), 1, 0)
    assert views.TrainView(view, plan).largest == (64, 96)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_plans_are_those_of_a_device_and_of_a_part_of_the_batch():
    changes = {"model__name": "resnet20", "batch_size": 64, "model__memory": "1GiB"}
    planned = {}
    for devices, parts in ((1, 1), (2, 1), (1, 4)):
        some = changes | {"num_devices": devices, "optimizer__accumulate": parts}
        choice = budget.choose(setup_of(**some))[0].choice
        planned[devices, parts] = choice.planned
        assert choice.devices == devices and choice.stages == ()
    # Parameters and the split are on each device.
    assert planned[2, 1] < 0.7 * planned[1, 1]
    assert planned[1, 4] < 0.7 * planned[1, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("frozen", ["", "conv2_x"])
def test_a_frozen_stage_of_a_detector_saves_nothing(frozen, planned, monkeypatch):
    changes = {"model__remat": "auto", "model__memory": "200MiB"}
    changes["model__fields__frozen_until"] = frozen
    shortest, ranked = remat_budget.shortest, []

    def note(ranking, plan_of, limit):
        ranked.extend(ranking)
        return shortest(ranking, plan_of, limit)

    monkeypatch.setattr(remat_budget, "shortest", note)
    budget.choose(tasks.setup(runs.small_detector(**changes)))
    stages = {"conv2", "conv3", "conv4", "conv5"}
    assert set(ranked) == stages - ({"conv2"} if frozen else set())


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_the_step_of_a_detector_is_compiled_once(compiled, tmp_path, capsys):
    changes = {"model__remat": "auto", "model__memory": "1GiB", "num_steps": 2}
    runs.train_detector(tmp_path / "run", **changes)
    assert len([name for name in compiled if "run_steps" in name]) == 1
    assert "  rematerialised: nothing (" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_resnet_fits_into_less(compiled):
    changes = {"model__name": "resnet20", "batch_size": 64, "steps_per_dispatch": 1}
    usual = budget.choose(setup_of(**changes, model__memory="1TiB"))[0].choice
    changes["model__memory"] = f"{usual.planned * 3 // 4}"
    found = budget.choose(setup_of(**changes))[0].choice
    assert found.planned <= usual.planned * 3 // 4
    # A third of a step is the forward pass; the stem and the head are in no stage.
    assert found.stages and 0 < found.slowdown < 1 / 3
    # One for the first choice; of three stages none, all and two by bisection.
    assert len([name for name in compiled if "run_steps" in name]) <= 1 + 2 + 2
