"""Chooses, once, what config.model.remat = "auto" stands for, and keeps the choice.

A run keeps it in remat.json. A resume with the same config.model.memory and as many
devices takes it from there, whatever memory there is by then, so it has the same bits.
The processes of a run choose alike: by the least budget and the largest plans of all.
"""

import contextlib
import dataclasses
import functools

import jax
import numpy as np
from jax.experimental import multihost_utils

from errors import ConfigError
from experiment import build, programs
from experiment.workdir import WorkdirError
from training import memory, remat, remat_budget, train_step

FILE = "remat.json"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The stages that are rematerialised, and why.

    Attributes:
      memory, devices: config.model.memory, and the number of devices.
      budget, planned: bytes of a device, and of a step on it.
      slowdown: the share of multiply-adds that a step has more.
    """

    memory: str
    devices: int
    stages: tuple
    budget: int
    planned: int
    slowdown: float

    def __str__(self):
        numbers = f"{memory.written(self.planned)} planned of "
        numbers += memory.written(self.budget)
        if self.stages:
            numbers += f"; {100 * self.slowdown:.0f} % more multiply-adds a step"
        return f"rematerialised: {', '.join(self.stages) or 'nothing'} ({numbers})"


def find(setup, run):
    """Gives `setup` the stages of config.model.remat = "auto": the run's, or new ones.

    Returns:
      The `build.Setup`, and its programs.Programs if its step is compiled by now, or
      None.

    Raises:
      OutOfMemory: no step fits.
      ConfigError: the budget is the device's memory, which is not known.
      WorkdirError: the run's record is damaged.
    """
    if setup.config.model.remat != remat.AUTO or not setup.durations.total:
        return setup, None
    choice = read(run)
    wanted = setup.config.model.memory, setup.mesh.devices.size
    if choice and (choice.memory, choice.devices) == wanted:
        return _chosen(setup, choice.stages, choice=choice), None
    return choose(setup)


def choose(setup):
    """Chooses stages by the plans of compiled steps; returns what `find` does."""
    budget, made = _budget(setup), {}
    with contextlib.closing(setup.feed(setup.objective().keys, 0)) as feed:
        arguments = _shapes(setup, feed)
    measured = _measured(setup, feed, arguments)

    def plan_of(stages):
        made[stages] = programs.Programs(_chosen(setup, stages), feed)
        steps = made[stages].compiled_steps
        plan = memory.plan_step(steps, setup.mesh, arguments)
        return dataclasses.replace(plan, scratch=_agreed(plan.scratch, np.max))

    stages, plan = remat_budget.shortest(measured.ranked(), plan_of, budget)
    choice = Choice(
        setup.config.model.memory,
        setup.mesh.devices.size,
        stages,
        budget,
        plan.total,
        measured.slowdown(stages),
    )
    return _chosen(setup, stages, choice=choice), made[stages]


def read(run):
    """Returns the `Choice` that a run keeps, or None."""
    if not run.has(FILE):
        return None
    record = run.read_json(FILE)
    try:
        return Choice(**(record | {"stages": tuple(record["stages"])}))
    except (KeyError, TypeError) as e:
        raise WorkdirError(f"{run.path / FILE} is damaged: {e!r}") from e


def keep(setup, run):
    """Writes a setup's choice, if any, into the run directory unless it is there."""
    if setup.choice and setup.choice != read(run):
        run.write_json(FILE, dataclasses.asdict(setup.choice))


def _chosen(setup, stages, choice=None):
    model = remat.Rematerialised(setup.model, stages) if stages else setup.model
    return dataclasses.replace(setup, trained_model=model, choice=choice)


def _budget(setup):
    """Returns the bytes of config.model.memory, or those that every device has."""
    if text := setup.config.model.memory:
        return memory.parse(text)
    device = memory.local_device(setup.mesh)
    found, _ = memory.limit(device)
    if found is None:
        raise ConfigError(
            f"config.model.memory = '': a {device.device_kind} does not say how much "
            "memory it has; give a size, as 2GiB"
        )
    return _agreed(found, np.min)


def _agreed(number, choose):
    """Returns what `choose` takes of the numbers of all processes."""
    if jax.process_count() > 1:
        number = choose(multihost_utils.process_allgather(np.float32(number)))
    return int(number)


def _shapes(setup, feed):
    """Returns the arguments of a step as shapes, for the largest images."""
    data, count = feed.take(0, 1)
    data, seed = memory.shapes(data), np.int64(setup.config.seed)
    if setup.view:
        image = data["image"]
        shape = (image.shape[0], *setup.view.largest, image.shape[-1])
        data["image"] = image.update(shape=shape)
    state = build.replicated_shapes(setup.mesh, setup.init(), seed)
    zeros = functools.partial(train_step.zero_sums, setup.objective())
    sums = build.replicated_shapes(setup.mesh, zeros)
    return state, sums, data, count, seed


def _measured(setup, feed, arguments):
    """Returns the remat_budget.Measured of a setup's network."""
    state, _, data, _, seed = arguments

    def objective_of(network):
        return dataclasses.replace(setup, trained_model=network).objective()

    batch = jax.eval_shape(feed.fetch, data, 0)
    return remat_budget.measure(setup.model, objective_of, state, batch, seed)
