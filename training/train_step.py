"""The state of a training, and the programs that change it.

Everything here is pure, and the caller compiles it: for one device, for many, or inside
a benchmark.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import optax

DROPOUT = 2**31 - 1  # a random stream apart from initialisation's and the examples'


@flax.struct.dataclass
class TrainState:
    """Everything that changes in training; a resume needs only this and the config."""

    step: jax.Array
    params: flax.core.FrozenDict
    batch_stats: flax.core.FrozenDict
    opt_state: optax.OptState
    ema: flax.core.FrozenDict | None


def make_init(model, tx, shape, ema):
    """Makes seed -> TrainState at step 0, for images of `shape` [H, W, C]."""

    def init(seed):
        variables = model.init(
            jax.random.key(seed), jnp.zeros((1, *shape)), train=False
        )
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=tx.init(params),
            ema=jax.tree.map(jnp.copy, params) if ema else None,
        )

    return init


def start_from(state, variables, tx):
    """Returns the state at step 0 with other `variables`: params and batch_stats."""
    params = variables["params"]
    return state.replace(
        **variables,
        opt_state=tx.init(params),
        ema=None if state.ema is None else jax.tree.map(jnp.copy, params),
    )


def make_train_step(objective, tx, *, accumulate=1, ema_decay=0.0, ema_every=1):
    """Makes (state, batch, seed) -> (state, sums over the batch).

    The gradient of the objective's mean loss is averaged over `accumulate` parts of the
    batch. Every `ema_every`-th step updates the average of the parameters. The
    objective draws from the seed and the step. The seed is an argument, so that all
    seeds share one compiled program.
    """

    def gradients(params, batch_stats, batch, seed, key):
        def mean_loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            losses, sums, updated = objective(variables, batch, seed, key)
            return losses.mean(), (updated, {"loss": losses.sum(), **sums})

        (_, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        return grads, *aux

    def accumulated(params, batch_stats, batch, seed, key):
        # A part is every accumulate-th example, so each device keeps its own examples.
        micro = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def body(carry, xs):
            total, batch_stats, sums = carry
            number, batch = xs
            grads, batch_stats, more = gradients(
                params, batch_stats, batch, seed, jax.random.fold_in(key, number)
            )
            add = functools.partial(jax.tree.map, jnp.add)
            return (add(total, grads), batch_stats, add(sums, more)), None

        zeros = {"loss": jnp.zeros(()), **objective.zero_sums()}
        start = (jax.tree.map(jnp.zeros_like, params), batch_stats, zeros)
        (total, batch_stats, sums), _ = jax.lax.scan(
            body, start, (jnp.arange(accumulate), micro)
        )
        return jax.tree.map(lambda g: g / accumulate, total), batch_stats, sums

    def train_step(state, batch, seed):
        # This stream is apart from those of initialisation and augmentation.
        key = jax.random.fold_in(jax.random.key(seed), DROPOUT)
        key = jax.random.fold_in(key, state.step)
        compute = gradients if accumulate == 1 else accumulated
        grads, batch_stats, sums = compute(
            state.params, state.batch_stats, batch, seed, key
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay:
            weight = 1 - ema_decay
            if ema_every > 1:
                weight *= (state.step + 1) % ema_every == 0
            ema = optax.incremental_update(params, ema, weight)
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
        ), sums

    return train_step


def zero_sums(objective):
    """Returns the zeros to which the steps between two reports add."""
    return {
        "loss": jnp.zeros(()),
        **objective.zero_sums(),
        "bad_step": jnp.full((), -1, jnp.int32),  # first step with a non-finite loss
    }


def make_run_steps(train_step, fetch):
    """Makes (state, sums, data, num_steps, seed) -> (state, sums) after those steps.

    `fetch(data, i)` gives the batch of the i-th of these steps. The number of steps is
    not a constant of the program: however a run is cut into parts, the same program
    makes every step, so a resumed run has the bits of an uninterrupted one. Only a
    Python 1, static in jit, makes a program without the loop, which XLA runs faster on
    a CPU. The loop ends early at a loss that is not finite.
    """

    def run_steps(state, sums, data, num_steps, seed):
        def going(carry):
            i, _, sums = carry
            return (i < num_steps) & (sums["bad_step"] < 0)

        def body(carry):
            i, state, sums = carry
            step = state.step
            state, new = train_step(state, fetch(data, i), seed)
            bad = (sums["bad_step"] < 0) & ~jnp.isfinite(new["loss"])
            total = {name: sums[name] + new[name] for name in new}
            total["bad_step"] = jnp.where(bad, step, sums["bad_step"])
            return i + 1, state, total

        if isinstance(num_steps, int) and num_steps == 1:
            _, state, sums = body((0, state, sums))
        else:
            carry = (jnp.zeros((), jnp.int32), state, sums)
            _, state, sums = jax.lax.while_loop(going, body, carry)
        return state, sums

    return run_steps


def evaluation_variables(state):
    """Returns the variables to evaluate with: the Polyak average if one is kept."""
    params = state.params if state.ema is None else state.ema
    return {"params": params, "batch_stats": state.batch_stats}
