"""Times the parts of a training step of Faster R-CNN, the large ones beside PyTorch.

    python -m benchmarks.detection_step [--rows=digits,photograph] [--rounds=5]
    python -m benchmarks.detection_step --device=gpu

    trunk       conv1 to conv4_x and the RPN on the images, with gradients
    proposals   decoding, NMS, and the samples of both stages
    pooling     RoI pooling of the sampled regions, with gradients
    conv5       conv5_x on each region, with gradients
    step        all of it, and SGD with momentum

The parts are compiled by themselves, so their sum is not the step. PyTorch has the
same convolutions: torchvision's ResNet up to layer3 on the images, and layer4 on
regions, in channels_last, eager, with batch statistics that learn. In a round the
contestants run in turn; the table has the medians over rounds in milliseconds. The
machine must be idle.
"""

import argparse
import functools
import statistics
import sys
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax

import models
from detection import inputs, objective
from kernels import huge_pages, ops
from training import train_step
from weights import twins


class Row(typing.NamedTuple):
    """A network, its images and the regions sampled from each."""

    depth: int
    images: tuple  # [B, H, W, C]
    regions: int
    fields: dict


ROWS = {
    "digits": Row(
        18,
        (8, 128, 128, 3),
        32,
        {
            "pool_size": 7,
            "anchor_sizes": (24, 40, 60),
            "pre_nms": (1000, 500),
            "post_nms": (200, 100),
            "min_size": 4.0,
        },
    ),
    "photograph": Row(50, (1, 608, 800, 3), 128, {"stride_on": "3x3"}),
}
OBJECTS = 8


def make_batch(shape):
    """A batch of random images with boxes of a quarter of their sides."""
    rng = np.random.default_rng(0)
    count, height, width, _ = shape
    low = rng.uniform(0, 0.7, (count, OBJECTS, 2)) * [width, height]
    boxes = np.concatenate([low, low + [width / 4, height / 4]], 2)
    batch = {
        "image": rng.integers(0, 256, shape, np.uint8),
        "image_size": np.tile(np.int32([[height, width]]), (count, 1)),
        "boxes": boxes.astype(np.float32),
        "labels": rng.integers(0, 10, (count, OBJECTS), np.int32),
        "real": np.ones((count, OBJECTS), bool),
        "crowd": np.zeros((count, OBJECTS), bool),
        "index": np.arange(count, dtype=np.int32),
        "epoch": np.zeros(count, np.int32),
    }
    return jax.tree.map(jnp.asarray, batch)


def our_parts(row):
    """Returns {part: a function that runs it once and waits}."""
    fields = {"depth": row.depth, **row.fields}
    model = models.create("faster_rcnn", num_classes=10, **fields)
    batch = make_batch(row.images)
    prepare = functools.partial(inputs.network_input, mean=(128.0,), std=(64.0,))
    task = objective.Detection(model, prepare, roi_batch=row.regions)
    tx = optax.sgd(1e-3, momentum=0.9)
    state = jax.jit(train_step.make_init(model, tx, row.images[1:], ema=False))(0)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    compiled = functools.partial(
        jax.jit, compiler_options=ops.compiler_options(jax.default_backend())
    )
    images, sizes = prepare(batch), batch["image_size"]

    def call(name, params, *arguments):
        given = {**variables, "params": params}
        method = getattr(models.faster_rcnn.FasterRCNN, name)
        return model.apply(
            given, *arguments, train=True, method=method, mutable=["batch_stats"]
        )[0]

    def total(outputs):
        return sum(x.astype(jnp.float32).sum() for x in outputs)

    @compiled
    def trunk(params):
        return jax.grad(lambda p: total(call("first_stage", p, images, sizes)))(params)

    with ops.every_kernel():
        x, logits, deltas = jax.jit(lambda p: call("first_stage", p, images, sizes))(
            state.params
        )
    shape = x.shape[1:3]

    @compiled
    def proposals(logits, deltas):
        found = call("proposals", state.params, logits, deltas, shape, sizes)
        return found, call_targets(found)

    def call_targets(found):
        bound = model.bind(variables)
        keys = jax.random.split(jax.random.key(0), len(images))
        on_anchors = task._on_anchors(bound, shape, batch, keys)
        return on_anchors, task._on_rois(bound, batch, keys, found)

    _, (_, sampled) = proposals(logits, deltas)
    pool = models.faster_rcnn.POOLINGS[model.pooling]

    def pooled(x):
        each = functools.partial(pool, bins=model.pool_size, stride=16)
        return jax.vmap(each)(x, sampled.rois)

    @compiled
    def pooling(x):
        return jax.grad(lambda x: pooled(x).sum())(x)

    @compiled
    def second(params, x):
        def both(p, x):
            return total(call("second_stage", p, [(x, sizes)], sampled.rois, sizes))

        return jax.grad(both, (0, 1))(params, x)

    step = compiled(train_step.make_train_step(task, tx))
    calls = {
        "trunk": lambda: trunk(state.params),
        "proposals": lambda: proposals(logits, deltas),
        "pooling": lambda: pooling(x),
        "pooling and conv5": lambda: second(state.params, x),
        "step": lambda: step(state, batch, 0),
    }
    return {name: functools.partial(_wait, call) for name, call in calls.items()}


