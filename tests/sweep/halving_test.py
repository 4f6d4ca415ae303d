"""Successive halving: which runs go on, and that they end as they would without it."""

import math

import pytest
import runs

from errors import ConfigError, UsageError, UserError
from experiment import outcomes, workdir
from sweep import command, grid, halving


def test_rungs():
    assert halving.rungs(27, 3) == [(1 / 27, 9), (1 / 9, 3), (1 / 3, 1)]
    assert halving.rungs(10, 3) == [(1 / 9, 4), (1 / 3, 2)]
    assert halving.rungs(2, 3) == []
    assert halving.rungs(8, 2)[0] == (1 / 8, 4)


def made(*results, path="none"):
    """Runs of one rate for each list of results, which are those of seeds 0, 1, ..."""
    rates = [(rate, seed) for rate, of in enumerate(results) for seed in range(len(of))]
    overrides = [{"optimizer.learning_rate": r, "seed": s} for r, s in rates]
    found = grid.make_runs(runs.small_config(), workdir.Workdir(path), overrides)
    for run, result in zip(found, sum(results, []), strict=True):
        run.result = result
    return found


def error(value, step=1):
    return {"step": step, "of": 9, "score": "error", "error": value}


BAD = {"step": 1, "diverged": True}


def test_the_mean_over_seeds_decides():
    found = made([error(3), error(9)], [error(4), error(4)], [error(1), BAD])
    lost = halving.losers(found, 1, halving.scores(found, 1 / 9))
    assert [run.values["optimizer.learning_rate"] for run in lost] == [0, 0, 2, 2]


def test_runs_that_are_further_are_compared_where_the_others_are(tmp_path):
    """Finished runs once won against others at a ninth of their training."""
    found = made([error(1, step=9), error(4, step=2), BAD], path=tmp_path)
    lines = '{"step": 1, "train/loss": 2}\n{"step": 2, "eval/error": 7}\n{"st\n'
    ends = '{"step": 9, "eval/error": 1}\n', ""
    for run, end in zip(found, ends, strict=False):
        run.workdir.create(run.config)
        run.workdir.write_text("metrics.jsonl", lines + end)
    further, other, bad = map(str, found)
    scores = halving.scores(found, 1 / 9)
    assert scores == {further: 7, other: 7, bad: math.inf}
    assert halving.scores(found[:1], 1 / 3) == {further: 1}
    found[1].workdir.metrics.unlink()
    words = f"{further}, evaluated at step 9, with {other}, evaluated at step 2: .* of "
    with pytest.raises(UserError, match=words + other):
        halving.scores(found, 1 / 9)
    found[0].result["step"] = 2
    assert halving.scores(found, 1 / 9) == {further: 1, other: 4, bad: math.inf}


def test_a_run_that_failed_is_not_cut_but_tried_again(tmp_path):
    class Runner:
        """Trains runs whose error is their rate; `full` is that of a full disk."""

        full = 0.1

        def train(self, runs, until):
            for run in runs:
                run.workdir.create(run.config)
                rate = run.config.optimizer.learning_rate
                if rate == self.full:
                    outcomes.write_failure(run.workdir, 1, "the disk is full")
                else:
                    result = {"step": int(30 * until), "of": 30, "error": rate}
                    run.workdir.write_json("result.json", result)

    vary, runner = ["optimizer.learning_rate=0.1,0.2,0.3"], Runner()
    parent, config = workdir.Workdir(tmp_path), runs.small_config()
    swept = command.Runs(config, parent, vary, factor=3)
    words = "1 of 3 runs have not .*; optimizer.learning_rate=0.1 is failed: the disk"
    with pytest.raises(UserError, match=words):
        command.sweep(swept, runner)
    assert swept.record.cut == ()
    runner.full = None
    found = command.sweep(command.Runs(None, parent), runner)
    assert found.failed == ()
    assert [row.state for row in found.rows] == ["done", "cut", "cut"]


class Trains:
    """Trains every run to the end, whatever it is asked for."""

    def train(self, all, until):
        for run in all:
            run.workdir.create(run.config)
            run.workdir.write_json("result.json", {"step": 9, "of": 9, "error": 1.0})


@pytest.mark.parametrize(("rates", "said"), [("0.1", 1), ("0.1,0.2", 1), ("1,2,3", 0)])
def test_a_halving_that_cuts_nothing_says_so(tmp_path, capsys, rates, said):
    vary = ["seed=0,1,2", f"optimizer.learning_rate={rates}"]
    parent, config = workdir.Workdir(tmp_path), runs.small_config()
    command.sweep(command.Runs(config, parent, vary, factor=3), Trains())
    assert capsys.readouterr().out.count("note: --halving=3 cuts nothing") == said


def test_slurm_trains_no_run_that_was_cut(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        "sweep.slurm.Slurm.submit", lambda self, runs: found.extend(map(str, runs))
    )
    parent, config = workdir.Workdir(tmp_path), runs.small_config()
    rates = ["optimizer.learning_rate=0.1,0.2,0.3"]
    halved = command.Runs(config, parent, rates, factor=3)
    halved.write()
    with pytest.raises(UsageError, match="--halving=3, which waits .* --halving=0"):
        command.submit(command.Runs(None, parent), "")
    assert found == []  # it once submitted all of them
    halved.record.cut = tuple(f"optimizer.learning_rate={rate}" for rate in (0.1, 0.3))
    halved.write()
    command.submit(command.Runs(None, parent), "")
    assert found == ["optimizer.learning_rate=0.2"]
    command.submit(command.Runs(None, parent, factor=0), "")
    assert len(found) == 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",  # of runs that share a program, and of runs that do not
    ["constant", "plateau"],
)
def test_who_survives_ends_as_without_halving(tmp_path, schedule):
    vary = ["optimizer.learning_rate=1e-8,0.01,1e-7"]
    changes = {"schedule__name": schedule}
    path = tmp_path / "halved"
    swept, result = runs.sweep(path, vary, factor=3, **changes)
    found = {row.name: (row.state, row.note) for row in result.rows}
    best = "optimizer.learning_rate=0.01"
    assert found.pop(best) == ("done", "")
    assert set(found.values()) == {("cut", "at step 10")}
    assert result.failed == ()
    runs.train_small(tmp_path / "alone", **changes, optimizer__learning_rate=0.01)
    halved, alone = map(runs.final_state, (path / best, tmp_path / "alone"))
    assert halved[1] == alone[1] == 30
    if schedule == "plateau":
        runs.assert_same_bits(halved[0], alone[0])
    else:
        runs.assert_close(halved[0], alone[0])
    # The directory remembers both, and goes on without halving if it is told so.
    again = command.Runs(None, workdir.Workdir(path))
    assert {row.state for row in again.standing().rows} == {"done", "cut"}
    again = command.Runs(None, workdir.Workdir(path), factor=0)
    assert {row.state for row in again.standing().rows} == {"done", "stopped"}


def test_halving_needs_evaluations_on_the_way(tmp_path):
    with pytest.raises(ConfigError, match="config.eval.every_epochs"):
        runs.sweep(tmp_path, ["seed=0,1"], factor=2, eval__every_epochs=0.0)
