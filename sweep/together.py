"""Many runs of one config: every combination of the values that `--vary` gives.

    python main.py --mode=sweep --config=configs/lenet5.py:modern --workdir=runs/sweep \
        --vary=seed=0,1,2 --vary=optimizer.learning_rate=0.03,0.1

What varies is an argument of one compiled program, which trains `--together` runs at
once by `jax.vmap`, all from one copy of the data on one device. Start-up, compilation
and data are paid for once. Beyond that vmap pays where a single small run leaves an
accelerator idle. On a CPU eight LeNet-5 at once take longer than one after another
(benchmarks/many_runs.py), so the default there is 1.

Each run has a directory of its own, like one of `--mode=train` with its config, and
ends where that would to rounding; `--mode=evaluate` and `predict` take it. A run whose
loss is not finite stops there and is reported; the others go on. Runs are saved at
their end only: the same command keeps those that are finished and begins the others
anew.
"""

import contextlib
import dataclasses
import functools
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import evaluate
import feeds
import input_pipeline
import train
from experiment import checkpoints, configuration, reporting, workdir
from models import onednn
from training import train_step

# Beside these, any argument of the optimizer that is a float, such as momentum.
VARIABLE = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "loss.label_smoothing",
)
KWARGS = "optimizer.kwargs."


@dataclasses.dataclass
class Run:
    """One combination: its values by field, its config, and how it ended.

    `result` is None before its end; then what evaluate.evaluate gave with the step,
    or {"step": s, "diverged": True}: the step whose loss was not finite.
    """

    values: dict
    config: object
    workdir: workdir.Workdir
    result: dict | None = None

    def __str__(self):
        return self.workdir.path.name

    def outcome(self):
        if "diverged" in self.result:
            return f"diverged at step {self.result['step']}"
        return self.result["text"]


def sweep(config, parent, vary, together=0):
    """Trains all runs in directories below that of `parent`; returns the table.

    Args:
      config: a checked config, the one that varies.
      parent: a workdir.Workdir that is no run itself.
      vary: strings "field=value,value,...".
      together: how many runs a program trains at once; 0: all, on a CPU one.

    Raises:
      ConfigError: a field that cannot vary, or a config that no sweep can train.
    """
    varied = parse(config, vary)
    _check(config, parent, together)
    runs = make_runs(config, parent, varied)
    pending = [run for run in runs if run.result is None]
    if not together:
        together = 1 if jax.default_backend() == "cpu" else len(runs)
    if pending:
        program = Program(config, varied)
        for start in range(0, len(pending), together):
            Group(program, pending[start : start + together]).train()
    return table(varied, runs)


def parse(config, vary):
    """{field: values} of the strings "field=value,value,..."."""
    fields, varied = configuration.flatten(config), {}
    for text in vary:
        name, _, values = text.partition("=")
        name = name.removeprefix("config.")
        if name not in fields:
            raise configuration.ConfigError(
                f"--vary={text}: config has no field {name!r}"
                + configuration.nearest(name, fields)
            )
        number = isinstance(fields[name], float)
        if name not in VARIABLE and not (name.startswith(KWARGS) and number):
            raise configuration.ConfigError(
                f"config.{name} cannot vary within one program; what can: "
                f"{', '.join(VARIABLE)}, {KWARGS}<a float>"
            )
        kind = float if number else int
        try:
            found = [kind(value) for value in values.split(",")]
        except ValueError:
            raise configuration.ConfigError(
                f"--vary={text}: values must be {kind.__name__}s, commas between"
            ) from None
        if name in varied or len(set(found)) < len(found):
            raise configuration.ConfigError(f"--vary={text}: twice the same")
        varied[name] = found
    return varied


