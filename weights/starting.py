"""Makes the state that training starts from: restored, new, or with loaded weights."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import weights
from training import train_step


def load_start(setup):
    """Loads the network's variables from config.init_from; prints what was loaded.

    Variables that it lacks stay shapes. Returns None without config.init_from.
    """
    config = setup.config
    if not config.init_from:
        return None
    names = ("params", "batch_stats")
    found, report = weights.load(
        config.init_from,
        config.model.name,
        {name: setup.variables[name] for name in names if setup.variables.get(name)},
        config.init_layers,
        config.model.fields.to_dict(),
        config.init_key,
    )
    if jax.process_index() == 0:
        print(report, flush=True)
    return found


def restore(setup, saved):
    """Restores (state, step of its last evaluation) from the newest checkpoint.

    `saved` is the run's checkpoints.Checkpoints. Returns None without a checkpoint.
    """
    replicated = NamedSharding(setup.mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(setup.init(), np.int64(setup.config.seed)),
    )
    restored = saved.restore(abstract)
    if restored is None:
        return None
    state, step, meta = restored
    if jax.process_index() == 0:
        print(f"resuming from step {step} of {setup.durations.total}", flush=True)
    return state, meta["evaluated"]


def new_state(setup, start=None):
    """Makes the state at step 0, with the variables from `load_start`, if any."""
    replicated = NamedSharding(setup.mesh, PartitionSpec())
    # Runs once, so barely optimised; the values are bit-identical.
    options = {"xla_backend_optimization_level": 1}
    init = jax.jit(setup.init(), out_shardings=replicated, compiler_options=options)
    state = init(np.int64(setup.config.seed))
    if start is None:
        return state
    own = {"params": state.params, "batch_stats": state.batch_stats}
    variables = jax.tree.map(
        lambda loaded, x: x if isinstance(loaded, jax.ShapeDtypeStruct) else loaded,
        start,
        {name: own[name] for name in start},
    )
    _, tx = setup.optimizer()
    start_from = functools.partial(train_step.start_from, tx=tx)
    return jax.jit(start_from, out_shardings=replicated)(state, variables)
