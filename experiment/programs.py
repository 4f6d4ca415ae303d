"""The compiled programs of a training."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import input_pipeline
from kernels import ops
from training import durations, losses, plateau, sdlm, train_step
from transforms import preprocessing


class Programs:
    """The programs that the loop calls: steps, evaluation, and work between steps."""

    def __init__(self, setup, feed):
        config = setup.config
        one = NamedSharding(setup.mesh, PartitionSpec())
        options = ops.compiler_options(jax.default_backend())
        self._mesh = setup.mesh
        self.compiled_steps = jax.jit(
            train_step.make_run_steps(setup.train_step(), feed.fetch),
            donate_argnums=(0, 1),
            static_argnums=3 if feed.steps == 1 else (),
            out_shardings=(one, one),
            compiler_options=options,
        )
        self.evaluator = setup.evaluator(
            jax.jit(setup.eval_step(), out_shardings=one, compiler_options=options)
        )
        self.all_finite = jax.jit(
            lambda tree: jnp.array(
                [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
            ).all()
        )
        self.new_sums = jax.jit(
            functools.partial(train_step.zero_sums, setup.objective()),
            out_shardings=one,
        )
        schedule = config.schedule

        def observe(state, score):
            opt_state = plateau.observe(
                state.opt_state,
                score,
                factor=schedule.decay_rate,
                patience=schedule.patience,
                min_factor=schedule.min_factor,
            )
            return state.replace(opt_state=opt_state)

        self.observe = jax.jit(observe, donate_argnums=0, out_shardings=one)

    def run_steps(self, state, sums, data, count, seed):
        """Returns (state, sums) after `count` steps; donates the arguments' buffers."""
        with ops.for_mesh(self._mesh):
            return self.compiled_steps(state, sums, data, count, seed)


class Curvature:
    """The curvature that "sdlm" needs, estimated again at the first step of a pass."""

    def __init__(self, setup):
        self._setup = setup
        self._set = jax.jit(
            sdlm.make_set_curvature(
                setup.model,
                losses.weighted(
                    losses.make_criterion(setup.config.loss), setup.class_weights
                ),
                functools.partial(
                    preprocessing.network_input, preprocessing=setup.preprocessing
                ),
            ),
            donate_argnums=0,
            out_shardings=NamedSharding(setup.mesh, PartitionSpec()),
        )

    def before_step(self, state, step):
        """Returns `state`, with a new curvature if `step` is the first of a pass."""
        setup, optimizer = self._setup, self._setup.config.optimizer
        epoch_steps = setup.durations.epoch_steps
        first_of_pass = step == 0 or durations.due(step, epoch_steps)
        if optimizer.name != "sdlm" or not first_of_pass:
            return state
        examples = optimizer.curvature_examples
        steps = math.ceil(examples / setup.config.batch_size)
        index, _ = setup.plan.indices(step, step + steps)
        batch = input_pipeline.read_examples(
            setup.train_split,
            index.reshape(-1)[:examples],
            damaged=setup.config.dataset.damaged,
        )
        return self._set(state, batch["image"], batch["label"])
