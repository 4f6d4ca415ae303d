"""Equal numbers of parameters, ten points apart; and other sentences about four nets.

An article that compares four networks (A. Anwar, "Difference between AlexNet, VGGNet,
ResNet and Inception", 2019) says that AlexNet and ResNet-152 both have about 60 million
parameters, but top-5 errors ten points apart; that VGG has more parameters and more
operations than ResNet-152, a higher error, and takes longer to train; and that AlexNet
trains in about the time of Inception, which needs a tenth of the memory.

Parameters and multiply-adds are counted by `comparison`; the errors are the published
ones that it lists, ten crops for AlexNet, one for GoogLeNet and ResNet-152, a dense
test for VGG-16, all of which favour ResNet less than equal tests would. Memory is taken
both as that of the parameters and as what a training step plans. A step of the four is
measured in turn, in float32 with 8 images. The article's machine and measurements are
not known; on a GPU of 2012 with other kernels they may have been right. Direction only
means that some of the sentences hold: the rule of each is in `sentences`.
"""

import models
from claims.harness import costs, intervals, pictures
from comparison import counts, published

CLAIM = (
    "AlexNet is ten points worse than ResNet-152 with as many parameters; VGG has more "
    "and is worse; Inception trains as fast as AlexNet in a tenth of the memory"
)
SOURCE = "A. Anwar (2019), an article"
STATED = "60 M; 10 points; equal time, a tenth of the memory"
MINUTES = {"small": 12}
BATCH = 8
NAMES = ("alexnet", "vgg16", "googlenet", "resnet152")


def tables():
    """What is known without running: {quantity: {network: number}}."""
    stored, known = counts.stored(), published.PUBLISHED
    return {
        "parameters": {
            name: stored[name].parameters - stored[name].auxiliary_parameters
            for name in NAMES
        },
        "multiply_adds": {name: stored[name].multiply_adds for name in NAMES},
        "top5": {name: known[name].top5 for name in NAMES},
    }


def measure():
    known = published.PUBLISHED
    networks, shapes = {}, {}
    for name in NAMES:
        networks[name] = models.create(name, num_classes=known[name].classes)
        shapes[name] = (known[name].image, known[name].image, known[name].channels)
    seconds, memory = costs.steps(networks, shapes, BATCH, rounds=3)
    return tables() | {"seconds": seconds, "memory": memory}


def sentences(numbers):
    """Each sentence, with its numbers, and whether it holds here."""
    parameters, products, top5, seconds, memory = (
        numbers[name]
        for name in ("parameters", "multiply_adds", "top5", "seconds", "memory")
    )
    pair = [parameters[name] / 1e6 for name in ("alexnet", "resnet152")]
    apart = top5["alexnet"] - top5["resnet152"]
    more, operations, longer = (
        column["vgg16"] / column["resnet152"]
        for column in (parameters, products, seconds)
    )
    fewer, slower, larger = (
        column["googlenet"] / column["alexnet"]
        for column in (parameters, seconds, memory)
    )
    return {
        f"AlexNet and ResNet-152 have {pair[0]:.1f} and {pair[1]:.1f} M parameters": (
            all(55 <= millions <= 65 for millions in pair)
        ),
        f"their top-5 errors are {apart:.1f} points apart": apart >= 10,
        f"VGG-16 has {more:.1f} times ResNet-152's parameters": more > 1,
        f"VGG-16 has {operations:.1f} times its multiply-adds": operations > 1,
        f"VGG-16's error is {top5['vgg16'] - top5['resnet152']:.1f} points higher": (
            top5["vgg16"] > top5["resnet152"]
        ),
        f"VGG-16's step takes {longer:.2f} times as long as ResNet-152's": longer > 1,
        f"GoogLeNet's step takes {slower:.2f} times as long as AlexNet's": (
            0.8 <= slower <= 1.25
        ),
        f"GoogLeNet has {fewer:.2f} of AlexNet's parameters": fewer <= 0.15,
        f"GoogLeNet's step needs {larger:.2f} of AlexNet's memory": larger <= 0.15,
    }


def verdict(numbers):
    found = sentences(numbers)
    true = [text for text, holds in found.items() if holds]
    false = [text for text, holds in found.items() if not holds]
    if not false:
        word = intervals.ARITHMETIC
    else:
        word = intervals.DIRECTION if true else intervals.CONTRADICTED
    parts = [f"as stated: {', '.join(true)}"] if true else []
    parts += [f"not as stated: {', '.join(false)}"] if false else []
    here = f"{len(true)} of {len(found)} sentences"
    return intervals.Verdict(word, "; ".join(parts), here)


def figure(figure, numbers):
    panels = {
        "parameters, 10^6": (numbers["parameters"], 1e6),
        "seconds of a step": (numbers["seconds"], 1),
        "memory of a step, GiB": (numbers["memory"], 2**30),
    }
    for part, (label, (values, unit)) in zip(
        figure.subfigures(1, 3), panels.items(), strict=True
    ):
        scaled = {name: value / unit for name, value in values.items()}
        axes = pictures.bar_axes(part, scaled, label)
        axes.tick_params("x", rotation=45)
    figure.suptitle("Four networks side by side")
