"""Projections on shortcuts lower the error a little; they are not essential.

ResNet's Table 3 has ResNet-34 on ImageNet with three kinds of shortcuts: A, the
identity with zeros for new channels, 25.03 % top-1 error; B, projections where the
shape changes, 24.52 %; C, projections everywhere, 24.19 %. The plain network has
28.54 %.

At the small scale the network is ResNet-20 on CIFAR-10 at 16x16, for which the paper
has only A. The paper scale is the paper's recipe; its test is one view of each image
instead of ten. The verdict is about the order, A above B above C.
"""

from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import resnet50

CLAIM = "Projections on more shortcuts lower the error a little"
SOURCE = "ResNet (2015), Section 4.1 and Table 3"
STATED = "25.03, 24.52 and 24.19 %"
MINUTES = {"small": 36, "paper": 8000}
KINDS = ("A", "B", "C")


def experiment(scale):
    arms = {kind: {"model.fields.shortcut": kind} for kind in KINDS}
    if scale == "paper":
        return Experiment(resnet50.get_config("resnet34"), arms, 3)
    config = recipes.residual(epochs=10)
    return Experiment(config, arms, 5, (0.03, 0.1, 0.3), {"num_epochs": 2.0})


def measure(results):
    return {
        "errors": results.errors(),
        "parameters": {label: results[label][0].parameters() for label in results},
        "rates": results.rates,
    }


def verdict(numbers):
    what = "the fall from A to C in points"
    return intervals.falling(numbers["errors"], KINDS, what)


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_xlabel("shortcuts")
    axes.set_title("Identities and projections on shortcuts")