def _wait(call):
    with ops.every_kernel():
        jax.block_until_ready(call())


def torch_parts(row, device):
    """Returns {part: a function} of PyTorch's; {} if it cannot run on the device."""
    device = {"gpu": "cuda"}.get(device, device)
    try:
        import torch

        library = twins.torchvision_models()
        network = getattr(library, f"resnet{row.depth}")().to(device).train()
    except (ImportError, RuntimeError, AssertionError) as error:
        print(f"no PyTorch: {error}", file=sys.stderr)
        return {}
    network = network.to(memory_format=torch.channels_last)
    stem = network.conv1, network.bn1, network.relu, network.maxpool
    trunk = torch.nn.Sequential(*stem, network.layer1, network.layer2, network.layer3)
    count, height, width, channels = row.images
    images = torch.randn(count, channels, height, width, device=device)
    images = images.to(memory_format=torch.channels_last)
    maps = trunk(images)
    side = row.fields.get("pool_size", 14)
    shape = count * row.regions, maps.shape[1], side, side
    regions = torch.randn(shape, device=device)
    regions = regions.to(memory_format=torch.channels_last).requires_grad_()

    def run(part, inputs):
        network.zero_grad()
        inputs.grad = None
        part(inputs).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        "trunk": functools.partial(run, trunk, images),
        "conv5": functools.partial(run, network.layer4, regions),
    }


def measure(row, rounds, device="cpu"):
    """Returns the medians, {(contestant, part): milliseconds}."""
    calls = {("ours", name): call for name, call in our_parts(row).items()}
    calls |= {("torch", name): call for name, call in torch_parts(row, device).items()}
    times = {key: [] for key in calls}
    for number in range(rounds + 1):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            if number:  # the first compiles
                times[key].append(1000 * (time.perf_counter() - begin))
    return {key: statistics.median(found) for key, found in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    options = parser.parse_args()
    if jax.default_backend() != options.device:
        parser.error(f"--device={options.device}: JAX runs on {jax.default_backend()}")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| row | part | here, ms | PyTorch, ms |")
    print("|---|---|---:|---:|")
    for name in options.rows.split(","):
        found = measure(ROWS[name], options.rounds, options.device)
        parts = [part for who, part in found if who == "ours"]
        for part in parts:
            other = found.get(("torch", part.split(" ")[-1]))
            theirs = "" if other is None else f"{other:,.0f}"
            print(f"| {name} | {part} | {found['ours', part]:,.0f} | {theirs} |")


if __name__ == "__main__":
    huge_pages.start_anew()
    main()
