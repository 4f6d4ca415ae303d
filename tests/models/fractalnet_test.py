import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from jax import lax

import models
from models import fractalnet


def stage_shapes(name, size):
    """The stages of one image: {stage: (height, width, channels)}."""
    model = models.create(name, num_classes=10)
    image = jnp.zeros((1, size, size, 3))
    stages = traced.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), image, method=lambda m, x: m.backbone(x, train=False)
        )[0]
    )
    return {stage: value.shape[1:] for stage, value in stages.items()}


def test_sizes():
    assert list(stage_shapes("fractalnet", 32).values()) == [
        *((16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512), (1, 1, 512)),
    ]
    assert list(stage_shapes("fractalnet_40", 32).values()) == [
        *((16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 128), (1, 1, 128)),
    ]
    assert stage_shapes("fractalnet_34", 224) == {
        "conv1": (112, 112, 64),
        "pool1": (56, 56, 64),
        "block1": (28, 28, 128),
        "block2": (14, 14, 256),
        "block3": (7, 7, 512),
        "block4": (7, 7, 1024),
    }


def random_variables(model, images, seed=0):
    """Variables with batch statistics and biases that are not 0 and 1."""
    shapes = traced.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if path[-1].key == "kernel":
            size = np.sqrt(3 / np.prod(shape.shape[:-1]))
            return rng.uniform(-size, size, shape.shape)
        low, high = (0.5, 1.5) if path[-1].key == "var" else (-0.2, 0.2)
        return rng.uniform(low, high, shape.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def small(columns, pool=True):
    """A block alone with an image [2, 10, 12, 3] and variables for them."""
    block = fractalnet.FractalBlock(columns, 4, 0.0, 0.15, pool, jnp.float32)
    images = np.random.default_rng(1).normal(size=(2, 10, 12, 3)).astype(np.float32)
    return block, images, random_variables(block, images)


def conv_unit(variables, name, x):
    """Convolution, batch normalisation with stored statistics, ReLU."""
    conv = variables["params"][name]["conv"]
    x = lax.conv_general_dilated(
        x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    stats = variables["batch_stats"][name]["bn"]
    x = x + conv["bias"].reshape(1, 1, 1, -1) - stats["mean"].reshape(1, 1, 1, -1)
    return np.maximum(x / np.sqrt(stats["var"] + 1e-5).reshape(1, 1, 1, -1), 0)


def pool(x):
    b, h, w, c = x.shape
    return np.asarray(x).reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_is_what_the_expansion_rule_says(columns):
    """f_{C+1}(z) = f_C(f_C(z)) joined with conv(z), and joins that touch are one."""
    numbers = {c: itertools.count(1) for c in range(1, columns + 1)}

    def paths(level, z):
        """What f_level joins: the latest expansion adds the shallowest column."""
        column = columns - level + 1
        own = conv_unit(variables, f"column{column}_{next(numbers[column])}", z)
        if level == 1:
            return [own]
        inner = np.mean(paths(level - 1, z), 0)
        return [own, *paths(level - 1, inner)]

    with jax.enable_x64(True):
        block, images, variables = small(columns)
        images = images.astype(np.float64)
        block = block.clone(dtype=jnp.float64)
        expected = np.mean([pool(path) for path in paths(columns, images)], 0)
        apply = jax.jit(functools.partial(block.apply, train=False))
        result = apply(variables, images)
    assert expected.std() > 0.01
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)
    used = {c: next(number) - 1 for c, number in numbers.items()}
    assert used == {c: 2 ** (c - 1) for c in range(1, columns + 1)}


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_convolutions_and_the_longest_path(columns):
    block = fractalnet.FractalBlock(columns, 1, 0.0, 0.15, False, jnp.float32)
    longest = 2 ** (columns - 1)
    image = np.zeros((1, 1, 2 * longest + 5, 1), np.float32)
    image[0, 0, longest + 2] = 1
    variables = random_variables(block, image)
    assert len(variables["params"]) == 2**columns - 1
    # Each convolution of the longest path widens what one pixel reaches by one.
    ones = {"conv": {"kernel": np.ones((3, 3, 1, 1)), "bias": np.zeros(1)}}
    plain = {"bn": {"mean": np.zeros(1), "var": np.ones(1)}}
    variables = {
        "params": dict.fromkeys(variables["params"], ones),
        "batch_stats": dict.fromkeys(variables["batch_stats"], plain),
    }
    output = jax.jit(functools.partial(block.apply, train=False))(variables, image)
    assert (output[0, 0, :, 0] > 0).sum() == 2 * longest + 1


def test_depth_is_in_the_name():
    for depth in (5, 10, 20, 40, 80, 160):
        model = models.create(f"fractalnet_{depth}", num_classes=100)
        assert len(model.channels) * 2 ** (model.columns - 1) == depth
    model = models.create("fractalnet_34", num_classes=1000)
    assert 2 + len(model.channels) * 2 ** (model.columns - 1) == 34


def test_the_deepest_column_is_a_plain_chain():
    model = fractalnet.FractalNet(
        5, columns=3, channels=(4, 6), dropout=(0.5, 0.5), dtype=jnp.float64
    )
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 3))
    with jax.enable_x64(True):
        variables = random_variables(model, images)
        deepest = functools.partial(model.apply, method="deepest_column")
        logits = jax.jit(deepest)(variables, images)
        whole = jax.jit(functools.partial(model.apply, train=False))(variables, images)
        x = images
        for block in ("block1", "block2"):
            inner = {n: v["backbone"][block] for n, v in variables.items()}
            for j in range(1, 5):
                x = conv_unit(inner, f"column3_{j}", x)
            x = pool(x)
        fc = variables["params"]["head"]["fc"]
        expected = x[:, 0, 0] @ fc["kernel"][0, 0] + fc["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-10)
    assert np.abs(logits - whole).max() > 0.01


def test_joins_keep_an_input_at_least():
    keys = jax.random.split(jax.random.key(0), 2000)
    for number, rate in ((2, 0.15), (3, 0.9)):
        sample = functools.partial(fractalnet.local_sample, number=number, rate=rate)
        keep = jax.jit(jax.vmap(sample))(keys)
        assert keep.any(1).all()
        # All inputs dropped, which leaves a random one: rate^number.
        expected = (1 - rate) + rate**number / number
        np.testing.assert_allclose(keep.mean(0), expected, atol=0.045)  # 4 sigma


def test_half_of_the_batches_are_of_a_single_column():
    keys = jax.random.split(jax.random.key(0), 3000)
    chosen = jax.jit(jax.vmap(lambda key: fractalnet.sample_column(key, 3)))(keys)
    shares = np.bincount(chosen, minlength=4) / 3000
    np.testing.assert_allclose(shares, (1 / 2, 1 / 6, 1 / 6, 1 / 6), atol=0.036)


def test_a_chosen_column_is_all_that_joins_pass_on():
    block, images, variables = small(3)
    apply = jax.jit(functools.partial(block.apply, train=False))
    alone = jax.jit(
        functools.partial(block.apply, train=False), static_argnames="column"
    )
    rngs = {"dropout": jax.random.key(0)}
    for column in (1, 2, 3):
        chain = alone(variables, images, column=column)
        chosen = apply(variables, images, chosen=jnp.array(column), rngs=rngs)
        np.testing.assert_allclose(chosen, chain, rtol=1e-4, atol=1e-6)


def test_local_sampling_averages_what_survives():
    join = fractalnet.Join(0.5)
    inputs = [np.full((1, 1, 1, 1), v, np.float32) for v in (1, 10, 100)]

    def output(key):
        values = {"first": 1, "chosen": jnp.array(0), "rngs": {"dropout": key}}
        return join.apply({}, inputs, **values)[0, 0, 0, 0]

    keys = jax.random.split(jax.random.key(0), 200)
    means = {1.0, 10.0, 100.0, 5.5, 50.5, 55.0, 37.0}
    found = set(np.asarray(jax.jit(jax.vmap(output))(keys), np.float64).round(4))
    assert found == means


def test_training_draws_paths_and_evaluation_does_not():
    model = fractalnet.FractalNet(5, columns=2, channels=(4, 6), dropout=(0.0, 0.0))
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    variables = random_variables(model, images)

    def train(key):
        keys = {"rngs": {"dropout": key}, "mutable": "batch_stats"}
        return model.apply(variables, images, train=True, **keys)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def chain(column):
        def apply(m):
            stages = m.backbone(images, train=True, column=column)
            return m.head(stages["block2"], train=True)[:, 0, 0]

        return model.apply(variables, method=apply, mutable="batch_stats")[0]

    logits = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 100))
    single = np.zeros(100, bool)
    for column in (1, 2):
        equal = np.abs(logits - np.asarray(chain(column))[None]).max((1, 2)) < 1e-4
        assert equal.any()
        single |= equal
    # Half by global sampling, and of the others, whose two joins draw on their own, one
    # in twenty: 53 with a deviation of 5.
    assert 33 < single.sum() < 73

    # Neither an evaluation nor a training without drop-path and dropout asks for a key.
    traced.eval_shape(functools.partial(model.apply, train=False), variables, images)
    off = model.clone(drop_path=0.0)
    off = functools.partial(off.apply, train=True, mutable="batch_stats")
    traced.eval_shape(off, variables, images)


