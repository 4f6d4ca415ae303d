"""What is advised after a loss that is not finite."""

import pytest
import runs

from experiment import divergence, workdir


def advice(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["main.py", *arguments])
    return divergence.advice(runs.small_config(), 7, workdir.Workdir("/runs/a"))


def test_the_command_of_a_training_replays_its_steps(monkeypatch):
    command = ["--config=configs/lenet5.py:modern", "--workdir=/runs/my run"]
    for mode in ([], ["--mode=train"]):
        found = advice(monkeypatch, *command, *mode)
        assert found.splitlines()[-1] == "  " + " ".join(
            ["python main.py", command[0], "'--workdir=/runs/my run'", *mode]
            + ["--config.log.every_steps=1"]
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workdir=/runs/a"],  # which takes no --config.log.every_steps
        ["--mode=sweep", "--config=configs/lenet5.py", "--workdir=/runs"],
        ["NAME", "--workdir=/runs"],
    ],
)
def test_a_command_that_replays_nothing_is_not_advised(monkeypatch, arguments):
    found = advice(monkeypatch, *arguments)
    assert "train /runs/a again, with its --config and" in found
    assert "python" not in found and "\n" not in found
