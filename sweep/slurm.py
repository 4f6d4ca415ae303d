"""Trains the runs of a sweep as one SLURM job array, by submitit.

Each task of the array is an ordinary training of one run directory
(experiment/slurm_task.py). A task that is told to stop saves its state and goes back
into the queue: before its time is over, when SLURM preempts it, and after
`scancel --signal=TERM`. SLURM itself queues a task whose node died. `scancel` alone
also saves the state, and ends the task.
"""

import contextlib
import dataclasses
import functools
import io
import os
import shutil
import subprocess

from errors import PREEMPTED, UsageError, UserError, shortened
from experiment import configuration, slurm_task, workdir

# Each option, with the kind of its value and its name in submitit.
OPTIONS = {
    "partition": (str, "partition"),
    "account": (str, "account"),
    "qos": (str, "qos"),
    "constraint": (str, "constraint"),  # features that the nodes must have
    "minutes": (int, "time"),  # of a task, which goes on in another one; 60
    "cpus": (int, "cpus_per_task"),  # cores of each process
    "gpus": (int, "gpus_per_node"),
    "memory": (int, "mem"),  # GiB of each node
    "nodes": (int, "nodes"),  # of one training; 1
    "tasks": (int, "ntasks_per_node"),  # processes of one training on each node
    "array": (int, "array_parallelism"),  # how many trainings at once, at most; 256
    "name": (str, "job_name"),  # by default that of the sweep's directory
}
PREFIX = "sbatch."
# What submit() says itself, by the names of sbatch.
_OWN = ("array", "chdir", "error", "ntasks", "open-mode", "output", "wrap")
_SAVING = 120  # seconds before the end of its time when a task is told to stop


@dataclasses.dataclass(frozen=True)
class Submitted:
    """What `submit` did: `jobs` has the name of the run of each SLURM job."""

    folder: os.PathLike
    jobs: dict
    at_once: int
    minutes: int
    before: tuple
    failed: tuple = ()  # for main.py: nothing has yet

    def __str__(self):
        lines = []
        if self.before:
            lines.append(f"SLURM has {shortened(sorted(self.before))} already")
        if not self.jobs:
            return "\n".join([*lines, "nothing was submitted"])
        ids = list(self.jobs)
        job = ids[0].partition("_")[0]
        lines += [
            f"submitted {len(ids)} run{'s' * (len(ids) > 1)} as job {job}, at most "
            f"{min(self.at_once, len(ids))} at once, each for {self.minutes} minutes "
            "at a time",
            f"squeue --array --jobs={job} shows them; their output is in {self.folder}",
        ]
        return "\n".join(lines)


def parse(text):
    """Parses "partition=main,minutes=60,sbatch.exclude=a,b" into checked options.

    A part without "=" belongs to the value before it, as "b" above. Any option of
    sbatch can be given behind "sbatch."; sbatch.exclusive=true is a bare --exclusive.

    Returns:
      A dict with some of OPTIONS, and of those behind "sbatch." under "sbatch".

    Raises:
      UsageError: an option is unknown or its value is wrong.
    """
    parts = []
    for part in text.split(",") if text.strip() else []:
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    options = {"sbatch": {}}
    for part in parts:
        key, equals, value = (x.strip() for x in part.partition("="))
        given = f"--slurm={key}={value}" if equals else f"--slurm={key}"
        if key.startswith(PREFIX):
            name, kind, into = key.removeprefix(PREFIX), str, options["sbatch"]
            _check_sbatch(name, given)
        elif key in OPTIONS:
            name, kind, into = key, OPTIONS[key][0], options
        else:
            raise UsageError(
                f"{given}: {key!r} is none of {', '.join(OPTIONS)}, and "
                f"{PREFIX}OPTION, any other option of sbatch"
                f"{configuration.nearest(key, OPTIONS)}"
            )
        if name in into:
            raise UsageError(f"{given}: {key} is given twice")
        if not value:
            raise UsageError(f"{given}: {key} needs a value, {key}=...")
        into[name] = _number(value, key, given) if kind is int else value
    return options


def _check_sbatch(name, given):
    ours = {option.replace("_", "-"): key for key, (_, option) in OPTIONS.items()}
    if name in ours:
        raise UsageError(f"{given}: {ours[name]}=VALUE says it")
    if name in _OWN:
        raise UsageError(f"{given}: a sweep chooses --{name} itself")


def _number(value, key, given):
    least = 0 if key == "gpus" else 1
    if not value.isdecimal() or int(value) < least:
        raise UsageError(f"{given}: {key} must be a whole number of at least {least}")
    return int(value)


