"""Networks of keras.applications, computing in float64 with TensorFlow.

On torch, keras computes batch normalisation in float32. Its Inceptions have no
auxiliary head and no scale in batch normalisation, and padding does not count in their
averages.
"""

import warnings

import numpy as np
import pytest
from parity import ours

import models
from weights import formats

pytestmark = pytest.mark.slow


@pytest.fixture
def keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("keras", reason="make parity installs it")
    if package.backend.backend() != "tensorflow":
        pytest.skip("keras runs on another backend than TensorFlow")
    policy = package.config.dtype_policy()
    package.config.set_dtype_policy("float64")
    yield package
    package.config.set_dtype_policy(policy)


def randomize(layer, rng):
    """Gives a keras layer weights that keep activations alive."""
    for weight in layer.weights:
        bound = (6 / np.prod(weight.shape[:-1])) ** 0.5
        low, high = {
            "kernel": (-bound, bound),
            "bias": (-0.1, 0.1),
            "gamma": (0.5, 1.0),
            "beta": (-0.1, 0.1),
            "moving_mean": (-0.1, 0.1),
            "moving_variance": (0.5, 1.5),
        }[weight.name]
        weight.assign(rng.uniform(low, high, weight.shape))


@pytest.mark.parametrize(
    ("name", "network", "size", "suffix"),
    [
        ("vgg16", "VGG16", 64, ".keras"),
        ("inception_v3", "InceptionV3", 107, ".weights.h5"),
        ("inception_resnet_v2", "InceptionResNetV2", 107, ".weights.h5"),
        ("resnet50", "ResNet50", 64, ".h5"),
        ("densenet121", "DenseNet121", (64, 96), ".weights.h5"),
    ],
)
def test_a_file_of_keras(keras, tmp_path, name, network, size, suffix):
    """ResNet's convolutions have biases there, and 1.001e-5 is added to variances.

    VGG and ResNet take BGR.
    """
    images = ours.random_images(size)
    images[1] *= 4
    net = getattr(keras.applications, network)(
        weights=None, input_shape=images.shape[1:], classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in net.layers:
        randomize(layer, rng)
    path = tmp_path / f"net{suffix}"
    with warnings.catch_warnings():  # of numpy's about Keras, of Keras's about its .h5
        warnings.simplefilter("ignore")
        net.save_weights(path) if suffix == ".weights.h5" else net.save(path)
    model = models.create(name, num_classes=1000)
    variables = ours.by_name("keras", name, model, images, formats.read(path).arrays)
    theirs = images[..., ::-1] if name in ("vgg16", "resnet50") else images
    expected = np.asarray(net(theirs.astype(np.float64), training=False))
    assert expected.dtype == np.float64
    ours.check_logits(model, variables, images, lambda _: expected)
