"""Without crops and flips a network overfits substantially; colour changes help, too.

AlexNet's Section 4.1 says that without random crops and flips the network overfits
substantially, and that changing the colours along the principal components of the
training set's RGB values lowers the top-1 error by over one point.

Here the network is `FourLayers` of claims/networks.py on CIFAR-10 with the recipe of
the claim lrn. Crops are translations by up to 4 pixels, where black moves in.
Overfitting is the gap of the claim dropout, between the test error and the error on
training images that are not augmented. The verdict asks that crops and flips lower the
gap, and the test error by a point. The gain by colours is judged apart, also by a
point. Colours change along ImageNet's components, as everywhere in this codebase.
"""

import dataclasses

from claims import dropout, lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "Crops and flips lower overfitting, and the error by a point and more"
SOURCE = "AlexNet (2012), Section 4.1"
STATED = "substantial overfitting; colours over 1 point"
MINUTES = {"small": 50}
NONE, CROPS, COLOURS = "none", "crops and flips", "and colours"


def experiment(scale):
    base = lrn.experiment(scale)
    zeros = {"augment.crop_mode": "zeros"}  # colours change before normalisation
    arms = {
        NONE: {"augment.crop": 0, "augment.flip": False},  # weight_decay's arm of 5e-4
        CROPS: zeros,
        COLOURS: zeros | {"augment.pca": 0.1},
    }
    return Experiment(base.config, arms, 5, base.rates, base.choice)


def measure(results):
    return {
        "errors": results.errors(),
        "gaps": results.each(dropout.gap, lambda run: 0.0),  # chance in both
        "rates": results.rates,
    }


def verdict(numbers):
    errors, gaps = numbers["errors"], numbers["gaps"]
    gap = intervals.difference(gaps[NONE], gaps[CROPS])
    gain = intervals.difference(errors[NONE], errors[CROPS])
    found = intervals.weakest(
        intervals.sign(gap, True, "the fall of the gap by crops and flips in points"),
        intervals.judge(gain, 1, 0, "the gain by crops and flips"),
    )
    more = intervals.difference(errors[CROPS], errors[COLOURS])
    colours = intervals.judge(
        more, 1, 0, "apart from this, the further gain by colours"
    )
    return dataclasses.replace(
        found,
        reason=f"{found.reason}; {colours.reason} ({colours.word})",
        here=f"{found.here}; apart, by colours: {colours.here} ({colours.word})",
    )


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("What augmentation changes")