def submit(parent, names, options, flags=()):
    """Submits one job array that trains the runs `names` in the directory `parent`.

    Runs that SLURM still has are left out. This returns at once. PARENT/slurm gets the
    tasks' output and a record of the jobs.

    Args:
      parent: the pathlib.Path of a sweep, on a file system that all nodes share.
      names: names of run directories in it, which hold a config.json.
      options: what `parse` returns.
      flags: further flags of main.py for each run.

    Returns:
      `Submitted`.

    Raises:
      UserError: submitit or SLURM is missing, or SLURM refuses the job.
      Owned: another process submits runs of this sweep.
    """
    submitit = _submitit()
    if "%" in str(parent.absolute()):
        raise UserError(f"{parent}: SLURM's paths must not contain %")
    folder = workdir.Workdir(parent.absolute() / slurm_task.FOLDER)
    with folder.lock:
        folder.lock.take()  # makes the directory
        before = queued(parent).intersection(names)
        names = [name for name in names if name not in before]
        parameters = _parameters(options, parent.absolute().name)
        paths = [parent.absolute() / name for name in names]
        jobs = {}
        if names:
            executor = submitit.SlurmExecutor(folder.path)
            executor.update_parameters(**parameters)
            with _environment(submitit), contextlib.redirect_stderr(io.StringIO()):
                try:
                    task = functools.partial(
                        slurm_task.train, here=os.getcwd(), flags=tuple(flags)
                    )
                    found = executor.map_array(task, paths)
                except (submitit.core.utils.FailedJobError, OSError) as error:
                    text = " ".join(str(error).split())
                    if "job array" in text:
                        text += "; scontrol show config has MaxArraySize"
                    raise UserError(f"SLURM refuses the job: {text}") from error
            jobs = {job.job_id: n for job, n in zip(found, names, strict=True)}
            job = found[0].job_id.partition("_")[0]
            folder.write_json(f"{job}.json", jobs)
    return Submitted(
        folder.path,
        jobs,
        parameters["array_parallelism"],
        parameters["time"],
        tuple(before),
    )


class Waiting(UserError):
    """SLURM has runs whose results are asked for."""

    exit_code = PREEMPTED


class Slurm:
    """Submits what is missing of some runs.

    Args:
      parent: the pathlib.Path of their directories.
      options: what `parse` returns.
      flags: further flags of main.py for each run.
    """

    def __init__(self, parent, options, flags=()):
        self._parent, self._options, self._flags = parent, options, flags

    def submit(self, runs):
        """Submits those that have neither ended nor are trained, as `submit` does."""
        pending = []
        for run in runs:
            state, _ = run.state()
            if state not in ("done", "diverged", "running"):
                run.workdir.create(run.config)
                pending.append(str(run))
        return submit(self._parent, pending, self._options, self._flags)

    def train(self, runs, until):
        """Submits what is missing of the runs; returns if nothing is.

        Raises:
          Waiting: runs are missing, and SLURM has them now.
        """
        if until != 1:
            raise ValueError(f"SLURM trains to the end, not until {until}")
        if any(not run.ended for run in runs):
            raise Waiting(f"{self.submit(runs)}; the same command goes on after them")


def queued(parent):
    """Returns the names of the runs of a sweep that SLURM has, pending or running.

    Args:
      parent: the pathlib.Path of the sweep.

    Raises:
      UserError: SLURM does not answer, so that nobody knows.
    """
    folder, jobs = workdir.Workdir(parent / slurm_task.FOLDER), {}
    for path in sorted(folder.path.glob("*.json")):
        jobs |= folder.read_json(path.name)
    if not jobs or shutil.which("squeue") is None:
        return set()
    ids = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={ids}"]
    found = subprocess.run(command, capture_output=True, text=True)
    # SLURM forgets a job soon after its end, and then calls its number invalid.
    if found.returncode and "Invalid job id" not in found.stderr:
        raise UserError(
            f"SLURM does not say which runs it has ({' '.join(found.stderr.split())}); "
            "ask again when squeue works"
        )
    return {jobs[job] for job in found.stdout.split() if job in jobs}


def _parameters(options, name):
    """The parameters of submitit's executor."""
    given = {OPTIONS[k][1]: v for k, v in options.items() if k in OPTIONS}
    more = {k: True if v == "true" else v for k, v in options["sbatch"].items()}
    if "mem" in given:
        given["mem"] = f"{given['mem']}G"
    found = {"job_name": name, "time": 60, "nodes": 1, "array_parallelism": 256}
    found |= given
    if "ntasks_per_node" not in found:
        # Under SLURM jax.distributed has one GPU for each process.
        several = found["nodes"] > 1
        found["ntasks_per_node"] = max(1, found.get("gpus_per_node", 0) * several)
    srun = []
    if "cpus_per_task" in found:  # srun no longer takes it from sbatch
        srun.append(f"--cpus-per-task={found['cpus_per_task']}")
    return found | {
        "signal_delay_s": min(_SAVING, 15 * found["time"]),
        "srun_args": srun,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {
            "chdir": slurm_task.ROOT,  # where the task imports our modules
            "requeue": True,
            **more,
        },
    }


@contextlib.contextmanager
def _environment(submitit):
    """Hides what the job in which this runs, if any, says of itself.

    All other variables reach the tasks, such as PYTHONPATH, XLA_FLAGS, TFDS_DATA_DIR.
    """
    with contextlib.ExitStack() as stack:
        if "SLURM_JOB_ID" in os.environ:
            kept = os.environ.get("SLURM_CONF")
            stack.enter_context(submitit.helpers.clean_env())
            if kept is not None:
                os.environ["SLURM_CONF"] = kept
        yield


def _submitit():
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise UserError(
            "--slurm needs submitit: pip install -r requirements-slurm.txt"
        ) from error
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"--slurm: there is no {missing[0]} here; start the sweep on a machine "
            "that submits jobs to SLURM"
        )
    return submitit
