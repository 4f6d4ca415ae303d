"""1x1 convolutions reduce maps cheaply, and those of NIN lower the error.

Articles on NIN and GoogLeNet reduce maps of 100x100x60 to 100x100x20 by twenty 1x1
convolutions, each of which weighs the 60 maps at every position: 1,200 weights, twelve
million multiply-adds. NIN's Section 3.1 puts 1x1 convolutions behind each larger one
("mlpconv"), so that a layer is more than linear in what it sees.

The reduction is arithmetic. The errors are those of the claim global_average_pooling,
with NIN's 1x1 convolutions and without, except the last one, which makes the class
maps. As they also halve the maps that the second convolution sees, the network without
them costs more; parameters and multiply-adds of both are reported. The verdict is about
the error.
"""

from claims import global_average_pooling
from claims.bottleneck import Layers
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment
from comparison import counting
from experiment import build

CLAIM = "Twenty 1x1 turn 60 maps into 20, and NIN's 1x1 convolutions lower the error"
SOURCE = "NIN (2013), Section 3.1; articles on NIN and GoogLeNet"
STATED = "100x100x60 to 100x100x20"
MINUTES = {"small": 29, "paper": 180}
WITH, WITHOUT = "with 1x1", "without"


def experiment(scale):
    base = global_average_pooling.experiment(scale)
    arms = {
        WITH: {"model.fields.head_kind": "average"},  # the other claim's runs
        WITHOUT: {"model.fields.head_kind": "average", "model.fields.mixing": False},
    }
    return Experiment(base.config, arms, 5, base.rates, base.choice)


def reduction():
    """The layer of the articles: its output's shape and its costs."""
    (layer,) = counting.layers(Layers(((20, 1),)), (100, 100, 60))
    return {
        "shape": counting.times(layer.output),
        "weights": layer.parameters,
        "multiply_adds": layer.multiply_adds,
    }


def costs(run):
    """Parameters and multiply-adds of a run's network."""
    side = run.config.dataset.image_size
    found = counting.count(build.make_model(run.config, 10), (side, side, 3))
    return {"parameters": found.parameters, "multiply_adds": found.multiply_adds}


def measure(results):
    found = {label: costs(results[label][0]) for label in results}
    return {
        "reduction": reduction(),
        "errors": results.errors(),
        "parameters": {k: cost["parameters"] for k, cost in found.items()},
        "multiply_adds": {k: cost["multiply_adds"] for k, cost in found.items()},
        "rates": results.rates,
    }


def verdict(numbers):
    reduced, errors = numbers["reduction"], numbers["errors"]
    gain = intervals.difference(errors[WITHOUT], errors[WITH])
    return intervals.weakest(
        intervals.Verdict(
            intervals.REPRODUCED
            if reduced["shape"] == "100x100x20"
            else intervals.CONTRADICTED,
            f"twenty 1x1 give {reduced['shape']} by {reduced['weights']:,} weights and "
            f"{reduced['multiply_adds']:,} multiply-adds",
            reduced["shape"],
        ),
        intervals.sign(gain, True, "the gain by 1x1 convolutions in points"),
    )


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_title("NIN with and without its 1x1 convolutions")
