"""AlexNet: the sizes of its figures, and the fields that the paper compares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import stages

import models
from models import alexnet


def shapes_of(name, size, **fields):
    return stages(models.create(name, num_classes=1000, **fields), size)


def parameters(name, size, **fields):
    """Shapes of the parameters, layer by layer."""
    model = models.create(name, num_classes=1000, **fields)
    init = functools.partial(model.init, jax.random.key(0), train=False)
    params = traced.eval_shape(init, jnp.zeros((1, size, size, 3)))["params"]
    return params["backbone"] | params["head"]


MAPS = (16, 16, 24, 24, 16)


def backbone(size=67, maps=MAPS, lrn=True, **fields):
    """A narrow backbone, random parameters of a wide range and an image."""
    rows = zip(alexnet.ALEXNET[:5], maps, strict=True)
    rows = tuple(row._replace(maps=n, lrn=row.lrn and lrn) for row, n in rows)
    module = alexnet.AlexNetBackbone(rows, **fields)
    images = jax.random.normal(jax.random.key(1), (1, size, size, 3))
    return module, random_parameters(module, images), images


def head(num_classes, units, dropout, **fields):
    """The fully connected layers of AlexNet with other numbers of units."""
    *hidden, last = alexnet.ALEXNET[5:]
    hidden = (row._replace(maps=n) for row, n in zip(hidden, units, strict=True))
    rows = (*hidden, last)
    return alexnet.FullyConnectedHead(num_classes, rows, dropout, **fields)


def random_parameters(module, x):
    """Normal numbers, divided by the root of the inputs of a unit."""
    draw = np.random.default_rng(0).normal
    init = functools.partial(module.init, jax.random.key(0), train=False)
    return jax.tree.map(
        lambda p: np.asarray(
            draw(size=p.shape) / p.size**0.5 * p.shape[-1] ** 0.5
        ).astype(np.float32),
        traced.eval_shape(init, x),
    )


def run(module, params, x):
    return jax.jit(functools.partial(module.apply, train=False))(params, x)


# Figure 2 (and the neurons it counts: 186,624, 64,896, 64,896, 43,264 after conv1).
@pytest.mark.parametrize("size", [224, 227])
@pytest.mark.parametrize("name", ["alexnet", "alexnet_ungrouped"])
def test_maps_are_those_of_figure_2(name, size):
    shapes = shapes_of(name, size)
    assert shapes == {
        "conv1": (55, 55, 96),
        "pool1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
    }
    neurons = [np.prod(shapes[f"conv{i}"]) for i in range(2, 6)]
    assert neurons == [186_624, 64_896, 64_896, 43_264]


def test_maps_of_the_single_tower():
    assert shapes_of("alexnet_one_tower", 224) == {
        "conv1": (55, 55, 64),
        "pool1": (27, 27, 64),
        "conv2": (27, 27, 192),
        "pool2": (13, 13, 192),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 256),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
    }


def test_parameters_of_each_layer():
    def counts(name):
        layers = parameters(name, 227)
        return [sum(p.size for p in layer.values()) for layer in layers.values()]

    assert list(parameters("alexnet", 227)) == [
        *(f"conv{i}" for i in range(1, 6)),
        *("fc6", "fc7", "fc8"),
    ]
    rest = 37_752_832, 16_781_312, 4_097_000
    assert counts("alexnet") == [34_944, 307_456, 885_120, 663_936, 442_624, *rest]
    assert counts("alexnet_ungrouped") == [
        *(34_944, 614_656, 885_120, 1_327_488, 884_992, *rest)
    ]


def test_an_image_is_continued_below_and_right_by_zeros_for_the_last_windows():
    module, params, images = backbone()
    cut = images[:, :64, :65]
    padded = jnp.pad(cut, ((0, 0), (0, 3), (0, 2), (0, 0)))
    got, expected = (run(module, params, x)["pool5"] for x in (cut, padded))
    # 1e-5: the same sums in another order.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert got.max() > 0.1


def test_a_tower_sees_only_itself_but_in_conv3():
    module, params, images = backbone(lrn=False)
    assert params["params"]["conv2"]["kernel"].shape == (5, 5, 8, 16)
    halved = jax.tree.map(np.array, params)
    # Without the second half of the maps of conv1 ...
    for array in halved["params"]["conv1"].values():
        array[..., 8:] = 0
    whole, half = (run(module, p, images) for p in (params, halved))
    # ... the first tower is the same up to conv3, which sees both.
    np.testing.assert_array_equal(half["conv2"][..., :8], whole["conv2"][..., :8])
    assert not np.array_equal(half["conv2"][..., 8:], whole["conv2"][..., 8:])
    assert not np.array_equal(half["conv3"][..., :12], whole["conv3"][..., :12])


@pytest.mark.parametrize(
    ("fields", "alpha"),
    [({}, 1e-4 / 5), ({"lrn_divide": False}, 1e-4), ({"lrn": False}, None)],
)
def test_normalisation_is_between_conv_and_pool_or_left_out(fields, alpha):
    module, params, images = backbone(**fields)
    outputs = run(module, params, 100 * images)
    normal = conv1 = np.asarray(outputs["conv1"], np.float64)
    if alpha:
        padded = np.pad(conv1**2, ((0, 0),) * 3 + ((2, 2),))
        total = sum(padded[..., i : i + 16] for i in range(5))
        assert alpha * total.max() > 0.2  # of k = 2
        normal = conv1 / (2 + alpha * total) ** 0.75
    windows = np.lib.stride_tricks.sliding_window_view(normal, (3, 3), (1, 2))
    expected = windows[:, ::2, ::2].max((-2, -1))
    # 1e-5: float32.
    np.testing.assert_allclose(outputs["pool1"], expected, rtol=1e-5)


def test_pools_without_overlap_give_maps_of_the_same_sizes():
    assert shapes_of("alexnet", 227, pool_window=2) == shapes_of("alexnet", 227)


def test_kernels_change_parameters_and_not_the_maps():
    kernels = (7, 3, 3, 5, 1)
    assert shapes_of("alexnet", 227, kernels=kernels)["pool5"] == (6, 6, 256)
    params = parameters("alexnet", 227, kernels=kernels)
    sizes = [params[f"conv{i}"]["kernel"].shape[:2] for i in range(1, 6)]
    assert sizes == [(k, k) for k in kernels]


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_activation_is_everywhere_but_at_the_end(name):
    module, params, images = backbone(activation=name, lrn=False)
    outputs = run(module, params, 10 * images)
    low, high = {"relu": (0, np.inf), "tanh": (-1, 1)}[name]
    for i in range(1, 6):
        x = outputs[f"conv{i}"]
        assert low <= x.min() < low + 0.2 and 0.8 < x.max() <= high

    layers = head(3, (20, 30), 0.0, activation=name)
    variables = random_parameters(layers, x)
    activation = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[name]
    fc6, fc7, fc8 = variables["params"].values()
    y = np.ravel(x) @ fc6["kernel"].reshape(-1, 20) + fc6["bias"]
    y = activation(y) @ fc7["kernel"] + fc7["bias"]
    y = activation(y) @ fc8["kernel"] + fc8["bias"]
    scores = run(layers, variables, x)
    np.testing.assert_allclose(np.ravel(scores), y, rtol=1e-4, atol=1e-5)
    assert scores.min() < 0


@pytest.mark.parametrize("table", [alexnet.ALEXNET, alexnet.ONE_TOWER])
def test_where_dropout_is(table):
    rows = tuple(row._replace(maps=16) for row in table[5:])
    layers = alexnet.FullyConnectedHead(3, rows, 0.5)
    x = jnp.ones((2, 3, 3, 4))

    def run(params):
        return layers.apply(
            params,
            x,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=True,
        )

    _, kept = traced.eval_shape(run, random_parameters(layers, x))
    dropped = {
        name: kept["intermediates"][name]["__call__"][0].shape
        for name in ("drop6", "drop7")
    }
    first = (2, 3, 3, 4) if table is alexnet.ONE_TOWER else (2, 1, 1, 16)
    assert dropped == {"drop6": first, "drop7": (2, 1, 1, 16)}
    model = models.create("alexnet", num_classes=2)
    assert model.dropout == 0.5


def test_initial_weights_and_biases():
    module, _, images = backbone(maps=(64,) * 5)
    layers = head(100, (128, 128), 0.5)

    @jax.jit
    def init(key):
        params = module.init(key, images, train=False)["params"]
        pool5 = jnp.zeros((1, 6, 6, 8))
        return params | layers.init(key, pool5, train=False)["params"]

    params = init(jax.random.key(0, impl="rbg"))  # compiles faster
    for name, layer in params.items():
        one = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
        assert (layer["bias"] == (1 if one else 0)).all(), name
        # Five deviations of the estimates from 10,000 draws and more.
        kernel = np.asarray(layer["kernel"])
        assert kernel.size > 10_000
        assert abs(kernel.mean()) < 5e-4
        assert kernel.std() == pytest.approx(0.01, rel=0.035)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "gelu"}, "activation 'gelu' is none of relu, tanh"),
        ({"pool_window": 4}, "pool_window 4 is none of 2, 3"),
        ({"dropout": 1.0}, r"dropout 1\.0 is not in \[0, 1\)"),
        ({"dropout": "half"}, "dropout 'half'"),
        ({"kernels": (11, 5, 3)}, r"kernels \(11, 5, 3\)"),
        ({"kernels": (11, 4, 3, 3, 3)}, "kernels"),
        ({"kernels": (11, 5, 3, 3, -3)}, "kernels"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("alexnet", num_classes=10, **fields)


def test_the_single_tower_has_no_normalisation_to_set():
    assert "lrn" not in models.fields("alexnet_one_tower")
    assert "lrn_divide" not in models.fields("alexnet_one_tower")


@pytest.mark.parametrize("name", ["alexnet", "alexnet_one_tower"])
def test_small_images_are_refused(name):
    with pytest.raises(ValueError, match="28x28 are too small.* after pool2"):
        parameters(name, 28)
