"""The runs of a sweep: the names of their directories, and how they stand."""

import os

import pytest
import runs

from errors import ConfigError, UserError
from experiment import outcomes, workdir
from sweep import grid


def test_names_of_directories():
    long = "folder:" + "/photographs" * 20
    found = grid.names(
        [
            {"seed": 1, "optimizer.learning_rate": 1e30},
            {"model.name": "lenet5", "augment.flip": True},
            {"schedule.boundaries": (1.0, 2.5)},
            {"optimizer.kwargs": {"momentum": 0.9}},
            {"optimizer.kwargs": {}},
            {"dataset.name": "folder:a/b"},
            {"dataset.name": "folder:a-b"},
            {"dataset.name": long},
            {},
        ]
    )
    assert found[:5] == [
        "optimizer.learning_rate=1e+30,seed=1",
        "augment.flip=True,model.name=lenet5",
        "schedule.boundaries=1.0-2.5",
        "optimizer.kwargs=momentum-0.9",
        "optimizer.kwargs=none",
    ]
    assert found[-1] == "all"
    assert len(set(found)) == len(found)
    for name in found:
        assert len(os.fsencode(name)) <= 120
        assert "/" not in name
    assert found == grid.names(
        [
            {"optimizer.learning_rate": 1e30, "seed": 1},  # the order does not matter
            {"augment.flip": True, "model.name": "lenet5"},
            {"schedule.boundaries": (1.0, 2.5)},
            {"optimizer.kwargs": {"momentum": 0.9}},
            {"optimizer.kwargs": {}},
            {"dataset.name": "folder:a/b"},
            {"dataset.name": "folder:a-b"},
            {"dataset.name": long},
            {},
        ]
    )


def test_how_a_run_stands(tmp_path):
    config, parent = runs.small_config(), workdir.Workdir(tmp_path)

    def state(**others):
        (run,) = grid.make_runs(config, parent, [{"seed": 1}])
        return run.state(**others)

    run = workdir.Workdir(tmp_path / "seed=1")
    assert state() == ("waiting", "")
    assert state(queued={"seed=1"}) == ("queued", "")
    run.create(config)
    run.checkpoints.mkdir()
    assert state() == ("stopped", "")
    run.write_json("result.json", {"step": 10, "of": 30, "error": 2.0})
    assert state() == ("stopped", "at step 10")
    assert state(cut={"seed=1"}) == ("cut", "at step 10")
    outcomes.write_failure(run, 1, "the disk is full")
    assert state() == ("failed", "the disk is full")
    with run.lock:
        run.lock.take()
        assert state() == ("running", f"process {os.getpid()} on {os.uname().nodename}")
    run.write_json("result.json", {"step": 30, "of": 30, "error": 2.0})
    assert state() == ("done", "")
    run.write_json("result.json", {"step": 30, "error": 2.0})  # an earlier version
    assert state() == ("done", "")
    outcomes.write_diverged(run, 7)
    assert state() == ("diverged", "")


def test_how_far_a_run_is(tmp_path):
    parent = workdir.Workdir(tmp_path)
    (run,) = grid.make_runs(runs.small_config(), parent, [{"seed": 1}])
    assert not run.reached(0.1)
    run.result = {"step": 10, "of": 30, "error": 2.0}
    assert run.reached(1 / 3)
    assert not run.reached(0.34)
    assert not run.ended
    run.result = {"step": 2, "diverged": True}
    assert run.reached(1)
    assert outcomes.score(run.result) == float("inf")


def test_a_run_that_cannot_be_trained_is_named(tmp_path):
    config, parent = runs.small_config(), workdir.Workdir(tmp_path)
    values = [{"optimizer.learning_rate": 0.1}, {"optimizer.learning_rate": -1.0}]
    with pytest.raises(ConfigError, match=r"run optimizer.learning_rate=-1.0: config"):
        grid.check(grid.make_runs(config, parent, values))
    values = [{"optimizer.name": "lion", "optimizer.kwargs.momentum": 0.9}]
    with pytest.raises(ConfigError, match=r"give each optimizer its own: --vary="):
        grid.check(grid.make_runs(config, parent, values))


def test_what_failed_before_it_began_is_tried_again(tmp_path):
    """Out of memory in the first program once blocked the same command for good."""
    parent = workdir.Workdir(tmp_path)
    (run,) = made = grid.make_runs(runs.small_config(), parent, [{"seed": 1}])
    with run.workdir.lock as lock:
        lock.take()
        run.note_failure(UserError("out of memory"))
    assert run.state() == ("failed", "out of memory")
    grid.check(made)
    assert run.workdir.config() == run.config


def test_a_failure_that_cannot_be_written_is_said(tmp_path, capsys):
    parent = workdir.Workdir(tmp_path / "sweep")
    parent.path.mkdir()
    (run,) = grid.make_runs(runs.small_config(), parent, [{"seed": 1}])
    with runs.read_only(parent.path) as why:
        run.note_failure(UserError("out of memory"))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "seed=1 failed: out of memory"
    assert second.startswith("seed=1: its failure is not kept: ")
    assert second.endswith(why)
