"""Overlapping pools lower the error, and make overfitting slightly harder.

AlexNet's Section 3.4 has 0.4 and 0.3 points less error (top-1 and top-5) on ImageNet
with windows of 3x3 than with windows of 2x2, both with stride 2, and sees in general
that overlapping pools overfit slightly less.

Here the network is `FourLayers` of claims/networks.py on CIFAR-10, with the recipe of
the claim lrn. The verdict is about the error; the gap of the claim dropout, between the
test error and the error on training images that are not augmented, is reported beside
it.
"""

from claims import dropout, lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "Overlapping pools lower the error"
SOURCE = "AlexNet (2012), Section 3.4"
STATED = "0.4 points top-1, 0.3 top-5"
MINUTES = {"small": 31}
OVERLAPPING, APART = "3x3, stride 2", "2x2, stride 2"


def experiment(scale):
    base = lrn.experiment(scale)
    arms = {OVERLAPPING: {}, APART: {"model.fields.pool": 2}}
    return Experiment(base.config, arms, 5, base.rates, base.choice)


def measure(results):
    return {
        "errors": results.errors(),
        "gaps": results.each(dropout.gap, lambda run: 0.0),  # chance in both
        "rates": results.rates,
    }


def verdict(numbers):
    errors = numbers["errors"]
    gain = intervals.difference(errors[APART], errors[OVERLAPPING])
    return intervals.sign(gain, True, "the gain in points")


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("Pools whose windows overlap, and pools whose windows do not")
