"""Compares a training step's peak memory with PyTorch's: python -m benchmarks.memory

Each figure comes from its own process: the largest resident set (VmHWM) in two training
steps minus the resident set after the imports. The steps use SGD with momentum, float32
and random images. `ours` is the step as train.py compiles it, `remat` the same with
every stage rematerialised, `torch` the same network in PyTorch's eager mode, channels
last. benchmarks/side_by_side.py has the networks.
For ours, `planned` is the compiled program's own estimate, which train.py prints before
the first step; compilation has a peak of its own, which counts in `peak` if it is
higher.

With `--fits=8GiB` it finds the largest batch whose step needs no more than that:
by doubling from `--batch`, and then by bisection to one image. PyTorch's steps are
measured as above, so the last of them may take twice the budget. Ours are planned and
not run; `auto` is config.model.remat = auto, of which all stages must fit, and then the
fewest are chosen for that batch. A plan leaves out what the process needs besides the
step, so the peak of ours would be higher.
"""

import argparse
import bisect
import functools
import json
import os
import subprocess
import sys

from kernels import huge_pages

NETWORKS = ("resnet50", "vgg16", "densenet121")
CONTESTANTS = ("torch", "ours", "remat")
FITTED = ("torch", "ours", "auto")  # with --fits
STEPS = 2


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--only", help="some of the rows, as torch,ours")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, help="pixels; by default the network's own")
    parser.add_argument("--fits", help="a budget such as 8GiB: find the largest batch")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # network:contestant
    args = parser.parse_args(argv)
    if args.child:
        network, contestant = args.child.split(":")
        task = network, args.batch, args.size, contestant
        if args.fits:
            found = fit_ours(*task, args.fits)
        else:
            found = (measure_torch if contestant == "torch" else measure_ours)(*task)
        print(json.dumps(found))
        return

    known = FITTED if args.fits else CONTESTANTS
    names = args.only.split(",") if args.only else known
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    networks = args.networks.split(",")
    if args.fits:
        report_fits(networks, names, args.batch, args.size, args.fits)
        return
    print(f"batch {args.batch}, {args.size or 'own'} pixels, MiB")
    print(f"{'':16}{'':7}{'peak':>8}{'compiling':>11}{'planned':>9}")
    for network in networks:
        for name in names:
            found = child(network, name, args.batch, args.size)
            numbers = [found["peak"], found.get("compiling"), found.get("planned")]
            cells = ["" if n is None else f"{n / 2**20:,.0f}" for n in numbers]
            print(
                f"{network:16}{name:7}{cells[0]:>8}{cells[1]:>11}{cells[2]:>9}",
                flush=True,
            )


def report_fits(networks, names, batch, size, budget):
    """Prints the largest batch of each network within a budget, "8GiB"."""
    print(f"largest batch within {budget}, {size or 'own'} pixels")
    for network in networks:
        for name in names:
            fit = fit_torch if name == "torch" else fit_ours_in_child
            found = fit(network, batch, size, name, budget)
            stages, more = found.get("stages"), found.get("slowdown", 0)
            twice = f"{', '.join(stages)}, {100 * more:.0f} % more" if stages else ""
            print(
                f"{network:16}{name:7}{found['batch']:>8,}"
                f"{found['bytes'] / 2**20:>11,.0f} MiB  {twice}".rstrip(),
                flush=True,
            )


def largest(fits, start):
    """Returns the largest batch for which `fits(batch)`; 0 if none does.

    It doubles `start` until a batch does not fit, and bisects what is left.
    """
    enough, too_many = 0, start
    while fits(too_many):
        enough, too_many = too_many, 2 * too_many
    batches = range(too_many)
    return bisect.bisect_left(batches, True, enough + 1, key=lambda b: not fits(b)) - 1


def fit_torch(network, batch, size, contestant, budget):
    """Returns the largest batch, and the bytes that its step was measured to take."""
    from training import memory

    limit, peaks = memory.parse(budget), {0: 0}

    def fits(batch):
        peaks[batch] = child(network, contestant, batch, size)["peak"]
        return peaks[batch] <= limit

    found = largest(fits, batch)
    return {"batch": found, "bytes": peaks[found]}


def fit_ours_in_child(network, batch, size, contestant, budget):
    return child(network, contestant, batch, size, f"--fits={budget}")


def child(network, contestant, batch, size, *flags):
    """Measures in a fresh process; raises SystemExit with its message if that fails."""
    flags = [f"--batch={batch}", *flags] + ([f"--size={size}"] if size else [])
    return fresh("benchmarks.memory", *flags, f"--child={network}:{contestant}")


def fresh(module, *flags):
    """Returns the last line, JSON, of a module run in a fresh process without a GPU."""
    command = [sys.executable, "-m", module, *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(flags)}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


