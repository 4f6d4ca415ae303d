"""OverFeat: the sizes of its Tables 1, 3 and 5, and the fine stride of Figure 3."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced
from traced import stages, variables

import models
from models import overfeat


def shapes(name, size, **fields):
    """Shapes of the stages' outputs, without the batch, and of the parameters."""
    model = models.create(name, num_classes=1000, **fields)
    return stages(model, size), variables(model, size)["params"]


def test_maps_of_the_fast_network_are_those_of_table_1():
    outputs, params = shapes("overfeat_fast", 231)
    assert outputs == {
        "conv1": (56, 56, 96),
        "pool1": (28, 28, 96),
        "conv2": (24, 24, 256),
        "pool2": (12, 12, 256),
        "conv3": (12, 12, 512),
        "conv4": (12, 12, 1024),
        "conv5": (12, 12, 1024),
        "pool5": (6, 6, 1024),
    }
    assert [k["kernel"].shape for k in params["head"].values()] == [
        *((6, 6, 1024, 3072), (3072, 4096), (4096, 1000))
    ]


def test_maps_of_the_accurate_network_are_those_of_table_3():
    outputs, params = shapes("overfeat_accurate", 221)
    assert outputs == {
        "conv1": (108, 108, 96),
        "pool1": (36, 36, 96),
        "conv2": (30, 30, 256),
        "pool2": (15, 15, 256),
        "conv3": (15, 15, 512),
        "conv4": (15, 15, 512),
        "conv5": (15, 15, 1024),
        "conv6": (15, 15, 1024),
        "pool6": (5, 5, 1024),
    }
    assert list(params["head"]) == ["fc7", "fc8", "fc9"]
    assert [k["kernel"].shape for k in params["head"].values()] == [
        *((5, 5, 1024, 4096), (4096, 4096), (4096, 1000))
    ]


# Table 5: image, unpooled map, map of class scores.
@pytest.mark.parametrize(
    ("image", "unpooled", "scores"),
    [
        ((245, 245), (17, 17), (3, 3)),
        ((281, 317), (20, 23), (6, 9)),
        ((317, 389), (23, 29), (9, 15)),
        ((389, 461), (29, 35), (15, 21)),
        ((425, 497), (32, 38), (18, 24)),
        ((461, 569), (35, 44), (21, 30)),
    ],
)
def test_scales_of_the_accurate_network_are_those_of_table_5(image, unpooled, scores):
    model = models.create("overfeat_accurate", num_classes=1000)
    usual = jnp.zeros((1, 221, 221, 3))
    variables = traced.eval_shape(
        functools.partial(model.init, jax.random.key(0), train=False), usual
    )
    images = jax.ShapeDtypeStruct((1, *image, 3), jnp.float32)

    def run(variables, images):
        stages = model.apply(
            variables, images, method=lambda m, x: m.backbone(x, train=False)
        )
        fine = model.apply(variables, images, method="fine_class_map")
        coarse = models.class_map(model, variables, images, image_size=221)
        return stages["conv6"], fine, coarse

    conv6, fine, coarse = traced.eval_shape(run, variables, images)
    assert conv6.shape[1:3] == unpooled
    assert fine.shape == (1, *scores, 1000)
    assert coarse.shape == (1, scores[0] // 3, scores[1] // 3, 1000)


@pytest.fixture
def small(monkeypatch):
    """The networks with few maps and units, and with weights that do not fade."""
    for name, rows in overfeat.VARIANTS.items():
        narrow = tuple(row._replace(maps=12 if row.kernel else 32) for row in rows)
        monkeypatch.setitem(overfeat.VARIANTS, name, narrow)

    def make(name, size):
        model = models.create(name, num_classes=3)

        @jax.jit
        def init(key):
            return model.init(key, jnp.zeros((1, size, size, 3)), train=False)

        variables = init(jax.random.key(0, impl="rbg"))  # compiles faster
        return model, jax.tree.map(lambda p: 20 * p, variables)

    return make


# The images are larger than the usual by as many windows of the last pooling as it
# takes to have several scores, and by some more pixels of the unpooled map.
@pytest.mark.parametrize(
    ("name", "size", "image", "step"),
    [
        ("overfeat_accurate", 221, (269, 245), 3),
        ("overfeat_fast", 231, (263, 247), 2),
    ],
)
def test_fine_scores_are_those_of_the_unpooled_map_shifted(
    small, name, size, image, step
):
    model, variables = small(name, size)
    images = jax.random.normal(jax.random.key(1), (2, *image, 3))

    @jax.jit
    def parts(variables, images):
        stages = model.apply(
            variables, images, method=lambda m, x: m.backbone(x, train=False)
        )
        fine = model.apply(variables, images, method="fine_class_map")
        coarse = models.class_map(model, variables, images, image_size=size)
        return list(stages.values())[-2], fine, coarse

    unpooled, fine, coarse = map(np.asarray, parts(variables, images))
    seen = {2: 12, 3: 15}[step]  # pixels of the unpooled map that one score depends on
    _, height, width, _ = unpooled.shape
    assert fine.shape == (2, height - seen + 1, width - seen + 1, 3)

    # By hand: cut the map out at each position, pool it, three matrix products.
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    first, second, last = head.values()
    for y in range(fine.shape[1]):
        for x in range(fine.shape[2]):
            part = unpooled[:, y : y + seen, x : x + seen]
            part = part.reshape(2, seen // step, step, seen // step, step, 12)
            part = part.max((2, 4)).reshape(2, -1)
            hidden = np.maximum(part @ first["kernel"].reshape(-1, 32), 0)
            hidden = np.maximum(hidden @ second["kernel"], 0)
            # 1e-4: two orders of the same float32 sums.
            scale = np.abs(fine).max()
            np.testing.assert_allclose(
                fine[:, y, x], hidden @ last["kernel"], atol=1e-4 * scale
            )
    assert len(np.unique(fine)) > fine.size // 2

    rows, columns = coarse.shape[1:3]
    np.testing.assert_allclose(
        fine[:, ::step, ::step][:, :rows, :columns], coarse, atol=1e-4 * scale
    )


def test_one_window_has_one_fine_score(small):
    model, variables = small("overfeat_accurate", 221)
    images = jax.random.normal(jax.random.key(1), (2, 221, 221, 3))

    @jax.jit
    def run(variables, images):
        fine = model.apply(variables, images, method="fine_class_map")
        return fine, model.apply(variables, images, train=False)

    fine, logits = run(variables, images)
    assert fine.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(fine[:, 0, 0], logits, rtol=1e-4)
    with pytest.raises(ValueError, match="211x221 are too small"):
        traced.eval_shape(run, variables, images[:, :211])


def test_initial_weights_and_biases(small):
    _, variables = small("overfeat_fast", 231)
    kernels = []
    for part in variables["params"].values():
        for layer in part.values():
            assert (layer["bias"] == 0).all()
            kernels.append(np.ravel(layer["kernel"]) / 20)
    # Five deviations of the estimate from 4,000 draws.
    assert np.std(np.concatenate(kernels)) == pytest.approx(0.01, rel=0.06)


def test_what_is_refused():
    with pytest.raises(ValueError, match="dropout 2"):
        models.create("overfeat_fast", num_classes=10, dropout=2)
    with pytest.raises(ValueError, match="28x28 are too small.* after conv2"):
        shapes("overfeat_fast", 28)
