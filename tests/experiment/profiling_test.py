"""The window of steps that is profiled."""

import jax
import pytest
import runs
from ml_collections import ConfigDict

import train
from experiment import profiling, workdir


@pytest.mark.parametrize(
    ("start", "step", "said"),
    [(-1, 0, False), (0, 0, False), (29, 0, False), (5, 10, True), (30, 0, True)],
)
def test_a_window_that_no_step_meets_is_said(start, step, said, tmp_path, capsys):
    """A run that was resumed after it, or that ended before it, once said nothing."""
    log = ConfigDict({"profile_start": start, "profile_steps": 3})
    profiling.Profiler(log, workdir.Workdir(tmp_path), step, 30)
    line = f"warning: nothing is profiled: config.log.profile_start = {start}, and the "
    line += f"training goes from step {step} to 30\n"
    assert capsys.readouterr().out == (line if said else "")


def test_the_steps_of_the_window_alone_are_profiled(tmp_path, monkeypatch):
    found, advance = [], train.Trainer._advance

    def noted(trainer, until):
        first = trainer.step
        advance(trainer, until)
        found.extend(range(first, trainer.step))

    monkeypatch.setattr(train.Trainer, "_advance", noted)
    monkeypatch.setattr(jax.profiler, "start_trace", found.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    window = {"log__profile_start": 2, "log__profile_steps": 3}
    runs.train_small(tmp_path, num_steps=6, **window)
    assert found == [0, 1, f"{tmp_path}/profile", 2, 3, 4, "stop", 5]
