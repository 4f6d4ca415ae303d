"""Sweeps over anything: what is trained, found again, refused and listed."""

import csv
import json
import os

import pytest
import runs

import train
from errors import ConfigError, UsageError, UserError
from experiment import ownership, workdir
from sweep import command, grid, halving, in_process, record, table

CONFIG = "--config=configs/lenet5.py:modern"
TINY = {"num_epochs": 1.0, "log__every_steps": 5}


def sweep(path, vary=(), **changes):
    """Sweeps with trainings of ten steps; returns the command.Runs."""
    return runs.sweep(path, vary, **TINY | changes)[0]


def states(path):
    found = command.Runs(None, workdir.Workdir(path)).standing()
    return {row.name: row.state for row in found.rows}


def test_what_no_program_can_share_is_trained_as_if_alone(tmp_path, monkeypatch):
    """The bits are those of single trainings, here for two batch sizes."""
    changes, freed = {"schedule__name": "plateau"}, []
    monkeypatch.setattr(in_process, "_free_programs", lambda: freed.append(1))
    swept = sweep(tmp_path / "sweep", ["batch_size=16,32"], **changes)
    assert freed == [1, 1]  # after each run, so that memory holds one's programs
    assert [run.result["step"] for run in swept.all] == [20, 10]
    for run in swept.all:
        alone, size = tmp_path / str(run), run.values["batch_size"]
        runs.train_small(alone, **TINY | changes | {"batch_size": size})
        path = run.workdir.path
        runs.assert_same_bits(runs.final_state(path)[0], runs.final_state(alone)[0])
        files = [folder / "result.json" for folder in (path, alone)]
        assert files[0].read_text() == files[1].read_text()
    assert set(states(tmp_path / "sweep").values()) == {"done"}
    with open(tmp_path / "sweep" / "results.csv", newline="") as file:
        assert [row["batch_size"] for row in csv.DictReader(file)] == ["16", "32"]


def test_a_sweep_is_found_again_and_grows(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        in_process.InProcess, "train", lambda self, all, until: trained.append(len(all))
    )
    sweep(tmp_path, ["seed=0,1"])
    again = command.Runs(None, workdir.Workdir(tmp_path))
    assert [run.values for run in again.all] == [{"seed": 0}, {"seed": 1}]
    assert again.all[1].config == runs.small_config(**TINY | {"seed": 1})
    sweep(tmp_path, ["seed=1..3"])
    again = command.Runs(None, workdir.Workdir(tmp_path))
    assert [run.values["seed"] for run in again.all] == [0, 1, 2, 3]
    sweep(tmp_path, [], declared=[{"schedule.boundaries": (1.0, 2.0), "seed": 9}])
    again = command.Runs(None, workdir.Workdir(tmp_path))
    assert again.all[-1].values == {"schedule.boundaries": (1.0, 2.0), "seed": 9}
    with pytest.raises(ConfigError, match="holds a sweep with config.batch_size = 32"):
        sweep(tmp_path, ["seed=0,1"], batch_size=16)
    with pytest.raises(ConfigError, match="holds a sweep with config.num_epochs = "):
        sweep(tmp_path, ["seed=4"], num_epochs=9.0)  # its runs would be compared
    sweep(tmp_path, ["seed=0,1"], log__every_steps=2)  # which changes no run
    assert trained == [2, 3, 1, 2]
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 5  # not only the last command's two
    with pytest.raises(UsageError, match="holds no sweep"):
        command.Runs(None, workdir.Workdir(tmp_path / "other"))
    (tmp_path / record.FILE).write_text("{}")
    with pytest.raises(ConfigError, match="sweep.json is damaged"):
        command.Runs(None, workdir.Workdir(tmp_path))


def test_a_sweep_does_not_touch_what_has_an_owner(tmp_path):
    with workdir.Workdir(tmp_path).lock as lock:
        lock.take()
        with pytest.raises(ownership.Owned, match=f"in {tmp_path} since"):
            sweep(tmp_path, ["seed=0"])
    run = workdir.Workdir(tmp_path / "seed=0")
    with run.lock:
        run.lock.take()
        found = sweep(tmp_path, ["seed=0"])
        assert states(tmp_path) == {"seed=0": "running"}
        assert run.lock.check() is None
    assert [run.ended for run in found.all] == [False]
    assert os.listdir(run.path) == []


