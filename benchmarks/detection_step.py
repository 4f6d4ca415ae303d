"""Times the parts of a step or a test of Faster R-CNN, the large ones beside PyTorch.

    python -m benchmarks.detection_step [--rows=digits,photograph] [--rounds=5]
    python -m benchmarks.detection_step --inference
    python -m benchmarks.detection_step --device=gpu

    trunk       conv1 to conv4_x and the RPN on the images
    proposals   decoding and NMS; in training the samples of both stages too
    pooling     RoI pooling of the regions
    conv5       conv5_x on each region
    step        all of it, and SGD with momentum
    detections  all of it in a test, and the NMS of each class

In a step the trunk, pooling and conv5 include their gradients. The parts are compiled
by themselves, so their sum is not the whole. PyTorch has the same convolutions:
torchvision's ResNet up to layer3 and an RPN's on the images, and layer4 on regions, in
channels_last, eager, with batch statistics that learn, or in inference mode. In a round
the contestants run in turn; the table has the medians over rounds in milliseconds, and
the memory that XLA plans for the intermediate arrays of each of our parts. The machine
must be idle.
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
from benchmarks import side_by_side
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


class Part(typing.NamedTuple):
    """A compiled part: a call that waits for its end, and its intermediate bytes."""

    call: typing.Callable
    scratch: int


def compiled(function, *arguments):
    """Compiles a function for these arguments, with which the `Part` calls it."""
    options = ops.compiler_options(jax.default_backend())
    with ops.every_kernel():
        program = jax.jit(function, compiler_options=options)
        program = program.lower(*arguments).compile()
    scratch = program.memory_analysis().temp_size_in_bytes
    return Part(lambda: jax.block_until_ready(program(*arguments)), scratch)


def network(row):
    """Returns the model, a batch, the function that prepares it, and the task."""
    model = models.create("faster_rcnn", num_classes=10, depth=row.depth, **row.fields)
    prepare = functools.partial(inputs.network_input, mean=(128.0,), std=(64.0,))
    task = objective.Detection(model, prepare, roi_batch=row.regions)
    return model, make_batch(row.images), prepare, task


def step_parts(row):
    """Returns {part: Part} of a training step."""
    model, batch, prepare, task = network(row)
    tx = optax.sgd(1e-3, momentum=0.9)
    state = jax.jit(train_step.make_init(model, tx, row.images[1:], ema=False))(0)
    images, sizes = prepare(batch), batch["image_size"]

    def variables(params):
        return {"params": params, "batch_stats": state.batch_stats}

    def call(name, params, *arguments):
        return model.apply(
            variables(params),
            *arguments,
            train=True,
            method=name,
            mutable=["batch_stats"],
        )[0]

    def total(outputs):
        return sum(x.astype(jnp.float32).sum() for x in outputs)

    def trunk(params):
        return jax.grad(lambda p: total(call("first_stage", p, images, sizes)))(params)

    def first_stage(params):
        return call("first_stage", params, images, sizes)

    x, logits, deltas = compiled(first_stage, state.params).call()
    shape = x.shape[1:3]

    def proposals(logits, deltas):
        found = call("proposals", state.params, logits, deltas, shape, sizes)
        bound = model.bind(variables(state.params))
        keys = jax.random.split(jax.random.key(0), len(images))
        on_anchors = task._on_anchors(bound, shape, batch, keys)
        return on_anchors, task._on_rois(bound, batch, keys, found)

    parts = {
        "trunk": compiled(trunk, state.params),
        "proposals": compiled(proposals, logits, deltas),
    }
    _, sampled = parts["proposals"].call()

    def pooling(x):
        return jax.grad(lambda x: pooled(model, x, sampled.rois).sum())(x)

    def second(params, x):
        def both(p, x):
            return total(call("second_stage", p, [(x, sizes)], sampled.rois, sizes))

        return jax.grad(both, (0, 1))(params, x)

    step = train_step.make_train_step(task, tx)
    return parts | {
        "pooling": compiled(pooling, x),
        "pooling and conv5": compiled(second, state.params, x),
        "step": compiled(lambda state: step(state, batch, 0), state),
    }


def detection_parts(row):
    """Returns {part: Part} of a test."""
    model, batch, prepare, _ = network(row)
    images, sizes = prepare(batch), batch["image_size"]
    init = functools.partial(model.init, train=False)
    variables = jax.jit(init)(jax.random.key(0), images)
    call = functools.partial(model.apply, train=False)
    trunk = compiled(lambda v: call(v, images, sizes, method="first_stage"), variables)
    x, *found = trunk.call()

    def proposals(variables, found):
        return call(variables, *found, x.shape[1:3], sizes, method="proposals")

    proposed = compiled(proposals, variables, found)
    rois, _ = proposed.call()

    def second(variables, x):
        return call(variables, [(x, sizes)], rois, sizes, method="second_stage")

    return {
        "trunk": trunk,
        "proposals": proposed,
        "pooling": compiled(lambda x: pooled(model, x, rois), x),
        "pooling and conv5": compiled(second, variables, x),
        "detections": compiled(lambda v: call(v, images, sizes), variables),
    }


def pooled(model, x, rois):
    pool = models.faster_rcnn.POOLINGS[model.pooling]
    each = functools.partial(
        pool, bins=model.pool_size, stride=models.faster_rcnn.STRIDE
    )
    return jax.vmap(each)(x, rois)


def torch_parts(row, device, inference):
    """Returns {part: a function} of PyTorch's, which ran once; {} if they cannot."""
    try:
        parts = make_torch_parts(row, device, inference)
        for call in parts.values():
            call()
        return parts
    except (ImportError, side_by_side.Missing) as error:
        print(f"no PyTorch: {error}", file=sys.stderr)
    except RuntimeError as error:
        if not side_by_side.out_of_memory(error):
            raise
        print(f"no PyTorch, which lacks memory: {error}", file=sys.stderr)
    return {}


