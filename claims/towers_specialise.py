"""One tower learns filters for colours, the other filters that are blind to them.

AlexNet's Figure 3 and Section 6.1: the kernels of one GPU are largely colour-agnostic,
those of the other largely colour-specific, in every run and whatever the initial
weights, up to which GPU is which.

Here the network is `FourLayers` of claims/networks.py with two groups on CIFAR-10, the
arm of the claim two_towers, with five seeds; unlike AlexNet's, its towers meet only in
the last layer. A filter's colour share is the part of its squared weights that is left
when each weight's mean over red, green and blue is taken off: 0 for a filter of grey
levels, and 2/3 on average for random weights. A run is specialised if the towers' mean
shares differ by more than 95 % of random splits of the same filters into two halves do.
The rule asks for that in all runs; it is direction only if it is so in at least two
(by chance one or more of five have it with 23 %, two or more with 2 %). Its absence in
a small network says nothing against the paper. At the paper scale it is AlexNet.
"""

import numpy as np

from analysis.curves import COLOURS
from claims import two_towers
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment
from configs import alexnet
from experiment import trained

CLAIM = "In every run one tower specialises in colours"
SOURCE = "AlexNet (2012), Section 6.1 and Figure 3"
STATED = "every run"
MINUTES = {"small": 12, "paper": 1_500}
SPLITS = 10_000


def experiment(scale):
    if scale == "paper":
        return Experiment(alexnet.get_config(), {two_towers.TOWERS: {}}, seeds=5)
    base = two_towers.experiment(scale)
    arms = {two_towers.TOWERS: base.arms[two_towers.TOWERS]}
    return Experiment(base.config, arms, 5, base.rates, base.choice)


def colour_shares(kernel):
    """Shares [F] of colour in the filters of a kernel [h, w, 3, F]."""
    grey = kernel.mean(2, keepdims=True)
    energies = np.square([kernel, kernel - grey]).sum((1, 2, 3))
    return energies[1] / energies[0]


def chance(shares, splits=SPLITS):
    """The part of random splits whose halves differ as much as the two towers.

    Raises:
      ValueError: a share is not finite, as that of a filter of zeros.
    """
    if not np.isfinite(shares).all():
        raise ValueError(f"a filter has no share of colour: {shares}")
    rng = np.random.default_rng(0)
    mixed = rng.permuted(np.tile(shares, (splits, 1)), axis=1)
    differences = np.abs(_difference(mixed))
    # Halves that are the same two may differ in the last bits of their sums.
    return float((differences >= np.abs(_difference(shares)) - 1e-6).mean())


def _difference(shares):
    """The first half's mean less the second's, of shares [..., F]."""
    half = shares.shape[-1] // 2
    return shares[..., :half].mean(-1) - shares[..., half:].mean(-1)


def shares_of(run):
    """The colour shares of a run's first layer, float64 [F]."""
    variables = trained.open_run(run.workdir).variables
    kernel = np.asarray(variables["params"]["backbone"]["conv1"]["kernel"])
    return colour_shares(kernel.astype(np.float64))


def measure(results):
    shares = results.each(shares_of)[two_towers.TOWERS]
    return {
        "shares": [[round(float(share), 4) for share in run] for run in shares],
        "chance": [chance(run) for run in shares],
        "rates": results.rates,
    }


def _specialised(numbers):
    """How many runs have towers that differ more than 95 % of random splits."""
    return sum(value < 0.05 for value in numbers["chance"])


def verdict(numbers):
    chances, special = numbers["chance"], _specialised(numbers)
    if special == len(chances):
        word = intervals.REPRODUCED
    elif special >= 2:
        word = intervals.DIRECTION
    else:
        word = intervals.INVISIBLE
    here = f"{special} of {len(chances)} runs"
    values = ", ".join(f"{100 * value:.1f}" for value in chances)
    return intervals.Verdict(
        word,
        f"the towers differ in {here}; {values} % of random splits differ as much, and "
        "the rule asks for less than 5 in every run",
        here,
    )


def figure(figure, numbers):
    axes = pictures.plain(figure.subplots())
    runs = range(len(numbers["shares"]))
    for run, shares in enumerate(numbers["shares"]):
        half = len(shares) // 2
        for tower, part in enumerate((shares[:half], shares[half:])):
            place, colour = run + 0.3 * tower - 0.15, COLOURS[tower]
            axes.plot([place] * half, part, "o", color=colour, alpha=0.4)
            mean = sum(part) / half
            axes.plot([place - 0.1, place + 0.1], [mean, mean], color=colour)
            if run == 0:
                side = "left" if tower else "right"
                axes.text(run, 1.03, f" tower {tower + 1} ", ha=side, color=colour)
    axes.set_xlim(-0.5, len(runs) - 0.5)
    axes.set_ylim(0, 1.1)
    axes.axhline(2 / 3, color="0.5", linewidth=0.8)
    axes.text(len(runs) - 0.49, 2 / 3, "random\nweights", color="0.4", va="center")
    splits = [f"seed {run}\n{100 * numbers['chance'][run]:.0f} %" for run in runs]
    axes.set_xticks(runs, splits)
    axes.set_xlabel("and the part of random splits that differ as much as the towers")
    axes.set_ylabel("colour share of a filter")
    axes.set_title(
        "Colour in the first layer's filters: "
        f"{_specialised(numbers)} of {len(runs)} pairs of towers differ"
    )
