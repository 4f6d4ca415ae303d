"""Saturating units and plain depth starve the first layers of gradient.

Articles on AlexNet and ResNet say so: each sigmoid or tanh multiplies a gradient by a
slope below one, and without shortcuts each further layer makes it smaller. ResNet's
Section 4.1 itself says that this is unlikely to be what is wrong with plain networks,
whose gradients have healthy norms thanks to batch normalisation.

Here the networks are ResNet's for CIFAR-10 at 16x16 pixels, and `Plain` of
claims/networks.py: the plain network of 20 layers with sigmoids, tanh and ReLUs, which
has no batch normalisation unless the arm says so, and the plain and the residual one of
56. A layer's gradient is the norm of its weights' gradient over the norm of its
weights, for 256 images, before the first step and, for the figure, after 500 steps at a
rate of 0.01. The first layer's share is its gradient over that of the last convolution.

Each part is judged before the first step: a share is starved if it is at most a tenth
of the share that it is compared with. Sigmoids and tanh are compared with ReLUs, and
the plain with the residual network of 56 layers, both with batch normalisation. Weights
in front of sigmoids start with the variance 1 / inputs, as those of tanh; 16 / inputs
would make up for the sigmoid's slope of 1/4, so their share is in part one of the
initialisation.
"""

from analysis.curves import COLOURS
from claims.harness import intervals, pictures, probes, recipes
from claims.harness.trainings import Experiment

CLAIM = "Saturating units and plain depth starve the first layers of gradient"
SOURCE = "articles on AlexNet and ResNet; not ResNet (2015), Section 4.1"
STATED = "no number"
MINUTES = {"small": 13}
STARVED = 0.1
PLAIN = "claims.networks:Plain"
COMPARED = {"sigmoid": "ReLU", "tanh": "ReLU", "plain-56": "residual-56"}


def experiment(scale):
    del scale  # gradients need no long training
    config = recipes.residual(epochs=1)
    config.num_steps = 500
    config.log.every_steps = 100
    config.optimizer.learning_rate = 0.01
    arms = {
        "sigmoid": plain(20, "sigmoid", False),
        "tanh": plain(20, "tanh", False),
        "ReLU": plain(20, "relu", False),
        "sigmoid, BN": plain(20, "sigmoid", True),
        "56 without BN": plain(56, "relu", False),
        "plain-56": {"model.name": "plain56"},
        "residual-56": {"model.name": "resnet56"},
    }
    return Experiment(config, arms, 3)


def plain(depth, activation, batch_norm):
    return {
        "model.name": PLAIN,
        "model.fields.depth": depth,
        "model.fields.activation": activation,
        "model.fields.batch_norm": batch_norm,
    }


def convolutions(run, start):
    """The gradients of a run's convolutions in their order; [] if it diverged."""
    if run.diverged and not start:
        return []
    found = probes.gradients(run, start).items()
    return [float(f"{x:.4g}") for path, x in found if path.startswith("backbone/")]


def measure(results):
    layers = {
        moment: {
            label: [convolutions(run, start) for run in results[label]]
            for label in results
        }
        for moment, start in (("start", True), ("after 500 steps", False))
    }
    shares = {
        label: [run[0] / run[-1] for run in runs]
        for label, runs in layers["start"].items()
    }
    return {"shares": shares, "layers": layers}


def verdict(numbers):
    shares = numbers["shares"]
    parts = []
    for arm, other in COMPARED.items():
        ratio = intervals.ratio(shares[arm], shares[other])
        what = f"{arm}'s share over {other}'s"
        parts.append(intervals.judge(ratio, STARVED, 1, what))
    return intervals.weakest(*parts)


def figure(figure, numbers):
    """One panel a moment; each line is an arm's first run."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (moment, arms) in zip(panels, numbers["layers"].items(), strict=True):
        pictures.plain(axes)
        for (label, runs), colour in zip(arms.items(), COLOURS, strict=True):
            places = [(i + 0.5) / len(runs[0]) for i in range(len(runs[0]))]
            axes.plot(places, runs[0], color=colour, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("depth of the layer")
        axes.set_title(moment)
    figure.suptitle("The gradient of each convolution, from the first to the last")
    panels[0].set_ylabel("gradient relative to the weights")
    panels[1].legend(frameon=False, fontsize=8)
