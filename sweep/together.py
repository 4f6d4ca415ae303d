"""Trains several runs together in one program.

The values that vary are arguments of one compiled program, which trains one run after
another, or several at once by `jax.vmap`, from one copy of the data on one device.
Start-up, compilation and data are paid for once. Beyond that, vmap pays if a single
small run leaves an accelerator idle. On a CPU eight LeNet-5 at once take longer than
one after another (benchmarks/many_runs.py), so the default there is 1.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from errors import UserError, foreign
from evaluation.evaluator import Interrupted
from experiment import (
    checkpoints,
    configuration,
    data_report,
    image_statistics,
    outcomes,
    reporting,
    tasks,
    trained,
)
from input_pipeline import DeviceFeed, read_all
from kernels import ops
from sweep import vary
from train import Preempted
from training import memory, remat, train_step
from training.durations import due, next_due
from weights import starting

# Besides these, any float argument of the optimizer can vary within a program.
NUMBERS = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "loss.label_smoothing",
)
KWARGS = "optimizer.kwargs."


class Unfit(UserError):
    """These runs cannot share a program; each must be trained by itself."""


def sharing(runs):
    """Groups runs that may share a program: lists [[run, ...], ...], in order.

    Runs share one if their configs differ in numbers alone that a program can take as
    arguments. A list of one run is to be trained by itself.
    """
    found = {}
    for run in runs:
        key = _program(run.config)
        found.setdefault(str(run) if key is None else key, []).append(run)
    return list(found.values())


def _program(config):
    """Returns what configs of one program have in common; None if none can be shared.

    The runs of a program share one copy of the data, on one device, and go from step to
    step there.
    """
    flat = configuration.flatten(config)
    if (
        config.init_from
        or config.num_devices > 1
        or config.model.remat == remat.AUTO  # chosen for one run alone
        or config.optimizer.name == "sdlm"
        or config.schedule.name == "plateau"
        or config.dataset.placement == "host"
        or config.log.profile_start >= 0  # of one training
    ):
        return None
    return repr(sorted((n, _is_argument(n, v) or repr(v)) for n, v in flat.items()))


def _is_argument(name, value):
    number = isinstance(value, float) or name == "seed"
    return number and (name in NUMBERS or name.startswith(KWARGS))


def varied(runs):
    """The fields in which the configs of some runs differ, and the seed."""
    flats = [configuration.flatten(run.config) for run in runs]
    return ["seed"] + [
        name
        for name in flats[0]
        if name != "seed" and len({repr(flat[name]) for flat in flats}) > 1
    ]


class Program:
    """The data on the device, and the compiled programs that all runs share.

    Its config is that of the first of `runs`, but for the fields that vary between
    them, and the classes of the data are numbered as those of runs that have begun.
    """

    def __init__(self, runs):
        config = self.config = runs[0].config
        self.varied = varied(runs)
        setup = tasks.setup(config, num_devices=1)
        if setup.view is not None or setup.placement() != "device":
            raise Unfit("the data of this training do not lie on the device")
        print(data_report.describe(setup), flush=True)
        for run in runs:
            setup = starting.numbered(setup, run.workdir)
        begun = [run.workdir for run in runs if run.workdir.has(image_statistics.FILE)]
        if begun:  # a stopped sweep goes on with the statistics that it began with
            self.setup = image_statistics.find(setup, begun[0])
        else:
            self.setup = image_statistics.fitted(setup)
        self._checkpoints = {}
        self.total = setup.durations.total
        self.objective = self.setup.objective()
        self.arrays = jax.device_put(
            read_all(setup.train_split, config.dataset.damaged)
        )

        self.init = jax.jit(over_runs(self._init, (0,)))
        options = ops.compiler_options(jax.default_backend())
        self.run_steps = jax.jit(
            over_runs(self._run_steps, (0, 0, 0, (None, None, 0, 0), None)),
            donate_argnums=(1, 2),
            static_argnums=4 if config.steps_per_dispatch == 1 else (),
            compiler_options=options,
        )
        self.eval_step = jax.jit(self._eval_step, compiler_options=options)
        self.evaluator = self.setup.evaluator(None)

    def values(self, runs):
        """The values that vary, as arrays [K] over `runs`: the programs' argument."""
        fields = [configuration.flatten(run.config) for run in runs]
        return {
            name: np.array([f[name] for f in fields], "i8" if name == "seed" else "f4")
            for name in self.varied
        }

    def indices(self, runs, step, count):
        """Example indices and epochs [K, S, B] over `runs`, S = steps_per_dispatch.

        The first `count` belong to the steps from `step` on; the rest is padding.
        """
        padding = ((0, self.config.steps_per_dispatch - count), (0, 0))
        places = []
        for run in runs:
            plan = dataclasses.replace(self.setup.plan, seed=run.config.seed)
            found = plan.indices(step, step + count)
            places.append([np.pad(p, padding) for p in found])
        return tuple(map(np.stack, zip(*places, strict=True)))

    def of(self, config):
        """The `Setup` for a config with other values of the fields that vary."""
        return dataclasses.replace(self.setup, config=config)

    def checkpoints(self, run):
        """The checkpoints of a run, as `--mode=train` keeps them.

        They remember what `restore` found damaged, which a save sets aside.
        """
        path, keep = run.workdir.checkpoints, run.config.checkpoint
        if path not in self._checkpoints:
            self._checkpoints[path] = checkpoints.Checkpoints(
                path,
                keep_last=keep.keep_last,
                keep_best=keep.keep_best,
                best_metric=self.setup.score,
            )
        return self._checkpoints[path]

    def restore(self, run):
        """(state, step of its last evaluation) that a stopped sweep saved, or None."""
        saved = self.checkpoints(run)
        found = starting.restore(self.of(run.config), saved, f"{run}: ")
        return found if found and found[0].step else None  # step 0 is a new state

    # The programs of one run. Its values are traced numbers in the config.

    def _init(self, values):
        setup = self.of(vary.apply(self.config, values))
        return setup.init()(values["seed"]), train_step.zero_sums(self.objective)

    def _run_steps(self, values, state, sums, data, num_steps):
        setup = self.of(vary.apply(self.config, values))
        run_steps = train_step.make_run_steps(setup.train_step(), DeviceFeed.fetch)
        return run_steps(state, sums, data, num_steps, values["seed"])

    def _eval_step(self, values, variables, batch):
        setup = self.of(vary.apply(self.config, values))
        return setup.eval_step()(variables, batch)