def _check(config, parent, together):
    """Raises ConfigError for what cannot be done in a sweep."""
    if (parent.path / "config.json").exists():
        raise configuration.ConfigError(
            f"--workdir={parent} holds a run; a sweep needs a directory of its own"
        )
    if config.init_from:
        raise configuration.ConfigError(
            f"config.init_from = {config.init_from!r} cannot be part of a sweep"
        )
    if together < 0:
        raise configuration.ConfigError(f"--together={together} must not be negative")
    if jax.process_count() > 1 or config.num_devices > 1:
        raise configuration.ConfigError(
            "a sweep uses one device of one process: config.num_devices=1"
        )
    for name, value in (
        ("optimizer.name", "sdlm"),
        ("schedule.name", "plateau"),
        ("dataset.placement", "host"),
    ):
        if configuration.flatten(config)[name] == value:
            raise configuration.ConfigError(
                f"config.{name} = {value!r} cannot be part of a sweep: its runs share "
                "one copy of the data, on the device, and go from step to step there"
            )


def make_runs(config, parent, varied):
    """The runs of all combinations, those that are finished with their result."""
    runs = []
    for combination in itertools.product(*varied.values()):
        values = dict(zip(varied, combination, strict=True))
        own = with_values(config, values)
        configuration.check(own)
        name = ",".join(f"{field}={value}" for field, value in values.items())
        run = Run(values, own, workdir.Workdir(parent.path / name))
        run.workdir.check(own)
        if (run.workdir.path / "result.json").exists():
            before = run.workdir.config()
            for field in ("num_epochs", "num_steps"):
                if before[field] != own[field]:
                    raise configuration.ConfigError(
                        f"config.{field} = {own[field]}, but {run.workdir} is finished "
                        f"with {before[field]}; choose another --workdir"
                    )
            run.result = run.workdir.read_json("result.json")
        runs.append(run)
    return runs


