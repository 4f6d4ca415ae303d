"""The window of steps that is profiled."""

import pytest
from ml_collections import ConfigDict

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
