"""One task of a SLURM array: it trains one run directory in a child process.

The child is an ordinary training, `python main.py --workdir=DIRECTORY`, and its exit
code decides what follows. This module imports little, because it stays in memory
beside the child.
"""

import pathlib
import signal
import subprocess
import sys

from errors import FAILED, NOT_FINITE, PREEMPTED
from experiment import outcomes, ownership, stopping, workdir

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = "slurm"  # beside the runs; holds the output of all tasks
LOG = "slurm.log"  # in a run's directory, a link to its output
STOPS = 5  # stops in a row without a new checkpoint, after which a run has failed


def train(directory, here, flags=()):
    """Trains the run in `directory`; SLURM calls it in each process of the task.

    Args:
      directory: the run's.
      here: the folder in which the training starts, to which its config's paths are
        relative.
      flags: further ones of main.py.

    A training that was told to stop goes back into the queue, and goes on there. One
    whose loss is not finite has said so. What else went wrong is written into the run's
    failure.json. The output is PARENT/slurm/JOB_0_log.out, and the link slurm.log of
    the run leads there.

    Raises:
      SystemExit: the training did not end well, with its exit code.
    """
    import submitit

    task = submitit.JobEnvironment()
    run, stop = workdir.Workdir(directory), _Stop(here)
    result, command = outcomes.read(run), _command(run, flags)
    if result is not None and outcomes.ended(result):
        print(f"{run} is finished")
        return
    if task.global_rank > 0:
        stop.run(command)  # process 0 knows how the others end
        return
    (run.path / outcomes.FAILURE).unlink(missing_ok=True)
    _link(run, task.paths.stdout)
    before = _last_step(run)
    code, line = stop.run(command)
    if code == 0:
        return
    if code == PREEMPTED or (stop.asked and code != NOT_FINITE):
        count = task.paths.folder / f"{task.job_id}.stops"
        if _last_step(run) == before:
            stops = int(count.read_text()) + 1 if count.exists() else 1
        else:
            stops = 0
        count.write_text(f"{stops}\n")
        if stops < STOPS:
            _requeue(task.job_id)
            raise SystemExit(PREEMPTED)
        line = f"stopped {stops} times before a step was saved; give it more minutes"
    if code != NOT_FINITE:
        _fail(run, code, line)
    raise SystemExit(code if code > 0 else FAILED)


class _Stop:
    """Hears the signals that ask for a stop, and hands them to the child.

    Where SLURM uses cgroups, it sends them to this process alone, and otherwise to the
    child too, to which a second SIGTERM means nothing.
    """

    def __init__(self, here):
        self._here, self.asked, self._child = here, False, None
        for number in stopping.SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number, frame):
        del number, frame
        self.asked = True
        if self._child is not None:
            self._child.terminate()

    def run(self, command):
        """Runs `command` in the folder `here`.

        Returns:
          Its exit code, which is -N after signal N, and the last line of its errors
          that begins with "error:", or else their last line.
        """
        if self.asked:
            return PREEMPTED, ""
        with subprocess.Popen(
            command,
            cwd=self._here,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as child:
            self._child = child
            if self.asked:  # while it was started
                child.terminate()
            last = error = ""
            for line in child.stderr:
                sys.stderr.write(line)
                sys.stderr.flush()
                last = line.strip() or last
                if line.startswith("error:"):
                    error = line.removeprefix("error:").strip()
            code = child.wait()
            self._child = None
        if code < 0:
            memory = " (is memory short?)" if code == -signal.SIGKILL else ""
            error = f"killed by {signal.Signals(-code).name}{memory}"
        return code, error or last


def _command(run, flags):
    return [sys.executable, str(ROOT / "main.py"), f"--workdir={run}", *flags]


def _last_step(run):
    """The step of the newest checkpoint; -1 if there is none."""
    if not run.checkpoints.is_dir():
        return -1
    names = (path.name for path in run.checkpoints.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=-1)


def _link(run, output):
    """Makes the run's LOG lead to the newest output of its tasks."""
    link = run.path / LOG
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(pathlib.Path("..", output.parent.name, output.name))
    except OSError as error:
        print(f"note: {link} is missing: {error.strerror}")


def _requeue(job):
    """Puts this job into the queue again, unless it is cancelled or SLURM does so."""
    found = _slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    state = found.stdout.strip()
    if state == "RUNNING":
        found = _slurm("scontrol", "requeue", job)
    if found.returncode:
        print(f"SLURM did not queue job {job} again: {found.stderr.strip()}")
    elif state != "RUNNING":
        print(
            f"SLURM has job {job} as {state or 'ended'}; this does not queue it again"
        )


def _slurm(*command):
    return subprocess.run(command, capture_output=True, text=True)


def _fail(run, code, line):
    """Writes failure.json, unless the run has another owner, who knows better."""
    try:
        with run.lock:
            run.lock.take()
            outcomes.write_failure(run, code, line or f"exit code {code}")
    except ownership.Owned as error:
        print(error)
