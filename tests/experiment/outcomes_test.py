"""How a training ended, as its directory says it."""

import shutil
from types import SimpleNamespace

import pytest
import runs

import train
from experiment import outcomes, workdir


def test_a_result_replaces_an_older_failure(tmp_path):
    """A run that another start had finished kept its failure beside the result."""
    run = workdir.Workdir(tmp_path)
    result = SimpleNamespace(split="test", size=9, score="error", metrics={"error": 0})
    outcomes.write_failure(run, 1, "the disk was full")
    outcome = outcomes.write(run, 30, 30, result)
    assert not run.has(outcomes.FAILURE)
    assert outcomes.read(run) == outcome
    outcomes.write(run, 30, 30, result)


def test_a_run_that_goes_on_has_no_result_until_it_ends(tmp_path):
    """An extended run that was stopped would pass for finished, or for failed."""
    run = workdir.Workdir(shutil.copytree(runs.OLD_RUN, tmp_path / "run"))
    run.write_json(outcomes.FILE, {"step": 10, "of": 10})
    outcomes.write_failure(run, 1, "the disk was full")
    config = run.config()
    with config.unlocked():
        config.num_epochs = 2.0
    with pytest.raises(train.Preempted, match="stopped at step 10 of 20"):
        train.train(config, run, runs.StopAfter(0))
    assert outcomes.read(run) is None
    assert not run.has(outcomes.FAILURE)
