"""Trains a network: holds one run in memory and moves it in a loop.

The loop does not know the task: the objective (training/objective.py) says what is
minimised and counted, and the evaluator (evaluation/evaluator.py) what an evaluation
finds.
"""

import contextlib
import dataclasses
import time

import jax
import numpy as np

from data_source import DataError
from errors import NOT_FINITE, PREEMPTED, UserError
from evaluation.evaluator import Interrupted, Result
from experiment import (
    budget,
    checkpoints,
    checks,
    data_report,
    divergence,
    image_statistics,
    outcomes,
    peers,
    profiling,
    programs,
    reporting,
    stopping,
    tasks,
    trained,
)
from experiment.workdir import Workdir, WorkdirError
from training import memory, plateau, train_step
from training.durations import due, next_due
from weights import starting


class NonFiniteLoss(UserError):
    """The loss is not a number; nothing after the last good checkpoint was saved."""

    exit_code = NOT_FINITE


class Preempted(UserError):
    """The run was told to stop, has saved its state, and can be resumed."""

    exit_code = PREEMPTED


@dataclasses.dataclass(frozen=True)
class Finished:
    """How training ended: the last evaluation, and the step after which it was made."""

    run: Workdir
    step: int
    total: int
    result: Result

    def __str__(self):
        end = "done" if self.step == self.total else f"so far, of {self.total} steps"
        return f"{end}: {self.result.describe(self.step)}; run directory {self.run}"


def train(config, run, stop, until=1):
    """Trains what `config` describes in the directory `run`, or resumes it.

    The directory's result.json says how it ended (experiment/outcomes.py).

    Args:
      config: a checked config.
      run: a workdir.Workdir that belongs to it.
      stop: a stopping.StopSignal.
      until: the fraction of the training, at most 1, after which it ends at the next
        evaluation; a later call goes on from there.

    Returns:
      `Finished`.

    Raises:
      Owned: another process trains in this directory.
      ConfigError: the run is past the end that `config` asks for, or its batch cannot
        be split over the devices.
      Preempted: a stop was asked for; the state is saved.
      NonFiniteLoss: the loss is not a number; the last good state is saved.
      OutOfMemory: a device cannot hold a step.
    """
    checks.check_devices(config, jax.device_count(), jax.process_count())
    with (
        run.lock,
        contextlib.closing(Trainer(config, run, stop, until)) as trainer,
        peers.ending_together(),
        memory.explaining(lambda: trainer.memory.explain()),
    ):
        return trainer.run()


