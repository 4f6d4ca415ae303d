"""Compares a training step's peak memory with PyTorch's: python -m benchmarks.memory

Each figure comes from its own process: the largest resident set (VmHWM) in two training
steps minus the resident set after the imports. The steps use SGD with momentum, float32
and random images. `ours` is the step as train.py compiles it, `remat` the same with
every stage rematerialised, `torch` torchvision's network in eager mode, channels last.
For ours, `planned` is the compiled program's own estimate, which train.py prints before
the first step; compilation has a peak of its own, which counts in `peak` if it is
higher.
"""

import argparse
import json
import os
import subprocess
import sys

from kernels import huge_pages

NETWORKS = ("resnet50", "vgg16", "densenet121")
CONTESTANTS = ("torch", "ours", "remat")
STEPS = 2


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # network:contestant
    args = parser.parse_args(argv)
    if args.child:
        network, contestant = args.child.split(":")
        measure = measure_torch if contestant == "torch" else measure_ours
        print(json.dumps(measure(network, args.batch, args.size, contestant)))
        return

    names, networks = args.only.split(","), args.networks.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"batch {args.batch}, {args.size}x{args.size}, MiB")
    print(f"{'':13}{'':7}{'peak':>8}{'compiling':>11}{'planned':>9}")
    for network in networks:
        for name in names:
            found = child(network, name, args.batch, args.size)
            numbers = [found["peak"], found.get("compiling"), found.get("planned")]
            cells = ["" if n is None else f"{n / 2**20:,.0f}" for n in numbers]
            print(
                f"{network:13}{name:7}{cells[0]:>8}{cells[1]:>11}{cells[2]:>9}",
                flush=True,
            )


def child(network, contestant, batch, size):
    """Measures in a fresh process; raises SystemExit with its message if that fails."""
    command = [sys.executable, "-m", "benchmarks.memory", f"--batch={batch}"]
    command += [f"--size={size}", f"--child={network}:{contestant}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{network} {contestant}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def measure_ours(network, batch, size, contestant):
    import jax
    import numpy as np
    import optax

    import models
    from experiment import build
    from kernels import ops
    from training import memory, objective, remat, train_step

    shape = (size, size, 3)
    fields = {"stride_on": "3x3"} if network == "resnet50" else {}  # as torchvision
    model = models.create(network, num_classes=1000, **fields)
    trained, options = model, ops.compiler_options("cpu")
    if contestant == "remat":
        trained = remat.rematerialised(model, (remat.ALL,), shape)
    tx = optax.sgd(0.1, momentum=0.9)
    task = objective.Classification(
        trained,
        optax.softmax_cross_entropy_with_integer_labels,
        lambda data, seed: data["image"],
    )
    step = train_step.make_train_step(task, tx)
    step = train_step.make_run_steps(step, lambda data, i: data)
    build.abstract_variables(model, shape)  # triggers the late imports
    jax.devices()
    baseline = resident("VmRSS")

    rng = np.random.default_rng(0)
    data = {
        "image": jax.device_put(rng.standard_normal((batch, *shape), np.float32)),
        "label": jax.device_put(rng.integers(0, 1000, batch, np.int32)),
    }
    state = jax.jit(train_step.make_init(model, tx, shape, ema=False))(0)
    sums = train_step.zero_sums(task)
    options = {"donate_argnums": (0, 1), "compiler_options": options}
    program = jax.jit(step, static_argnums=3, **options)
    program = program.lower(state, sums, data, 1, 0).compile()
    compiling = resident("VmHWM") - baseline
    planned = memory.plan(program, state, data).total
    memory.give_back()  # as train.py does
    for _ in range(STEPS):
        state, sums = jax.block_until_ready(program(state, sums, data, 0))
    return {
        "peak": resident("VmHWM") - baseline,
        "compiling": compiling,
        "planned": planned,
    }


def measure_torch(network, batch, size, contestant):
    del contestant
    import torch

    from benchmarks import torch_networks
    from weights import twins

    twins.torchvision_models()
    torch.ones(8, 8) @ torch.ones(8, 8)
    baseline = resident("VmRSS")

    model = torch_networks.create(network).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images = torch.randn(batch, 3, size, size)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return {"peak": resident("VmHWM") - baseline}


def resident(field):
    """Bytes of this process: VmRSS is the present size, VmHWM the largest so far."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
