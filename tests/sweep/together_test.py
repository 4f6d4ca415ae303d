"""Many runs in one program: each equals the run that is trained alone."""

import itertools
import json
import os
import re

import jax
import numpy as np
import pytest
import runs

import evaluate
import train
from errors import ConfigError, UsageError, UserError
from experiment import workdir
from sweep import command, grid, in_process, together
from sweep.vary import parse

SMALL = {
    "num_epochs": 1.0,
    "optimizer__learning_rate": 0.01,
    "augment__rotate": 5.0,
}


def sweep_small(path, *vary, at_once=0, stop=runs.NoStop, **overrides):
    """Sweeps in this process; returns the table."""
    return str(runs.sweep(path, vary, stop, at_once=at_once, **(SMALL | overrides))[1])


def losses(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return {
        (x["step"], name): x[name]
        for x in map(json.loads, lines)
        for name in (
            *("train/loss", "train/error", "train/learning_rate", "eval/loss"),
            "progress/images",
        )
        if name in x
    }


def assert_same_run(sweeps, alone):
    """Ten float32 steps with sums in another order may differ by some 1e-6."""
    (a, step_a), (b, step_b) = runs.final_state(sweeps), runs.final_state(alone)
    assert step_a == step_b
    assert not [*sweeps.glob("events*")]  # TensorBoard is off, as in the other
    assert jax.tree.structure(a) == jax.tree.structure(b)
    runs.assert_close(a, b)
    a, b = losses(sweeps), losses(alone)
    for key in b:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-4, err_msg=str(key))


@pytest.mark.parametrize(
    "at_once",
    [
        pytest.param(1, marks=pytest.mark.slow),
        2,
        pytest.param(3, marks=pytest.mark.slow),
    ],
)
def test_runs_of_a_sweep_are_those_of_separate_trainings(tmp_path, at_once):
    # A decay of 0 has an optax chain of its own; of three at once one is left over.
    varied = {"seed": (3, 5), "optimizer.weight_decay": (0.0, 0.5)}
    if at_once == 3:
        varied["optimizer.kwargs.momentum"] = 0.8, 0.9
    if at_once == 2:
        varied = {
            "loss.label_smoothing": (0.0, 0.2),
            "optimizer.weight_decay": (0.0, 0.5),
        }
    vary = [f"{name}={','.join(map(str, v))}" for name, v in varied.items()]
    sweep_small(tmp_path / "sweep", *vary, at_once=at_once)
    combinations = list(itertools.product(*varied.values()))
    for values in (combinations[0], combinations[-1]):
        values = dict(zip(varied, values, strict=True))
        name = ",".join(sorted(f"{k}={v}" for k, v in values.items()))
        overrides = {k.replace(".", "__"): v for k, v in values.items()}
        runs.train_small(tmp_path / name, **(SMALL | overrides))
        assert_same_run(tmp_path / "sweep" / name, tmp_path / name)


@pytest.mark.slow
def test_a_run_after_another_has_the_bits_of_one_alone(tmp_path):
    """As users compile programs: the tests' own options compute sums otherwise."""
    env = dict(os.environ) | {"XLA_FLAGS": ""}
    changes = SMALL | {"model__name": "resnet20", "seed": 3}
    command = runs.command("--config=configs/lenet5.py:modern", **changes)
    for flags in (["--mode=sweep", "--vary=seed=3,5"], []):
        done = runs.run_main(
            [*command, f"--workdir={tmp_path}/{len(flags)}", *flags], env=env
        )
        assert done.returncode == 0, done.stderr
    ours, theirs = map(runs.final_state, (tmp_path / "2" / "seed=3", tmp_path / "0"))
    runs.assert_same_bits(ours[0], theirs[0])


@pytest.mark.slow
def test_main_takes_the_directory_of_a_run(tmp_path):
    table = sweep_small(tmp_path, "seed=0,1", at_once=2)
    for seed in (0, 1):
        (line,) = [x for x in table.splitlines() if re.match(rf"{seed} .*counted", x)]
        assert "203/203 images counted" in line
        run = workdir.Workdir(tmp_path / f"seed={seed}")
        again = str(evaluate.evaluate_run(run, run.config()))
        assert again.split(" of ")[0] in line
        # Its training goes on from the saved end, and says the result again.
        done = train.train(run.config(), run, runs.NoStop)
        assert line.split(maxsplit=1)[1] in str(done)
        assert json.loads((run.path / "result.json").read_text())["of"] == done.step


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_diverges_is_reported_and_harms_nobody(tmp_path, at_once):
    path = tmp_path / "sweep"
    rates = "optimizer.learning_rate=0.01,1e30"
    table = sweep_small(path, rates, "seed=0,1", at_once=at_once)
    assert table.count("203/203 images counted") == 2
    assert table.count("diverged at step") == 2
    assert "4 runs: 2 done, 2 diverged" in table
    bad = path / "optimizer.learning_rate=1e+30,seed=0"
    assert not (bad / "checkpoints").exists()
    runs.train_small(tmp_path / "alone", **SMALL)
    assert_same_run(path / "optimizer.learning_rate=0.01,seed=0", tmp_path / "alone")
    step = json.loads((bad / "result.json").read_text())["step"]
    with pytest.raises(train.NonFiniteLoss, match=f"step {step} is not finite"):
        changes = {"optimizer__learning_rate": 1e30}
        runs.train_small(tmp_path / "bad", **(SMALL | changes))