class Trainer:
    """One run in memory; `run` is the loop."""

    def __init__(self, config, run, stop, until=1):
        self.config, self.workdir, self.until = config, run, until
        self.first = jax.process_index() == 0
        self.seed = np.int64(config.seed)  # programs take it as jax.random.key does
        if self.first:
            run.check(config)  # before a long download
            if run.path.exists():
                run.lock.take()
        peers.meet(run)
        setup = starting.numbered(tasks.setup(config), run)
        begun = run.checkpoints.exists()
        start = None if begun else starting.load_start(setup)  # before any file is made
        self.durations, self.total = setup.durations, setup.durations.total
        self.schedule = setup.schedule()  # it may be refused
        self.saved = checkpoints.Checkpoints(
            run.checkpoints,
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            best_metric=setup.score,
        )
        found = starting.restore(setup, self.saved)  # nothing is written before it
        setup, chosen = budget.find(image_statistics.find(setup, run), run)
        if self.first:
            run.lock.take()
            if found is None and self.saved.all_steps():
                raise WorkdirError(f"{run}: another process began it; start again")
            run.create(config)
        if found is None:
            start = starting.load_start(setup) if start is None else start
            found = starting.new_state(setup, start), -1
        self.setup, (self.state, self.evaluated) = setup, found
        self.step = int(self.state.step)
        self.scale = plateau.scale_of(self.state.opt_state)
        if self.first:
            print(data_report.title(setup, self.state.params), flush=True)
            if changed := trained.changed_since(run, setup):
                print(f"warning: {changed}", flush=True)
            print(data_report.describe(setup), flush=True)
            trained.describe(run, setup, self.state.params)
            if self.step < self.total:
                outcomes.clear(run, self.total)

        self.stop = stopping.Stop(stop, self.saved)
        self.writer = reporting.MetricWriter(
            run.path,
            first_step=self.step,
            tensorboard=config.log.tensorboard,
            enabled=self.first,
        )
        self.progress = reporting.Progress(
            self.step, self.total, config.batch_size, len(setup.train_split)
        )
        self.profiler = profiling.Profiler(config.log, run, self.step, self.total)
        self.objective = setup.objective()
        self.feed = setup.feed(self.objective.keys, self.step)
        self.programs = chosen or programs.Programs(setup, self.feed)
        self.curvature = programs.Curvature(setup)
        self.memory = memory.StepMemory(
            self.programs.compiled_steps,
            setup.mesh,
            config.batch_size,
            config.optimizer.accumulate,
        )
        self.planned = set()  # sizes of images for which memory was planned
        self.sums, self.pending = self.programs.new_sums(), None
        self.result = None

    def run(self):
        """The loop: step, log, evaluate, save. Returns `Finished`."""
        log_every = self.config.log.every_steps
        eval_every, save_every = self.durations.eval_every, self.durations.save_every
        save_every_steps = self.config.checkpoint.every_steps
        last = self.step == self.total
        if self.evaluated < self.step and (due(self.step, eval_every) or last):
            self._evaluate()  # a stop cut it short, or there is nothing to train
            self._save()  # the result, if this step is saved
        while self.step < self.total and not self._far_enough():
            self._stop_if_asked()
            self.profiler.at(self.step, self.state)
            until = min(
                self.total,
                next_due(self.step, log_every),
                next_due(self.step, eval_every),
                next_due(self.step, save_every),
                next_due(self.step, save_every_steps),
                next_due(self.step, self.durations.epoch_steps),
                *self.profiler.next_after(self.step),
            )
            with self._saving_before(DataError):
                self.state = self.curvature.before_step(self.state, self.step)
                self._advance(until)
            last = self.step == self.total
            if due(self.step, log_every) or last:
                self._log()
            if due(self.step, eval_every) or last:
                with self._saving_before(DataError, memory.OutOfMemory):
                    self._evaluate()
                last = last or self._far_enough()
            if due(self.step, save_every) or due(self.step, save_every_steps) or last:
                self._save()
        self.saved.wait()
        result = self.result or self._run_evaluator()  # it was finished before
        if self.first:
            outcomes.write(self.workdir, self.step, self.total, result)
        return Finished(self.workdir, self.step, self.total, result)

    def _far_enough(self):
        return self.evaluated == self.step >= self.until * self.total

    def _advance(self, until):
        start = time.perf_counter()
        data, count = self.feed.take(self.step, until)
        self.progress.waiting(time.perf_counter() - start)
        arguments = (self.state, self.sums, data, count, self.seed)
        pixels = self.setup.view.size(self.step) if self.setup.view else 0
        if pixels not in self.planned:
            self.planned.add(pixels)
            line = self.memory.expect(*arguments)
            if self.first:
                print(line, flush=True)
        self.state, self.sums = self.programs.run_steps(*arguments)
        self.step += count

    def _log(self):
        """Takes the sums of this interval and reports those of the one before.

        The device never waits for the host: these sums are fetched when the next
        interval has been sent to it.
        """
        self._report()
        self.pending = self.step, self.sums, self.progress.when_ready(self.sums)
        self.sums = self.programs.new_sums()

    def _report(self):
        """Reports the sums that `_log` put aside, if any."""
        if self.pending is None:
            return
        (step, sums, ready), self.pending = self.pending, None
        sums = self._checked(sums)
        rates = self.progress.report(step, ready.result())
        images = rates["progress/images"]
        counted = self.objective.scalars(sums, images)
        scalars = {
            **rates,
            "train/loss": float(sums["loss"]) / images,
            **counted,
            "train/learning_rate": self._learning_rate(step),
        }
        self.writer.write_scalars(step, scalars)
        if self.first:
            words = self.objective.progress(counted)
            print(self.progress.line(step, scalars, words), flush=True)

    def _learning_rate(self, step):
        return float(self.schedule(step - 1)) * self.scale

    def _checked(self, sums):
        """Fetches the sums; raises NonFiniteLoss if a loss was not finite."""
        sums = jax.device_get(sums)
        if sums["bad_step"] >= 0:
            self.saved.wait()
            good = self.saved.all_steps()
            where = f"checkpoint {good[-1]}" if good else "the beginning"
            step = int(sums["bad_step"])
            message = f"the loss of step {step} is not finite; nothing was saved after"
            self._end_not_finite(step, f"{message} {where}")
        return sums

    def _end_not_finite(self, step, message):
        if self.first:
            outcomes.write_diverged(self.workdir, step)
        advice = divergence.advice(self.config, step, self.workdir)
        raise NonFiniteLoss(f"{message}. {advice}")

    @contextlib.contextmanager
    def _saving_before(self, *errors):
        """Saves the steps before one of `errors`, which a restart would meet again."""
        try:
            yield
        except errors:
            if jax.process_count() == 1:  # other processes may not have failed
                self._save()
                self.saved.wait()
            raise

    def _evaluate(self):
        """Evaluates, reports the result and lets the plateau schedule see it."""
        self._report()
        self._checked(self.sums)
        start = time.perf_counter()
        self.result = self._run_evaluator()
        self.evaluated = self.step
        self.writer.write_scalars(self.step, self.result.scalars())
        on_time = due(self.step, self.durations.eval_every)
        if self.config.schedule.name == "plateau" and on_time:
            self.state = self.programs.observe(self.state, self.result.value)
            self.scale = plateau.scale_of(self.state.opt_state)
        if self.first:
            print(self.result.describe(self.step), flush=True)
        self.progress.exclude(time.perf_counter() - start)

    def _run_evaluator(self):
        images = self.config.eval.batch_size
        try:
            with memory.explaining(lambda: memory.explain_evaluation(images)):
                return self.programs.evaluator.run(
                    train_step.evaluation_variables(self.state),
                    stop=self.stop.asked_alone,
                )
        except Interrupted:
            return self._stop_if_asked()

    def _save(self):
        """Saves the state, unless it holds a number that is not finite."""
        self.workdir.lock.check()
        self._report()
        self._checked(self.sums)
        start = time.perf_counter()
        state = self.state
        if not self.programs.all_finite((state.params, state.batch_stats, state.ema)):
            self._end_not_finite(
                self.step,
                f"the parameters after step {self.step} are not finite and were not "
                "saved",
            )
        metrics = None
        if self.evaluated == self.step and self.result is not None:
            metrics = {self.result.score: self.result.value}
        self.saved.save(self.step, state, metrics, meta={"evaluated": self.evaluated})
        self.progress.exclude(time.perf_counter() - start)

    def _stop_if_asked(self):
        if self.stop.asked():
            self._save()
            self.saved.wait()
            raise Preempted(
                f"stopped at step {self.step} of {self.total}, which is saved in "
                f"{self.workdir}; the same command goes on from there"
            )

    def close(self):
        with contextlib.ExitStack() as stack:  # closes each, whatever the others raise
            stack.callback(self.workdir.lock.release)
            stack.callback(self.saved.close)
            stack.callback(self.writer.close)
            stack.callback(self.feed.close)
            stack.callback(self.profiler.close)