class Ours:
    """Our step for images of `size` pixels, with some `stages` computed twice."""

    def __init__(self, network, size, stages=()):
        import jax
        import optax

        import models
        from benchmarks import side_by_side
        from kernels import ops
        from training import remat, train_step

        self.shape, fields = shape_of(network, size), side_by_side.NETWORKS[network][1]
        self.classes = side_by_side.num_classes(network)
        self.model = models.create(network, num_classes=self.classes, **fields)
        trained = self.model
        if stages:
            trained = remat.rematerialised(self.model, stages, self.shape)
        tx = optax.sgd(0.1, momentum=0.9)
        self.task = self.objective(trained)
        self.init = train_step.make_init(self.model, tx, self.shape, ema=False)
        self.zeros = functools.partial(train_step.zero_sums, self.task)
        step = train_step.make_train_step(self.task, tx)
        self.run_steps = jax.jit(
            train_step.make_run_steps(step, lambda data, i: data),
            static_argnums=3,
            donate_argnums=(0, 1),
            compiler_options=ops.compiler_options("cpu"),
        )

    def objective(self, network):
        import optax

        from training import objective

        loss = optax.softmax_cross_entropy_with_integer_labels
        return objective.Classification(network, loss, lambda data, seed: data["image"])


def shape_of(network, size):
    """[H, W, C] of a network's images, with sides of `size` if that is given."""
    from benchmarks import side_by_side

    (height, width, channels), _ = side_by_side.NETWORKS[network]
    return size or height, size or width, channels


def measure_ours(network, batch, size, contestant):
    import jax
    import numpy as np

    from experiment import build
    from training import memory, remat

    ours = Ours(network, size, (remat.ALL,) if contestant == "remat" else ())
    build.abstract_variables(ours.model, ours.shape)  # triggers the late imports
    jax.devices()
    baseline = resident("VmRSS")

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *ours.shape), np.float32)
    data = {
        "image": jax.device_put(images),
        "label": jax.device_put(rng.integers(0, ours.classes, batch, np.int32)),
    }
    # As weights/starting.py makes it.
    init = jax.jit(ours.init, compiler_options={"xla_backend_optimization_level": 1})
    state, sums = init(0), ours.zeros()
    init.clear_cache()
    program = ours.run_steps.lower(state, sums, data, 1, 0).compile()
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


def fit_ours(network, batch, size, contestant, budget):
    """Returns the largest batch, its planned bytes, and for `auto` its stages."""
    from training import memory, remat_budget

    limit, ranking = memory.parse(budget), ()
    if contestant == "auto":
        ours = Ours(network, size)
        state, _, data, *_ = shapes(ours, batch)
        measured = remat_budget.measure(ours.model, ours.objective, state, data, 0)
        ranking = measured.ranked()

    @functools.cache
    def plan_of(stages, batch):
        ours = Ours(network, size, stages)
        return memory.plan_step(ours.run_steps, one_device(), shapes(ours, batch))

    found = largest(lambda batch: plan_of(ranking, batch).total <= limit, batch)
    if not found:
        return {"batch": 0, "bytes": 0}
    plan_of_stages = functools.partial(plan_of, batch=found)
    stages, plan = remat_budget.shortest(ranking, plan_of_stages, limit)
    more = measured.slowdown(stages) if stages else 0
    return {"batch": found, "bytes": plan.total, "stages": stages, "slowdown": more}


def one_device():
    from experiment import build

    return build.make_mesh(1)


def shapes(ours, batch):
    """The arguments of a step of `Ours`, as shapes."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from experiment import build

    shared = NamedSharding(one_device(), PartitionSpec("data"))
    kinds = {"image": ((batch, *ours.shape), jnp.float32), "label": ((batch,), "i4")}
    data = {
        name: jax.ShapeDtypeStruct(*kind, sharding=shared)
        for name, kind in kinds.items()
    }
    state = build.replicated_shapes(one_device(), ours.init, 0)
    sums = build.replicated_shapes(one_device(), ours.zeros)
    return state, sums, data, 1, 0


def measure_torch(network, batch, size, contestant):
    del contestant
    import torch

    from benchmarks import side_by_side, torch_networks
    from weights import twins

    twins.torchvision_models()
    torch.ones(8, 8) @ torch.ones(8, 8)
    height, width, channels = shape_of(network, size)
    baseline = resident("VmRSS")

    model = torch_networks.create(network).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    images = torch.randn(batch, channels, height, width)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(side_by_side.num_classes(network), (batch,))
    for _ in range(STEPS):
        optimizer.zero_grad()
        outputs = model(images)  # of a network with side heads, a tuple
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        entropy = torch.nn.functional.cross_entropy
        sum(entropy(output, labels) for output in outputs).backward()
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
