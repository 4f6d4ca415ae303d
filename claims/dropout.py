"""Dropout reduces overfitting substantially, and doubles the iterations needed.

AlexNet's Section 4.2 says that without dropout in its first two fully connected layers
the network overfits substantially, and that dropout roughly doubles the number of
iterations that it takes to converge.

Here the network is `FourLayers` of claims/networks.py with a further fully connected
layer of 512 units, half of which are dropped or none, on CIFAR-10 without augmentation.
Overfitting is the gap between the test error and the training error after the last
step. Training errors are those of the network as it is trained, so dropout's includes
its own noise; the epochs are those until both arms' training error is 30 %.
"""

import dataclasses

from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment

CLAIM = "Dropout halves the gap between test and training error, in twice the time"
SOURCE = "AlexNet (2012), Section 4.2"
STATED = "substantial overfitting; 2 times"
MINUTES = {"small": 40}
LEVEL = 30.0  # per cent of the training images


def experiment(scale):
    del scale
    config = recipes.annealed(recipes.four_layers(epochs=20))
    config.model.fields.hidden = 512
    return Experiment(
        config,
        arms={
            "without": {"model.fields.dropout": 0.0},
            "dropout": {"model.fields.dropout": 0.5},
        },
        seeds=3,
        rates=(0.005, 0.01, 0.02, 0.04),
        choice={"num_epochs": 4.0},
    )


def measure(results):
    return {
        "gaps": results.gaps(),
        "errors": results.errors(),
        "epochs": results.epochs_until("train/error", LEVEL),
        "rates": results.rates,
        "curves": pictures.curves(results, "train/error"),
    }


def verdict(numbers):
    gaps, epochs = numbers["gaps"], numbers["epochs"]
    share = intervals.ratio(gaps["dropout"], gaps["without"])
    found = intervals.judge(share, 0.5, 1, "the ratio of the gaps")
    if None in epochs["dropout"] + epochs["without"]:
        return dataclasses.replace(found, reason=f"{found.reason}; 30 % is not reached")
    longer = intervals.ratio(epochs["dropout"], epochs["without"])
    doubled = 1.5 <= longer.mean <= 3
    word = found.word
    if word == intervals.REPRODUCED and not doubled:
        word = intervals.DIRECTION
    return intervals.Verdict(
        word,
        f"{found.reason}; the ratio of the epochs to 30 % training error is "
        f"{longer.text()}, and the rule asks for 1.5 to 3",
        f"gaps {found.here}, epochs {longer.text()}",
    )


def figure(figure, numbers):
    axes = pictures.curve_axes(figure, numbers["curves"], "training error, per cent")
    axes.set_title("Learning with and without dropout")