def test_a_sweep_that_grows_by_a_field_trains_no_config_twice(tmp_path, capsys):
    """The run of seed 0 was once trained again, and counted as another seed."""
    trained = []

    class Runner:
        def train(self, all, until):
            for run in all:
                if not run.ended:
                    trained.append(str(run))
                    run.workdir.create(run.config)
                    result = {"step": 10, "of": 10, "split": "test", "error": 1.0}
                    run.workdir.write_json("result.json", result)

    parent, config = workdir.Workdir(tmp_path), runs.small_config(**TINY)
    rates = "optimizer.learning_rate=0.1,0.2"
    command.sweep(command.Runs(config, parent, [rates]), Runner())
    assert capsys.readouterr().out == ""
    grown = command.sweep(command.Runs(config, parent, [rates, "seed=0,1"]), Runner())
    low, high = (f"optimizer.learning_rate={rate}" for rate in (0.1, 0.2))
    assert trained == [low, high, f"{low},seed=1", f"{high},seed=1"]
    assert [row.name for row in grown.rows] == [low, trained[2], high, trained[3]]
    said = capsys.readouterr().out
    assert said.startswith(f"note: {low},seed=0, {high},seed=0: the sweep has the same")
    again = command.Runs(None, parent)
    assert len(again.all) == 4
    for rows in (grown.rows, again.rows()):
        assert [sorted(g.by_seed) for g in table.groups(rows)] == [[0, 1], [0, 1]]
    metrics = {str(run): run.config.optimizer.learning_rate for run in again.all}
    lost = halving.losers(again.all, 1, metrics)
    assert [str(run) for run in lost] == [high, f"{high},seed=1"]
    declared = [{"seed": 0}, {"optimizer.name": config.optimizer.name}]
    one = command.Runs(config, workdir.Workdir(tmp_path / "new"), (), declared)
    assert list(map(str, one.all)) == ["seed=0"]


def test_a_list_keeps_its_run(tmp_path):
    """Its directory once had another name when it was found again."""
    parent, config = workdir.Workdir(tmp_path), runs.small_config()
    swept = command.Runs(config, parent, ["model.fields={'channels': [64, 128]},{}"])
    swept.write()
    for run in swept.all:
        run.workdir.create(run.config)
    again = command.Runs(None, parent)
    assert list(map(str, again.all)) == list(map(str, swept.all))
    for run in (*swept.all, *again.all):
        assert run.workdir.check(run.config) is not None  # it is that run's


class Nobody:
    """A runner that trains nothing, as where other processes train all runs."""

    def train(self, all, until):
        pass


def test_what_another_command_wrote_meanwhile_stays(tmp_path):
    parent, config = workdir.Workdir(tmp_path), runs.small_config()
    first = command.Runs(config, parent, ["seed=0,1"])
    other = command.Runs(config, parent, ["seed=2"], factor=2)
    other.record.cut = ("seed=2",)
    other.write()
    command.sweep(first, Nobody())
    found = command.Runs(None, parent)
    assert [run.values["seed"] for run in found.all] == [2, 0, 1]
    assert (found.record.halving, found.record.cut) == (2, ("seed=2",))


def test_a_run_that_another_process_trained_is_reported_as_it_is_now(tmp_path):
    class Elsewhere:
        def train(self, all, until):
            for run in all:
                run.workdir.create(run.config)
                result = {"step": 10, "of": 10, "split": "test", "error": 1.0}
                run.workdir.write_json("result.json", result)

    config = runs.small_config(**TINY)
    swept = command.Runs(config, workdir.Workdir(tmp_path), ["seed=0,1"])
    found = command.sweep(swept, Elsewhere())
    assert [row.state for row in found.rows] == ["done", "done"]
    assert found.failed == ()


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    """It fails once more as long as its reason stays, and then trains."""
    real = train.train

    def fail(config, run, *rest):
        if config.seed == 0:
            raise UserError("no space left")
        return real(config, run, *rest)

    monkeypatch.setattr(train, "train", fail)
    vary = ["seed=0,1", "schedule.name=plateau"]
    swept = sweep(tmp_path, vary)
    assert set(states(tmp_path).values()) == {"failed", "done"}
    result = command.sweep(swept, in_process.InProcess(runs.NoStop))
    assert "failed: no space left" in str(result)
    (line,) = result.failed
    assert "not all of the runs came to their end: 1 run: 1 failed" in line
    monkeypatch.setattr(train, "train", real)
    sweep(tmp_path, vary)
    assert set(states(tmp_path).values()) == {"done"}
    assert not list(tmp_path.glob("*/failure.json"))


