"""The trainings of a claim: rates chosen on held-out images, then paired seeds.

Runs lie in one directory for all claims, named by the digest of their config. So a run
that two claims need is trained once, and a changed definition makes another run.
"""

import ast
import collections.abc
import dataclasses
import functools
import hashlib
import json
import math
import pathlib

import jax
import numpy as np

from analysis import curves
from configs import default
from errors import UserError
from experiment import build, checks, configuration, outcomes, trained, workdir
from sweep import grid, vary

RATE = "optimizer.learning_rate"
SEED_OF_CHOICE = 100
HELD_OUT = {
    "dataset.train_split": "train[:90%]",
    "dataset.eval_split": "train[90%:]",
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Arms that differ in some fields, trained with the same seeds.

    Attributes:
      config: what the arms have in common.
      arms: {label: {field: value}}.
      seeds: how many, or {label: how many}; they are 0, 1, 2, ...
      rates: the learning rates among which `settle` chooses by the errors on held-out
        training images (the last tenth), with seed 100; () for the config's or the
        arm's own.
      choice: changes for these trainings, such as a shorter length.
      choose_by: the curve whose end decides instead, such as "train/error".
      one_rate: whether all arms get the same of these rates.
      changes: for all trainings, above all else: for a try.
    """

    config: object
    arms: collections.abc.Mapping
    seeds: int | collections.abc.Mapping = 3
    rates: tuple = ()
    choice: collections.abc.Mapping = dataclasses.field(default_factory=dict)
    choose_by: str = ""
    one_rate: bool = False
    changes: collections.abc.Mapping = dataclasses.field(default_factory=dict)

    def seeds_of(self, label):
        """How many seeds an arm has."""
        return self.seeds if isinstance(self.seeds, int) else self.seeds[label]

    def run(self, pool, values):
        """The grid.Run with other values of some fields."""
        return pool.run(self.config, {**values, **self.changes})


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has ended: its config, its directory and its result."""

    config: object
    workdir: workdir.Workdir
    result: dict

    @property
    def diverged(self):
        return "diverged" in self.result

    @property
    def error(self):
        """The error on the evaluation split after the last step, in per cent."""
        return outcomes.score(self.result)

    @property
    def chance(self):
        """The error of a network that guesses, in per cent."""
        return 100 * (1 - 1 / len(trained.class_names(self.workdir)))

    def parameters(self):
        """How many parameters its network has, which need not be saved."""
        stored, names = trained.dataset(self.workdir)
        view = build.make_preprocessing(self.config, stored, training=True)
        model = build.make_model(self.config, len(names))
        variables = build.abstract_variables(model, build.input_shape(view, stored))
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    def curve(self, name):
        """([epochs], [values]) of "train/error", "train/loss", "eval/error", ..."""
        return curves.read(self.workdir)[name]

    def _reports(self, name):
        """Arrays: a curve's epochs, its values, and the images of each report.

        Reports are of fewer images after a resume and at the end. The images are None
        for evaluations, and for runs of earlier versions, which did not write them.
        """
        found = curves.read(self.workdir)
        epochs, values = found[name]
        reported, images = found.get("progress/images", ([], []))
        return (
            np.array(epochs),
            np.array(values),
            np.array(images) if reported == epochs else None,
        )

    def last(self, name, epochs=0.2):
        """The mean of a curve over the last `epochs`: 10,000 images of CIFAR-10.

        A report counts as much as the images that it is about.
        """
        ends, values, images = self._reports(name)
        if images is None:
            images = np.diff(ends, prepend=0.0)
        chosen = ends > ends[-1] - epochs
        return float(np.average(values[chosen], weights=images[chosen]))

    def epochs_until(self, name, value):
        """The epochs until a curve first falls to `value`, interpolated; None if never.

        The first report counts as the value from 0 on. A report of less than half the
        usual images, as after a resume, is mostly chance and left out.
        """
        epochs, values, images = self._reports(name)
        if images is not None:
            whole = images >= self.config.log.every_steps * self.config.batch_size / 2
            epochs, values = epochs[whole], values[whole]
        for place, now in enumerate(values):
            if now <= value:
                if place == 0:
                    return float(epochs[0])
                part = (values[place - 1] - value) / (values[place - 1] - now)
                step = epochs[place] - epochs[place - 1]
                return float(epochs[place - 1] + part * step)
        return None


class Results:
    """The runs of an experiment: `results["arm"]` is a list of `Trained`, by seed.

    `rates` has the learning rate of each arm, and `choices` what `choose` returns. A
    run that diverged counts as a network that guesses, in tests and in training, unless
    a claim looks at `Trained.diverged` itself.
    """

    def __init__(self, arms, rates, choices=()):
        self._arms, self.rates, self.choices = arms, rates, dict(choices)
        self._counted = False  # whether those that diverged count as chance

    def __getitem__(self, label):
        return self._arms[label]

    def __iter__(self):
        return iter(self._arms)

    def each(self, measure, diverged=None):
        """Returns {label: [measure(run), ...]}, by seed.

        Of a run that diverged it is `diverged(run)`.

        Raises:
          UserError: a run diverged, and there is no `diverged`.
        """
        for label in self:
            for run in self[label]:
                if run.diverged and diverged is None:
                    raise UserError(
                        f"{label}: {run.workdir} diverged at step {run.result['step']},"
                        " and what this claim measures needs a network that has "
                        "learned; give its file smaller learning rates"
                    )
        self._counted |= diverged is not None
        return {
            label: [(diverged if run.diverged else measure)(run) for run in self[label]]
            for label in self
        }

    def errors(self):
        """Returns {label: [error, ...]}, by seed, in per cent."""
        return self.each(lambda run: run.error, lambda run: run.chance)

    def training_errors(self, epochs=0.2):
        """Returns {label: [`Trained.last` of the training error, ...]}, by seed."""
        return self.each(
            lambda run: run.last("train/error", epochs), lambda run: run.chance
        )

    def gaps(self):
        """Returns {label: [test error less the last training error, ...]}, by seed."""
        return self.each(
            lambda run: run.error - run.last("train/error"), lambda run: 0.0
        )

    def epochs_until(self, name, value):
        """Returns {label: [`Trained.epochs_until`, ...]}, by seed."""
        return self.each(lambda run: run.epochs_until(name, value), lambda run: None)

    def lost(self):
        """Says which runs diverged, and which learned nothing; "" if none did.

        It says what the first count as, and names the others, if something has been
        measured of `each`.
        """
        count = self._counted
        diverged = self._count(lambda run: run.diverged)
        still = self._count(lambda run: not run.diverged and run.error > run.chance - 1)
        what = "diverged and count as chance" if count else "diverged"
        said = [f"{diverged} {what}"] if diverged else []
        said += [f"{still} learned nothing"] if still and count else []
        return "; ".join(said)

    def _count(self, found):
        """Says how many runs of each arm are `found`: "1 of 3 runs of a, ..."."""
        counts = {label: sum(map(found, self[label])) for label in self}
        return ", ".join(
            f"{count} of {len(self[label])} runs of {label}"
            for label, count in counts.items()
            if count
        )


class Pool:
    """The directory of all runs of all claims.

    Args:
      path: the directory.
      runner: one of sweep/, such as sweep.in_process.InProcess.
    """

    def __init__(self, path, runner):
        self.path, self._runner = path, runner

    def run(self, config, values):
        """The grid.Run of a config with other values."""
        config = vary.apply(config, values)
        checks.check(config)
        directory = workdir.Workdir(self.path / name(config))
        found = grid.Run(config, {}, directory)
        found.workdir.check(config)
        found.read()
        return found

    def train(self, runs):
        """Trains those of some runs that are missing; returns them as `Trained`.

        Raises:
          UserError: a run failed or is trained elsewhere.
          Preempted: a stop was asked for.
        """
        unique = list({str(run): run for run in runs}.values())
        self._runner.train(unique, 1)
        for run in runs:
            run.read()
        grid.check_ended(unique)
        return [Trained(run.config, run.workdir, run.result) for run in runs]


def name(config):
    """The name of a run's directory: its network, and a digest of its config.

    The digest is of the fields that are not default.py's, so that a field that is added
    there renames no run; the runs of a default that has changed are refused, and must
    be deleted. Of the fields that may change on a resume it has the one that the curves
    depend on. For the networks of claims/networks.py it is also one of that file.
    """
    flat = configuration.changed(default.get_config(), config)
    kept = {n: v for n, v in flat.items() if not configuration.is_free(n)}
    kept["log.every_steps"] = config.log.every_steps
    if config.model.name.startswith("claims.networks:"):
        kept["networks"] = _networks()
    content = json.dumps(kept, sort_keys=True, default=list)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return f"{config.model.name.rpartition(':')[2]}-{digest}"


@functools.cache
def _networks():
    """claims/networks.py without its comments and docstrings."""
    path = pathlib.Path(__file__).parents[1] / "networks.py"
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = node.body[ast.get_docstring(node) is not None :]
    return ast.unparse(tree)


def run(experiment, pool):
    """Trains what is missing of an experiment; returns its `Results`."""
    choices, images = choose(experiment, pool)
    rates = settle(choices, images, experiment.one_rate)
    own = {label: {RATE: rate} for label, rate in rates.items()}
    runs = {
        label: [
            experiment.run(pool, {**values, **own.get(label, {}), "seed": seed})
            for seed in range(experiment.seeds_of(label))
        ]
        for label, values in experiment.arms.items()
    }
    trained = iter(pool.train([run for arm in runs.values() for run in arm]))
    arms = {label: [next(trained) for _ in arm] for label, arm in runs.items()}
    return Results(arms, rates, choices)


def choose(experiment, pool):
    """Returns {label: {rate: its error on held-out images}}, and how many these are.

    Without rates there are none.

    Raises:
      UserError: an arm diverged, or learned nothing, at each of its rates. A try, which
        has `changes`, need not learn.
    """
    if not experiment.rates:
        return {}, 0
    common = {"seed": SEED_OF_CHOICE, **HELD_OUT, **experiment.choice}
    pairs = [(label, rate) for label in experiment.arms for rate in experiment.rates]
    runs = [
        experiment.run(pool, {**experiment.arms[label], RATE: rate, **common})
        for label, rate in pairs
    ]
    ended = pool.train(runs)
    errors = {
        pair: run.last(experiment.choose_by)
        if experiment.choose_by and not run.diverged
        else run.error
        for pair, run in zip(pairs, ended, strict=True)
    }
    tried = ", ".join(f"{rate:g}" for rate in experiment.rates)
    for label in experiment.arms:
        least = min(errors[label, rate] for rate in experiment.rates)
        if math.isinf(least):
            raise UserError(
                f"{label} diverged at each of the learning rates {tried}; give the "
                "claim's file smaller ones"
            )
        if least > ended[0].chance - 1 and not experiment.changes:
            raise UserError(
                f"{label} learned at none of the learning rates {tried}: its least "
                f"error is {least:.2f} %, as of a guess; give the claim's file others, "
                "or a longer choice"
            )
    choices = {
        label: {rate: errors[label, rate] for rate in experiment.rates}
        for label in experiment.arms
    }
    return choices, next(run.result["size"] for run in ended if not run.diverged)


def settle(choices, images, one_rate=False):
    """Returns {label: learning rate} for what `choose` returns.

    All arms get the rate of the least mean error; a run that diverged counts as wrong
    in all images. An arm gets its own best instead, unless they are to have `one_rate`,
    if that is better by more than chance would make it: two networks that are equally
    good differ by about the root of the number of images that they get wrong, so twice
    this root is asked for. Without such a margin the luck of one seed would often give
    two arms different rates, and their difference would be the rate's.
    """
    found = {
        label: {rate: min(error, 100.0) for rate, error in errors.items()}
        for label, errors in choices.items()
    }
    rates = {rate for errors in found.values() for rate in errors}
    mean = {rate: sum(errors[rate] for errors in found.values()) for rate in rates}
    common = best(mean) if mean else None
    settled = {}
    for label, errors in found.items():
        gain = (errors[common] - min(errors.values())) * images / 100
        clear = gain > 2 * math.sqrt(errors[common] * images / 100)
        settled[label] = best(errors) if clear and not one_rate else common
    return settled


def best(errors):
    """The rate of the least error in {rate: error}; of equal ones the lowest rate."""
    return min(errors, key=lambda rate: (errors[rate], rate))
