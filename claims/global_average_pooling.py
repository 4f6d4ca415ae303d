"""Global average pooling errs less than a fully connected layer, even with dropout.

NIN's Section 4.6 and Table 5 have test errors on CIFAR-10 without augmentation: 11.59 %
with a fully connected layer on the class maps of NIN, 10.88 % with dropout before it,
and 10.41 % with the mean of each class map.

Here the network is `NarrowNIN` of claims/networks.py, with initial weights of variance
2 / inputs. The small scale has half of NIN's maps, images of 16x16 and 12 epochs, and
no dropout behind the pools, which would leave little overfitting in so short a
training; the paper scale has all maps, 32x32 pixels and otherwise the recipe of NIN's
authors. The parameters of all arms are reported, and so are the gaps between the test
error and that of the last training images as they were learned. The verdict is about
the order: fully connected, with dropout, average. As the paper's reason is that a fully
connected layer overfits, there is none where the gap of that arm is not above zero.
"""

from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import nin

CLAIM = "Averaging class maps errs less than a layer on them, even with dropout"
SOURCE = "NIN (2013), Section 4.6 and Table 5"
STATED = "11.59, 10.88 and 10.41 %"
MINUTES = {"small": 46, "paper": 270}
HEADS = {
    "fully connected": "connected",
    "with dropout": "dropout",
    "average": "average",
}


def experiment(scale):
    arms = {label: {"model.fields.head_kind": kind} for label, kind in HEADS.items()}
    if scale == "paper":
        config = nin.get_config()
        config.augment.crop = 0
        config.augment.flip = False
        config.model.name = recipes.NARROW_NIN
        config.model.fields.width = 1.0
        return Experiment(config, arms, 3, (0.03, 0.1), {"num_epochs": 20.0})
    config = recipes.annealed(recipes.at_16(recipes.four_layers(epochs=12)))
    config.model.name = recipes.NARROW_NIN
    config.model.fields.dropout = 0.0
    config.optimizer.weight_decay = 1e-4  # as configs/nin.py has it
    return Experiment(config, arms, 5, (0.01, 0.03, 0.1), {"num_epochs": 2.0})


def measure(results):
    return {
        "errors": results.errors(),
        "gaps": results.gaps(),
        "parameters": {label: results[label][0].parameters() for label in results},
        "rates": results.rates,
    }


def verdict(numbers):
    what = "the fall from fully connected to average in points"
    found = intervals.falling(numbers["errors"], list(HEADS), what)
    gap = intervals.mean(numbers["gaps"]["fully connected"])
    reason = f"{found.reason}; the fully connected layer's gap is {gap.text()} points"
    word = found.word if gap.low > 0 else intervals.INVISIBLE
    return intervals.Verdict(word, reason, found.here)


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("What classifies NIN's class maps")