def with_values(config, values):
    """A copy of `config` with other values, which may be traced numbers."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(values)
    return config


class Program:
    """The data on the device, and the compiled programs that all runs share."""

    def __init__(self, config, varied):
        self.config, self.varied = config, {*varied, "seed"}
        dataset = config.dataset
        self.train_split = evaluate.open_split(dataset, dataset.train_split)
        self.eval_split = evaluate.open_split(dataset, dataset.eval_split)
        self.epoch_steps, self.eval_every, self.total = train.durations(
            config, len(self.train_split)
        )
        image_shape = self.train_split.image_shape
        self.preprocessing, view = evaluate.make_view(
            config, image_shape, self.epoch_steps
        )
        if view is not None:
            raise configuration.ConfigError(
                "--mode=sweep has its data on the device: no images that differ in "
                "size, no config.augment.view or policy"
            )
        self.shape = evaluate.input_shape(self.preprocessing, image_shape)
        self.model = evaluate.make_model(config, self.train_split.num_classes)
        variables = evaluate.abstract_variables(self.model, self.shape)
        configuration.check_parameters(config, variables["params"])
        self.trained_model = train.rematerialised(
            config.model.remat, self.model, self.shape
        )
        self.mesh = evaluate.make_mesh(1)
        self.arrays = jax.device_put(self.train_split.arrays())

        self.init = jax.jit(jax.vmap(self._init))
        self.run_steps = jax.jit(
            jax.vmap(self._run_steps, (0, 0, 0, (None, None, 0, None), None)),
            donate_argnums=(1, 2),
            static_argnums=4 if config.steps_per_dispatch == 1 else (),
            compiler_options=train_step.compiler_options(jax.default_backend()),
        )
        self.eval_step = jax.jit(self._eval_step)

    def values(self, runs):
        """What tells `runs` apart, as arrays [K]; the argument of the programs."""
        fields = [configuration.flatten(run.config) for run in runs]
        return {
            name: np.array([f[name] for f in fields], "i8" if name == "seed" else "f4")
            for name in self.varied
        }

    def indices(self, runs, step, count):
        """Example indices [K, S, B] and epochs [S, B], S = steps_per_dispatch.

        Of these, the first `count` are those of the steps from `step` on.
        """
        padding = ((0, self.config.steps_per_dispatch - count), (0, 0))
        index = []
        for run in runs:
            plan = input_pipeline.TrainPlan(
                len(self.train_split),
                run.config.batch_size,
                run.config.seed,
                order=run.config.dataset.order,
                repeats=run.config.augment.repeats,
            )
            places = plan.indices(step, step + count)
            found, epoch = (np.pad(p, padding) for p in places)
            index.append(found)
        return np.stack(index), epoch

    def schedule_and_optimizer(self, config):
        return train.make_optimizer(config, self.epoch_steps, self.total)

    def make_init(self, config):
        _, tx = self.schedule_and_optimizer(config)
        ema = config.optimizer.ema_decay
        return train_step.make_init(self.model, tx, self.shape, ema)

    # The programs of one run; its values stand in the config as traced numbers.

    def _init(self, values):
        config = with_values(self.config, values)
        return self.make_init(config)(values["seed"]), train_step.zero_sums()

    def _run_steps(self, values, state, sums, data, num_steps):
        config = with_values(self.config, values)
        _, tx = self.schedule_and_optimizer(config)
        step = train.make_step(config, self.trained_model, tx, self.preprocessing)
        run_steps = train_step.make_run_steps(step, feeds.DeviceFeed.fetch)
        return run_steps(state, sums, data, num_steps, values["seed"])

    def _eval_step(self, values, variables, batch):
        loss = evaluate.make_loss(with_values(self.config, values).loss)
        step = evaluate.make_eval_step(self.model, self.preprocessing, loss)
        return step(variables, batch)


class Group:
    """K runs that are trained together; their arrays are [K, ...]."""

    def __init__(self, program, runs):
        self.program, self.runs = program, runs
        self.values = program.values(runs)
        self.state, self.sums = program.init(self.values)
        self.step, self.reported = 0, 0
        batch, examples = program.config.batch_size, len(program.train_split)
        self.progress = reporting.Progress(
            0, program.total, batch * len(runs), examples * len(runs)
        )
        self.writers = [self._begin(number) for number in range(len(runs))]

    def _begin(self, number):
        """Makes the run's directory; returns the writer of its metrics."""
        program, run = self.program, self.runs[number]
        run.workdir.create(run.config)
        train.describe_run(
            run.workdir,
            program.train_split,
            program.preprocessing,
            program.shape,
            take(self.state.params, number),
            program.mesh.devices.flat,
        )
        return reporting.MetricWriter(
            run.workdir.path, tensorboard=run.config.log.tensorboard
        )

    def train(self):
        """The loop: step, log, evaluate, and save at the end."""
        program, log_every = self.program, self.program.config.log.every_steps
        with contextlib.ExitStack() as stack:
            for writer in self.writers:
                stack.callback(writer.close)
            while self.step < program.total and self._going():
                until = min(
                    program.total,
                    train.next_due(self.step, log_every),
                    train.next_due(self.step, program.eval_every),
                )
                self.advance(until)
                last = self.step == program.total
                evaluating = last or train.due(self.step, program.eval_every)
                if evaluating or train.due(self.step, log_every):
                    self._log()
                if evaluating:
                    self._evaluate(last)

    def _going(self):
        """The numbers of the runs that have not diverged."""
        return [n for n, run in enumerate(self.runs) if run.result is None]

    def advance(self, until):
        """One call of the program: steps_per_dispatch steps, or those to `until`."""
        program = self.program
        count = min(program.config.steps_per_dispatch, until - self.step)
        index, epoch = program.indices(self.runs, self.step, count)
        data = (*program.arrays, index, epoch)
        with onednn.permitted():
            self.state, self.sums = program.run_steps(
                self.values, self.state, self.sums, data, count
            )
        self.step += count

    def _log(self):
        """Reports the steps since the last report, and which runs diverged in them."""
        sums = jax.device_get(self.sums)
        zero = jax.tree.map(jnp.zeros_like, self.sums)
        self.sums = {**zero, "bad_step": self.sums["bad_step"]}
        rates = self.progress.report(self.step)
        images = (self.step - self.reported) * self.program.config.batch_size
        self.reported = self.step
        losses, errors = sums["loss"] / images, 100 * sums["errors"] / images
        for number in self._going():
            run = self.runs[number]
            if sums["bad_step"][number] >= 0:
                self._diverged(run, int(sums["bad_step"][number]))
                continue
            schedule, _ = self.program.schedule_and_optimizer(run.config)
            scalars = {
                "progress/epoch": rates["progress/epoch"],
                "train/loss": losses[number],
                "train/error": errors[number],
                "train/learning_rate": schedule(self.step - 1),
            }
            self.writers[number].write_scalars(self.step, scalars)
        if going := self._going():
            means = {
                "train/loss": losses[going].mean(),
                "train/error": errors[going].mean(),
            }
            line = self.progress.line(self.step, {**rates, **means})
            print(f"{line}  ({len(going)} runs)", flush=True)

    def _diverged(self, run, step):
        run.result = {"step": step, "diverged": True}
        run.workdir.write_json("result.json", run.result)
        print(f"{run}: the loss of step {step} is not finite", flush=True)

    def _evaluate(self, last):
        """Evaluates the runs one by one, as `--mode=evaluate` does; saves the last."""
        start, program = time.perf_counter(), self.program
        for number in self._going():
            state, values = take((self.state, self.values), number)
            result = evaluate.evaluate(
                functools.partial(program.eval_step, values),
                train_step.evaluation_variables(state),
                program.eval_split,
                program.config.eval.batch_size,
                program.mesh,
            )
            scalars = {f"eval/{n}": result[n] for n in ("error", "top5_error", "loss")}
            self.writers[number].write_scalars(self.step, scalars)
            if last:
                self._save(self.runs[number], state, result)
        self.progress.exclude(time.perf_counter() - start)

    def _save(self, run, state, result):
        """Saves the end of a run as the checkpoint that its own training would save."""
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(state.params)):
            self._diverged(run, self.step)
            return
        # A decay of 0 is left out of a chain of its own, not out of the sweep's; it has
        # no state, so the leaves are the same.
        own = jax.eval_shape(self.program.make_init(run.config), 0)
        state = jax.tree.unflatten(jax.tree.structure(own), jax.tree.leaves(state))
        saved = checkpoints.Checkpoints(run.workdir.checkpoints)
        saved.save(
            self.step,
            state,
            {"error": result["error"]},
            meta={"evaluated": self.step},
        )
        saved.close()
        text = evaluate.describe(result, self.program.eval_split, self.step)
        run.result = {"step": self.step, **result, "text": text}
        run.workdir.write_json("result.json", run.result)


