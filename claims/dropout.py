"""Dropout reduces overfitting substantially, and doubles the iterations needed.

AlexNet's Section 4.2 says that without dropout in its first two fully connected layers
the network overfits substantially, and that dropout roughly doubles the number of
iterations that it takes to converge.

Here the network is `FourLayers` of claims/networks.py with a further fully connected
layer of 512 units, half of which are dropped or none, on CIFAR-10 without augmentation.
Overfitting is the gap between the test error and the error on a fifth of the training
images, both after the last step and without dropout; a gap under a tenth of a point
counts as one. A network that has hardly learned, with 80 % test error, has no gap to
speak of, so there is no verdict on it. The epochs are those until the training error is
30 %, as the network is trained, so dropout's includes its own noise. They depend on the
length of the training, as the rate falls linearly to zero over its 20 epochs.
"""

import evaluate
from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from sweep import vary

CLAIM = "Dropout halves the gap between test and training error, in twice the time"
SOURCE = "AlexNet (2012), Section 4.2"
STATED = "substantial overfitting; 2 times"
MINUTES = {"small": 33}
LEVEL = 30.0  # per cent of the training images
SEEN = {"dataset.eval_split": "train[:20%]"}
LEAST = 0.1  # points, of a gap
LEARNED = 80.0  # per cent of test error


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


def gap(run):
    """The test error less the error on training images, in points."""
    seen = evaluate.evaluate_run(run.workdir, vary.apply(run.config, SEEN))
    return run.error - seen.record["error"]


def measure(results):
    return {
        "gaps": results.each(gap, lambda run: 0.0),  # chance in both
        "errors": results.errors(),
        "epochs": results.epochs_until("train/error", LEVEL),
        "rates": results.rates,
        "curves": pictures.curves(results, "train/error"),
    }


def verdict(numbers):
    epochs = numbers["epochs"]
    gaps = {k: [max(gap, LEAST) for gap in v] for k, v in numbers["gaps"].items()}
    share = intervals.ratio(gaps["dropout"], gaps["without"])
    found = intervals.judge(share, 0.5, 1, "the ratio of the gaps")
    doubled, here = False, "not reached"
    if None not in epochs["dropout"] + epochs["without"]:
        longer = intervals.ratio(epochs["dropout"], epochs["without"])
        doubled, here = longer.low >= 1.5 and longer.high <= 3, longer.text(None)
    word = found.word
    if word == intervals.REPRODUCED and not doubled:
        word = intervals.DIRECTION
    reason = (
        f"{found.reason}; the ratio of the epochs to 30 % training error is {here}, "
        "and the rule asks for 1.5 to 3"
    )
    worst = max(numbers["errors"]["dropout"])
    if worst > LEARNED:
        word = intervals.INVISIBLE
        reason += f"; with dropout a run has not learned ({worst:.1f} % test error)"
    return intervals.Verdict(word, reason, f"gaps {found.here}, epochs {here}")


def figure(figure, numbers):
    axes = pictures.curve_axes(figure, numbers["curves"], "training error, per cent")
    axes.set_title("Learning with and without dropout")