def parts(runs, at_once):
    """Yields lists of at most `at_once` runs whose last checkpoints have one step."""

    def step(run):
        saved = checkpoints.Checkpoints(run.workdir.checkpoints)
        return max(saved.all_steps(), default=0)

    for equal in _by(step, runs):
        for start in range(0, len(equal), at_once):
            yield equal[start : start + at_once]


def groups(program, runs):
    """Yields the `Group`s of runs that are at the same step.

    Runs that cannot be begun have their reason in failure.json; the others go on.
    """
    found = {}
    for run in runs:
        try:
            found[id(run)] = program.restore(run)
        except Exception as error:
            run.note_failure(error)

    def step(run):
        return int(found[id(run)][0].step) if found[id(run)] else 0

    for equal in _by(step, [run for run in runs if id(run) in found]):
        try:
            group = Group(program, equal, [found.pop(id(run)) for run in equal])
        except Exception as error:
            note_failure(equal, error)
        else:
            yield group


def note_failure(runs, error):
    """Says why runs that were trained at once failed; the others go on.

    Raises:
      Exception: as for grid.Run.note_failure, and if it is the failure of none.
    """
    if not runs:
        raise error
    if foreign.is_out_of_memory(str(error)) and len(runs) > 1:
        error = memory.OutOfMemory(
            f"out of memory with {len(runs)} runs at once; --together="
            f"{len(runs) // 2} trains fewer at once, {memory.advice()}"
        )
    for run in runs:
        run.note_failure(error)


def _by(step, runs):
    """Lists of the runs that have the same step; those with the most come first."""
    ordered = sorted(runs, key=step, reverse=True)
    return [list(equal) for _, equal in itertools.groupby(ordered, step)]