def take(tree, number):
    """The part of one run."""
    return jax.tree.map(lambda x: x[number], tree)


def table(varied, runs):
    """A line for each run and, where seeds vary, for each combination of the rest."""
    columns = list(varied)
    rows = [
        [*(f"{run.values[name]:g}" for name in columns), run.outcome()] for run in runs
    ]
    lines = aligned([[*columns, "result"], *rows])
    others = [name for name in columns if name != "seed"]
    if len(varied.get("seed", ())) < 2:
        return "\n".join(lines)
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run.values[name] for name in others), []).append(run)
    rows = [
        [*(f"{value:g}" for value in key), summary(group)]
        for key, group in groups.items()
    ]
    lines += ["", *aligned([[*others, "mean +- standard deviation"], *rows])]
    return "\n".join(lines)


def summary(runs):
    """Mean and (sample) standard deviation of the error over runs."""
    errors = [run.result["error"] for run in runs if "error" in run.result]
    diverged = len(runs) - len(errors)
    text = f"{len(errors)} runs"
    if errors:
        spread = f" +- {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        text = f"{statistics.mean(errors):.2f}{spread} % over {text}"
    return text + (f", {diverged} diverged" if diverged else "")


def aligned(rows):
    """Lines of text with the columns of `rows` at equal places."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
