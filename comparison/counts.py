"""The cost of each published network, stored in counts.csv.

Tracing all networks takes a minute, and their costs do not change, so the table reads
them from the file. They hold for a network as `models.create(name, num_classes=...)`
makes it, for the images and classes of its row in published.py. Any other fields, sizes
or classes need `counting.count`. The tests trace every network and compare, and
`python -m comparison --trace` brings the file up to date.
"""

import csv
import dataclasses
import pathlib

FILE = pathlib.Path(__file__).with_name("counts.csv")


@dataclasses.dataclass(frozen=True)
class Counts:
    """A network's sums; multiply-adds and activations are for one image."""

    parameters: int  # includes auxiliary heads
    auxiliary_parameters: int
    multiply_adds: int  # in evaluation, so without auxiliary heads
    activations: int  # in training, so with auxiliary heads


def activation_bytes(counts, batch_size):
    """Estimates the bytes of the forward pass that training keeps for the backward one.

    These are the arrays that the gradients of layers need: the inputs of convolutions,
    fully connected layers, normalisations and max pools. Each array counts once,
    however many layers take it. Images, parameters and dropout masks do not count, nor
    does anything that follows from these arrays element by element: outputs of ReLUs
    that no layer takes (a sum may take them) and what squeeze-and-excitation
    multiplies.

    The estimate uses shapes alone, in float32. XLA may keep less, because it can
    recompute one array from another, and it also needs room for gradients and scratch.
    Besides the parameters, their gradients and momentum, XLA on a CPU (jax 0.10.2)
    plans 1.1 times this for ResNet-20 at batch 128 and ResNet-50 at batch 32, and 1.2
    times for ResNet-18 at batch 32 (benchmarks/RESULTS.md, "planned").
    """
    return counts.activations * batch_size * 4  # bytes of a float32


def stored():
    """Returns {network name: `Counts`} as counts.csv has them."""
    with FILE.open(newline="") as file:
        return {
            row.pop("name"): Counts(**{name: int(n) for name, n in row.items()})
            for row in csv.DictReader(file)
        }


def store(counts):
    """Writes {network name: `Counts`} to counts.csv, in the order given."""
    names = [field.name for field in dataclasses.fields(Counts)]
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *names])
        for name, row in counts.items():
            writer.writerow([name, *dataclasses.astuple(row)])
