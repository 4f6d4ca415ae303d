"""LeNet-5's partial connections save weights and make the maps of C3 less alike.

LeNet-5's Section II.B and Table I let each map of C3 see only some maps of S2: 60 of 96
pairs, 1,516 parameters. The paper gives two reasons: connections stay within reasonable
bounds, and symmetry is broken, as maps with other inputs have to find other features.

Here the networks are LeNet-5 and `FullLeNet5` of claims/networks.py, in which all pairs
are connected, on MNIST. At the small scale they are trained by mini-batches, at the
paper's by its own on-line recipe. How alike maps are is the mean size of the
correlation between two of C3's maps, over their pixels for 1,000 test images. The
verdict is about that; the errors and parameters of both are reported.
"""

import numpy as np

from claims.harness import intervals, pictures, probes, recipes
from claims.harness.trainings import Experiment
from configs import lenet5

CLAIM = "Table I's partial connections make the maps of C3 less alike"
SOURCE = "LeNet-5 (1998), Section II.B and Table I"
STATED = "1,516 parameters; no number of likeness"
MINUTES = {"small": 60, "paper": 60}
TABLE, ALL = "Table I", "all connections"


def experiment(scale):
    arms = {
        TABLE: {"model.name": "lenet5"},
        ALL: {"model.name": "claims.networks:FullLeNet5"},
    }
    if scale == "paper":
        return Experiment(lenet5.get_config("paper"), arms, 5)
    config = recipes.lenet_1998(epochs=12)
    return Experiment(config, arms, 5, (1e-3, 2e-3, 4e-3), {"num_epochs": 4.0})


def likeness(maps):
    """The mean absolute correlation of all pairs of maps [B, h, w, C]."""
    found = np.corrcoef(maps.reshape(-1, maps.shape[-1]), rowvar=False)
    return float(np.abs(found[np.triu_indices_from(found, 1)]).mean())


def measure(results):
    return {
        "likeness": results.each(lambda run: likeness(probes.maps(run, "C3"))),
        "errors": results.errors(),
        "parameters": {label: results[label][0].parameters() for label in results},
        "rates": results.rates,
    }


def verdict(numbers):
    likeness = numbers["likeness"]
    more = intervals.difference(likeness[ALL], likeness[TABLE])
    what = "the likeness with all connections less that with Table I"
    return intervals.sign(more, True, what, digits=3)


def figure(figure, numbers):
    axes = pictures.interval_axes(
        figure, numbers["likeness"], "mean absolute correlation of two maps"
    )
    axes.set_title("How alike the maps of C3 are")
