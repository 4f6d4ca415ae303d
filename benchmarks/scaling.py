"""Measures data parallelism over devices: python -m benchmarks.scaling [PART ...]

  volume    what the devices exchange in a step, read from the compiled program for
            eight of them
  virtual   steps over 1, 2, 4 and 8 virtual CPU devices, which share the cores, for the
            networks with a small form (VIRTUAL). A free partition would give 1.00; a
            value is higher if the program for one device leaves cores idle
  expected  efficiency on 8, 64 and 1,024 accelerators by docs/scaling.md, from the
            inputs at the top of this file; --rate=resnet50=7000 replaces one

Without a PART it runs all three.
"""

import argparse
import collections
import dataclasses
import math
import os
import re
import statistics
import time

from kernels import huge_pages, processor

DEVICES = (1, 2, 4, 8)
# Image size and batch for "volume". They are the papers', since nothing is run.
VOLUME = {
    "lenet5_modern": (28, 1, 64),
    "resnet50": (224, 3, 8),
    "vgg16": (224, 3, 8),
    "resnext50_32x4d": (224, 3, 8),
}
# Small images for "virtual". The batch is the whole one ("strong"); an eighth of it is
# each device's batch ("weak").
VIRTUAL = {"lenet5_modern": (28, 1, 512), "resnet50": (64, 3, 16), "vgg16": (32, 3, 16)}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The network that connects accelerators. None of it was measured here."""

    devices: int
    bandwidth: float  # bytes/s in one direction over a ring's slowest link
    latency: float  # seconds for an all-reduce of a few kilobytes


# Eight H100 or H200 share NVLink at 900 GB/s in both directions, 450 in one, of which
# NCCL reaches 370 (https://github.com/NVIDIA/nccl-tests/issues/212). Every GPU has an
# InfiniBand NDR adapter with 400 Gbit/s, which reaches 46 to 48 GB/s
# (https://github.com/NVIDIA/nccl-tests/issues/290); NCCL runs a ring through each of
# the eight. Latencies are assumed: NCCL's model puts a small one between nodes at 25
# microseconds (https://github.com/NVIDIA/nccl/issues/1453).
CLUSTERS = (
    Cluster(8, 370e9, 12e-6),
    Cluster(64, min(370e9, 8 * 46e9), 25e-6),
    Cluster(1024, min(370e9, 8 * 46e9), 50e-6),
    # The same with one adapter per node.
    Cluster(64, 46e9, 25e-6),
    Cluster(1024, 46e9, 50e-6),
)
# Images/s of one accelerator, assumed and not measured. ResNet-50's rate follows from
# MLPerf 3.0 (docs/scaling.md); VGG-16's is scaled from it by multiply-adds.
RATES = {"resnet50": 7000.0, "vgg16": 1750.0}
BACKWARD = 2 / 3  # share of a step during which gradients can travel
# JPEGs that a core decodes, crops and flips per second: RESULTS.md, AMD EPYC.
DECODED = 1076.0


@dataclasses.dataclass(frozen=True)
class Volume:
    """The all-reduces of one step on one device."""

    parameters: int
    channels: int  # over all batch normalisations
    count: int
    bytes: dict  # by type


def all_reduces(text):
    """Counts the all-reduces in a compiled program's text: (number, {type: bytes}).

    A combined all-reduce, whose result is a tuple, counts as one.

    Raises:
      ValueError: the devices exchange something in another way.
    """
    other = re.search(
        r" (all-gather|reduce-scatter|all-to-all|collective-permute)[a-z-]*\(", text
    )
    if other:
        raise ValueError(f"the program has {other[1]}, which is not counted here")
    count, sizes = 0, collections.Counter()
    for result in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        count += 1
        for kind, shape in re.findall(r"([a-z]+\d+)\[([\d,]*)\]", result):
            number = math.prod(map(int, shape.split(","))) if shape else 1
            sizes[kind] += number * int(re.sub(r"\D", "", kind)) // 8
    return count, dict(sizes)


def expected(cluster, *, step, num_bytes, num_norms, backward=BACKWARD):
    """A cluster's efficiency (with overlap, without it) relative to one accelerator.

    A ring moves 2 (n - 1) / n of the gradients' `num_bytes` over each link. Overlap
    hides this behind the backward pass as long as that lasts. The all-reduces of
    `num_norms` batch normalisations, one forward and one backward each, never hide:
    the next layer waits for them. `step` is in seconds, on one accelerator.
    """
    n = cluster.devices
    ring = 2 * (n - 1) / n * num_bytes / cluster.bandwidth + cluster.latency
    waiting = 2 * num_norms * cluster.latency
    exposed = max(cluster.latency, ring - backward * step)
    return tuple(step / (step + waiting + seconds) for seconds in (exposed, ring))


class Step:
    """A training step of a network over the first devices, as train.py runs it."""

    def __init__(self, network, size, channels, batch, devices):
        import jax
        import jax.numpy as jnp
        import optax
        from jax.sharding import NamedSharding, PartitionSpec

        import models
        from experiment import build
        from kernels import ops
        from training import objective, train_step

        shape, classes = (size, size, channels), 10 if size == 28 else 1000
        model = models.create(network, num_classes=classes)
        tx = optax.sgd(1e-3, momentum=0.9)
        mesh = build.make_mesh(devices)
        one = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec("data"))
        self.init = jax.jit(
            train_step.make_init(model, tx, shape, ema=False), out_shardings=one
        )
        task = objective.Classification(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            lambda data, seed: data["image"],
        )
        step = train_step.make_train_step(task, tx)
        self.shapes = jax.eval_shape(self.init, 0)
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), self.shapes
        )
        image = jax.ShapeDtypeStruct((batch, *shape), jnp.float32, sharding=split)
        label = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split)
        self.data = {"image": image, "label": label}
        jitted = jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(one, one),
            compiler_options=ops.compiler_options(jax.default_backend()),
        )
        with ops.for_mesh(mesh):
            self.program = jitted.lower(state, self.data, 0).compile()

    def start(self):
        """Makes the state and a batch, and takes the first step."""
        import jax
        import numpy as np

        rng = np.random.default_rng(0)
        image, label = self.data["image"], self.data["label"]
        self.batch = {
            "image": jax.device_put(
                rng.standard_normal(image.shape, np.float32), image.sharding
            ),
            "label": jax.device_put(
                rng.integers(0, 10, label.shape, np.int32), label.sharding
            ),
        }
        self.state = self.init(0)
        self.seconds(1)
        return self

    def seconds(self, steps):
        """Seconds per step."""
        import jax

        start = time.perf_counter()
        for _ in range(steps):
            self.state, sums = self.program(self.state, self.batch, 0)
        jax.block_until_ready((self.state, sums))
        return (time.perf_counter() - start) / steps


def volume(network, size, channels, batch, devices=DEVICES[-1]):
    """The `Volume` of a network, from its program for `devices` devices."""
    import jax

    step = Step(network, size, channels, batch, devices)
    count, sizes = all_reduces(step.program.as_text())
    return Volume(
        sum(x.size for x in jax.tree.leaves(step.shapes.params)),
        sum(x.size for x in jax.tree.leaves(step.shapes.batch_stats)) // 2,
        count,
        sizes,
    )


def print_volume(networks):
    print(f"volume of a step on {DEVICES[-1]} devices, from the compiled program")
    print(
        f"{'':14}{'parameters':>12}{'4 bytes each':>14}{'channels':>10}"
        f"{'all-reduced':>13}{'all-reduces':>12}  by type"
    )
    for network in networks:
        v = volume(network, *VOLUME[network])
        by_type = ", ".join(f"{kind} {n:,}" for kind, n in v.bytes.items())
        print(
            f"{network:14}{v.parameters:12,}{4 * v.parameters:14,}{v.channels:10,}"
            f"{sum(v.bytes.values()):13,}{v.count:12}  {by_type}",
            flush=True,
        )


def print_virtual(networks, rounds):
    cores = processor.cores()
    print(
        f"images/s on n virtual devices of {cores} cores, over those of one device "
        f"with as many images a step; medians of {rounds} rounds in turn"
    )
    print(f"{'':43}" + "".join(f"{n:>8}" for n in DEVICES[1:]))
    for network in networks:
        *shape, batch = VIRTUAL[network]
        each = batch // DEVICES[-1]
        strong = {n: partition(network, shape, batch, n, rounds) for n in DEVICES[1:]}
        print_row(network, f"strong, {batch} images", strong)
        weak = {
            n: partition(network, shape, each * n, n, rounds) for n in DEVICES[1:-1]
        }
        # On all devices the two are the same.
        weak[DEVICES[-1]] = strong[DEVICES[-1]]
        print_row("", f"weak, {each} images a device", weak)


def print_row(network, kind, found):
    cells = "".join(f"{ratio:8.2f}" for ratio in found.values())
    print(f"{network:15}{kind:28}{cells}", flush=True)


def partition(network, shape, batch, devices, rounds):
    """Seconds on one device divided by seconds on `devices`, same batch, in turn."""
    one = Step(network, *shape, batch, 1).start()
    several = Step(network, *shape, batch, devices).start()
    steps = 8 if network.startswith("lenet") else 1
    return statistics.median(
        one.seconds(steps) / several.seconds(steps) for _ in range(rounds)
    )


def print_expected(rates, batch):
    print(f"{batch} images for each accelerator and step, gradients in float32")
    print(
        f"{'':13}{'images/s':>9}{'step, ms':>9}{'devices':>9}{'GB/s':>6}"
        f"{'with overlap':>14}{'without':>9}{'host: images/s':>16}{'cores':>7}"
    )
    for network, rate in rates.items():
        parameters, norms = shapes(network)
        step = batch / rate
        for cluster in CLUSTERS:
            overlapped, plain = expected(
                cluster, step=step, num_bytes=4 * parameters, num_norms=norms
            )
            images = 8 * overlapped * rate
            print(
                f"{network:13}{rate:9,.0f}{1e3 * step:9.1f}"
                f"{cluster.devices:9,}{cluster.bandwidth / 1e9:6.0f}{overlapped:14.1%}"
                f"{plain:9.1%}{images:16,.0f}{images / DECODED:7.0f}"
            )


def shapes(network):
    """Counts (parameters, batch normalisations) of a network for ImageNet."""
    import jax

    import models
    from experiment import build

    model = models.create(network, num_classes=1000)
    variables = build.abstract_variables(model, (224, 224, 3))
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    return parameters, len(jax.tree.leaves(variables.get("batch_stats", {}))) // 2


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("volume", "virtual", "expected")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--networks", default=",".join(VOLUME))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="NETWORK=IMAGES/S",
        help="of one accelerator, for `expected`",
    )
    parser.add_argument(
        "--batch", type=int, default=256, help="images of one, for `expected` (256)"
    )
    args = parser.parse_args(argv)
    networks, chosen = args.networks.split(","), args.parts or parts
    if unknown := set(chosen) - set(parts) | set(networks) - set(VOLUME):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    rates = {network: RATES[network] for network in RATES if network in networks}
    for text in args.rate:
        network, _, rate = text.partition("=")
        try:
            rates[network] = float(rate)
        except ValueError:
            parser.error(f"--rate={text} is not NETWORK=IMAGES/S")

    os.environ["JAX_PLATFORMS"] = "cpu"
    flag = f"--xla_force_host_platform_device_count={DEVICES[-1]}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if "volume" in chosen:
        print_volume(networks)
    if "virtual" in chosen:
        print_virtual([n for n in networks if n in VIRTUAL], args.rounds)
    if "expected" in chosen:
        print_expected(rates, args.batch)


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
