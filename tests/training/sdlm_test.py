"""The curvature against exact Jacobians and against loops over connections."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data_source
import models
from configs import lenet5 as recipe
from models import lenet
from training import losses, sdlm, train_step
from transforms import preprocessing as preprocessings


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def exact_diagonal(f, params, top):
    """The diagonal of sum over outputs of J^T top J, from the whole Jacobian."""
    jacobian = jax.jacobian(f)(params)

    def diagonal(j):
        h = top.reshape(*top.shape, *[1] * (j.ndim - top.ndim))
        return (h * j**2).sum(tuple(range(top.ndim)))

    return jax.tree.map(diagonal, jacobian)


def compiled(curvature, f):
    return jax.jit(functools.partial(curvature, f))


def assert_close(actual, expected, rtol=1e-5):
    """1e-5: sums of some hundred float32 products in another order."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


def test_exact_with_one_hidden_layer():
    x, top = random(7, 5), jnp.abs(random(7, 3, seed=1))
    params = {"u": random(5, 4, seed=2), "b": random(4, seed=3)}
    params |= {"v": random(4, 3, seed=4), "c": random(3, seed=5)}

    def f(p):
        hidden = lenet.scaled_tanh(x @ p["u"] + p["b"][None])
        return lenet.scaled_tanh(hidden @ p["v"] + p["c"][None])

    curvature = compiled(sdlm.diagonal_gauss_newton, f)(params, top)
    assert_close(curvature, compiled(exact_diagonal, f)(params, top))


@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: nn.relu(x @ p["u"]),
        lambda p, x: nn.elu(x @ p["u"]),
        lambda p, x: jax.jit(jnp.tanh)(x @ p["u"]) - p["b"][None],
        lambda p, x: jax.checkpoint(jnp.exp)(x @ p["u"] / 4),
        lambda p, x: jnp.concatenate([x @ p["u"], 2 * p["b"][None] ** 3], 0),
        lambda p, x: jnp.pad(x @ p["u"], 1)[1:, ::2].T.reshape(-1, 7),
        lambda p, x: x[:, :4] * jnp.where(p["b"] > 0, p["b"], -3 * p["b"])[None],
        lambda p, x: (x @ p["u"]).reshape(-1, 2, 4).max(1),
        lambda p, x: nn.max_pool((x @ p["u"])[:, :, None], (2,), (2,)),
        lambda p, x: (x @ p["u"])[jnp.array([3, 1, 1])],
        lambda p, x: x @ p["u"] + random(4, seed=7).sort()[None],
        lambda p, x: jax.lax.platform_dependent(
            p["u"], cpu=lambda u: x @ u, default=lambda u: (u.T @ x.T).T
        ),
    ],
)
@pytest.mark.parametrize(
    "run", [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.slow)]
)
def test_primitives_where_the_recursion_is_exact(f, run):
    params = {"u": random(5, 4, seed=2), "b": random(4, seed=3)}

    def outputs(p):
        return f(p, random(6, 5))

    top = jnp.abs(random(*jax.eval_shape(outputs, params).shape, seed=9))
    curvature = run(functools.partial(sdlm.diagonal_gauss_newton, outputs))
    assert_close(curvature(params, top), compiled(exact_diagonal, outputs)(params, top))


def test_unknown_primitive_is_named():
    with pytest.raises(NotImplementedError, match="'cumsum'"):
        sdlm.diagonal_gauss_newton(jnp.cumsum, random(4), jnp.ones(4))


def test_a_shared_weight_has_the_sum_over_its_connections():
    x = jnp.array([2.0, 3.0])

    def f(w):
        return jnp.sum(w * x)[None]  # Two connections to one unit.

    curvature = sdlm.diagonal_gauss_newton(f, jnp.float32(1), jnp.array([5.0]))
    assert curvature == 5 * (2**2 + 3**2)  # The exact one would be 5 (2 + 3)^2.


def test_a_weight_without_influence_has_none():
    curvature = sdlm.diagonal_gauss_newton(
        lambda p: 2 * p["a"], {"a": jnp.ones(2), "b": jnp.ones(3)}, jnp.ones(2)
    )
    assert_close(curvature, {"a": jnp.full(2, 4.0), "b": jnp.zeros(3)})


class Small(nn.Module):
    """6x6 images: two 3x3 maps, sub-sampled, three full 2x2 maps, three outputs."""

    @nn.compact
    def __call__(self, x):
        x = lenet.scaled_tanh(nn.Conv(2, (3, 3), padding=0, name="C1")(x))
        x = lenet.scaled_tanh(lenet.SubSampling(name="S2")(x))
        x = lenet.scaled_tanh(nn.Conv(3, (2, 2), padding=0, name="C3")(x))
        return lenet.scaled_tanh(nn.Dense(3, name="F6")(x.reshape(x.shape[0], -1)))


