"""How a training ended, as its directory says it."""

from types import SimpleNamespace

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
