"""Weight decay lowers the training error, too.

AlexNet's Section 5 says that its small weight decay of 5e-4 was important for the
network to learn: not merely a regulariser, it reduces the training error.

Here the network is `FourLayers` of claims/networks.py on CIFAR-10 with the recipe of
the claim lrn, but without augmentation, and with a decay of 0, 5e-4 and 5e-3 (which one
article quotes in error). The training error is that of the last 10,000 images learned.
All arms have one rate, as the smaller of two rates alone would change that error.
"""

from claims import lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "A weight decay of 5e-4 lowers the training error"
SOURCE = "AlexNet (2012), Section 5"
STATED = "no number"
MINUTES = {"small": 50}


def experiment(scale):
    base = lrn.experiment(scale)
    config = base.config
    config.augment.crop = 0
    config.augment.flip = False
    arms = {
        "0": {"optimizer.weight_decay": 0.0},
        "5e-4": {"optimizer.weight_decay": 5e-4},
        "5e-3": {"optimizer.weight_decay": 5e-3},
    }
    return Experiment(config, arms, 5, base.rates, base.choice, one_rate=True)


def measure(results):
    return {
        "training": results.training_errors(),
        "errors": results.errors(),
        "rates": results.rates,
    }


def verdict(numbers):
    training = numbers["training"]
    change = intervals.difference(training["5e-4"], training["0"])
    return intervals.sign(change, False, "the change of the training error in points")


def figure(figure, numbers):
    axes = pictures.interval_axes(
        figure, numbers["training"], "training error, per cent"
    )
    axes.set_xlabel("weight decay")
    axes.set_title("What weight decay does to the training error")
