"""Makes the runs of a sweep: every combination of the values that `--vary` gives."""

import dataclasses
import itertools

import jax

from errors import ConfigError
from evaluation import evaluator
from experiment import checks, configuration, workdir

# Besides these, any float argument of the optimizer can vary, such as momentum.
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

    `result` is None until the run ends. Then it has the evaluation's metrics, the step
    and the split; or {"step": s, "diverged": True} if the loss was not finite.
    """

    values: dict
    config: object
    workdir: workdir.Workdir
    result: dict | None = None

    def __str__(self):
        return self.workdir.path.name

    def outcome(self):
        """Says in words how the run ended."""
        result = self.result
        if "diverged" in result:
            return f"diverged at step {result['step']}"
        if "text" in result:  # an earlier version wrote it
            return result["text"]
        return evaluator.describe(
            result, result["split"], result["size"], result["step"]
        )


def parse(config, vary):
    """Parses strings "field=value,value,..." into {field: values}."""
    fields, varied = configuration.flatten(config), {}
    for text in vary:
        name, _, values = text.partition("=")
        name = name.removeprefix("config.")
        if name not in fields:
            raise ConfigError(
                f"--vary={text}: config has no field {name!r}"
                + configuration.nearest(name, fields)
            )
        number = isinstance(fields[name], float)
        if name not in VARIABLE and not (name.startswith(KWARGS) and number):
            raise ConfigError(
                f"config.{name} cannot vary within one program; what can: "
                f"{', '.join(VARIABLE)}, {KWARGS}<a float>"
            )
        kind = float if number else int
        try:
            found = [kind(value) for value in values.split(",")]
        except ValueError:
            raise ConfigError(
                f"--vary={text}: values must be {kind.__name__}s, comma-separated"
            ) from None
        if name in varied or len(set(found)) < len(found):
            raise ConfigError(f"--vary={text}: repeats a field or value")
        varied[name] = found
    return varied


def check(config, parent, together):
    """Raises ConfigError for a config or options that a sweep does not support."""
    if (parent.path / "config.json").exists():
        raise ConfigError(
            f"--workdir={parent} holds a run; a sweep needs a directory of its own"
        )
    if config.init_from:
        raise ConfigError(
            f"config.init_from = {config.init_from!r} cannot be part of a sweep"
        )
    if together < 0:
        raise ConfigError(f"--together={together} must not be negative")
    if jax.process_count() > 1 or config.num_devices > 1:
        raise ConfigError(
            "a sweep uses one device of one process: config.num_devices=1"
        )
    for name, value in (
        ("optimizer.name", "sdlm"),
        ("schedule.name", "plateau"),
        ("dataset.placement", "host"),
    ):
        if configuration.flatten(config)[name] == value:
            raise ConfigError(
                f"config.{name} = {value!r} cannot be part of a sweep: its runs share "
                "one copy of the data, on the device, and go from step to step there"
            )


def make_runs(config, parent, varied):
    """Makes the runs of all combinations; finished ones get their result.

    A run's directory has its values in the order of the fields' names, however `--vary`
    orders them. Earlier versions had the order of `--vary`; such a directory is kept.
    """
    runs, there = [], _directories(parent)
    for combination in itertools.product(*varied.values()):
        values = dict(zip(varied, combination, strict=True))
        own = with_values(config, values)
        checks.check(own)
        parts = sorted(f"{field}={value}" for field, value in values.items())
        name = there.get(frozenset(parts), ",".join(parts))
        run = Run(values, own, workdir.Workdir(parent.path / name))
        run.workdir.check(own)
        if (run.workdir.path / "result.json").exists():
            before = run.workdir.config()
            for field in ("num_epochs", "num_steps"):
                if before[field] != own[field]:
                    raise ConfigError(
                        f"config.{field} = {own[field]}, but {run.workdir} is finished "
                        f"with {before[field]}; choose another --workdir"
                    )
            run.result = run.workdir.read_json("result.json")
        runs.append(run)
    return runs


def _directories(parent):
    """Returns {values as in the name: name} of the runs below a sweep's directory.

    Of several with the same values a finished one counts, then one in today's order.
    """
    if not parent.path.is_dir():
        return {}
    names = sorted(path.name for path in parent.path.iterdir())
    names.sort(key=lambda name: name == ",".join(sorted(name.split(","))))
    names.sort(key=lambda name: (parent.path / name / "result.json").exists())
    return {frozenset(name.split(",")): name for name in names}


def with_values(config, values):
    """A copy of `config` with other values, which may be traced numbers."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(values)
    return config
