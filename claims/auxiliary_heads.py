"""Side heads increase the gradient of the first layers, and lower the error a little.

GoogLeNet's Section 5 adds small classifiers to the outputs of inception_4a and 4d, with
a weight of 0.3 in the loss, to increase the gradient that gets to the lower stages and
to regularise. The published version adds that by later control experiments their effect
is relatively minor, around 0.5 points, and that one of them is enough.

Here the network is `ThinGoogLeNet` of claims/networks.py on CIFAR-10, six epochs of
SGD with momentum, since GoogLeNet itself needs images of 80 pixels for its side heads.
The other arm has the same heads with a weight of 0. The gradient is that of conv1's
kernel over 256 training images before the first step, where both arms have the same
weights. The rule asks that it grows by a tenth and that the error falls. At the paper
scale both arms are the recipe of configs/googlenet.py.
"""

from claims.harness import intervals, pictures, probes, recipes
from claims.harness.trainings import Experiment
from configs import googlenet

CLAIM = "Side heads add a tenth to the first layer's gradient and lower the error"
SOURCE = "GoogLeNet (2014), Section 5"
STATED = "around 0.5 points"
MINUTES = {"small": 80, "paper": 13_000}
WITH, WITHOUT = "with side heads", "without"
WEIGHT = "loss.auxiliary_weight"
FIRST = "backbone/conv1/kernel"


def experiment(scale):
    arms = {WITH: {WEIGHT: 0.3}, WITHOUT: {WEIGHT: 0.0}}
    if scale == "paper":
        return Experiment(googlenet.get_config(), arms)
    config = recipes.annealed(recipes.four_layers(epochs=6))
    config.augment.crop = 4
    config.augment.flip = True
    config.batch_size = 64
    config.log.every_steps = 156
    config.model.name = "claims.networks:ThinGoogLeNet"
    config.optimizer.weight_decay = 2e-4
    return Experiment(
        config,
        arms,
        seeds=5,
        rates=(0.005, 0.01, 0.02, 0.04),
        choice={"num_epochs": 1.5},
    )


def first_gradient(run):
    """The gradient of the first layer's weights before the first step."""
    return probes.gradients(run, start=True)[FIRST]


def measure(results):
    return {
        "errors": results.errors(),
        "gradients": results.each(first_gradient, first_gradient),
        "rates": results.rates,
        "curves": pictures.curves(results, "train/error"),
    }


def verdict(numbers):
    errors, gradients = numbers["errors"], numbers["gradients"]
    gain = intervals.difference(errors[WITHOUT], errors[WITH])
    growth = intervals.ratio(gradients[WITH], gradients[WITHOUT])
    return intervals.weakest(
        intervals.judge(growth, 1.1, 1, "the ratio of the first layer's gradients"),
        intervals.sign(gain, True, "the gain in points"),
    )


def figure(figure, numbers):
    axes = pictures.curve_axes(figure, numbers["curves"], "training error, per cent")
    axes.set_title("Learning with and without side heads")
