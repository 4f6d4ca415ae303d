"""LeNet-5 against the figures of the paper and against plain loops."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import count

import models
from models import lenet, lenet_modern

LAYERS = ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
# Section II.B, Table I column by column: the maps of S2 that each map of C3 sees.
C3_INPUTS = (
    "012 123 234 345 045 015 0123 1234 2345 0345 0145 0125 0134 1245 0235 012345"
).split()
# Figure 3 as numbers, one of seven bits for each row, the leftmost pixel highest.
BITMAP_ROWS = """
    3E 00 1C 36 63 63 63 63 36 1C 00 00
    0C 1C 3C 0C 0C 0C 0C 0C 0C 3F 00 00
    3E 00 3E 63 43 06 1C 30 60 7F 00 00
    7F 03 06 0C 1E 03 03 03 63 3E 00 00
    3E 00 00 33 33 73 63 63 67 3F 03 03
    3E 00 7F 60 60 3C 1E 03 63 3E 00 00
    1E 30 60 60 7E 73 63 63 73 3E 00 00
    7F 03 03 06 0C 0C 18 18 18 18 00 00
    3E 63 63 63 3E 63 63 63 63 3E 00 00
    3E 67 63 63 67 3F 03 03 06 3C 00 00
"""


@functools.cache
def lenet5():
    model = models.create("lenet5", num_classes=10)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), images
    )
    return model, variables, images


def shapes(model, image):
    init = functools.partial(model.init, jax.random.key(0), train=False)
    return traced.eval_shape(init, jnp.zeros((1, *image)))["params"]


def test_parameters_of_each_layer_are_the_papers():
    params = shapes(models.create("lenet5", num_classes=10), (32, 32, 1))
    assert set(params) == {"backbone"}  # The prototypes are no parameters.
    counts = {name: count(layer) for name, layer in params["backbone"].items()}
    assert counts == {
        "C1": 156,
        "S2": 12,
        "C3": 1516,
        "S4": 32,
        "C5": 48_120,
        "F6": 10_164,
    }
    assert count(params) == 60_000


def test_connections_and_multiply_adds_are_the_papers():
    model, variables, images = lenet5()
    connections, multiply_adds = {}, {}

    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        layer, name = context.module, context.module.name
        if name not in LAYERS or context.method_name != "__call__":
            return result
        if hasattr(layer, "connections"):
            connections[name] = layer.connections(result.shape)
            multiply_adds[name] = layer.multiply_adds(result.shape)
        else:
            fan_in = layer.variables["params"]["kernel"][..., 0].size
            units = int(np.prod(result.shape[1:]))
            connections[name] = units * (fan_in + 1)
            multiply_adds[name] = units * fan_in
        return result

    with nn.intercept_methods(record):
        traced.eval_shape(
            functools.partial(model.apply, train=False), variables, images
        )
    assert [connections[name] for name in LAYERS] == [
        *(122_304, 5_880, 151_600, 2_000, 48_120, 10_164, 840)
    ]
    assert sum(connections.values()) == 340_908
    assert [multiply_adds[name] for name in LAYERS] == [
        *(117_600, 0, 150_000, 0, 48_000, 10_080, 840)
    ]
    assert sum(multiply_adds.values()) == 326_520


def test_connection_table():
    table = lenet.connection_table()
    assert table.shape == (6, 16)
    assert table.sum() == 60
    columns = ["".join(str(i) for i in np.nonzero(column)[0]) for column in table.T]
    assert columns == C3_INPUTS


def test_bitmaps():
    codes = lenet.prototypes()
    assert codes.shape == (10, 84)
    rows = [[int(row, 16) for row in line.split()] for line in BITMAP_ROWS.split("\n")]
    bits = [
        [(row >> bit) & 1 for row in line for bit in range(6, -1, -1)] for line in rows
    ]
    np.testing.assert_array_equal(codes, 2 * np.array(bits[1:-1]) - 1)
    distance = (codes[:, None] != codes[None]).sum(-1)
    assert distance[~np.eye(10, dtype=bool)].min() == distance[6, 8] == 12
    assert [(code == 1).sum() for code in codes] == [
        *(35, 27, 33, 32, 41, 35, 39, 25, 43, 39)
    ]


def test_scaled_tanh_keeps_one_in_place():
    np.testing.assert_allclose(
        lenet.scaled_tanh(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=3e-6
    )
    slope = jax.grad(lenet.scaled_tanh)(0.0)
    np.testing.assert_allclose(slope, 1.7159 * 2 / 3, rtol=1e-6)


def test_forward_equals_loops_over_units_and_connections():
    model, variables, images = lenet5()
    p = jax.tree.map(
        lambda x: np.asarray(x, np.float64), variables["params"]["backbone"]
    )

    def squash(x):
        return 1.7159 * np.tanh(2 / 3 * x)

    def sub_sample(x, layer):
        windows = x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
        return squash(layer["coefficient"] * windows + layer["bias"])

    evaluate = jax.jit(functools.partial(model.apply, train=False))
    for image, logits in zip(images, evaluate(variables, images), strict=True):
        image = np.asarray(image, np.float64)[..., 0]
        c1 = np.zeros((28, 28, 6))
        for i, j in np.ndindex(28, 28):
            window = image[i : i + 5, j : j + 5, None]
            c1[i, j] = (window * p["C1"]["kernel"][:, :, 0]).sum((0, 1))
        s2 = sub_sample(squash(c1 + p["C1"]["bias"]), p["S2"])
        c3 = np.zeros((10, 10, 16))
        connection = 0
        for out, inputs in enumerate(C3_INPUTS):
            for source in map(int, inputs):
                kernel = p["C3"]["kernel"][:, :, connection]
                for i, j in np.ndindex(10, 10):
                    c3[i, j, out] += (s2[i : i + 5, j : j + 5, source] * kernel).sum()
                connection += 1
        s4 = sub_sample(squash(c3 + p["C3"]["bias"]), p["S4"])
        c5 = np.einsum("hwi,hwio->o", s4, p["C5"]["kernel"]) + p["C5"]["bias"]
        f6 = squash(squash(c5) @ p["F6"]["kernel"] + p["F6"]["bias"])
        penalties = ((f6 - lenet.prototypes()) ** 2).sum(-1)
        # 2e-5: some 400 float32 roundings of 6e-8, relative.
        np.testing.assert_allclose(-logits, penalties, rtol=2e-5)


def test_classify_of_features_is_the_network():
    model, variables, images = lenet5()
    codes = jax.jit(functools.partial(model.apply, method="codes"))
    classify = jax.jit(functools.partial(model.apply, {}, method="classify"))
    features = codes(variables, images)
    assert features.shape == (2, 84)
    whole = jax.jit(functools.partial(model.apply, train=True))
    np.testing.assert_array_equal(classify(features), whole(variables, images))
    bitmaps = classify(jnp.asarray(lenet.prototypes(), jnp.float32))
    np.testing.assert_array_equal(np.diag(bitmaps), np.zeros(10))
    np.testing.assert_array_equal(bitmaps.argmax(-1), np.arange(10))


def test_backbone_returns_its_layers():
    model, variables, images = lenet5()
    apply = functools.partial(
        model.apply, method=lambda m, x: m.backbone(x, train=False)
    )
    outputs = traced.eval_shape(apply, variables, images)
    assert {name: x.shape[1:] for name, x in outputs.items()} == {
        "C1": (28, 28, 6),
        "S2": (14, 14, 6),
        "C3": (10, 10, 16),
        "S4": (5, 5, 16),
        "C5": (1, 1, 120),
        "F6": (1, 1, 84),
    }


def test_initial_weights_and_biases_fill_their_range():
    params = lenet5()[1]["params"]["backbone"]
    inputs = np.array([len(x) for x in C3_INPUTS])
    fan_in = {
        "C1": {"kernel": 25, "bias": 25},
        "S2": {},
        "C3": {"kernel": 25 * np.repeat(inputs, inputs), "bias": 25 * inputs},
        "S4": {},
        "C5": {"kernel": 400, "bias": 400},
        "F6": {"kernel": 120, "bias": 120},
    }
    for name, leaves in fan_in.items():
        layer = dict(params[name])
        if "coefficient" in layer:
            assert (layer.pop("coefficient") == 1 / 4).all()
            assert not layer.pop("bias").any()
        assert layer.keys() == leaves.keys()
        for leaf, weights in layer.items():
            scaled = np.abs(weights) * np.sqrt(leaves[leaf]) / 2.4
            assert scaled.max() <= 1.00001
            # Six draws or more: all of them below a third once in 700 at most.
            assert scaled.max() > 1 / 3
            if weights.size > 100:
                # The mean of n uniform draws from [0, 1] is 0.5 +- 0.29 / sqrt(n).
                assert abs(scaled.mean() - 0.5) < 4 * 0.29 / np.sqrt(weights.size)


def test_map_loss_is_equation_9_and_ml_loss_equation_8():
    penalties = np.random.default_rng(0).uniform(0, 12, (5, 10))
    labels = np.array([3, 0, 9, 9, 1])
    own = penalties[np.arange(5), labels]
    logits = jnp.asarray(-penalties, jnp.float32)
    np.testing.assert_allclose(lenet.ml_loss(logits, labels), own, rtol=1e-6)
    for rubbish in (0.5, 1.0, 30.0):
        total = np.exp(-rubbish) + np.exp(-penalties).sum(-1)
        # 1e-6 for numbers near 10 in float32.
        np.testing.assert_allclose(
            lenet.map_loss(logits, labels, rubbish), own + np.log(total), atol=5e-6
        )

        def total_loss(x, rubbish=rubbish):
            return lenet.map_loss(x, labels, rubbish).sum()

        gradient = jax.grad(total_loss)(logits)
        expected = np.exp(-penalties) / total[:, None] - np.eye(10)[labels]
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_map_loss_is_finite_and_not_negative_far_away():
    logits = jnp.array([[0.0] + [-400.0] * 9, [-400.0] * 10, [-1e5] * 9 + [0.0]])
    labels = jnp.array([0, 0, 0])
    rest = np.log1p(np.exp(-1))
    losses = lenet.map_loss(logits, labels, 1.0)
    np.testing.assert_allclose(losses, [rest, 399.0, 1e5 + rest], rtol=1e-6)
    assert (losses >= 0).all()
    gradient = jax.grad(lambda x: lenet.map_loss(x, labels, 1.0).sum())(logits)
    assert jnp.isfinite(gradient).all()


# The second starts five times as large, out of the flat beginning.
@pytest.mark.parametrize(("name", "scale"), [("lenet5", 1), ("lenet5_modern", 5)])
def test_one_batch_is_learnt_by_all_parameters(name, scale):
    model = models.create(name, num_classes=10)
    images = jax.random.normal(jax.random.key(1), (10, 32, 32, 1))
    labels = jnp.arange(10)

    @jax.jit
    def step(params):
        def loss(params):
            logits = model.apply({"params": params}, images, train=True)
            return lenet.map_loss(logits, labels, 20.0).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        moved = jax.tree.map(lambda p, g: p - 0.002 * g, params, gradient)
        return value, gradient, moved

    init = jax.jit(functools.partial(model.init, train=True))
    params = init(jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) * np.float32(scale), params)
    first, gradient, _ = step(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradient)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    for _ in range(150):
        loss, _, params = step(params)
    assert jnp.isfinite(loss)
    assert loss < first / 2


def test_compute_dtype_leaves_parameters_and_logits_in_float32():
    for name in ("lenet5", "lenet5_modern"):
        model = models.create(name, num_classes=10, dtype=jnp.bfloat16)
        images = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
        init = functools.partial(model.init_with_output, train=False)
        logits, variables = traced.eval_shape(init, jax.random.key(0), images)
        assert logits.dtype == jnp.float32
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        apply = functools.partial(model.apply, train=False, capture_intermediates=True)
        _, kept = traced.eval_shape(apply, variables, images)
        inner = kept["intermediates"]["backbone"]
        dtypes = collections.Counter(x.dtype for x in jax.tree.leaves(inner))
        assert set(dtypes) == {jnp.dtype("bfloat16")}


def test_lenet5_refuses_what_the_paper_lacks():
    with pytest.raises(ValueError, match=r"num_classes must be 10, not 7.*_modern"):
        models.create("lenet5", num_classes=7)
    model, variables, _ = lenet5()
    for image in [(28, 28, 1), (32, 32, 3), (32, 31, 1)]:
        size = "x".join(map(str, image))
        with pytest.raises(ValueError, match=f"32x32x1.*not {size}; lenet5_modern"):
            model.apply(variables, jnp.zeros((1, *image)), train=False)


@pytest.mark.parametrize("size", [28, 32])
def test_modern_parameters(size):
    params = shapes(models.create("lenet5_modern", num_classes=10), (size, size, 1))
    assert count(params) == 61_706
    counts = {name: count(layer) for name, layer in params["backbone"].items()}
    assert counts == {"C1": 156, "C3": 2416, "C5": 48_120, "F6": 10_164}
    assert count(params["output"]) == 850


def test_modern_takes_any_channels_and_classes():
    params = shapes(models.create("lenet5_modern", num_classes=100), (32, 32, 3))
    assert params["backbone"]["C1"]["kernel"].shape == (5, 5, 3, 6)
    assert params["output"]["kernel"].shape == (84, 100)


def test_modern_pads_28_to_32():
    model = models.create("lenet5_modern", num_classes=10)
    image = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    init = functools.partial(model.init, train=False)
    variables = jax.jit(init)(jax.random.key(1), image)
    padded = jnp.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))
    evaluate = jax.jit(functools.partial(model.apply, train=False))
    # 1e-5: the same sums in another order.
    np.testing.assert_allclose(
        evaluate(variables, image), evaluate(variables, padded), atol=1e-5
    )


def test_modern_activation_and_pool():
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    model = models.create("lenet5_modern", num_classes=10)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(1), image)["params"]["backbone"]
    outputs = {}
    for activation in ("relu", "tanh"):
        for pool in ("max", "avg"):
            model = models.create(
                "lenet5_modern", num_classes=10, activation=activation, pool=pool
            )
            backbone = lenet_modern.LeNet5ModernBackbone(model.activation, model.pool)
            run = jax.jit(functools.partial(backbone.apply, train=False))
            x = jax.device_get(run({"params": params}, image))
            reduce = {"max": np.max, "avg": np.mean}[pool]
            windows = np.asarray(x["C1"]).reshape(2, 14, 2, 14, 2, 6)
            # 1e-6: a mean of four in float32.
            np.testing.assert_allclose(x["S2"], reduce(windows, (2, 4)), atol=1e-6)
            low = float(min(x[name].min() for name in ("C1", "C3", "C5", "F6")))
            assert (low == 0) if activation == "relu" else (-1 < low < 0)
            outputs[activation, pool] = x["F6"]
    assert len({float(x.sum()) for x in outputs.values()}) == 4


def test_modern_refuses_unknown_choices_and_sizes():
    with pytest.raises(ValueError, match="activation 'gelu' is none of relu, tanh"):
        models.create("lenet5_modern", num_classes=10, activation="gelu")
    with pytest.raises(ValueError, match="pool 'min' is none of max, avg"):
        models.create("lenet5_modern", num_classes=10, pool="min")
    model = models.create("lenet5_modern", num_classes=10)
    with pytest.raises(ValueError, match="28x28 or 32x32, not 30x28"):
        model.init(jax.random.key(0), jnp.zeros((1, 30, 28, 1)), train=False)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_modern"])
def test_slides_over_larger_images(name):
    """Nothing pads 32x32 images, so a position is the logits of its crop.

    The sub-sampling leaves out a last row or column: of 33 and 43 maps, and of 17.
    """
    model = models.create(name, num_classes=10)
    images = jax.random.normal(jax.random.key(1), (2, 37, 47, 1))
    crop = images[:, 4:36, 8:40]
    init = functools.partial(model.init, train=False)
    variables = jax.jit(init)(jax.random.key(0), crop)
    slide = functools.partial(models.class_map, model, image_size=32)
    scores = jax.jit(slide)(variables, images)
    assert scores.shape == (2, 2, 4, 10)
    # A position is four pixels; penalties are sums of 84 squares of size about 1.
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, crop)
    np.testing.assert_allclose(scores[:, 1, 2], logits, rtol=1e-5, atol=1e-4)