def test_runs_of_a_program_save_on_the_way_and_fail_alone(tmp_path, monkeypatch):
    settings = SMALL | {"checkpoint__every_steps": 4, "eval__every_epochs": 0.5}
    vary, saved = ["seed=0..2"], lambda seed: tmp_path / f"seed={seed}" / "checkpoints"

    def steps(seed):
        return sorted(int(path.name) for path in saved(seed).iterdir())

    # The directory of seed 1 is full; seed 0 is stopped behind its first checkpoint.
    save = together.Group._save

    def full(group, number):
        run = group.runs[number]
        if run.config.seed == 1:
            raise UserError("the disk is full")
        return save(group, number)

    monkeypatch.setattr(together.Group, "_save", full)
    with pytest.raises(train.Preempted):
        runs.sweep(tmp_path, vary, runs.StopAfter(3), at_once=1, **settings)
    assert steps(0) == [4, 5]
    (saved(0) / "4" / "meta" / "metadata").write_text("cut")
    (saved(0) / "5" / "meta" / "metadata").write_text("cut")
    _, result = runs.sweep(tmp_path, vary, at_once=1, **settings)
    found = {row.name: (row.state, row.note) for row in result.rows}
    assert found["seed=0"][0] == found["seed=1"][0] == "failed"
    assert "are damaged" in found["seed=0"][1]
    assert found["seed=1"][1] == "the disk is full"
    assert found["seed=2"] == ("done", "")
    assert steps(2) == [8, 10]
    # Evaluations on the way are no reports, as in a training of one run.
    runs.train_small(tmp_path / "alone", **settings | {"seed": 2})
    rows = [losses(tmp_path / name).keys() for name in ("seed=2", "alone")]
    assert rows[0] == rows[1]


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    constant = {"schedule__name": "constant"}  # else the length is part of the run
    first = sweep_small(tmp_path, "seed=0,1", at_once=1, **constant)
    trained = []
    monkeypatch.setattr(together.Group, "train", lambda *a: trained.append(a))
    monkeypatch.setattr(train, "train", lambda *a: trained.append(a))
    assert sweep_small(tmp_path, "seed=0,1", **constant) == first
    assert not trained
    with pytest.raises(ConfigError, match="num_epochs = 1.0, not 2.0"):
        sweep_small(tmp_path, "seed=0,1", num_epochs=2.0, **constant)
    (tmp_path / "seed=1" / "result.json").unlink()
    monkeypatch.undo()
    assert sweep_small(tmp_path, "seed=0,1", **constant) == first


def test_a_run_that_goes_on_with_other_kernels_says_so(tmp_path, capsys):
    sweep_small(tmp_path, "seed=0,1", num_epochs=0.2)
    assert "other than" not in capsys.readouterr().out
    run = workdir.Workdir(tmp_path / "seed=0")
    (start,) = run.starts()
    start["kernels"]["kernels"] = "others"
    run.write_json("environment.json", [start])
    (run.path / "result.json").unlink()
    sweep_small(tmp_path, "seed=0,1", num_epochs=0.2)
    said = capsys.readouterr().out
    assert "warning: seed=0: other than at the run's last start: " in said
    assert "kernels 'others' before" in said


def test_runs_that_are_left_keep_their_program(tmp_path, monkeypatch):
    """Each cut once loaded the data and compiled the program again."""
    monkeypatch.setattr(together, "Program", lambda *arguments: object())
    config, parent = runs.small_config(), workdir.Workdir(tmp_path)
    made = grid.make_runs(config, parent, parse(config, ["seed=0..3"]))
    runner = in_process.InProcess(runs.NoStop)
    program = runner._program_of(made[:3])
    assert runner._program_of(made[1:3]) is runner._program_of(made[:3]) is program
    assert runner._program_of(made) is not program


