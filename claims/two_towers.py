"""Two towers are better than one tower of half as many kernels.

AlexNet's Section 3.2 has two towers, one on each GPU, most of whose layers see only the
maps of their own tower. They have 1.7 and 1.2 points less error (top-1 and top-5) than
a network with half as many kernels in each convolution on one GPU. (The paper notes
that this one keeps all kernels of the last convolution and the fully connected layers,
so that the two have about as many parameters.)

Here the network is `FourLayers` of claims/networks.py on CIFAR-10 with the recipe of
the claim lrn: two groups in the second and third convolution against half the maps of
the first and second. The parameters of both are reported. The rule asks for a point.
"""

from claims import lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "Two towers are a point and more better than one of half as many kernels"
SOURCE = "AlexNet (2012), Section 3.2"
STATED = "1.7 points top-1, 1.2 top-5"
MINUTES = {"small": 20}
TOWERS, HALF = "two towers", "one of half the maps"


def experiment(scale):
    base = lrn.experiment(scale)
    arms = {TOWERS: {"model.fields.groups": 2}, HALF: {"model.fields.width": 0.5}}
    return Experiment(base.config, arms, 5, base.rates, base.choice)


def measure(results):
    return {
        "errors": results.errors(),
        "parameters": {label: results[label][0].parameters() for label in results},
        "rates": results.rates,
    }


def verdict(numbers):
    errors = numbers["errors"]
    gain = intervals.difference(errors[HALF], errors[TOWERS])
    return intervals.judge(gain, 1, 0, "the gain by two towers in points")


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("Two towers, and one of half as many kernels")
