"""Without 1x1 reductions, Inception modules blow up.

GoogLeNet's Section 4 says that even a modest number of 5x5 convolutions is prohibitive
on top of a layer with many filters, and that pools make it worse, as they pass on all
of their maps: the outputs grow from stage to stage, and the computation blows up within
a few stages. So 1x1 convolutions reduce the maps first (Figure 2, (a) and (b)).

This is arithmetic, which `comparison` counts from the layers themselves: each module of
Table 1 on the same input, and the whole network, whose naive form passes its own wider
maps on. The paper gives no numbers; the rule asks that the whole network has at least
twice the multiply-adds, and each module more. A training step of both networks (batch
4) is timed in turn, and its memory is planned; both are reported only.
"""

import functools

import jax.numpy as jnp

import models
from claims.harness import costs, intervals, pictures
from comparison import counting
from models import googlenet

CLAIM = "Without 1x1 reductions the computation of Inception modules blows up"
SOURCE = "GoogLeNet (2014), Section 4 and Figure 2"
STATED = "a blow-up, no number"
MINUTES = {"small": 5}
IMAGE, CLASSES, BATCH = (224, 224, 3), 1000, 4
INPUT = (28, 28, 192)  # of inception_3a
FORMS = {"naive": True, "reduced": False}


def modules():
    """Multiply-adds of each module, on Table 1's input: {name: {form: number}}."""
    conv = functools.partial(googlenet.conv_relu, dtype=jnp.float32)
    (side, _, maps), found = INPUT, {}
    for name, row in googlenet.TABLE_1.items():
        if row == "max pool":
            side //= 2
            continue
        found[name] = {
            form: counting.count(
                googlenet.Inception(row, conv, naive), (side, side, maps)
            ).multiply_adds
            for form, naive in FORMS.items()
        }
        n1, _, n3, _, n5, projected = row
        maps = n1 + n3 + n5 + projected
    return found


def networks():
    """The whole network in both forms."""
    return {
        form: models.create("googlenet", num_classes=CLASSES, naive=naive)
        for form, naive in FORMS.items()
    }


def count():
    """Counts modules and networks; nothing is run."""
    counts = {form: counting.count(net, IMAGE) for form, net in networks().items()}
    return {
        "modules": modules(),
        "multiply_adds": {form: c.multiply_adds for form, c in counts.items()},
        "parameters": {
            form: c.parameters - c.auxiliary_parameters for form, c in counts.items()
        },
    }


def measure():
    seconds, memory = costs.steps(networks(), dict.fromkeys(FORMS, IMAGE), BATCH)
    return count() | {"seconds": seconds, "memory": memory}


def ratio(numbers):
    """How many times the naive form has what the reduced one has."""
    return numbers["naive"] / numbers["reduced"]


def verdict(numbers):
    least = min(numbers["modules"], key=lambda name: ratio(numbers["modules"][name]))
    each, whole = ratio(numbers["modules"][least]), ratio(numbers["multiply_adds"])
    blown_up = each > 1 and whole >= 2
    parts = {
        "weights": ratio(numbers["parameters"]),
        "the time of a step": ratio(numbers["seconds"]),
        "its memory": ratio(numbers["memory"]),
    }
    measured = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    return intervals.Verdict(
        intervals.ARITHMETIC if blown_up else intervals.CONTRADICTED,
        f"without reductions the network has {whole:.1f} times the multiply-adds, and "
        f"{least}, where they matter least, {each:.1f} times; {measured} times",
        f"{whole:.1f} times the multiply-adds",
    )


def figure(figure, numbers):
    found = {
        name.removeprefix("inception_"): ratio(forms)
        for name, forms in numbers["modules"].items()
    }
    found["network"] = ratio(numbers["multiply_adds"])
    axes = pictures.bar_axes(figure, found, "multiply-adds, naive / reduced")
    axes.set_title("What Inception modules would cost without 1x1 reductions")