def test_the_order_of_vary_does_not_make_another_run(tmp_path):
    config, parent = runs.small_config(), workdir.Workdir(tmp_path)
    rate, seed = "optimizer.learning_rate=0.1,0.2", "seed=0,1"

    def paths(*vary):
        made = grid.make_runs(config, parent, parse(config, vary))
        return {frozenset(run.values.items()): str(run) for run in made}

    assert paths(rate, seed) == paths(seed, rate)
    assert "optimizer.learning_rate=0.1,seed=0" in paths(seed, rate).values()
    # An earlier version had the order of the flags.
    (tmp_path / "seed=1,optimizer.learning_rate=0.2").mkdir()
    (tmp_path / "notes").mkdir()
    found = paths(rate, seed)
    assert found == paths(seed, rate)
    assert sorted(found.values()) == [
        "optimizer.learning_rate=0.1,seed=0",
        "optimizer.learning_rate=0.1,seed=1",
        "optimizer.learning_rate=0.2,seed=0",
        "seed=1,optimizer.learning_rate=0.2",
    ]


def test_a_sweep_goes_on_with_the_classes_that_it_began_with(tmp_path, capsys):
    sweep_small(tmp_path, "seed=0", num_epochs=0.2)
    path = tmp_path / "seed=0" / "dataset.json"
    record = json.loads(path.read_text())
    record["label_names"][0] = "zero"
    path.write_text(json.dumps(record))
    (tmp_path / "seed=0" / "result.json").unlink()
    _, result = runs.sweep(tmp_path, ["seed=0,1"], **SMALL | {"num_epochs": 0.2})
    failed, done = result.rows
    assert (failed.name, failed.state) == ("seed=0", "failed")
    assert "only here 0; only there zero" in failed.note
    assert json.loads(path.read_text()) == record
    assert (done.name, done.state) == ("seed=1", "done")
    (said,) = [x for x in capsys.readouterr().out.splitlines() if "no program" in x]
    assert said.startswith("seed=0, seed=1 share no program: ")
    assert "only here 0; only there zero" in said


def test_what_ends_one_program_ends_no_other(tmp_path):
    """A network that cannot take the images once ended the whole sweep."""
    names = "model.name=alexnet,tiny_networks:Tiny"
    changes = SMALL | {"num_epochs": 0.2}
    _, result = runs.sweep(tmp_path, [names, "seed=0,1"], **changes)
    states = {(row.values["model.name"], row.state) for row in result.rows}
    assert states == {("alexnet", "failed"), ("tiny_networks:Tiny", "done")}
    for row in result.rows[:2]:
        assert "AlexNet cannot take images of" in row.note


def test_runs_that_take_too_much_memory_at_once_end_no_others(tmp_path, monkeypatch):
    advance = together.Group.advance

    def full(group, until):
        if len(group.runs) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        advance(group, until)

    monkeypatch.setattr(together.Group, "advance", full)
    changes = SMALL | {"num_epochs": 0.2}
    _, result = runs.sweep(tmp_path, ["seed=0..2"], at_once=2, **changes)
    found = {row.name: row.state for row in result.rows}
    assert found == {"seed=0": "failed", "seed=1": "failed", "seed=2": "done"}
    for row in result.rows[:2]:
        assert "out of memory with 2 runs at once; --together=1 trains" in row.note
    monkeypatch.setattr(together.Group, "advance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug of ours
        runs.sweep(tmp_path, ["seed=0..2"], at_once=2, **changes)


@pytest.mark.parametrize(
    ("at_once", "numbers", "steps"),
    [
        # In an evaluation, between steps, in the last evaluation, between two runs.
        (1, (2, 3, 2, 2), [5, 8, 10, None]),
        # When one of two runs has been evaluated, and between steps.
        pytest.param(2, (3, 3), [5, 8], marks=pytest.mark.slow),
    ],
)
def test_a_sweep_that_is_stopped_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, at_once, numbers, steps
):
    """SIGTERM once killed it, and it began its runs again."""
    settings = {"eval__every_epochs": 0.5, "eval__batch_size": 203}
    config = runs.small_config(**SMALL, **settings)
    both = grid.make_runs(config, workdir.Workdir(tmp_path), [{"seed": 0}, {"seed": 1}])
    program = together.Program(both)
    monkeypatch.setattr(together, "Program", lambda *arguments: program)

    def train_both(name, stop=runs.NoStop):
        vary = "seed=0,1"
        return sweep_small(
            tmp_path / name, vary, at_once=at_once, stop=stop, **settings
        )

    whole = train_both("whole")
    stopped_at = []
    for number in numbers:
        with pytest.raises(train.Preempted, match="the same command goes on") as error:
            train_both("parts", runs.StopAfter(number))
        assert error.value.exit_code == 75
        found = re.match(r"stopped at step (\d+) of 10;", str(error.value))
        stopped_at.append(found and int(found[1]))
    assert stopped_at == steps
    assert not list(tmp_path.rglob("lock"))
    assert train_both("parts").replace("parts", "whole") == whole
    for seed in (0, 1):
        a, b = (tmp_path / name / f"seed={seed}" for name in ("whole", "parts"))
        runs.assert_same_bits(runs.final_state(a)[0], runs.final_state(b)[0])
        lines = (b / "metrics.jsonl").read_text().splitlines()
        evaluated = [x["step"] for x in map(json.loads, lines) if "eval/error" in x]
        assert evaluated == [5, 10]


