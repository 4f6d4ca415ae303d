"""Training: the state, the optimizer, one compiled step, and the loop around it."""

import contextlib
import dataclasses
import fractions
import functools
import math
import os
import shlex
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import data_source
import evaluate
import feeds
import input_pipeline
import transforms
import weights
from errors import NOT_FINITE, PREEMPTED, UserError
from experiment import checkpoints, configuration, reporting
from models import convolution
from training import losses, memory, optimizers, remat, train_step
from transforms import augment

# Larger training splits stay on the host unless the config says otherwise.
ON_DEVICE_BYTES = 2**30


class NonFiniteLoss(UserError):
    """The loss is not a number; nothing after the last good checkpoint was saved."""

    exit_code = NOT_FINITE


class Preempted(UserError):
    """The run was told to stop, has saved its state, and can be resumed."""

    exit_code = PREEMPTED


def make_optimizer(config, epoch_steps, total_steps):
    """(step -> learning rate, optax transformation) of a config."""
    optimizer = config.optimizer
    rate = optimizer.learning_rate
    if optimizer.per_examples:
        rate *= config.batch_size / optimizer.per_examples
    schedule = optimizers.make_schedule(
        rate=rate, epoch_steps=epoch_steps, total_steps=total_steps, **config.schedule
    )
    tx = optimizers.make_optimizer(
        optimizer.name,
        schedule,
        kwargs=optimizer.kwargs,
        weight_decay=optimizer.weight_decay,
        decay_mask=optimizer.decay_mask,
        clip_norm=optimizer.clip_norm,
        plateau=config.schedule.name == "plateau",
        rate_factors=optimizer.rate_factors,
        unfreeze=[
            (expression, optimizers.in_steps(epoch, epoch_steps))
            for expression, epoch in optimizer.unfreeze
        ],
        filter_rms=optimizer.filter_rms,
    )
    return schedule, tx


def rematerialised(stages, model, shape):
    """`model` for the training, with the `stages` of config.model.remat."""
    if not stages:
        return model
    try:
        return remat.rematerialised(model, stages.split(","), shape)
    except ValueError as e:
        raise configuration.ConfigError(f"config.model.remat = {stages!r}: {e}") from e


def make_step(config, model, tx, preprocessing):
    """The train step of a config: (state, batch, seed) -> (state, sums)."""
    mix = None
    if config.augment.mixup or config.augment.cutmix:
        mix = functools.partial(
            augment.mix,
            mixup_alpha=config.augment.mixup,
            cutmix_alpha=config.augment.cutmix,
        )
    return train_step.make_train_step(
        model,
        tx,
        evaluate.make_loss(config.loss),
        functools.partial(
            input_pipeline.network_input,
            preprocessing=preprocessing,
            augmentation=transforms.select(augment.Augmentation, config.augment),
        ),
        accumulate=config.optimizer.accumulate,
        ema_decay=config.optimizer.ema_decay,
        ema_every=config.optimizer.ema_every,
        auxiliary_weight=config.loss.auxiliary_weight,
        mix=mix,
        frozen_statistics=config.model.frozen_statistics,
    )


def describe_run(run, split, preprocessing, input_shape, params, devices):
    """Fills a run directory with what the network's users need later."""
    from clu import parameter_overview

    run.write_json(
        "dataset.json",
        {
            "name": split.name,
            "image_shape": split.image_shape,
            "input_shape": input_shape,
            "label_names": split.label_names,
        },
    )
    run.write_json("preprocessing.json", preprocessing.as_dict())
    run.add_environment(devices)
    overview = parameter_overview.get_parameter_overview(params, include_stats=False)
    run.write_text("parameters.txt", overview + "\n")


# Durations.


def durations(config, num_examples):
    """Steps of an epoch and between evaluations, as Fractions, and of the training."""
    epoch_steps = fractions.Fraction(num_examples, config.batch_size)
    eval_every = optimizers.exact_steps(config.eval.every_epochs, epoch_steps)
    total = config.num_steps or optimizers.in_steps(config.num_epochs, epoch_steps)
    if total < 1 and not (config.init_from and config.num_epochs == 0):
        raise configuration.ConfigError(
            f"config.num_epochs = {config.num_epochs} is less than one step of "
            f"config.batch_size = {config.batch_size} images; 0 is for the weights of "
            "config.init_from as they are"
        )
    return epoch_steps, eval_every, total


def due(step, every):
    """True at the first step at or after each multiple of `every` (0: never)."""
    return every > 0 and step > 0 and step // every > (step - 1) // every


