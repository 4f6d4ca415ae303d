"""One pass of the modern LeNet-5 over MNIST, here and in PyTorch, in turn in one run.

    python -m benchmarks.lenet_pass [--batch=128] [--rounds=5] [--only=torch,loop]

Everyone trains the same network (61,706 parameters) on the same 60,000 images: batches
gathered from uint8 in a new order each pass, normalised, softmax cross-entropy, SGD
with momentum, the mean loss read at the end of the pass. A round runs each contestant
once; the table gives medians over the rounds, the last column of the rounds' ratios to
the first contestant. The machine must be idle: torch's threads wait by spinning, and
any other process on the same cores slows them tenfold.

    torch      eager PyTorch
    compiled   torch.compile of forward, loss and backward
    step       JAX stepping from Python
    loop       JAX, the whole pass in one fori_loop
    lax_step   step, with XLA's own convolutions and pooling
    lax_loop   loop, likewise
"""

import argparse
import functools
import os
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import data_source
from models import layers

MEAN, STD = 33.3, 78.6
LEARNING_RATE, MOMENTUM = 0.01, 0.9
CONTESTANTS = ("torch", "compiled", "step", "loop", "lax_step", "lax_loop")


class Network(nn.Module):
    """models/lenet.py's modern network; `plain` takes flax's own layers."""

    plain: bool

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv if self.plain else layers.Conv
        if self.plain:
            pool = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
        else:
            pool = functools.partial(
                layers.max_pool,
                window=(2, 2),
                strides=(2, 2),
                padding=((0, 0), (0, 0)),
            )
        x = pool(nn.relu(conv(6, (5, 5), padding=2)(x)))
        x = pool(nn.relu(conv(16, (5, 5), padding=0)(x)))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(120)(x))
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(10)(x)


def jax_pass(images, labels, batch, plain, loop):
    """Returns order [N] -> mean loss, training on through the calls."""
    network = Network(plain)
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    state = [(params, optimizer.init(params))]

    def update(state, total, images, labels, indices):
        def loss_fn(params):
            x = (images[indices].astype(jnp.float32) - MEAN) / STD
            loss = optax.softmax_cross_entropy_with_integer_labels(
                network.apply(params, x), labels[indices]
            )
            return loss.mean()

        params, momentum = state
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        change, momentum = optimizer.update(gradient, momentum)
        return (optax.apply_updates(params, change), momentum), total + loss

    step = jax.jit(update, donate_argnums=(0, 1))

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state, images, labels, order, num_steps):
        def body(i, carry):
            indices = lax.dynamic_slice_in_dim(order, i * batch, batch)
            return update(*carry, images, labels, indices)

        return lax.fori_loop(0, num_steps, body, (state, jnp.zeros(())))

    def run(order):
        num_steps = len(order) // batch
        if loop:
            state[0], total = steps(state[0], images, labels, order, num_steps)
            return float(total) / num_steps
        total = jnp.zeros(())
        for i in range(num_steps):
            indices = order[i * batch : (i + 1) * batch]
            state[0], total = step(state[0], total, images, labels, indices)
        return float(total) / num_steps

    return run


def torch_pass(images, labels, batch, compiled):
    """Returns order [N] -> mean loss, training on through the calls."""
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "this benchmark compares with PyTorch: pip install torch==2.13.0, "
            "or leave torch and compiled out of --only"
        ) from None

    torch.manual_seed(0)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(400, 120),
        torch.nn.ReLU(),
        torch.nn.Linear(120, 84),
        torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    ).to(device)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
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
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000, help="a shorter pass")
    parser.add_argument("--only", default="torch,step,loop,lax_step")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    images, labels = data_source.open_split("mnist", "train").arrays()
    images, labels = np.ascontiguousarray(images), labels.astype(np.int32)
    contestants = {}
    for name in names:
        if name in ("torch", "compiled"):
            run = torch_pass(images, labels, args.batch, name == "compiled")
        else:
            plain, loop = name.startswith("lax"), name.endswith("loop")
            run = jax_pass(images, labels, args.batch, plain, loop)
        run(np.arange(3 * args.batch, dtype=np.int32))
        run(np.arange(args.images, dtype=np.int32)[: 3 * args.batch])
        contestants[name] = run

    versions = f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    if {"torch", "compiled"} & set(names):
        import torch

        versions += (
            f", torch {torch.__version__} with {torch.get_num_threads()} threads"
        )
    print(f"{versions}, {len(os.sched_getaffinity(0))} cores, batch {args.batch}")

    rates = {name: [] for name in names}
    for round_number in range(args.rounds):
        order = np.random.default_rng(round_number).permutation(len(images))
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
    main()