def make_torch_parts(row, device, inference):
    """Returns {part: a function} of PyTorch's.

    Raises:
      side_by_side.Missing: PyTorch is not installed, or does not support the device.
    """
    torch, device = side_by_side.import_torch(device)
    library = twins.torchvision_models()
    network = getattr(library, f"resnet{row.depth}")().to(device)
    network = network.to(memory_format=torch.channels_last).train(not inference)
    stem = network.conv1, network.bn1, network.relu, network.maxpool
    trunk = torch.nn.Sequential(*stem, network.layer1, network.layer2, network.layer3)
    model = models.create("faster_rcnn", num_classes=10, **row.fields)
    count, height, width, channels = row.images
    images = torch.randn(count, channels, height, width, device=device)
    images = images.to(memory_format=torch.channels_last)
    side, number = model.pool_size, model.post_nms[1] if inference else row.regions
    features, hidden = trunk(images).shape[1], model.rpn_channels
    anchors = len(model.anchor_sizes) * len(model.anchor_ratios)
    rpn = torch.nn.Conv2d(features, hidden, 3, padding=1), torch.nn.ReLU()
    network.rpn = torch.nn.Sequential(*rpn, torch.nn.Conv2d(hidden, 6 * anchors, 1))
    network.to(device, memory_format=torch.channels_last)
    shape = count * number, features, side, side
    regions = torch.randn(shape, device=device)
    regions = regions.to(memory_format=torch.channels_last)
    regions.requires_grad_(not inference)

    def first_stage(images):
        """What ours computes: two scores and four numbers of a box for each anchor."""
        x = trunk(images)
        return x, network.rpn(x)

    def second_stage(regions):
        return (network.layer4(regions),)

    def run(part, inputs):
        if inference:
            with torch.inference_mode():
                part(inputs)
        else:
            network.zero_grad()
            inputs.grad = None
            sum(x.sum() for x in part(inputs)).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        "trunk": functools.partial(run, first_stage, images),
        "conv5": functools.partial(run, second_stage, regions),
    }


def measure(row, rounds, device="cpu", inference=False):
    """Returns {part: (our milliseconds, PyTorch's or None, our MiB)}, medians."""
    parts = detection_parts(row) if inference else step_parts(row)
    theirs = torch_parts(row, device, inference)
    calls = {("ours", name): part.call for name, part in parts.items()}
    calls |= {("torch", name): call for name, call in theirs.items()}
    times = {key: [] for key in calls}
    for number in range(rounds + 1):
        for key, call in calls.items():
            begin = time.perf_counter()
            call()
            if number:  # the first call warms up
                times[key].append(1000 * (time.perf_counter() - begin))
    medians = {key: statistics.median(found) for key, found in times.items()}
    return {
        name: (
            medians["ours", name],
            medians.get(("torch", name.split(" ")[-1])),
            part.scratch / 2**20,
        )
        for name, part in parts.items()
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    options = parser.parse_args()
    if unknown := {*options.rows.split(",")} - ROWS.keys():
        parser.error(f"--rows: no {', '.join(unknown)}; there are {', '.join(ROWS)}")
    side_by_side.use_device(parser, options.device, alone=False)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| row | part | here, ms | PyTorch, ms | memory here, MiB |")
    print("|---|---|---:|---:|---:|")
    for name in options.rows.split(","):
        found = measure(ROWS[name], options.rounds, options.device, options.inference)
        for part, (here, other, scratch) in found.items():
            theirs = "" if other is None else f"{other:,.0f}"
            print(f"| {name} | {part} | {here:,.0f} | {theirs} | {scratch:,.0f} |")


if __name__ == "__main__":
    huge_pages.start_anew()
    main()
