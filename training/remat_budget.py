"""Chooses the stages to rematerialise so that a training step fits into a budget.

The activations that a stage need not keep, and the multiply-adds that it computes again
for them, come from one trace of the loss and its gradient, with shapes alone. The
activations are the inputs of the layers whose gradients need them, as
comparison/counts.py counts them, without the inputs of the blocks, which are kept. What
a block computes after the last of these arrays is not computed again. A stage that gets
no gradient, because it is frozen, keeps nothing anyway.

Whether a step fits is not estimated: its compiled program says so (memory.plan).
"""

import bisect
import dataclasses

import flax.linen as nn
import jax

from models import layers
from training import memory, remat


@dataclasses.dataclass
class Stage:
    """What it costs and saves to rematerialise a stage, per step and over all devices.

    Attributes:
      saved: bytes of activations that are not kept.
      again: multiply-adds that are computed again.
      forward: multiply-adds of the forward pass.
      trained: the stage gets a gradient.
    """

    saved: int = 0
    again: int = 0
    forward: int = 0
    trained: bool = False


class Measured:
    """Stands for `model` while the gradient of a loss is traced; measures its stages.

    Attributes:
      stages: {name: `Stage`} in the order of their calls, with the names of remat.py.
      forward: multiply-adds of convolutions and fully connected layers in the forward
        pass of the whole network.
    """

    def __init__(self, model):
        self._model = model
        self.stages, self.forward = {}, 0
        self._block = None

    def apply(self, *args, **kwargs):
        with nn.intercept_methods(self._note):
            return self._model.apply(*args, **kwargs)

    def ranked(self):
        """Returns the stages by bytes saved per multiply-add computed again."""

        def worth(name):
            stage = self.stages[name]
            return stage.saved / max(stage.again, 1)

        able = [n for n, stage in self.stages.items() if stage.trained and stage.saved]
        return tuple(sorted(able, key=worth, reverse=True))

    def slowdown(self, names):
        """Returns the share of multiply-adds by which these stages lengthen a step.

        The gradients of a layer take twice the multiply-adds of its forward pass.
        """
        frozen = sum(s.forward for s in self.stages.values() if not s.trained)
        step = self.forward + 2 * (self.forward - frozen)
        return sum(self.stages[name].again for name in names) / step

    def _note(self, call, args, kwargs, context):
        name = remat.stage_of(context.module, context.method_name, kwargs)
        if name:
            stage = self.stages.setdefault(name, Stage())
            self._block = _Block(stage, args)
            output = _noting_gradient(stage, call(*args, **kwargs))
            self._block = None
            return output
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            self._layer(context.module, args, output)
        return output

    def _layer(self, module, args, output):
        multiply_adds = 0
        if module.has_variable("params", "kernel"):
            kernel = module.get_variable("params", "kernel")
            multiply_adds = kernel.size * output.size // kernel.shape[-1]
        elif not isinstance(module, layers.KEEPS_INPUT):
            return
        self.forward += multiply_adds
        if self._block is not None:
            self._block.add(args, multiply_adds)


class _Block:
    """A call of a block, whose layers are added to its `stage` in turn."""

    def __init__(self, stage, args):
        self._stage = stage
        # Kept arrays by id; held here so that no id is used again.
        self._kept = {id(x): x for x in jax.tree.leaves(args)}
        self._since = 0  # multiply-adds since the last array that the gradient needs

    def add(self, args, multiply_adds):
        stage = self._stage
        new = {id(x): x for x in jax.tree.leaves(args) if id(x) not in self._kept}
        if new:
            self._kept |= new
            stage.saved += sum(x.size * x.dtype.itemsize for x in new.values())
            stage.again += self._since
            self._since = 0
        self._since += multiply_adds
        stage.forward += multiply_adds


def measure(model, objective_of, state, batch, seed):
    """Traces the gradient of a loss; returns the `Measured` of `model`.

    Args:
      objective_of: a function from a network to its objective (training/objective.py).
      state: a train_step.TrainState; it and `batch` hold arrays or shapes.
    """
    network = Measured(model)
    objective = objective_of(network)

    def loss(params, batch_stats, batch, seed):
        variables = {"params": params, "batch_stats": batch_stats}
        losses, *_ = objective(variables, batch, seed, jax.random.key(seed))
        return losses.mean()

    jax.eval_shape(jax.grad(loss), state.params, state.batch_stats, batch, seed)
    return network


def _noting_gradient(stage, output):
    """Returns `output`; a trace of its gradient, if there is one, is noted."""

    @jax.custom_vjp
    def same(x):
        return x

    def backward(_, gradient):
        stage.trained = True
        return (gradient,)

    same.defvjp(lambda x: (x, None), backward)
    return same(output)


def shortest(ranking, plan_of, budget):
    """Finds the shortest beginning of `ranking` whose step fits into `budget` bytes.

    The search is a bisection. It plans the step without rematerialisation, then that of
    all stages, and then at most log2 of their number more, rounded up. If a longer
    beginning may need more memory than a shorter one, the result need not be the
    shortest, but its own plan fits.

    Args:
      ranking: names of stages.
      plan_of: names -> `memory.Plan`; it compiles the step.

    Returns:
      The names, and the `memory.Plan` of their step.

    Raises:
      OutOfMemory: neither none nor all of the stages fit.
    """
    plans = {}

    def fits(count):
        plans[count] = plan_of(ranking[:count])
        return plans[count].total <= budget

    if fits(0):
        return (), plans[0]
    if not ranking or not fits(len(ranking)):
        raise memory.OutOfMemory(_too_much(ranking, plans, budget))
    enough = bisect.bisect_left(range(len(ranking)), True, lo=1, key=fits)
    return ranking[:enough], plans[enough]


def _too_much(ranking, plans, budget):
    count = min(plans, key=lambda count: plans[count].total)
    stages = f"with {', '.join(ranking)} rematerialised" if count else "as it is"
    none = "" if ranking else "; this network has no stages to rematerialise"
    return (
        f"a step does not fit into {memory.written(budget)} a device, even with "
        f"config.model.remat = auto: the smallest plan, {stages}, is {plans[count]}"
        f"{none}; config.optimizer.accumulate = N takes the batch in N parts, and a "
        "smaller config.batch_size takes less"
    )