def next_due(step, every):
    """The first step after `step` at which something is due."""
    return math.ceil((step // every + 1) * every) if every > 0 else math.inf


class StopSignal:
    """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C interrupts.

    In a run of several processes jax.distributed has its own handler of SIGTERM, and
    the processes agree on a step through `Checkpoints.reached_preemption`.
    """

    def __init__(self):
        self.requested = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._request)
            signal.signal(signal.SIGINT, self._request)

    def _request(self, number, frame):
        del frame
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print(), which must not be entered twice.
        os.write(1, f"{signal.Signals(number).name}: stopping soon\n".encode())


def train(config, run, stop):
    """Trains, or goes on training, what `config` describes in the directory `run`.

    Args:
      config: a checked config.
      run: a workdir.Workdir that belongs to it.
      stop: a StopSignal.

    Returns:
      The line that says how it ended.

    Raises:
      Preempted: a stop was asked for; the state is saved.
      NonFiniteLoss: the loss is not a number; the last good state is saved.
      OutOfMemory: a device cannot hold a step.
    """
    trainer = Trainer(config, run, stop)
    try:
        result = trainer.run()
        line = evaluate.describe(result, trainer.eval_split, trainer.step)
        return f"done: {line}; run directory {run}"
    except jax.errors.JaxRuntimeError as error:
        if not memory.is_out_of_memory(error):
            raise
        raise memory.OutOfMemory(trainer.explain_out_of_memory()) from error
    finally:
        trainer.close()


class Trainer:
    """One run in memory: network, data, state, and what the loop does with them."""

    def __init__(self, config, run, stop):
        self.config, self.workdir, self.stop = config, run, stop
        self.first = jax.process_index() == 0
        self.mesh = evaluate.make_mesh(config.num_devices)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.seed = np.int64(config.seed)  # a program takes it as jax.random.key does

        if self.first:
            run.check(config)  # before a long download
        self.train_split = evaluate.open_split(
            config.dataset, config.dataset.train_split
        )
        self.eval_split = evaluate.open_split(config.dataset, config.dataset.eval_split)
        self.epoch_steps, self.eval_every, self.total = durations(
            config, len(self.train_split)
        )
        self.plan = input_pipeline.TrainPlan(
            len(self.train_split),
            config.batch_size,
            config.seed,
            order=config.dataset.order,
            repeats=config.augment.repeats,
        )

        preprocessing, self.view = evaluate.make_view(
            config, self.train_split.image_shape, self.epoch_steps
        )
        shape = evaluate.input_shape(preprocessing, self.train_split.image_shape)
        self.model = evaluate.make_model(config, self.train_split.num_classes)
        variables = evaluate.abstract_variables(self.model, shape)
        self.eval_preprocessing = evaluate.make_preprocessing(
            config, self.eval_split.image_shape
        )
        tested = evaluate.input_shape(
            self.eval_preprocessing, self.eval_split.image_shape
        )
        sizes = {
            (pixels, pixels, shape[-1]) for _, pixels in config.augment.image_sizes
        }
        evaluate.check_sizes(self.model, variables, {tested, *sizes} - {shape})
        configuration.check_parameters(config, variables["params"])
        self.trained_model = rematerialised(config.model.remat, self.model, shape)
        loss = evaluate.make_loss(config.loss)
        self.schedule, self.tx = make_optimizer(config, self.epoch_steps, self.total)
        self.loss, self.preprocessing = loss, preprocessing

        init = train_step.make_init(
            self.model, self.tx, shape, config.optimizer.ema_decay
        )
        self.start = None
        if config.init_from and not run.checkpoints.exists():  # or it names no weights
            self.start = self._load_start(variables)
        if self.first:
            run.create(config)
        self._find_statistics()
        self.saved = checkpoints.Checkpoints(
            run.checkpoints,
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
        )
        self.state, self.evaluated = self._restore(init)
        self.step = int(self.state.step)
        if self.first:
            self._describe(shape)

        self.writer = reporting.MetricWriter(
            run.path,
            first_step=self.step,
            tensorboard=config.log.tensorboard,
            enabled=self.first,
        )
        self.progress = reporting.Progress(
            self.step, self.total, config.batch_size, len(self.train_split)
        )
        self.feed = self._make_feed()
        self._make_programs()
        self.step_shapes = None  # what `run_steps` takes, once that is known
        self.pixels = None  # of the images of that step
        self.sums, self.pending = self.new_sums(), None
        self.result, self.profiling, self.asked = None, False, 0

    def _find_statistics(self):
        """Those that preprocessing needs of the training images: fitted or read."""
        tested = self.eval_preprocessing
        path = self.workdir.path / evaluate.STATISTICS
        if tested.whiten in ("", "gcn"):
            return
        if path.exists():
            statistics = self.workdir.read_arrays(path.name)
        else:
            statistics = input_pipeline.fit_statistics(
                self.train_split,
                tested,
                damaged=self.config.dataset.damaged,
                **evaluate.reading(self.config.dataset),
            )
            if self.first:
                self.workdir.write_arrays(path.name, statistics)
        add = functools.partial(dataclasses.replace, statistics=statistics)
        self.preprocessing, self.eval_preprocessing = map(
            add, (self.preprocessing, tested)
        )

    def _restore(self, init):
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            jax.eval_shape(init, self.seed),
        )
        restored = self.saved.restore(abstract)
        if restored is None:
            # Runs once: compiled for a moment. The numbers have the same bits.
            options = {"xla_backend_optimization_level": 1}
            program = jax.jit(
                init, out_shardings=self.replicated, compiler_options=options
            )
            state = program(self.seed)
            return self._started_from(state) if self.config.init_from else state, -1
        state, step, meta = restored
        if self.first:
            print(f"resuming from step {step} of {self.total}", flush=True)
        return state, meta["evaluated"]

    def _started_from(self, state):
        """`state` at step 0 with the parameters that config.init_from has."""
        own = {"params": state.params, "batch_stats": state.batch_stats}
        start = self._load_start(own) if self.start is None else self.start
        variables = jax.tree.map(
            lambda loaded, x: x if isinstance(loaded, jax.ShapeDtypeStruct) else loaded,
            start,
            {name: own[name] for name in start},
        )
        self.start = None
        start = functools.partial(train_step.start_from, tx=self.tx)
        return jax.jit(start, out_shardings=self.replicated)(state, variables)

    def _load_start(self, variables):
        """What config.init_from has of `variables`, elsewhere what they are."""
        names = ("params", "batch_stats")
        found, report = weights.load(
            self.config.init_from,
            self.config.model.name,
            {name: variables[name] for name in names if variables.get(name)},
            self.config.init_layers,
        )
        if self.first:
            print(report, flush=True)
        return found

    def _describe(self, shape):
        from clu import parameter_overview

        split = self.train_split
        describe_run(
            self.workdir,
            split,
            self.eval_preprocessing,
            evaluate.input_shape(self.eval_preprocessing, split.image_shape),
            self.state.params,
            self.mesh.devices.flat,
        )
        print(
            f"{self.config.model.name} on {split.name}: "
            f"{parameter_overview.count_parameters(self.state.params):,} parameters, "
            f"{len(split):,} training images of {'x'.join(map(str, shape))}, "
            f"{self.total:,} steps of {self.config.batch_size} on "
            f"{self.mesh.devices.size} {self.mesh.devices.flat[0].device_kind} devices",
            flush=True,
        )

    def _make_feed(self):
        dataset = self.config.dataset
        on_device = dataset.placement == "device"
        if self.view is None and dataset.placement == "auto":
            size = len(self.train_split) * math.prod(self.train_split.image_shape)
            on_device = size <= ON_DEVICE_BYTES
        if on_device:
            return feeds.DeviceFeed(
                self.train_split, self.plan, self.mesh, self.config.steps_per_dispatch
            )
        return feeds.HostFeed(
            self.train_split,
            self.plan,
            self.mesh,
            self.step,
            self.total,
            view=self.view,
            damaged=dataset.damaged,
            **evaluate.reading(dataset),
        )

    def _make_programs(self):
        config, one = self.config, self.replicated
        step = make_step(config, self.trained_model, self.tx, self.preprocessing)
        self.run_steps = jax.jit(
            train_step.make_run_steps(step, self.feed.fetch),
            donate_argnums=(0, 1),
            static_argnums=3 if self.feed.steps == 1 else (),
            out_shardings=(one, one),
            compiler_options=train_step.compiler_options(jax.default_backend()),
        )
        self.eval_step = jax.jit(
            evaluate.make_eval_step(self.model, self.eval_preprocessing, self.loss),
            out_shardings=one,
            compiler_options=train_step.compiler_options(jax.default_backend()),
        )
        self.all_finite = jax.jit(
            lambda tree: jnp.array(
                [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
            ).all()
        )
        self.new_sums = jax.jit(train_step.zero_sums, out_shardings=one)
        self.set_curvature = jax.jit(
            train_step.make_set_curvature(
                self.model, losses.make_criterion(config.loss), self.preprocessing
            ),
            donate_argnums=0,
            out_shardings=one,
        )
        schedule = config.schedule

        def observe(state, error):
            opt_state = optimizers.observe_plateau(
                state.opt_state,
                error,
                factor=schedule.decay_rate,
                patience=schedule.patience,
                min_factor=schedule.min_factor,
            )
            return state.replace(opt_state=opt_state)

        self.observe = jax.jit(observe, donate_argnums=0, out_shardings=one)

    def run(self):
        """The loop: step, log, evaluate, save. Returns the final evaluation."""
        config = self.config
        log_every = config.log.every_steps
        eval_every = self.eval_every
        save_every = optimizers.exact_steps(
            config.checkpoint.every_epochs, self.epoch_steps
        )
        profile_start, profile_end = self._profile_window()

        last = self.step == self.total
        if self.evaluated < self.step and (due(self.step, eval_every) or last):
            self._evaluate()  # a stop cut it short, or nothing is to be trained
            if self.total == 0:
                self._save()
        while self.step < self.total:
            self._stop_if_asked()
            self._profile(profile_start, profile_end)
            self._begin_pass()
            until = min(
                self.total,
                next_due(self.step, log_every),
                next_due(self.step, eval_every),
                next_due(self.step, save_every),
                next_due(self.step, config.checkpoint.every_steps),
                next_due(self.step, self.epoch_steps),
                *(p for p in (profile_start, profile_end) if p > self.step),
            )
            self._advance(until)
            if due(self.step, log_every) or self.step == self.total:
                self._log()
            if due(self.step, eval_every) or self.step == self.total:
                try:
                    self._evaluate()
                except (data_source.DataError, memory.OutOfMemory):
                    if jax.process_count() == 1:  # the others may not have met it
                        self._save()  # or these steps would be done, and end so, anew
                        self.saved.wait()
                    raise
            if (
                due(self.step, save_every)
                or due(self.step, config.checkpoint.every_steps)
                or self.step == self.total
            ):
                self._save()
        self.saved.wait()
        return self.result or self._count_errors()  # a run that was finished before

    def _advance(self, until):
        start = time.perf_counter()
        data, count = self.feed.take(self.step, until)
        self.progress.waiting(time.perf_counter() - start)
        pixels = self.view.size(self.step) if self.view else None
        if self.step_shapes is None or pixels != self.pixels:
            self.pixels = pixels
            self._plan_memory(data, count)
        with convolution.programs_for(self.mesh):
            self.state, self.sums = self.run_steps(
                self.state, self.sums, data, count, self.seed
            )
        self.step += count

    def _plan_memory(self, data, count):
        """Prints what the step will take; it is compiled for that, and not again.

        Anew for every size of images.
        """
        self.step_shapes = memory.shapes(
            (self.state, self.sums, data, count, self.seed)
        )
        plan = self._plan_of(self.config.batch_size)
        if self.first:
            print(memory.report(plan, self.mesh.devices.flat[0]), flush=True)

    def _plan_of(self, batch_size):
        """The memory.Plan of `run_steps` for batches of another size."""
        state, sums, data, count, seed = self.step_shapes
        data = memory.with_batch(data, batch_size)
        with convolution.programs_for(self.mesh):
            compiled = self.run_steps.lower(state, sums, data, count, seed).compile()
        return memory.plan(compiled, state, data)

    def explain_out_of_memory(self):
        """What to say about the step that a device could not hold."""
        if self.step_shapes is None:
            return "out of memory before the first step: the state or the data"
        multiple = self.mesh.devices.size * self.config.optimizer.accumulate
        return memory.explain(
            self._plan_of,
            self.config.batch_size,
            multiple,
            self.mesh.devices.flat[0],
        )

    def _log(self):
        """Takes the sums of this interval and reports those of the one before.

        The device never waits for the host: these sums are fetched when the next
        interval has been sent to it.
        """
        self._report()
        self.pending = (self.step, self.sums)
        self.sums = self.new_sums()

    def _report(self):
        """Reports the sums that `_log` put aside, if any."""
        if self.pending is None:
            return
        step, sums = self.pending
        self.pending = None
        sums = self._checked(sums)
        rates = self.progress.report(step)
        images = rates.pop("images")
        scalars = {
            **rates,
            "train/loss": float(sums["loss"]) / images,
            "train/error": 100 * int(sums["errors"]) / images,
            "train/learning_rate": self._learning_rate(step),
        }
        self.writer.write_scalars(step, scalars)
        if self.first:
            print(self.progress.line(step, scalars), flush=True)

    def _learning_rate(self, step):
        plateau = optimizers.plateau_of(self.state.opt_state)
        scale = 1.0 if plateau is None else float(plateau.scale)
        return float(self.schedule(step - 1)) * scale

    def _checked(self, sums):
        """The sums on the host; raises NonFiniteLoss if a loss was not finite."""
        sums = jax.device_get(sums)
        if sums["bad_step"] >= 0:
            self.saved.wait()
            good = self.saved.all_steps()
            where = f"checkpoint {good[-1]}" if good else "the beginning"
            command = shlex.join(["python", *sys.argv])
            raise NonFiniteLoss(
                f"the loss of step {sums['bad_step']} is not finite; nothing was saved "
                f"after {where}. The same command goes on from there and meets the "
                f"same batches; to replay them with every loss shown:\n"
                f"  {command} --config.log.every_steps=1"
            )
        return sums

    def _evaluate(self):
        """Evaluates, reports the result and lets the plateau schedule see it."""
        self._report()
        self._checked(self.sums)
        start = time.perf_counter()
        self.result = result = self._count_errors()
        self.evaluated = self.step
        names = ("error", "top5_error", "loss")
        self.writer.write_scalars(self.step, {f"eval/{n}": result[n] for n in names})
        if self.config.schedule.name == "plateau" and due(self.step, self.eval_every):
            self.state = self.observe(self.state, result["error"])
        if self.first:
            print(evaluate.describe(result, self.eval_split, self.step), flush=True)
        self.progress.exclude(time.perf_counter() - start)

    def _count_errors(self):
        try:
            return evaluate.evaluate(
                self.eval_step,
                train_step.evaluation_variables(self.state),
                self.eval_split,
                self.config.eval.batch_size,
                self.mesh,
                view=self.eval_preprocessing.view(self.eval_split.image_shape),
                stop=self._stopped_alone,
                damaged=self.config.eval.damaged,
                **evaluate.reading(self.config.dataset),
            )
        except evaluate.Interrupted:
            return self._stop_if_asked()
        except jax.errors.JaxRuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            raise memory.OutOfMemory(
                f"out of memory in the evaluation of config.eval.batch_size = "
                f"{self.config.eval.batch_size} images; a smaller one gives the same"
            ) from error

    def _save(self):
        """Saves the state, unless it holds a number that is not finite."""
        self._report()
        self._checked(self.sums)
        start = time.perf_counter()
        state = self.state
        if not self.all_finite((state.params, state.batch_stats, state.ema)):
            raise NonFiniteLoss(
                f"the parameters after step {self.step} are not finite and were not "
                "saved; the same command goes on from the checkpoint before"
            )
        metrics = None
        if self.evaluated == self.step and self.result is not None:
            metrics = {"error": self.result["error"]}
        self.saved.save(
            self.step, self.state, metrics, meta={"evaluated": self.evaluated}
        )
        self.progress.exclude(time.perf_counter() - start)

    def _stopped_alone(self):
        """A stop was asked for that no other process has to agree to."""
        return self.stop.requested and jax.process_count() == 1

    def _stop_if_asked(self):
        if jax.process_count() > 1:
            # The processes agree on a number to come; steps may jump over it.
            self.asked += 1
            asked = self.saved.reached_preemption(self.asked)
        else:
            asked = self.stop.requested
        if asked:
            self._save()
            self.saved.wait()
            raise Preempted(
                f"stopped at step {self.step} of {self.total}, which is saved in "
                f"{self.workdir}; the same command goes on from there"
            )

    def _begin_pass(self):
        """Estimates the curvature anew at the first step of a pass, for "sdlm"."""
        first_of_pass = self.step == 0 or due(self.step, self.epoch_steps)
        if self.config.optimizer.name != "sdlm" or not first_of_pass:
            return
        examples = self.config.optimizer.curvature_examples
        steps = math.ceil(examples / self.config.batch_size)
        index, _ = self.plan.indices(self.step, self.step + steps)
        images, labels = self.train_split.read(index.reshape(-1)[:examples])
        self.state = self.set_curvature(self.state, images, labels)

    def _profile_window(self):
        start = self.config.log.profile_start
        return (
            (start, start + self.config.log.profile_steps) if start >= 0 else (-1, -1)
        )

    def _profile(self, start, end):
        if self.step == start:
            jax.profiler.start_trace(str(self.workdir.path / "profile"))
            self.profiling = True
        elif self.profiling and self.step >= end:
            jax.block_until_ready(self.state)
            jax.profiler.stop_trace()
            self.profiling = False

    def close(self):
        with contextlib.ExitStack() as stack:  # each, whatever the others raise
            stack.callback(self.saved.close)
            stack.callback(self.writer.close)
            stack.callback(self.feed.close)
            if self.profiling:
                stack.callback(jax.profiler.stop_trace)
