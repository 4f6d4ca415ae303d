"""Trains the runs of a sweep in processes of this machine, several at a time.

Each process is an ordinary training, `python main.py --workdir=RUN`, with cores or a
GPU of its own. Its output is in RUN/train.log.
"""

import dataclasses
import glob
import os
import pathlib
import subprocess
import sys
import time

from errors import NOT_FINITE, PREEMPTED, USAGE, ConfigError
from train import Preempted

MAIN = pathlib.Path(__file__).parents[1] / "main.py"
LOG = "train.log"


@dataclasses.dataclass
class Slot:
    """The part of the machine that one process has, and what trains there."""

    cores: tuple
    environment: dict
    run: object = None
    process: object = None
    log_start: int = 0  # bytes of earlier attempts


class Local:
    """Trains runs in `jobs` processes at a time.

    Args:
      stop: a stopping.StopSignal.
      jobs: how many processes.
      flags: further flags of main.py for each of them.
    """

    def __init__(self, stop, jobs, flags=()):
        self._stop, self._flags = stop, list(flags)
        self._slots = slots(jobs)

    def train(self, runs, until):
        """Trains those of `runs` that have not got to the fraction `until`.

        A run that fails has its reason in failure.json; the others go on.

        Raises:
          Preempted: a stop was asked for; the runs under way have saved their state.
        """
        waiting = [run for run in runs if not run.reached(until)]
        self._ended, self._number = len(runs) - len(waiting), len(runs)
        waiting.reverse()
        try:
            while waiting or any(slot.process for slot in self._slots):
                if self._stop.requested:
                    raise Preempted(
                        f"stopped with {self._number - self._ended} runs left; the "
                        "same command goes on"
                    )
                for slot in self._slots:
                    if slot.process is None and waiting:
                        self._start(slot, waiting.pop(), until)
                    elif slot.process and slot.process.poll() is not None:
                        self._end(slot)
                time.sleep(0.1)
        finally:
            self._stop_all()

    def _start(self, slot, run, until):
        if owner := run.workdir.lock.owner():
            print(f"{run} is left out: {owner} trains it", flush=True)
            return
        try:
            self._launch(slot, run, until)
        except Exception as error:
            run.note_failure(error)

    def _launch(self, slot, run, until):
        run.workdir.create(run.config)
        command = [sys.executable, str(MAIN), f"--workdir={run.workdir}", *self._flags]
        if until < 1:
            command.append(f"--until={until!r}")
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, slot.cores)  # which the child inherits
        try:
            with open(run.workdir.path / LOG, "ab") as log:
                slot.log_start = log.tell()
                slot.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | slot.environment,
                    start_new_session=True,  # a Ctrl-C comes once, from here
                )
        finally:
            os.sched_setaffinity(0, here)
        slot.run = run

    def _end(self, slot):
        """Notes how the process of a slot ended, and frees the slot."""
        run, code = slot.run, slot.process.wait()
        slot.run = slot.process = None
        run.read()
        if code in (0, NOT_FINITE):
            self._ended += 1
            text = run.row().outcome()
        elif code == PREEMPTED:
            text = "stopped by a signal; its state is saved"
        elif owner := run.workdir.lock.owner():
            text = f"left out: {owner} trains it"
        else:
            text = failure(run, code, slot.log_start)
            run.write_failure(code, text)
            text = f"failed: {text}"
        print(f"[{self._ended}/{self._number}] {run}: {text}", flush=True)

    def _stop_all(self):
        """Ends what still trains, as a signal would, and waits for it."""
        going = [slot for slot in self._slots if slot.process]
        for slot in going:
            slot.process.terminate()
        for slot in going:
            self._end(slot)


def slots(jobs):
    """Divides the cores and GPUs that this process may use among `jobs` processes.

    Processes share cores or GPUs if there are fewer than processes; those that share a
    GPU divide its memory.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs={jobs} must be at least 1")
    cores, devices = sorted(os.sched_getaffinity(0)), gpus()
    found = []
    for number in range(jobs):
        own = cores[number * len(cores) // jobs : (number + 1) * len(cores) // jobs]
        environment = {}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            sharing = -(-jobs // len(devices))
            if sharing > 1:
                fraction = f"{0.9 / sharing:.2f}"
                environment["XLA_CLIENT_MEM_FRACTION"] = fraction
                # jaxlib refuses the two together, and takes an empty one for none.
                environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = ""
        found.append(Slot(tuple(own or [cores[number % len(cores)]]), environment))
    return found


def gpus():
    """The names of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(n) for n in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def failure(run, code, start):
    """Returns the line that says why the process of a run failed.

    Its output is what the run's log has from byte `start` on.
    """
    if code < 0:
        return f"killed by signal {-code}; see {run.workdir.path / LOG}"
    output = (run.workdir.path / LOG).read_bytes()[start:]
    lines = output.decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code in (1, USAGE) and errors:
        return errors[-1].removeprefix("error: ")
    last = lines[-1].strip() if lines else ""
    return f"exit code {code}: {last}; see {run.workdir.path / LOG}"
