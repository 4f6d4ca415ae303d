"""Without crops and flips a network overfits substantially; colour changes help, too.

AlexNet's Section 4.1 says that without random crops and flips the network overfits
substantially, and that changing the colours along the principal components of the
training set's RGB values lowers the top-1 error by over one point.

Here the network is `FourLayers` of claims/networks.py on CIFAR-10 with the recipe of
the claim lrn. Crops are translations by up to 4 pixels, where black moves in.
Overfitting is the gap between the test error and the error on training images as they
are learned, so augmented; the verdict is about the test error, and asks for a gain of a
point by crops and flips.
Colours change along ImageNet's components, as everywhere in this codebase.
"""

import dataclasses

from claims import lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "Crops and flips lower the error by a point and more"
SOURCE = "AlexNet (2012), Section 4.1"
STATED = "substantial overfitting, no number"
MINUTES = {"small": 35}
NONE, CROPS, COLOURS = "none", "crops and flips", "and colours"


def experiment(scale):
    base = lrn.experiment(scale)
    zeros = {"augment.crop_mode": "zeros"}  # colours change before normalisation
    arms = {
        NONE: {"augment.crop": 0, "augment.flip": False},  # weight_decay's arm of 5e-4
        CROPS: zeros,
        COLOURS: zeros | {"augment.pca": 0.1},
    }
    return Experiment(base.config, arms, 3, base.rates, base.choice)


def measure(results):
    return {
        "errors": results.errors(),
        "gaps": results.gaps(),
        "rates": results.rates,
    }


def verdict(numbers):
    errors = numbers["errors"]
    gain = intervals.difference(errors[NONE], errors[CROPS])
    found = intervals.judge(gain, 1, 0, "the gain by crops and flips in points")
    colours = intervals.difference(errors[CROPS], errors[COLOURS]).text()
    reason = f"{found.reason}; colours then change the error by {colours} points"
    return dataclasses.replace(found, reason=reason)


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("What augmentation changes")
