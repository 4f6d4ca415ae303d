"""More views of each image, and more networks, lower the error.

GoogLeNet's Table 3 has 10.07 % top-5 error with one crop, 9.15 % with 10 and 7.89 %
with 144; with seven networks 8.09, 7.62 and 6.67 %. VGG's Section 4 gains by several
scales and by ensembles, ResNet's Section 3.4 by ten crops and by five scales.

Here the network is ResNet-20 on CIFAR-10, trained for 15 epochs on random crops of
24x24 pixels from images of 28 to 36 (as VGG jitters scales). The views are one, the
centre of 32 pixels; AlexNet's 10 crops of it; and 10 crops at each of 28, 32 and 36
pixels. The network slid over the whole images at these scales is reported, too, and the
ensemble of the first three of five seeds for each protocol. Class probabilities are
averaged. The rule asks that the error falls with 10 views, again with 30, and again by
the ensemble of three (against each network with the same 30 views). At the paper scale
it is ResNet-50 with ResNet's recipe, and the scales are 256, 320 and 384.
"""

import evaluate
from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import resnet50
from sweep import vary

CLAIM = "The error falls with 10 views, again with 30, and with three networks"
SOURCE = "GoogLeNet (2014), Table 3; VGG (2014), Section 4; ResNet (2015), Section 3.4"
STATED = "10.07, 9.15, 7.89 % top-5; 7 networks 6.67 %"
MINUTES = {"small": 43, "paper": 8_300}
NETWORK = "residual network"
SEEDS, ENSEMBLE = 5, 3
ONE, TEN, THIRTY = "1 view", "10 views", "30 views"
# Short sides in pixels, by the size of a crop.
SCALES = {24: (28, 32, 36), 224: (256, 320, 384)}


def experiment(scale):
    if scale == "paper":
        return Experiment(resnet50.get_config(), {NETWORK: {}}, SEEDS)
    config = recipes.resnet20(15)
    config.dataset.image_size = 24
    config.dataset.fit = "crop"
    config.dataset.short_side = 32
    config.augment.view = "rescale_crop"
    config.augment.short_side = (28, 36)
    config.augment.crop = 0
    return Experiment(config, {NETWORK: {}}, SEEDS)


def protocols(config):
    """What a config's evaluation needs for each protocol: {name: {field: value}}."""
    scales = SCALES[config.dataset.image_size]
    views = {
        ONE: ("single", ()),
        TEN: ("ten_crop", ()),
        THIRTY: ("ten_crop", scales),
        "whole images": ("scales", scales),
    }
    return {
        name: {"eval.protocol": protocol, "eval.scales": sides}
        for name, (protocol, sides) in views.items()
    }


def measure(results):
    runs = results.each(lambda run: run)[NETWORK]
    members, ensembles = {}, {}
    for name, changes in protocols(runs[0].config).items():
        pairs = [(run.workdir, vary.apply(run.config, changes)) for run in runs]
        found = evaluate.evaluate_ensemble(*zip(*pairs[:ENSEMBLE], strict=True))
        others = [evaluate.evaluate_run(*pair) for pair in pairs[ENSEMBLE:]]
        members[name] = [run.record["error"] for run in (*found.members, *others)]
        ensembles[name] = found.score["error"]
    return {"errors": members, "ensembles": ensembles}


def verdict(numbers):
    one, ten, thirty = (numbers["errors"][name] for name in (ONE, TEN, THIRTY))
    together = [numbers["ensembles"][THIRTY]] * len(thirty)
    gains = {
        "the gain by 10 views in points": intervals.difference(one, ten),
        "the gain by 30": intervals.difference(ten, thirty),
        "the gain by three networks": intervals.difference(thirty, together),
    }
    return intervals.weakest(
        *(intervals.sign(gain, True, what) for what, gain in gains.items())
    )


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    names = list(numbers["errors"])
    ensembles = [numbers["ensembles"][name] for name in names]
    axes.plot(range(len(names)), ensembles, "k_", markersize=24, label="ensemble")
    axes.legend(frameon=False)
    axes.set_title("More views, and more networks")
