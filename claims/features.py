"""Images whose last hidden layers are near show the same thing; raw pixels do not.

AlexNet's Section 6.1 finds images that are near by the Euclidean distance of the last
hidden layer and hardly at all by that of pixels. It expects that an auto-encoder could
compress these features to short binary codes that are fast to compare, and that this
is better than an auto-encoder of pixels, which knows nothing of classes.

Here the network is that of the claim dropout, `FourLayers` with 512 hidden units of
which half are dropped, on CIFAR-10. For 1,000 test images the ten nearest of 10,000
training images are searched by pixels, by the 512 features, and by codes of 64 bits of
each; precision is the share of the ten that have the image's class. One layer on each
side of the code stands for a deep auto-encoder (analysis/retrieval.py). The rule asks
that features find more than pixels, that codes of features find more than codes of
pixels, and that codes keep at least 80 % of the features' precision. Seconds are those
of a search, the best of three rounds in turn.
"""

import numpy as np

from analysis import inspection, retrieval
from claims import dropout
from claims.harness import intervals, pictures
from claims.harness.trainings import Experiment

CLAIM = "The last hidden layer finds images of the same class, and codes of it do, too"
SOURCE = "AlexNet (2012), Section 6.1"
STATED = "a figure"
MINUTES = {"small": 18}
ARM = "dropout"
DATABASE, NEAREST, BITS = 10_000, 10, 64
NAMES = ("features", "codes", "pixels", "codes of pixels")


def experiment(scale):
    base = dropout.experiment(scale)
    return Experiment(
        base.config, {ARM: base.arms[ARM]}, base.seeds, base.rates, base.choice
    )


def search(run, database=DATABASE):
    """Searches by all of `NAMES`.

    Returns:
      {name: (precision in per cent, seconds of a search)}.
    """
    network = inspection.Network(run.workdir, "latest")
    tested = network.test_images()
    known = inspection.Search(network, database)
    images, _ = network.read(known.split, known.indices)
    seed = run.config.seed
    pairs = (known.features, tested.features), (flat(images), flat(tested.images))
    found = [_both(*pair, known.labels, tested.labels, seed) for pair in pairs]
    return dict(zip(NAMES, [*found[0], *found[1]], strict=True))


def flat(images):
    """Images uint8 [N, H, W, C] as vectors float32 [N, D]."""
    return images.reshape(len(images), -1).astype(np.float32)


def _both(database, queries, labels, query_labels, seed):
    """(precision, seconds) of a search by vectors [N, D] and of one by their codes."""
    k = min(NEAREST, len(database))
    encode, _ = retrieval.train_codes(database, bits=BITS, seed=seed)
    codes, query_codes = encode(database), encode(queries)
    found = retrieval.compare(
        lambda: retrieval.nearest(database, queries, k),
        lambda: retrieval.nearest_codes(codes, query_codes, k),
        labels,
        query_labels,
        k,
    )
    percent = [100 * share for share in found["precision"]]
    return list(zip(percent, found["seconds"], strict=True))


def measure(results):
    runs = results.each(search)[ARM]
    return {
        "precision": {name: [run[name][0] for run in runs] for name in NAMES},
        "seconds": {name: min(run[name][1] for run in runs) for name in NAMES},
        "rates": results.rates,
    }


def verdict(numbers):
    features, codes, pixels, codes_of_pixels = (
        numbers["precision"][name] for name in NAMES
    )
    gain = intervals.difference(features, pixels)
    gain_of_codes = intervals.difference(codes, codes_of_pixels)
    kept = intervals.ratio(codes, features)
    found = intervals.weakest(
        intervals.sign(gain, True, "the features' gain in points", 1),
        intervals.sign(gain_of_codes, True, "their codes' gain", 1),
        intervals.judge(kept, 0.8, 0.5, "what codes keep"),
    )
    faster = numbers["seconds"]["features"] / numbers["seconds"]["codes"]
    return intervals.Verdict(
        found.word,
        f"{found.reason}; codes are {faster:.1f} times as fast as features",
        found.here,
    )


def figure(figure, numbers):
    axes = pictures.interval_axes(
        figure, numbers["precision"], "neighbours of the image's class, per cent"
    )
    axes.set_ylim(bottom=0)
    axes.set_title("What the ten nearest training images show")
