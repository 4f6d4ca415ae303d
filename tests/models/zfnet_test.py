"""ZFNet: the sizes of its Figure 3."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import stages, variables

import models
from models import zfnet


def shapes(name, size=224, **fields):
    """Shapes of the stages' outputs, without the batch, and of the parameters."""
    model = models.create(name, num_classes=1000, **fields)
    return stages(model, size), variables(model, size)["params"]


def backbone(maps):
    """A narrow backbone, with these numbers of maps."""
    rows = zip(zfnet.ZFNET, maps, strict=False)
    rows = tuple(row._replace(maps=n) for row, n in rows)
    return zfnet.ZFNetBackbone(rows, jnp.float32)


@pytest.mark.parametrize(
    ("name", "maps"), [("zfnet", (384, 384, 256)), ("zfnet_b", (512, 1024, 512))]
)
def test_maps_are_those_of_figure_3(name, maps):
    outputs, params = shapes(name)
    assert outputs == {
        "conv1": (110, 110, 96),
        "pool1": (55, 55, 96),
        "conv2": (26, 26, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, maps[0]),
        "conv4": (13, 13, maps[1]),
        "conv5": (13, 13, maps[2]),
        "pool5": (6, 6, maps[2]),
    }
    # No groups: each convolution sees all maps.
    kernels = [params["backbone"][f"conv{i}"]["kernel"].shape for i in range(1, 6)]
    channels = (3, 96, 256, *maps)
    assert [k[2] for k in kernels] == list(channels[:5])
    assert [k[:2] for k in kernels] == [(7, 7), (5, 5), (3, 3), (3, 3), (3, 3)]
    assert params["head"]["fc6"]["kernel"].shape == (6, 6, maps[2], 4096)
    assert params["head"]["fc7"]["kernel"].shape == (4096, 4096)


def test_contrast_is_normalised_after_the_pooling():
    module = backbone((16, 16, 16, 16, 16))
    images = 5000 * jax.random.normal(jax.random.key(1), (1, 64, 64, 3))

    @jax.jit
    def run(images):
        key = jax.random.key(0, impl="rbg")  # compiles faster
        params = module.init(key, images, train=False)
        return module.apply(params, images, train=False, capture_intermediates=True)

    outputs, kept = run(images)
    pool1 = np.asarray(outputs["pool1"], np.float64)
    squares = np.pad(pool1**2, ((0, 0),) * 3 + ((2, 2),))
    total = sum(squares[..., i : i + 16] for i in range(5))
    expected = pool1 / (2 + 1e-4 / 5 * total) ** 0.75
    (norm1,) = kept["intermediates"]["norm1"]["__call__"]
    # 1e-5: float32.
    np.testing.assert_allclose(norm1, expected, rtol=1e-5)
    assert np.max(total) * 1e-4 / 5 > 1  # It does something.


def test_initial_weights_and_biases():
    module = backbone((64, 64, 32, 32, 32))
    init = jax.jit(functools.partial(module.init, train=False))
    params = init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 64, 64, 3)))["params"]
    for layer in params.values():
        assert (layer["bias"] == 0).all()
        # Five deviations of the estimate from 9,000 draws and more.
        assert np.std(layer["kernel"]) == pytest.approx(0.01, rel=0.04)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"dropout -0\.5"):
        models.create("zfnet", num_classes=10, dropout=-0.5)
    with pytest.raises(ValueError, match="variant 'zfnet_c' is none of zfnet, zfnet_b"):
        zfnet.ZFNet(10, variant="zfnet_c")
    with pytest.raises(ValueError, match="28x28 are too small.* after pool2"):
        shapes("zfnet", 28)