def test_lenet_equals_loops_over_connections():
    model = Small()
    images = random(4, 6, 6, 1)
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * random(*p.shape, seed=2), params)
    top = jnp.abs(random(4, 3, seed=3))
    expected = jax.tree.map(lambda p: np.zeros(p.shape), params)
    weights = jax.tree.map(np.asarray, params)
    for image, above in zip(np.asarray(images), np.asarray(top), strict=True):
        loop_over_connections(weights, image, above, expected)
    curvature = compiled(
        sdlm.diagonal_gauss_newton, lambda p: model.apply({"params": p}, images)
    )
    assert_close(curvature(params, top), expected)


def loop_over_connections(weights, image, top, total):
    """Adds one pattern's h of every weight of `Small` to `total`, as in appendix C."""
    # Units: output index -> [(leaf, index of weight, indices of the inputs it adds)].
    layers = []
    c1 = {
        (i, j, o): [
            ("kernel", (k, m, 0, o), [(i + k, j + m, 0)]) for k, m in np.ndindex(3, 3)
        ]
        + [("bias", (o,), None)]
        for i, j, o in np.ndindex(4, 4, 2)
    }
    layers.append(("C1", c1))

    def window(i, j, o):
        return [(2 * i + k, 2 * j + m, o) for k, m in np.ndindex(2, 2)]

    s2 = {
        (i, j, o): [
            ("coefficient", (o,), window(i, j, o)),
            ("bias", (o,), None),
        ]
        for i, j, o in np.ndindex(2, 2, 2)
    }
    layers.append(("S2", s2))
    c3 = {
        (0, 0, o): [
            ("kernel", (k, m, i, o), [(k, m, i)]) for k, m, i in np.ndindex(2, 2, 2)
        ]
        + [("bias", (o,), None)]
        for o in range(3)
    }
    layers.append(("C3", c3))
    f6 = {
        (o,): [("kernel", (i, o), [(0, 0, i)]) for i in range(3)]
        + [("bias", (o,), None)]
        for o in range(3)
    }
    layers.append(("F6", f6))

    def signal(values, sources):
        return 1.0 if sources is None else sum(values[source] for source in sources)

    values = [{index: image[index] for index in np.ndindex(image.shape)}]
    sums = []
    for name, units in layers:
        sums.append({})
        values.append({})
        for unit, connections in units.items():
            a = 0.0
            for leaf, weight, sources in connections:
                x = signal(values[-2], sources)
                a += weights[name][leaf][weight] * x
            sums[-1][unit] = a
            values[-1][unit] = 1.7159 * np.tanh(2 / 3 * a)
    h_out = {(o,): top[o] for o in range(3)}
    for (name, units), a, x in reversed(
        list(zip(layers, sums, values[:-1], strict=True))
    ):
        h_in = dict.fromkeys(x, 0.0)
        for unit, connections in units.items():
            slope = 1.7159 * 2 / 3 / np.cosh(2 / 3 * a[unit]) ** 2
            h = slope**2 * h_out[unit]
            for leaf, weight, sources in connections:
                total[name][leaf][weight] += h * signal(x, sources) ** 2
                for source in sources or ():
                    h_in[source] += h * weights[name][leaf][weight] ** 2
        h_out = h_in


def test_lenet5_has_a_positive_curvature_everywhere():
    model = models.create("lenet5", num_classes=10)
    images = random(3, 32, 32, 1)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(1), images)["params"]

    def features(params):
        return model.apply({"params": params}, images, method="codes")

    curvature = compiled(sdlm.diagonal_gauss_newton, features)
    result = curvature(params, jnp.full((3, 84), 2 / 3))
    for path, h in jax.tree_util.tree_leaves_with_path(result):
        assert (h > 0).all() and jnp.isfinite(h).all(), path
    # At the top: the mean of 2 f'(a)^2, and f' = A S (1 - (f / A)^2).
    codes = np.asarray(jax.jit(features)(params))
    slope = 1.7159 * 2 / 3 * (1 - (codes / 1.7159) ** 2)
    expected = 2 * np.square(slope).mean(0)
    np.testing.assert_allclose(result["backbone"]["F6"]["bias"], expected, rtol=1e-5)


