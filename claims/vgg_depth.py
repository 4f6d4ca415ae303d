"""From 11 to 16 layers of small kernels, each deeper VGG has a lower error.

VGG's Table 3 has on ImageNet (short side 256, top-1) 29.6 % for network A with 11
layers, 28.7 % for B with 13, 28.1 % for C with 16 of which three are 1x1, and 27.0 %
for D, whose 16 are all 3x3. With 19 layers (E, 27.3 %) the error falls no further.

At the small scale the networks have a quarter of the channels, batch normalisation and
one fully connected layer (`NarrowVGG` of claims/networks.py), and learn CIFAR-10 for 6
epochs. The paper scale is the paper's recipe, with the initial
weights that its footnote prefers; its errors are those of one centre crop, where the
paper's are dense tests at 256. The verdict is about the order A, B, C, D.
"""

from claims import lrn
from claims.harness import intervals, pictures, recipes
from claims.harness.trainings import Experiment
from configs import vgg

CLAIM = "VGG's error falls from network A over B and C to D"
SOURCE = "VGG (2014), Section 4.1 and Table 3"
STATED = "29.6, 28.7, 28.1 and 27.0 %"
MINUTES = {"small": 43, "paper": 11_000}
NETWORKS = {"A": "vgg11", "B": "vgg13", "C": "vgg16_c", "D": "vgg16"}


def experiment(scale):
    if scale == "paper":
        arms = {column: {"model.name": name} for column, name in NETWORKS.items()}
        return Experiment(vgg.get_config(), arms, 3)
    config = lrn.experiment(scale).config
    config.num_epochs = 6.0
    config.model.name = recipes.NARROW_VGG
    arms = {column: {"model.fields.configuration": column} for column in NETWORKS}
    return Experiment(config, arms, 5, (0.01, 0.03, 0.1), {"num_epochs": 2.0})


def measure(results):
    return {"errors": results.errors(), "rates": results.rates}


def verdict(numbers):
    what = "the fall from A to D in points"
    return intervals.falling(numbers["errors"], list(NETWORKS), what)


def figure(figure, numbers):
    axes = pictures.interval_axes(figure, numbers["errors"], "test error, per cent")
    axes.set_xlabel("VGG's networks")
    axes.set_title("Depth in networks of small kernels")
