"""Times one pass of a small network over its images, here and in PyTorch, in turn.

    python -m benchmarks.lenet_pass [--network=resnet20] [--only=torch,ours]

All contestants train the same network on the same images: they gather batches from
uint8 in a new order each pass, normalise them, use softmax cross-entropy and SGD with
momentum, and read the mean loss at the end of the pass. The modern LeNet-5 sees the
60,000 images of MNIST, ResNet-20 as many random ones of CIFAR's size. A round runs each
contestant once. The table gives medians over the rounds; its last column is the median
of the rounds' ratios to the first contestant. The machine must be idle: with other work
on its cores torch was seen at a tenth of its speed.

    torch      eager PyTorch
    compiled   torch.compile of forward and loss
    ours       the programs of main.py: 100 steps in one call
    ours_step  the same, one call per step
    lax        the same as ours with XLA's own convolutions, which nn.Conv uses
    lax_step   the same as lax, one call per step
"""

import argparse
import functools
import statistics
import time

import jax
import numpy as np
import optax

import data_source
import input_pipeline
import models
from benchmarks.side_by_side import NETWORKS
from benchmarks.train_step import plain_convolutions
from experiment import build
from kernels import huge_pages, ops, processor
from training import objective, train_step
from transforms import preprocessing as preprocessings

MEAN, STD = 33.3, 78.6
LEARNING_RATE, MOMENTUM = 0.01, 0.9
CONTESTANTS = ("torch", "compiled", "ours", "ours_step", "lax", "lax_step")


class RandomImages:
    """Stands for a data_source.Split with `size` images [32, 32, 3]."""

    def __init__(self, size):
        rng = np.random.default_rng(0)
        self._images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
        self._labels = rng.integers(0, 10, size, np.int32)

    def arrays(self):
        return self._images, self._labels


class Order:
    """Stands for an input_pipeline.TrainPlan: one pass in the given order [N]."""

    def __init__(self, batch_size):
        self.batch_size, self.order = batch_size, None

    def indices(self, start, stop):
        rows = self.order[start * self.batch_size : stop * self.batch_size]
        rows = rows.reshape(-1, self.batch_size)
        return rows, np.zeros_like(rows)


def jax_pass(name, split, batch, plain, steps):
    """Returns order [N] -> mean loss, training on through the calls."""
    network = models.create(name, num_classes=10)
    shape, _ = NETWORKS[name]
    tx = optax.sgd(LEARNING_RATE, MOMENTUM)
    preprocessing = preprocessings.Preprocessing(shape[0], mean=(MEAN,), std=(STD,))
    task = objective.Classification(
        network,
        optax.softmax_cross_entropy_with_integer_labels,
        functools.partial(preprocessings.network_input, preprocessing=preprocessing),
    )
    step = train_step.make_train_step(task, tx)
    plan = Order(batch)
    mesh = build.make_mesh(1)
    feed = input_pipeline.DeviceFeed(split, plan, mesh, steps)
    run_steps = jax.jit(
        train_step.make_run_steps(step, feed.fetch),
        donate_argnums=(0, 1),
        static_argnums=3 if steps == 1 else (),
        compiler_options=ops.compiler_options(jax.default_backend()),
    )
    init = train_step.make_init(network, tx, shape, ema=False)
    state = jax.jit(init)(0)

    def run(order):
        nonlocal state
        plan.order = order
        at, end, sums = 0, len(order) // batch, train_step.zero_sums(task)
        while at < end:
            data, count = feed.take(at, end)
            with ops.for_mesh(mesh):
                state, sums = run_steps(state, sums, data, count, 0)
            at += count
        return float(sums["loss"]) / (end * batch)

    # The first call traces the network, with the convolutions in use at that moment.
    return plain_convolutions()(run) if plain else run


def torch_pass(name, split, batch, compiled):
    """Returns order [N] -> mean loss, training on through the calls."""
    try:
        import torch

        from benchmarks import torch_networks

        network = torch_networks.create(name)
    except ImportError as error:
        raise SystemExit(
            f"this benchmark compares with PyTorch and torchvision ({error}): install "
            "them, as make parity does, or leave torch and compiled out of --only"
        ) from None

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    network = network.to(device, memory_format=torch.channels_last)
    images, labels = split.arrays()
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, MOMENTUM, fused=True
    )
    images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    images = images.permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels).long().to(device)

    def loss_fn(images, labels):
        x = (images.float() - MEAN) / STD
        return torch.nn.functional.cross_entropy(network(x), labels)

    loss_fn = torch.compile(loss_fn) if compiled else loss_fn

    def run(order):
        order = torch.from_numpy(order).to(device)
        total = 0.0
        num_steps = len(order) // batch
        for i in range(num_steps):
            indices = order[i * batch : (i + 1) * batch]
            optimizer.zero_grad()
            loss = loss_fn(images[indices], labels[indices])
            loss.backward()
            optimizer.step()
            total = total + loss.detach()
        return float(total) / num_steps

    return run


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network", choices=["lenet5_modern", "resnet20"], default="lenet5_modern"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000, help="a shorter pass")
    parser.add_argument("--only", default="torch,compiled,ours,ours_step,lax_step")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    if args.network == "resnet20":
        split = RandomImages(60_000)
    else:
        split = data_source.open_split("mnist", "train")
    contestants = {}
    for name in names:
        if name in ("torch", "compiled"):
            run = torch_pass(args.network, split, args.batch, name == "compiled")
        else:
            steps = 1 if name.endswith("step") else 100
            run = jax_pass(
                args.network, split, args.batch, name.startswith("lax"), steps
            )
        run(np.arange(args.images, dtype=np.int32)[: 3 * args.batch])
        contestants[name] = run

    versions = f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    if {"torch", "compiled"} & set(names):
        import torch

        versions += (
            f", torch {torch.__version__} with {torch.get_num_threads()} threads"
        )
    where = f"{versions}, {processor.cores()} cores"
    print(f"{args.network}, {where}, batch {args.batch}")

    rates = {name: [] for name in names}
    for round_number in range(args.rounds):
        order = np.random.default_rng(round_number).permutation(60_000)
        order = order[: args.images].astype(np.int32)
        for name, run in contestants.items():
            start = time.perf_counter()
            loss = run(order)
            seconds = time.perf_counter() - start
            rates[name].append(len(order) // args.batch * args.batch / seconds)
            print(
                f"round {round_number + 1}  {name:9} {seconds:7.2f} s "
                f"{rates[name][-1]:9,.0f} images/s  loss {loss:.4f}",
                flush=True,
            )

    print(f"\n{'':9} {'images/s':>9} {'pass, s':>8} {'times ' + names[0]:>12}")
    for name in names:
        rate = statistics.median(rates[name])
        ratio = statistics.median(
            a / b for a, b in zip(rates[name], rates[names[0]], strict=True)
        )
        print(f"{name:9} {rate:9,.0f} {60_000 / rate:8.2f} {ratio:12.2f}")


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
