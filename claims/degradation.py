"""A deeper plain network has a higher training error; a deeper residual one a lower.

ResNet's Figure 1 has plain networks of 20 and 56 layers on CIFAR-10, of which the
deeper has the higher training and test error: "degradation", which is no overfitting.
Figure 6 shows that residual networks overcome it: the deeper, the lower both errors
(8.75 % test error with 20 layers, 6.97 % with 56).

At the small scale images have 16x16 pixels and trainings 8 epochs, where the paper has
32x32 and 164; rates are chosen, where the paper has 0.1 for all. The paper
scale is the paper's recipe. The training error is that of the augmented images as they
are learned, over the last epoch. The verdict asks for the sign of both differences.
"""

from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import resnet_cifar

CLAIM = "Depth raises a plain network's training error and lowers a residual one's"
SOURCE = "ResNet (2015), Section 4.2, Figures 1 and 6"
STATED = "a figure"
MINUTES = {"small": 52, "paper": 150}
ARMS = {
    "plain-20": {"model.name": "plain20"},
    "plain-56": {"model.name": "plain56"},
    "residual-20": {"model.name": "resnet20"},
    "residual-56": {"model.name": "resnet56"},
}


def experiment(scale):
    if scale == "paper":
        return Experiment(resnet_cifar.get_config(), ARMS, 3)
    config = recipes.residual(epochs=8)
    return Experiment(config, ARMS, 3, (0.01, 0.03, 0.1), {"num_epochs": 2.0})


def measure(results):
    return {
        "training": results.training_errors(epochs=0.9),
        "errors": results.errors(),
        "rates": results.rates,
        "curves": pictures.curves(results, "train/error"),
    }


def verdict(numbers):
    training = numbers["training"]
    plain = intervals.difference(training["plain-56"], training["plain-20"])
    residual = intervals.difference(training["residual-56"], training["residual-20"])
    return intervals.weakest(
        intervals.sign(plain, True, "plain-56's training error less plain-20's"),
        intervals.sign(residual, False, "residual-56's less residual-20's"),
    )


def figure(figure, numbers):
    axes = pictures.curve_axes(figure, numbers["curves"], "training error, per cent")
    axes.set_title("Depth in plain and in residual networks")