def test_many_runs_are_listed_without_training(tmp_path):
    arguments = ["--mode=sweep", CONFIG, f"--workdir={tmp_path / 'new'}"]
    arguments += ["--vary=seed=0..19", "--vary=optimizer.learning_rate=1e-3..1:log:10"]
    listed = runs.call_main([*arguments, "--dry_run"])
    assert listed.returncode == 0, listed.stderr
    assert "200 runs: 200 waiting" in listed.stdout
    assert sum(line.endswith("  waiting") for line in listed.stdout.splitlines()) == 200
    assert "results.csv" not in listed.stdout  # which nothing wrote
    assert not (tmp_path / "new").exists()


def test_who_may_only_read_a_sweep_sees_how_it_stands(tmp_path):
    parent = workdir.Workdir(tmp_path / "sweep")
    command.Runs(runs.small_config(), parent, ["seed=0,1"]).write()
    with runs.read_only(parent.path) as why:
        seen = runs.call_main(["--mode=sweep", f"--workdir={parent}", "--status"])
    assert seen.returncode == 0, seen.stderr
    first, *rest = seen.stdout.splitlines()
    assert first == f"note: cannot write {parent}/results.csv: {why}"
    assert rest[-1] == "2 runs: 2 waiting"


def test_each_file_of_a_run_is_read_once(tmp_path, monkeypatch):
    parent = workdir.Workdir(tmp_path)
    for number in range(3):
        run = workdir.Workdir(tmp_path / f"seed={number}")
        run.create(runs.small_config(**TINY | {"seed": number}))
        run.write_json("result.json", {"step": 10, "of": 10, "error": 1.0})
    read = []
    real = workdir.Workdir._read
    monkeypatch.setattr(
        workdir.Workdir, "_read", lambda run, name: read.append(name) or real(run, name)
    )
    overrides = [{"seed": number} for number in range(3)]
    record.write(parent, record.Record(runs.small_config(**TINY), overrides))
    print(command.Runs(None, parent).standing())
    assert sorted(read) == ["result.json"] * 3 + ["sweep.json"]


def test_main_sweeps_what_a_config_declares(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(
        "from configs import lenet5, sweeps\n"
        "def get_config():\n"
        "    return lenet5.get_config('modern')\n"
        "def sweep():\n"
        "    return sweeps.vary('seed', range(3))\n"
    )
    arguments = ["--mode=sweep", f"--config={config}", f"--workdir={tmp_path / 'new'}"]
    listed = runs.call_main([*arguments, "--dry_run", "--vary=batch_size=1,2"])
    assert "6 runs: 6 waiting" in listed.stdout
    config.write_text(config.read_text().replace("sweeps.vary('seed', range(3))", "3"))
    refused = runs.call_main([*arguments, "--dry_run"])
    assert refused.returncode == 2
    assert "must return a list of dicts" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mode=sweep", "--vary=seed=0,1"], "--vary needs --config"),
        (["--mode=sweep", "--jobs=2", "--slurm="], "choose one"),
        (["--mode=sweep", "--jobs=2", "--together=2"], "for this process"),
        (["--mode=sweep", "--dry_run", "--status"], "choose one"),
        (
            ["--mode=sweep", CONFIG, "--vary=seed=0,1", "--dry_run", "--slurm=cpu=2"],
            "'cpu' is none of",
        ),
        (["--mode=sweep", "--halving=1"], "leaves nothing out"),
        (["--mode=sweep", "--halving=3", "--slurm="], "with --jobs"),
        (["--mode=sweep"], "holds no sweep"),
        (["--mode=sweep", CONFIG], "needs --vary"),
        (["--mode=train", CONFIG, "--jobs=2"], "--jobs is for sweep"),
        (["--mode=train", CONFIG, "--vary=seed=0,1"], "--vary is for sweep"),
        (["--mode=evaluate", "--until=0.5"], "--until is for train"),
    ],
)
def test_flags_that_contradict_each_other(tmp_path, flags, message):
    refused = runs.call_main([*flags, f"--workdir={tmp_path / 'new'}"])
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (tmp_path / "new").exists()


def test_names_in_the_record_are_the_directories(tmp_path):
    overrides = [{"dataset.name": "folder:a/b"}, {"seed": 3}]
    kept = record.Record(runs.small_config(), overrides)
    record.write(workdir.Workdir(tmp_path), kept)
    stored = json.loads((tmp_path / record.FILE).read_text())
    assert [run["name"] for run in stored["runs"]] == grid.names(overrides)