def test_every_column_moves_its_statistics():
    block, images, variables = small(3)
    rngs = {"dropout": jax.random.key(0)}
    options = {"rngs": rngs, "mutable": "batch_stats", "chosen": jnp.array(1)}
    apply = jax.jit(lambda: block.apply(variables, images, train=True, **options))
    _, updated = apply()
    old = variables["batch_stats"]
    for name, stats in updated["batch_stats"].items():
        assert not np.allclose(stats["bn"]["mean"], old[name]["bn"]["mean"])


def test_batch_norm_has_no_scale_and_shift_and_weights_are_caffes_xavier():
    unit = fractalnet.ConvUnit(64, 0.0, jnp.float32)
    init = jax.jit(functools.partial(unit.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))
    assert set(params["params"]) == {"conv"}
    kernel = params["params"]["conv"]["kernel"]
    bound = (3 / (9 * 16)) ** 0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.02)
    assert not params["params"]["conv"]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": 0}, "columns"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"drop_path": -0.1}, "drop_path"),
        ({"dropout": (0.1, 0.2)}, "dropout .* each of 5 blocks"),
        ({"dropout": (0, 0, 0, 0, 1)}, "dropout"),
    ],
)
def test_fields_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("fractalnet", num_classes=10, **fields)


def test_images_too_small_for_five_pools():
    model = models.create("fractalnet_10", num_classes=10)
    with pytest.raises(ValueError, match="28x28 are too small: .* after block5"):
        traced.eval_shape(
            functools.partial(model.init, train=False),
            jax.random.key(0),
            jnp.zeros((1, 28, 28, 1)),
        )
