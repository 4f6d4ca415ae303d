"""Statistics of the population give the same answers as moving averages.

Ioffe and Szegedy's Algorithm 2 normalises in tests by the mean and the unbiased
variance of the population: they are averages over training batches, with the weights
frozen. Moving averages during training are its stand-in, by which Section 3.1 follows
the accuracy of a network that is still learning. The authors of ResNet released
networks with statistics of the first kind, of which they report that the error varies
by less than 0.1 points, and warned that moving averages may give other results. That
both agree within 0.1 points is our own claim; no paper states it.

Here the network is ResNet-20 on CIFAR-10 at 16x16 pixels, trained for 12 epochs with a
rate that falls to zero, so that the weights hardly change in the last steps. Its moving
averages keep 0.99 of their old value in each step, so that they are over about a
hundred batches; the verdict is about these. A few runs keep 0.9, whose averages are
over ten batches and vary more from step to step; they are reported. The weights do not
depend on that. All have the training's crops and flips. `answers` counts the test
images whose class changes, in either direction. At the paper scale it is ResNet's own
recipe.
"""

import dataclasses

import evaluate
from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import resnet_cifar
from evaluation import scoring

CLAIM = "Statistics of the population change the error by less than 0.1 points"
SOURCE = "Ioffe and Szegedy (2015), Algorithm 2"
STATED = "no number; ResNet's authors: may differ"
MINUTES = {"small": 27, "paper": 88}
NETWORK = "claims.networks:MomentumResNet"
KINDS = ("moving", "population")
SEEDS = {"0.99": 8, "0.9": 3}  # by momentum; the first one is judged


def experiment(scale):
    config = resnet_cifar.get_config() if scale == "paper" else recipes.resnet20(12)
    if scale == "small":
        config.dataset.image_size = 16
        config.dataset.fit = "resize"
        config.augment.crop = 2
    config.model.name = NETWORK
    arms = {m: {"model.fields.momentum": float(m)} for m in SEEDS}
    return Experiment(config, arms, SEEDS)


def compare(run):
    """Tests a run both ways.

    Returns:
      A dict: the errors of both `KINDS` in per cent, by name, and under "answers" how
      many images they answer differently.
    """
    found, answers = {}, []
    for kind in KINDS:
        tested = evaluate.evaluate_run(run.workdir, run.config, batch_stats=kind)
        found[kind] = tested.record["error"]
        file = next(name for name in tested.files if name.endswith(".npz"))
        answers.append(scoring.read(run.workdir.path / file).logits.argmax(1))
    return found | {"answers": int((answers[0] != answers[1]).sum())}


def measure(results):
    found = results.each(compare)
    return {
        "errors": {
            f"{label}, {kind}": [run[kind] for run in runs]
            for label, runs in found.items()
            for kind in KINDS
        },
        "answers": {label: [run["answers"] for run in found[label]] for label in found},
    }


def verdict(numbers):
    """A momentum of 0.99 decides; that of 0.9 is reported."""
    gains = {
        m: intervals.difference(*(numbers["errors"][f"{m}, {kind}"] for kind in KINDS))
        for m in SEEDS
    }
    what = "the gain over moving averages of 0.99 in points"
    found = intervals.same(gains["0.99"], 0.1, 0, what, digits=3)
    other = f"over those of 0.9 it is {gains['0.9'].text(3)}"
    return dataclasses.replace(found, reason=f"{found.reason}; {other}")


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("Moving averages, and statistics of the population")