class Group:
    """K runs that are trained together; their arrays are [K, ...].

    `found` has for each run what `Program.restore` returns; by default all are new.
    """

    def __init__(self, program, runs, found=(None,)):
        self.program, self.runs = program, runs
        self.values = program.values(runs)
        self.state, self.sums = program.init(self.values)
        self.step, self.evaluated = 0, [-1] * len(runs)
        self.end = program.total  # for `train`
        if found[0] is not None:
            states, self.evaluated = map(list, zip(*found, strict=True))
            self.step = int(states[0].step)
            leaves = zip(*map(jax.tree.leaves, states), strict=True)
            leaves = [jnp.asarray(np.stack(leaf)) for leaf in leaves]
            self.state = jax.tree.unflatten(jax.tree.structure(self.state), leaves)
        self.reported = self.step
        batch, examples = program.config.batch_size, len(program.setup.train_split)
        self.progress = reporting.Progress(
            self.step, program.total, batch * len(runs), examples * len(runs)
        )
        self.results = [None] * len(runs)  # of the last evaluation in this process
        self.failed = set()  # the numbers of runs that cannot be written

    def _begin(self, number):
        """Makes the run's directory and returns the writer of its metrics."""
        program, run = self.program, self.runs[number]
        run.workdir.lock.take()
        run.workdir.create(run.config)
        if changed := trained.changed_since(run.workdir, program.setup):
            print(f"warning: {run}: {changed}", flush=True)
        trained.describe(run.workdir, program.setup, take(self.state.params, number))
        outcomes.clear(run.workdir, program.total)
        return reporting.MetricWriter(
            run.workdir.path,
            first_step=self.step,
            tensorboard=run.config.log.tensorboard,
        )

    def train(self, stop=lambda: False, until=1):
        """The loop: step, log, evaluate, and save, also if `stop()` is true.

        The end is the first evaluation after the fraction `until` of the training.
        """
        program, log_every = self.program, self.program.config.log.every_steps
        eval_every = program.setup.durations.eval_every
        save_every = program.setup.durations.save_every
        save_every_steps = program.config.checkpoint.every_steps
        with contextlib.ExitStack() as stack:
            for run in self.runs:
                stack.enter_context(run.workdir.lock)
            self.writers = []
            for number in range(len(self.runs)):
                self.writers.append(self._unless_failed(number, self._begin))
                if self.writers[-1] is not None:
                    stack.callback(self.writers[-1].close)
            self.end = self._end(until)
            if due(self.step, eval_every) or self.step == self.end:
                self._evaluate(stop)  # what a stop cut short
            while self.step < self.end and self._going():
                if self.step > 0 and stop():  # there is nothing to save at 0
                    self._stop()
                step = min(
                    self.end,
                    next_due(self.step, log_every),
                    next_due(self.step, eval_every),
                    next_due(self.step, save_every),
                    next_due(self.step, save_every_steps),
                )
                self.advance(step)
                last = self.step == self.end
                if last or due(self.step, log_every):
                    self._log()
                if last or due(self.step, eval_every):
                    self._evaluate(stop)
                if not last and (
                    due(self.step, save_every) or due(self.step, save_every_steps)
                ):
                    self._save_all()

    def _end(self, until):
        """The step of the first evaluation after the fraction `until`, or from now."""
        total, every = self.program.total, self.program.setup.durations.eval_every
        step = max(math.ceil(until * total), self.step)
        return min(total, step if due(step, every) else next_due(step, every))

    def left(self, until):
        """The runs that have neither got to the fraction `until` nor failed."""
        return [self.runs[n] for n in self._going() if not self.runs[n].reached(until)]

    def _going(self):
        """The numbers of the runs that have neither ended, diverged nor failed."""
        going = (n for n, run in enumerate(self.runs) if not run.ended)
        return [number for number in going if number not in self.failed]

    def _unless_failed(self, number, work):
        """Returns work(number), or None if it fails; the other runs go on."""
        try:
            return work(number)
        except Exception as error:
            self.runs[number].note_failure(error)
            self.failed.add(number)
            return None

    def advance(self, until):
        """Calls the program once: steps_per_dispatch steps, or those up to `until`."""
        program = self.program
        count = min(program.config.steps_per_dispatch, until - self.step)
        index, epoch = program.indices(self.runs, self.step, count)
        data = (*program.arrays, index, epoch)
        with ops.every_kernel():
            self.state, self.sums = program.run_steps(
                self.values, self.state, self.sums, data, count
            )
        self.step += count

    def _log(self):
        """Reports the steps since the last report, and which runs diverged in them."""
        self._note_diverged()
        sums = jax.device_get(self.sums)
        zero = jax.tree.map(jnp.zeros_like, self.sums)
        self.sums = {**zero, "bad_step": self.sums["bad_step"]}
        rates = self.progress.report(self.step)
        images = (self.step - self.reported) * self.program.config.batch_size
        self.reported = self.step
        found = {
            "train/loss": sums["loss"] / images,
            **self.program.objective.scalars(sums, images),
        }
        for number in self._going():
            run = self.runs[number]
            schedule, _ = self.program.of(run.config).optimizer()
            scalars = {
                "progress/images": images,
                "progress/epoch": rates["progress/epoch"],
                **{name: values[number] for name, values in found.items()},
                "train/learning_rate": schedule(self.step - 1),
            }
            self.writers[number].write_scalars(self.step, scalars)
        if going := self._going():
            means = {name: values[going].mean() for name, values in found.items()}
            words = self.program.objective.progress(means)
            line = self.progress.line(self.step, {**rates, **means}, words)
            print(f"{line}  ({len(going)} runs)", flush=True)

    def _note_diverged(self):
        """Notes the runs that had a loss that is not finite."""
        bad_steps = jax.device_get(self.sums["bad_step"])
        for number in self._going():
            if bad_steps[number] >= 0:
                self._diverged(self.runs[number], int(bad_steps[number]))

    def _diverged(self, run, step):
        run.result = outcomes.write_diverged(run.workdir, step)
        print(f"{run}: the loss of step {step} is not finite", flush=True)

    def _evaluate(self, stop):
        """Evaluates each run as `--mode=evaluate` does; at the end, also saves it."""
        self._note_diverged()
        start, program = time.perf_counter(), self.program
        for number in self._going():
            if self.evaluated[number] == self.step < self.end:
                continue  # before a stop
            state, values = take((self.state, self.values), number)
            step = functools.partial(program.eval_step, values)
            evaluator = dataclasses.replace(program.evaluator, step=step)
            try:
                result = evaluator.run(train_step.evaluation_variables(state), stop)
            except Interrupted:
                self._stop()
            if self.evaluated[number] != self.step:
                self.writers[number].write_scalars(self.step, result.scalars())
            self.evaluated[number], self.results[number] = self.step, result
            if self.step == self.end:
                self._finish(number, result)
        self.progress.exclude(time.perf_counter() - start)

    def _finish(self, number, result):
        """Saves the end of a run as the checkpoint that `--mode=train` would save."""
        run = self.runs[number]
        if self._unless_failed(number, self._save):
            total = self.program.total
            run.result = outcomes.write(run.workdir, self.step, total, result)

    def _save_all(self):
        """Saves the runs under way; returns how many were saved."""
        self._note_diverged()
        start = time.perf_counter()
        saved = [self._unless_failed(number, self._save) for number in self._going()]
        self.progress.exclude(time.perf_counter() - start)
        return sum(map(bool, saved))

    def _save(self, number):
        """Saves the state of a run; false if it is not finite, and so diverged."""
        program, run = self.program, self.runs[number]
        run.workdir.lock.check()
        state = take(self.state, number)
        learned = state.params, state.batch_stats, state.ema
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(learned)):
            self._diverged(run, self.step)
            return False
        # A run's own optimizer chain leaves out a decay of 0, the sweep's does not; a
        # decay has no state, so the leaves are the same.
        own = jax.eval_shape(program.of(run.config).init(), 0)
        state = jax.tree.unflatten(jax.tree.structure(own), jax.tree.leaves(state))
        result, evaluated = self.results[number], self.evaluated[number]
        metrics = None
        if result is not None and evaluated == self.step:
            metrics = {result.score: result.value}
        saved = program.checkpoints(run)
        saved.save(self.step, state, metrics, meta={"evaluated": evaluated})
        saved.close()
        return True

    def _stop(self):
        """Saves the runs under way and raises Preempted."""
        saved = self._save_all()
        raise Preempted(
            f"stopped at step {self.step} of {self.program.total}; {saved} runs "
            "under way are saved; the same command goes on from there"
        )


def over_runs(function, axes):
    """`function` over runs by jax.vmap, or as it is for one run, whose arrays are [1].

    Under vmap some kernels take another way, and sums another order: the single run is
    computed as in a training of its own. `axes` are those of vmap. The barriers keep
    XLA from fusing the axis of one run with what is computed.
    """
    barrier = jax.lax.optimization_barrier

    def of_one(argument, axis):
        if isinstance(axis, tuple):
            return tuple(map(of_one, argument, axis))
        return argument if axis is None else barrier(take(argument, 0))

    def call(values, *arguments):
        if len(values["seed"]) > 1:
            return jax.vmap(function, axes)(values, *arguments)
        result = barrier(function(*of_one((values, *arguments), axes)))
        return jax.tree.map(lambda x: x[None], result)

    return call


def take(tree, number):
    """One run's part of arrays [K, ...]."""
    return jax.tree.map(lambda x: x[number], tree)
