"""GoogLeNet against ONNX's graph of BVLC's network, and against torchvision."""

import numpy as np
import pytest
from parity import onnx_graph, ours

import models


@pytest.mark.slow
def test_googlenet_is_bvlcs():
    model = models.create("googlenet", num_classes=1000)
    graph = onnx_graph.Graph("inception_v1")
    # The graph's pools leave out windows that stick out. Caffe's do not, nor the
    # paper's; where a map is even that is one row and column more.
    graph.set_attributes("MaxPool", {"strides": [2, 2]}, pads=[0, 0, 1, 1])
    # Pixels of tens and hundreds: of ones, local normalisation would do nothing.
    images = 100 * ours.random_images((96, 128))
    onnx_graph.check_logits(graph, model, images)


@pytest.mark.slow
def test_googlenet_bn_is_torchvisions():
    from parity import port  # here, because the test above needs no torch

    model = models.create("googlenet_bn", num_classes=1000)
    net = torchvision_googlenet()
    port.check_logits(net, model, ours.random_images((64, 96)), "googlenet_bn")


@pytest.mark.slow
def test_the_loss_and_the_gradients_of_googlenet_bn_are_torchvisions():
    from parity import port

    def their_loss(out, labels):
        entropy = port.torch.nn.functional.cross_entropy
        losses = (
            entropy(out.logits, labels),
            0.3 * entropy(out.aux_logits1, labels),
            0.3 * entropy(out.aux_logits2, labels),
        )
        return sum(losses)

    def our_loss(logits, auxiliary, labels):
        assert set(auxiliary) == {"aux1", "aux2"}
        heads = sum(port.cross_entropy(aux, labels) for aux in auxiliary.values())
        return port.cross_entropy(logits, labels) + 0.3 * heads

    model = models.create(
        "googlenet_bn", num_classes=1000, dropout=0.0, auxiliary_dropout=0.0
    )
    net = torchvision_googlenet(dropout=0.0, dropout_aux=0.0)
    port.check_gradients(
        net,
        model,
        ours.random_images((64, 96), batch=4),
        np.array([3, 999, 0, 41]),
        their_loss=their_loss,
        our_loss=our_loss,
        network="googlenet_bn",
    )


def torchvision_googlenet(**fields):
    from parity import port

    return port.torchvision().GoogLeNet(
        aux_logits=True, transform_input=False, init_weights=False, **fields
    )
