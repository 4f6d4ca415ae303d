"""Each layer is needed: leaving any convolution out raises the error.

AlexNet's Section 7 says that leaving out any of the middle layers costs about two
points of top-1 error.

Here the network is `FourLayers` of claims/networks.py on CIFAR-10 with the recipe of
the claim lrn, whole or without one of its three convolutions. The pools stay, so the
last map has the same size. Without the first, pools act on pixels, and the third holds
half of the parameters, where the paper speaks of middle layers with 1 % each.
"""

from claims import lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "Leaving out any convolution raises the error"
SOURCE = "AlexNet (2012), Section 7"
STATED = "about 2 points top-1"
MINUTES = {"small": 29}
WHOLE = "all three"


def experiment(scale):
    base = lrn.experiment(scale)
    arms = {WHOLE: {}} | {
        f"without conv{number}": {"model.fields.without": number}
        for number in (1, 2, 3)
    }
    return Experiment(base.config, arms, 3, base.rates, base.choice)


def measure(results):
    return {
        "errors": results.errors(),
        "rates": results.rates,
    }


def verdict(numbers):
    """The convolution that matters least decides."""
    errors = numbers["errors"]
    return intervals.weakest(
        *(
            intervals.sign(
                intervals.difference(values, errors[WHOLE]),
                True,
                f"the loss {label} in points",
            )
            for label, values in errors.items()
            if label != WHOLE
        )
    )


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("What each convolution contributes")
