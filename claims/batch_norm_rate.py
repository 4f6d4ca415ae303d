"""With batch normalisation much higher learning rates can be used.

Ioffe and Szegedy's Section 4.2 trains Inception at a rate of 0.0015. With five times
that rate its parameters reach infinity; with batch normalisation it learns faster at
five times the rate, and ends best at thirty times (Figure 3: 74.8 % accuracy).

At the small scale the network is `FourLayers` of claims/networks.py on CIFAR-10, with
augmentation, for 8 epochs, at 0.02, a usual rate of other claims, and at five and
thirty times this rate, which falls linearly to zero without warm-up. The paper scale
has GoogLeNet and BN-Inception on ImageNet, both by the recipe of BN-x30.

A rate can be used if all runs learn, to an error of at most 60 %, and their mean error
is at most 2 points above that at the network's usual rate. Means decide, without an
interval, so luck may decide where they are about 2 points apart; the figure shows how
far. The claim is reproduced if thirty times the rate can be used with batch
normalisation, and five times cannot be used without it; if batch normalisation merely
allows the larger multiple, the verdict is direction only. If the network without it
does not learn at its usual rate, there is nothing to compare.
"""

import statistics

from analysis.curves import COLOURS
from claims import lrn
from claims.harness import intervals, pictures
from claims.harness.trainings import RATE, Experiment
from configs import bn_inception

CLAIM = "With batch normalisation thirty times the learning rate can be used"
SOURCE = "Ioffe and Szegedy (2015), Section 4.2 and Figure 3"
STATED = "30 times, and without less than 5"
MINUTES = {"small": 36, "paper": 14_000}
WITHOUT, WITH = "without", "batch normalisation"
MULTIPLES = (1, 5, 30)
TOLERANCE = 2.0  # points of test error
LEARNED = 60.0  # per cent of test error


def experiment(scale):
    networks = {
        WITHOUT: {"model.fields.norm": ""},
        WITH: {"model.fields.norm": "batch"},
    }
    config, rate = lrn.experiment(scale).config, 0.02
    config.num_epochs = 8.0
    config.schedule.warmup_epochs = 0.0
    if scale == "paper":
        names = {WITHOUT: "googlenet", WITH: "bn_inception"}
        networks = {label: {"model.name": name} for label, name in names.items()}
        config, rate = bn_inception.get_config(), 0.0015
    arms = {
        arm(network, multiple): values | {RATE: rate * multiple}
        for network, values in networks.items()
        for multiple in MULTIPLES
    }
    return Experiment(config, arms, 3)


def arm(network, multiple):
    return f"{network}, x{multiple}"


def measure(results):
    return {"errors": results.errors()}


def usable(errors, network):
    """The largest multiple of the usual rate that a network can use; 0 for none."""
    found = {multiple: errors[arm(network, multiple)] for multiple in MULTIPLES}
    means = {m: statistics.fmean(e) for m, e in found.items() if max(e) <= LEARNED}
    if 1 not in means:
        return 0
    return max(m for m, error in means.items() if error <= means[1] + TOLERANCE)


def verdict(numbers):
    plain, normal = (usable(numbers["errors"], name) for name in (WITHOUT, WITH))
    if plain == 0:
        word = intervals.INVISIBLE
    elif normal == max(MULTIPLES) and plain == 1:
        word = intervals.REPRODUCED
    elif normal > plain:
        word = intervals.DIRECTION
    elif normal == plain:
        word = intervals.INVISIBLE
    else:
        word = intervals.CONTRADICTED
    return intervals.Verdict(
        word,
        f"the largest usable multiple of the rate is {normal} with batch normalisation "
        f"and {plain} without; the rule asks for 30 and 1",
        f"{normal} times, and without {plain}",
    )


def figure(figure, numbers):
    """Runs that did not learn are crosses."""
    axes = pictures.plain(figure.subplots())
    for name, colour in zip((WITHOUT, WITH), COLOURS, strict=False):
        means = []
        for multiple in MULTIPLES:
            runs = numbers["errors"][arm(name, multiple)]
            for error in runs:
                marker = "o" if error <= LEARNED else "x"
                axes.plot(multiple, error, marker, color=colour, alpha=0.6)
            means.append(statistics.fmean(runs))
        axes.plot(MULTIPLES, means, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xticks(MULTIPLES, [f"x{multiple}" for multiple in MULTIPLES])
    axes.minorticks_off()
    axes.set_xlabel("learning rate")
    axes.set_ylabel("test error, per cent")
    axes.legend(frameon=False)
    axes.set_title("Higher rates with and without batch normalisation")