def first_pass(loss="map", scale=lambda path, leaf: leaf):
    """Each parameter's step in the first pass, from 500 digits, as one vector.

    `scale(path, leaf)` changes the initial parameters.
    """
    config = recipe.get_config("paper")
    model = models.create("lenet5", num_classes=10)
    digits = data_source.open_split("mnist", "train")
    images, labels = digits.read(np.arange(500))
    preprocessing = preprocessings.Preprocessing(32, mean=(20.0,), std=(200.0,))
    config.loss.name = loss
    criterion = losses.make_criterion(config.loss)
    tx = sdlm.sdlm(config.optimizer.learning_rate, config.optimizer.kwargs.mu)
    state = jax.jit(train_step.make_init(model, tx, (32, 32, 1), ema=False))(0)
    params = jax.tree_util.tree_map_with_path(scale, state.params)
    prepare = functools.partial(
        preprocessings.network_input, preprocessing=preprocessing
    )
    set_curvature = sdlm.make_set_curvature(model, criterion, prepare)
    state = jax.jit(set_curvature)(state.replace(params=params), images, labels)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, state.opt_state)
    return -np.concatenate([np.ravel(u) for u in jax.tree.leaves(updates)])


@pytest.mark.slow
def test_first_steps_lie_where_the_paper_has_them():
    """Section III.B: 7e-5 to 0.016. With 2.4 / fan-in most would be greater."""

    def share(steps):
        return np.mean((steps > 7e-5) & (steps < 0.016))

    steps = first_pass()
    assert steps.size == 60_000
    assert share(steps) > 0.998

    fan_in = {"C1": 25, "S2": 4, "S4": 4, "C5": 400, "F6": 120}
    inputs = lenet.connection_table().sum(0)

    def printed(path, leaf):
        _, layer, name = (key.key for key in path)
        if name == "coefficient":
            return leaf
        of_maps = 25 * (np.repeat(inputs, inputs) if name == "kernel" else inputs)
        scale = np.sqrt(fan_in.get(layer, of_maps), dtype=np.float32)
        return leaf / np.broadcast_to(scale, leaf.shape)

    steps = first_pass(scale=printed)
    assert np.mean(steps > 0.016) > 0.99


def test_steps_of_eq_9_are_those_of_eq_8():
    np.testing.assert_array_equal(first_pass("map"), first_pass("ml"))


def test_criterion_curvature_is_the_hessians_diagonal():
    features = np.asarray(random(4, 84), np.float64) * 0.5
    features[3] += lenet.prototypes()[7]  # One near a bitmap: the class is decided;
    features[2] = lenet.prototypes()[[6, 8]].mean(0)  # one undecided between two.
    labels = np.array([0, 3, 9, 1])
    rbf = lenet.RBF()
    x = jnp.asarray(features, jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def curvature(loss, x):
        return sdlm.criterion_curvature(
            lambda outputs, labels: loss(rbf.apply({}, outputs), labels), x, labels
        )

    top = curvature(lenet.ml_loss, x)
    np.testing.assert_array_equal(top, np.full((4, 84), 2.0))

    rubbish = 60.0
    top = curvature(functools.partial(lenet.map_loss, rubbish=rubbish), x)
    # y_i = sum (x - w_i)^2, p_i its share: 2 - 2 sum p_i + 4 var_p(x - w_i).
    difference = features[:, None] - lenet.prototypes()
    weight = np.exp(-(difference**2).sum(-1))
    p = (weight / (np.exp(-rubbish) + weight.sum(-1, keepdims=True)))[..., None]
    variance = (p * difference**2).sum(1) - (p * difference).sum(1) ** 2
    expected = 2 - 2 * p.sum(1) + 4 * variance
    assert (expected >= 0).all() and expected.max() > 3.9
    # 1e-4: exponents near 60, where float32 keeps 4e-6, times four.
    np.testing.assert_allclose(top, expected, atol=1e-4)


def test_update_divides_by_mu_plus_curvature():
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    gradients = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.full((2, 2), -4.0)}
    transformation = sdlm.scale_by_diagonal_curvature(0.02)
    state = transformation.init(params)
    assert_close(state.curvature, jax.tree.map(jnp.zeros_like, params))
    updates, after = transformation.update(gradients, state, params)
    assert_close(updates, jax.tree.map(lambda g: g / 0.02, gradients))
    state = state._replace(
        curvature={"a": jnp.array([0.0, 0.02, 0.98]), "b": jnp.full((2, 2), 1.98)}
    )
    updates, after = transformation.update(gradients, state, params)
    assert_close(
        updates, {"a": jnp.array([50.0, 50.0, 3.0]), "b": jnp.full((2, 2), -2.0)}
    )
    assert_close(after.curvature, state.curvature)


def test_sdlm_steps_downhill_by_the_learning_rate():
    schedule = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    optimizer = sdlm.sdlm(schedule, mu=0.02)
    params = jnp.array([1.0, -1.0])
    state = optax.tree_utils.tree_set(
        optimizer.init(params), curvature=jnp.array([0.08, 0.98])
    )
    for rate in (0.5, 0.05):
        updates, state = optimizer.update(jnp.array([0.2, -0.4]), state, params)
        np.testing.assert_allclose(updates, rate * np.array([-2.0, 0.4]), rtol=1e-6)