def test_a_run_that_is_past_a_fraction_goes_on_to_its_next_evaluation(tmp_path):
    """As `train.train` does; it once ended without a result, whatever was called."""
    settings = SMALL | {"eval__every_epochs": 0.5, "eval__batch_size": 203}
    with pytest.raises(train.Preempted, match="step 8 of 10"):
        runs.sweep(tmp_path, ["seed=0,1"], runs.StopAfter(4), at_once=1, **settings)
    swept = command.Runs(None, workdir.Workdir(tmp_path))
    in_process.InProcess(runs.NoStop, 1).train(swept.all, 0.5)
    assert [run.result["step"] for run in swept.all] == [10, 5]


def test_seeds_and_numbers_share_one_compiled_program(tmp_path):
    config = runs.small_config(**SMALL)
    values = [
        {"seed": seed, "optimizer.learning_rate": rate}
        for seed, rate in [(0, 0.1), (1, 0.1), (2**33, 0.2)]
    ]
    group = grid.make_runs(config, workdir.Workdir(tmp_path), values)
    program = together.Program(group)
    for run in group:
        together.Group(program, [run]).train()
    assert program.init._cache_size() == program.run_steps._cache_size() == 1


def test_which_runs_share_a_program(tmp_path):
    def sizes(*vary, **overrides):
        config = runs.small_config(**overrides)
        made = grid.make_runs(config, workdir.Workdir(tmp_path), parse(config, vary))
        return [len(group) for group in together.sharing(made)]

    both = "seed=0,1"
    momentum = "optimizer.kwargs={'momentum': 0.9},{'momentum': 0.8},{}"
    assert sizes(both, "optimizer.learning_rate=0.1,0.2") == [4]
    assert sizes(both, "model.name=lenet5,nin") == [2, 2]
    assert sizes(both, "batch_size=16,32", "loss.label_smoothing=0,0.1") == [4, 4]
    assert sizes(momentum, optimizer__name="sgd") == [2, 1]
    for name, value in (
        ("schedule.name", "plateau"),
        ("optimizer.name", "sdlm"),
        ("dataset.placement", "host"),
        ("log.profile_start", 0),
        ("num_devices", 2),
        ("init_from", "runs/other"),
    ):
        assert sizes(f"{name}={value}", both) == [1, 1]
    fields = ["optimizer.learning_rate=0.1,0.2", "optimizer.kwargs.b1=0.8,0.9"]
    config = runs.small_config()
    made = grid.make_runs(config, workdir.Workdir(tmp_path), parse(config, fields))
    found = together.varied(made)
    assert sorted(found) == ["optimizer.kwargs.b1", "optimizer.learning_rate", "seed"]


def test_a_sweep_does_not_go_into_a_run(tmp_path):
    runs.train_small(tmp_path, **SMALL)
    with pytest.raises(UsageError, match="holds a run"):
        sweep_small(tmp_path, "seed=0,1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        # The network is tested at another size than it is trained at.
        {"dataset__fit": "resize", "dataset__image_size": 32, "eval__image_size": 40},
        # Its input needs statistics of the training images.
        {"dataset__whiten": "mean_image", "augment__rotate": 0.0},
    ],
)
def test_a_sweep_tests_as_a_training_does(tmp_path, changes):
    """The sweep once had its own set-up, which left these fields out."""
    changes = {"model__name": "tiny_networks:Pooled"} | changes
    sweep_small(tmp_path / "sweep", "seed=3,5", **changes)
    for seed in (3, 5):
        name = f"seed={seed}"
        runs.train_small(tmp_path / name, seed=seed, **(SMALL | changes))
        assert_same_run(tmp_path / "sweep" / name, tmp_path / name)
        swept, alone = tmp_path / "sweep" / name, tmp_path / name
        for file in ("preprocessing.json", "dataset.json"):
            assert (swept / file).read_text() == (alone / file).read_text()
        result = json.loads((swept / "result.json").read_text())
        run = workdir.Workdir(swept)
        evaluate.evaluate_run(run, run.config())
        again = json.loads((swept / "evaluation-10.json").read_text())
        assert result["errors"] == again["errors"]
