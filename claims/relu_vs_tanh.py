"""A network of ReLUs learns several times faster than the same network of tanh units.

AlexNet's Figure 1 has a convolutional network of four layers on CIFAR-10. With ReLUs it
reaches a training error of 25 % after about 5 epochs, with tanh after about 35, which
the paper calls six times faster. The learning rate of each was chosen independently,
and there was no regularisation of any kind.

Here the network is `FourLayers` of claims/networks.py; the paper does not describe its
own. The training error is that of 10,000 images as they are learned; there is no
augmentation, weight decay or dropout. The rate is chosen among six, by the training
error after 6 epochs, as the paper chose for speed; both arms have the same one, unless
another is clearly better for one of them. Epochs are interpolated between two reports.
A run that never gets there counts as if it did at its end, which is too early, and the
result says so; if one of tanh diverges, there is no verdict on the ratio. The rule asks
for half of the paper's ratio.
"""

from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment

CLAIM = "ReLUs reach 25 % training error three times sooner than tanh, and more"
SOURCE = "AlexNet (2012), Section 3.1 and Figure 1"
STATED = "6 times (5 and 35 epochs)"
MINUTES = {"small": 66, "paper": 66}
TARGET = 25.0  # per cent of the training images
EPOCHS = 40


def experiment(scale):
    del scale  # the paper's own experiment is small
    return Experiment(
        recipes.four_layers(EPOCHS),
        arms={
            "ReLU": {"model.fields.activation": "relu"},
            "tanh": {"model.fields.activation": "tanh"},
        },
        seeds=3,
        rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
        choice={"num_epochs": 6.0},
        choose_by="train/error",
    )


def measure(results):
    epochs = results.epochs_until("train/error", TARGET)
    return {
        "epochs": epochs,
        "diverged": {
            label: sum(run.diverged for run in results[label]) for label in results
        },
        "rates": results.rates,
        "curves": pictures.curves(results, "train/error"),
    }


def verdict(numbers):
    relu, tanh = (
        [EPOCHS if epochs is None else epochs for epochs in numbers["epochs"][arm]]
        for arm in ("ReLU", "tanh")
    )
    found = intervals.ratio(tanh, relu)
    verdict = intervals.judge(found, 3, 1, "the ratio of the epochs to 25 %")
    word, reason, here = verdict.word, verdict.reason, verdict.here
    for arm, epochs in numbers["epochs"].items():
        if never := epochs.count(None):
            said = f"{never} of {len(epochs)} runs of {arm} never"
            reason += f"; {said} get there and count as {EPOCHS} epochs"
            here += f"; {said}"
    if numbers["diverged"]["tanh"]:  # it counts as 40 epochs, in the claim's favour
        word, reason = intervals.INVISIBLE, f"{reason}; tanh diverged, so none is known"
    return intervals.Verdict(word, reason, here)


def figure(figure, numbers):
    axes = pictures.curve_axes(figure, numbers["curves"], "training error, per cent")
    axes.axhline(TARGET, color="0.5", linewidth=0.8)
    axes.set_title("Learning with ReLUs and with tanh units")
