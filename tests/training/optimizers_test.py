"""Optimizers and what surrounds them, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import optimizers

RNG = np.random.default_rng(0)
PARAMS = {
    "conv1": {
        "kernel": RNG.normal(size=(3, 3, 2, 4)).astype("f4"),
        "bias": np.ones(4, "f4"),
    },
    "head": {"fc8": {"kernel": RNG.normal(size=(4, 5)).astype("f4")}},
}


def gradients(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype("f4"), PARAMS)


def make(name="sgd", rate=0.5, **options):
    options = {"kwargs": {}} | options
    return optimizers.make_optimizer(name, optax.constant_schedule(rate), **options)


def run(tx, params, steps):
    state = tx.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients(step), params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(a, b):
    """float32 after three steps: a few roundings of 6e-8."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), a, b)


def numpy_steps(rule):
    """Of three steps; `rule(gradient, parameter, velocity)` gives the next velocity."""
    params = jax.tree.map(lambda p: p.astype("f8"), PARAMS)
    velocity = jax.tree.map(np.zeros_like, params)
    for step in range(3):
        velocity = jax.tree.map(rule, gradients(step), params, velocity)
        params = jax.tree.map(np.add, params, velocity)
    return params


@pytest.mark.parametrize("mask", ["all", "kernels"])
def test_lars_is_mlperfs(mask, float64):
    """Facts of the reference: the rate is inside the velocity, |g| and |w| are added,
    biases have neither trust nor decay."""
    decay, rate = 0.2, 0.5

    def rule(g, w, v):
        if mask == "kernels" and w.ndim == 1:
            return 0.9 * v - rate * g
        norms = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        trust = 0.001 * norms[0] / (norms[1] + decay * norms[0])
        return 0.9 * v - rate * trust * (g + decay * w)

    tx = make("lars", rate, weight_decay=decay, decay_mask=mask)
    found = run(tx, jax.tree.map(np.float64, PARAMS), 3)
    expected = numpy_steps(rule)
    # Constants of the rule are float32.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-8), found, expected)


def test_lars_takes_a_plain_step_where_a_norm_is_zero():
    tx = make("lars", 0.5, weight_decay=0.1)
    zeros = {"w": jnp.zeros((2, 2))}
    for params, grads in ((zeros, {"w": jnp.ones((2, 2))}), (zeros, zeros)):
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_array_equal(updates["w"], -0.5 * grads["w"])


def test_lamb_is_optaxs_where_nothing_is_masked():
    ours = run(make("lamb", 0.1, weight_decay=0.02), PARAMS, 3)
    theirs = run(optax.lamb(0.1, weight_decay=0.02), PARAMS, 3)
    assert_close(ours, theirs)


def test_lamb_masks_decay_and_trust():
    """A bias moves as with Adam; optax.lamb would scale its step to the bias's norm."""
    ours = run(make("lamb", 0.1, weight_decay=0.02, decay_mask="kernels"), PARAMS, 3)
    adam = run(optax.adam(0.1, eps=1e-6), PARAMS, 3)
    assert_close(ours["conv1"]["bias"], adam["conv1"]["bias"])
    theirs = run(optax.lamb(0.1, weight_decay=0.02), PARAMS, 3)
    assert_close(ours["head"], theirs["head"])


def test_rate_factors_are_of_the_first_expression_in_the_path():
    factors = (("conv1/bias", 2.0), ("conv1", 0.5), ("fc8", 0.0))
    updates = [
        tx.update(gradients(0), tx.init(PARAMS), PARAMS)[0]
        for tx in (make(), make(rate_factors=factors))
    ]
    plain, scaled = updates
    np.testing.assert_array_equal(scaled["conv1"]["bias"], 2 * plain["conv1"]["bias"])
    half = 0.5 * plain["conv1"]["kernel"]
    np.testing.assert_array_equal(scaled["conv1"]["kernel"], half)
    assert not scaled["head"]["fc8"]["kernel"].any()


def test_a_factor_of_zero_keeps_a_parameter_whatever_its_gradient_and_decay():
    tx = make("adamw", weight_decay=0.1, rate_factors=(("fc8", 0.0),))
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
    updates, _ = tx.update(bad, tx.init(PARAMS), PARAMS)
    assert not updates["head"]["fc8"]["kernel"].any()


def test_gradual_unfreezing():
    """Each parameter is free from its step on, with the momentum it gathered."""
    releases = (("fc8", 0), ("conv1/bias", 3), ("conv", 2))
    late = make(kwargs={"momentum": 0.9}, unfreeze=releases)
    plain = make(kwargs={"momentum": 0.9})
    late_state, plain_state = late.init(PARAMS), plain.init(PARAMS)
    for step in range(5):
        updates, late_state = late.update(gradients(step), late_state, PARAMS)
        expected, plain_state = plain.update(gradients(step), plain_state, PARAMS)
        free = {"kernel": step >= 2, "bias": step >= 3}
        for name, is_free in free.items():
            if not is_free:
                expected["conv1"][name] = jnp.zeros_like(expected["conv1"][name])
        jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_filters_are_scaled_back_to_their_limit():
    """Only filters of the named layers change, and only those above the limit."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    params["conv1"]["kernel"] = params["conv1"]["kernel"].at[..., 0].multiply(0.01)
    tx = make(rate=0.01, filter_rms=(("conv[0-9]/kernel", 0.1),))
    plain, limited = run(make(rate=0.01), params, 1), run(tx, params, 1)
    rms = np.sqrt(np.square(limited["conv1"]["kernel"]).mean((0, 1, 2)))
    np.testing.assert_allclose(rms[1:], 0.1, rtol=1e-5)
    assert rms[0] < 0.05
    one = (..., 0)
    np.testing.assert_allclose(
        limited["conv1"]["kernel"][one], plain["conv1"]["kernel"][one], atol=1e-7
    )
    cosine = np.sum(limited["conv1"]["kernel"] * plain["conv1"]["kernel"], (0, 1, 2))
    norms = [
        np.linalg.norm(p["conv1"]["kernel"], axis=(0, 1)) for p in (limited, plain)
    ]
    norms = [np.linalg.norm(n, axis=0) for n in norms]
    np.testing.assert_allclose(cosine, norms[0] * norms[1], rtol=1e-4)  # no turn
    assert_close(limited["head"], plain["head"])


def test_filters_of_a_frozen_layer_keep_what_they_are():
    """They may be another training's, and above the limit."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    limits = {"filter_rms": (("kernel", 0.1),)}
    frozen = {"rate_factors": (("conv1", 0.0),)}, {"unfreeze": (("conv1", 5),)}
    for how in frozen:
        kept = run(make(rate=0.01, **limits, **how), params, 1)
        np.testing.assert_array_equal(
            kept["conv1"]["kernel"], params["conv1"]["kernel"]
        )
        limited = run(make(rate=0.01, **limits), params, 1)
        assert_close(kept["head"], limited["head"])


def test_paths_are_the_names_of_layers():
    assert optimizers.paths(PARAMS) == [
        "conv1/bias",
        "conv1/kernel",
        "head/fc8/kernel",
    ]
