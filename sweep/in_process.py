"""Trains the runs of a sweep in this process, those that can in a common program."""

import contextlib
import gc

import jax

import train
from errors import PREEMPTED, foreign, shortened
from sweep import together
from train import Preempted


class InProcess:
    """Trains runs one after another, or several at once in one program.

    Args:
      stop: a stopping.StopSignal.
      at_once: how many runs a program trains at once; 0: all, but one on a CPU.
    """

    def __init__(self, stop, at_once=0):
        self._stop, self._at_once = stop, at_once
        self._program = set(), None  # the runs that share it, and the last program

    def train(self, runs, until):
        """Trains those of `runs` that have not got to the fraction `until`.

        A run that fails has its reason in failure.json; the others go on.

        Raises:
          Preempted: a stop was asked for; the runs under way are saved.
        """
        for group in together.sharing(runs):
            pending = [run for run in group if _is_pending(run, until)]
            if not pending:
                continue
            if program := self._shared_program(group, pending):
                self._train_together(program, pending, until, runs)
                continue
            for run in pending:
                self._check_stop(runs, until)
                self._train_alone(run, until)

    def _shared_program(self, group, pending):
        """The program of a group; None if there is none, and says why."""
        if len(group) == 1:
            return None
        try:
            return self._program_of(group)
        except Exception as error:
            known = foreign.as_user_error(error)
            if known is None or known.exit_code == PREEMPTED:
                raise
            print(f"{shortened(pending)} share no program: {known}", flush=True)
            return None

    def _program_of(self, group):
        """The program of a group; the last one is kept, for the next rung."""
        names = {str(run) for run in group}
        if not names <= self._program[0]:  # halving leaves some out
            self._program = set(), None  # frees the data of the last one
            self._program = names, together.Program(group)
        return self._program[1]

    def _train_together(self, program, pending, until, runs):
        at_once = self._at_once
        if not at_once:
            at_once = 1 if jax.default_backend() == "cpu" else len(pending)
        number = len(pending)
        print(f"{number} runs share a program: {shortened(pending)}", flush=True)
        for part in together.parts(pending, at_once):
            self._check_stop(runs, until)
            with contextlib.ExitStack() as owned:
                mine = [run for run in part if self._take(run, until, owned)]
                for group in together.groups(program, mine):
                    try:
                        group.train(lambda: self._stop.requested, until)
                    except Exception as error:
                        together.note_failure(group.left(until), error)

    def _take(self, run, until, owned):
        """Becomes a run's owner; false if others train it, or did so meanwhile."""
        owned.enter_context(run.workdir.lock)
        try:
            run.workdir.lock.take()
        except Exception as error:
            run.note_failure(error)
            return False
        run.read()
        return not run.reached(until)

    def _train_alone(self, run, until):
        print(f"{run}:", flush=True)
        try:
            run.workdir.create(run.config)
            print(train.train(run.config, run.workdir, self._stop, until), flush=True)
        except train.NonFiniteLoss as error:
            print(f"{run}: {error}", flush=True)
        except Exception as error:
            run.note_failure(error)
        run.read()
        _free_programs()

    def _check_stop(self, runs, until):
        if not self._stop.requested:
            return
        for run in runs:
            run.read()
        left = sum(not run.reached(until) for run in runs)
        raise Preempted(f"stopped with {left} runs left; the same command goes on")


def _free_programs():
    """Frees the programs of a run: the next one has its own."""
    jax.clear_caches()
    gc.collect()


def _is_pending(run, until):
    """True if a run has not got so far; says so of one that trains elsewhere."""
    if run.reached(until):
        return False
    if owner := run.workdir.lock.owner():
        print(f"{run} is left out: {owner} trains it", flush=True)
        return False
    return True
