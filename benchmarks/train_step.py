"""Times a training step of each network, here and in PyTorch, in turn in one run.

    python -m benchmarks.train_step [--networks=resnet50,vgg16] [--rounds=5]
    python -m benchmarks.train_step --device=gpu

A step is the forward pass, loss, gradients, batch statistics, and SGD with momentum and
weight decay, on one batch that lies on the device. In a round each contestant of a
network makes one untimed step and then several timed ones; the table has the medians
over the rounds of its images/s and of the rounds' ratios. The machine must be idle.

    ours      the programs of main.py
    plain     the same with XLA's own convolutions, which nn.Conv uses
    torch     eager PyTorch: channels last, fused optimizer, with bfloat16 autocast
    compiled  the same with torch.compile of forward and loss

"same bits" says whether our step, run twice from the same state, gives identical bits
in all parameters, in their momentum, which contains the gradients, and in the batch
statistics. If not, it says which differ: only those of layers before a max pooling, if
its gradient is the cause. This measures the cost of XLA's deterministic operations:

    XLA_FLAGS=--xla_gpu_deterministic_ops=true python -m benchmarks.train_step \\
        --device=gpu --contestants=ours

TFLOP/s are 6 times the multiply-adds of the network's table: two operations each, for
the forward pass and two gradients. GB/s count the bytes that XLA says our program reads
and writes. The header has the machine's limits: a large product of matrices and a large
copy, in both frameworks. Contestants that are not available, say without PyTorch, leave
their columns empty; if a batch does not fit, all contestants get half of it.
"""

import argparse
import contextlib
import dataclasses
import datetime
import gc
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import models
from comparison import counting
from kernels import huge_pages, ops
from models import layers
from training import objective, optimizers, train_step

# Names for models.create, images [H, W, C], and fields that are not the default.
NETWORKS = {
    "lenet5_modern": ((28, 28, 1), {}),
    "alexnet": ((227, 227, 3), {}),
    "vgg16": ((224, 224, 3), {}),
    "nin": ((32, 32, 3), {}),
    "googlenet_bn": ((224, 224, 3), {}),
    "resnet18": ((224, 224, 3), {}),
    "resnet50": ((224, 224, 3), {"stride_on": "3x3"}),  # torchvision's
    "resnet20": ((32, 32, 3), {}),
    "wrn_16_4": ((32, 32, 3), {}),
    "densenet121": ((224, 224, 3), {}),
    "resnext50_32x4d": ((224, 224, 3), {}),
    "se_resnet50": ((224, 224, 3), {}),
    "dpn68": ((224, 224, 3), {}),
}
GPU_NETWORKS = ("resnet50", "vgg16", "googlenet_bn", "densenet121", "resnext50_32x4d")
AUXILIARY_WEIGHT = 0.3
SECONDS = 2.0  # timed for each contestant in a round
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}


class Missing(Exception):
    """A contestant is not available here."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The task that all contestants of a network train on."""

    network: str
    batch: int
    shape: tuple  # of an image
    fields: dict  # of models.create
    device: str  # cpu or gpu
    dtype: str  # of the computation

    @property
    def num_classes(self):
        return 10 if NETWORKS[self.network][0][0] <= 32 else 1000

    def data(self):
        """Images [B, H, W, C] of mean 0 and deviation 1, and labels [B]."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(self.batch, *self.shape)).astype(np.float32)
        return images, rng.integers(0, self.num_classes, self.batch, np.int32)

    def model(self):
        return models.create(
            self.network,
            num_classes=self.num_classes,
            dtype=jnp.dtype(self.dtype),
            **self.fields,
        )


class Ours:
    """Our training step, compiled, with its state."""

    def __init__(self, task):
        model = task.model()
        tx = optimizers.make_optimizer(
            "sgd",
            SGD["lr"],
            kwargs={"momentum": SGD["momentum"]},
            weight_decay=SGD["weight_decay"],
        )
        self.task = objective.Classification(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            lambda batch, seed: batch["image"],
            auxiliary_weight=AUXILIARY_WEIGHT,
        )
        step = train_step.make_train_step(self.task, tx)
        run_steps = train_step.make_run_steps(step, lambda data, i: data)
        init = train_step.make_init(model, tx, task.shape, ema=False)
        images, labels = task.data()
        self.batch = jax.device_put({"image": images, "label": labels})
        self.state = jax.jit(init)(0)
        self.parameters = sum(p.size for p in jax.tree.leaves(self.state.params))
        self.program = self._compile(run_steps)

    def _options(self):
        return ops.compiler_options(jax.default_backend())

    def _compile(self, run_steps):
        jitted = jax.jit(
            run_steps,
            donate_argnums=(0, 1),
            static_argnums=3,
            compiler_options=self._options(),
        )
        sums = train_step.zero_sums(self.task)
        with ops.every_kernel():
            return jitted.lower(self.state, sums, self.batch, 1, 0).compile()

    def run(self, num_steps):
        """Trains on; the mean loss."""
        sums = train_step.zero_sums(self.task)
        for _ in range(num_steps):
            self.state, sums = self.program(self.state, sums, self.batch, 0)
        return float(sums["loss"]) / (num_steps * len(self.batch["label"]))

    def bytes_accessed(self):
        """The bytes that XLA counts for a step; NaN if it does not count."""
        return (self.program.cost_analysis() or {}).get("bytes accessed", math.nan)

    def different_bits(self):
        """Names of the arrays that differ when the same step runs a second time."""
        results = []
        for _ in range(2):
            state = jax.tree.map(jnp.copy, self.state)
            state, _ = self.program(
                state, train_step.zero_sums(self.task), self.batch, 0
            )
            results.append(jax.device_get(state))
        pairs = zip(
            jax.tree_util.tree_leaves_with_path(results[0]),
            jax.tree.leaves(results[1]),
            strict=True,
        )
        return [
            jax.tree_util.keystr(path, simple=True, separator=".")
            for (path, a), b in pairs
            if a.tobytes() != b.tobytes()
        ]


@contextlib.contextmanager
def plain_convolutions():
    """Networks called inside this context use `lax`'s convolutions, like nn.Conv."""
    post_init = layers.Conv.__post_init__

    def plain_post_init(self):
        self.conv_general_dilated = jax.lax.conv_general_dilated
        post_init(self)

    with mock.patch.object(layers.Conv, "__post_init__", plain_post_init):
        yield


class Plain(Ours):
    def __init__(self, task):
        with plain_convolutions():
            super().__init__(task)

    def _options(self):
        return None  # XLA chooses the libraries for its own convolutions


class Torch:
    """The step in PyTorch, with its state."""

    compiled = False

    def __init__(self, task):
        torch, device = import_torch(task.device)
        try:
            from benchmarks import torch_networks

            network = torch_networks.create(task.network)
        except ImportError as error:
            raise Missing(error) from error
        network = network.to(device, memory_format=torch.channels_last)
        self.parameters = sum(p.numel() for p in network.parameters())
        optimizer = torch.optim.SGD(network.parameters(), **SGD, fused=True)
        images, labels = task.data()
        images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(labels).long().to(device)
        low = task.dtype != "float32"

        def mean_loss(images):
            entropy = torch.nn.functional.cross_entropy
            with torch.autocast(device, getattr(torch, task.dtype), enabled=low):
                outputs = network(images)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = entropy(logits.float(), labels)
            for head in auxiliary:
                loss = loss + AUXILIARY_WEIGHT * entropy(head.float(), labels)
            return loss

        if self.compiled:
            mean_loss = torch.compile(mean_loss)

        def step():
            optimizer.zero_grad()
            loss = mean_loss(images)
            loss.backward()
            optimizer.step()
            return loss.detach()

        self.step = step

    def run(self, num_steps):
        """Trains on; the mean loss."""
        return float(sum(self.step() for _ in range(num_steps))) / num_steps


class Compiled(Torch):
    compiled = True


CONTESTANTS = {"torch": Torch, "compiled": Compiled, "ours": Ours, "plain": Plain}
GPU_CONTESTANTS = ("torch", "compiled", "ours")


def measure(task, names, rounds, num_steps):
    """Measures one network; returns a dict that JSON takes.

    A round times `num_steps` steps; None means as many as fill SECONDS.

    Raises:
      ValueError: the contestants have different numbers of parameters.
    """
    contestants, missing, steps = {}, {}, {}
    for name in names:
        try:
            contestant = CONTESTANTS[name](task)
            contestant.run(1)
        except Missing as error:
            missing[name] = str(error)
            continue
        except RuntimeError as error:
            # Without a C++ compiler, the other columns are kept.
            if name != "compiled" or out_of_memory(error):
                raise
            missing[name] = f"torch.compile: {str(error).splitlines()[0]}"
            continue
        contestants[name] = contestant
        start = time.perf_counter()
        contestant.run(1)
        step = time.perf_counter() - start
        steps[name] = num_steps or math.ceil(SECONDS / step)
    parameters = {name: x.parameters for name, x in contestants.items()}
    if len(set(parameters.values())) > 1:
        raise ValueError(f"{task.network} is not one network: {parameters}")

    rates, losses = {name: [] for name in contestants}, {}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            contestant.run(1)
            start = time.perf_counter()
            losses[name] = contestant.run(steps[name])
            elapsed = time.perf_counter() - start
            rates[name].append(steps[name] * task.batch / elapsed)
    table = counting.layers(task.model(), task.shape)
    ours = contestants["ours"]
    return {
        "network": task.network,
        "batch": task.batch,
        "images/s": rates,
        "losses": losses,
        "missing": missing,
        "flop/step": 6 * task.batch * sum(layer.multiply_adds for layer in table),
        "bytes/step": ours.bytes_accessed(),
        "differs": ours.different_bits(),
    }


def measure_what_fits(task, *args):
    """Runs `measure` with the batch halved until it fits into memory."""
    while True:
        try:
            return measure(task, *args)
        except RuntimeError as error:
            if not out_of_memory(error) or task.batch == 1:
                raise
        # This is outside the handler, whose traceback holds the contestants' arrays.
        release_memory()
        print(f"{task.network}: a batch of {task.batch} does not fit", flush=True)
        task = dataclasses.replace(task, batch=task.batch // 2)


def out_of_memory(error):
    """Tells whether XLA or torch ran out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "OutOfMemory" in type(error).__name__


def release_memory():
    jax.clear_caches()
    torch = sys.modules.get("torch")
    if torch:
        torch.compiler.reset()
    gc.collect()
    if torch:
        torch.cuda.empty_cache()


def ceilings(task, names):
    """Measures {framework: (FLOP/s of a product of matrices, bytes/s of a copy)}."""
    size, numbers = (8192, 2**29) if task.device == "gpu" else (2048, 2**25)
    x, y = jnp.ones((size, size), task.dtype), jnp.ones(numbers, task.dtype)
    flops, traffic = 2 * size**3, 2 * y.nbytes
    product, negative = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    wait = jax.block_until_ready
    found = {
        "jax": (
            flops / seconds_of(lambda: product(x, x), wait),
            traffic / seconds_of(lambda: negative(y), wait),
        )
    }
    if not {"torch", "compiled"} & set(names):
        return found
    with contextlib.suppress(Missing):
        torch, device = import_torch(task.device)
        dtype = getattr(torch, task.dtype)
        u = torch.ones((size, size), dtype=dtype, device=device)
        v = torch.ones(numbers, dtype=dtype, device=device)
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        found["torch"] = (
            flops / seconds_of(lambda: u @ u, lambda _: wait()),
            traffic / seconds_of(lambda: torch.neg(v), lambda _: wait()),
        )
    return found


def seconds_of(call, wait, calls=5):
    """The seconds of one call, in the quickest of three series."""
    wait(call())
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            last = call()
        wait(last)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def import_torch(device):
    """Imports torch with a thread per core; returns (torch, its name for the device).

    Raises:
      Missing: torch is not installed, or does not support the device.
    """
    try:
        import torch
    except ImportError as error:
        raise Missing(error) from error
    if device == "gpu":
        if not torch.cuda.is_available():
            raise Missing("this PyTorch has no CUDA")
        torch.backends.cudnn.benchmark = True
        return torch, "cuda"
    torch.set_num_threads(cores())
    return torch, "cpu"


def cores():
    return len(os.sched_getaffinity(0))


def environment(device, names):
    """Describes date, machine and versions in one line."""
    words = [datetime.date.today().isoformat(), processor(), f"{cores()} cores"]
    if device == "gpu":
        words.append(jax.devices()[0].device_kind)
    words.append(f"jax {jax.__version__}")
    if {"torch", "compiled"} & set(names):
        try:
            torch, _ = import_torch(device)
            words.append(
                f"torch {torch.__version__} with {torch.get_num_threads()} threads"
            )
        except Missing as error:
            words.append(f"no torch: {error}")
    if flags := os.environ.get("XLA_FLAGS"):
        words.append(flags)
    return ", ".join(words)


def processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table_head(names, prefix):
    """The first two lines of the Markdown table."""
    ratios = [f"ours / {name}" for name in names if name != "ours"]
    columns = ["network", "batch", *names, *ratios, f"{prefix}FLOP/s", "GB/s"]
    head = " | ".join([*columns, "same bits"])
    return f"| {head} |\n|---|{'---:|' * (len(columns) - 1)}---|"


def table_row(row, names, unit):
    """A line of the table, with FLOP/s in multiples of `unit`."""
    rates = row["images/s"]
    median = {name: statistics.median(rates[name]) for name in rates}
    steps = median["ours"] / row["batch"]
    others = [name for name in names if name != "ours"]
    cells = [
        row["network"],
        str(row["batch"]),
        *(digits(median[name]) if name in rates else "" for name in names),
        *(f"{ratio(rates, name):.2f}" if name in rates else "" for name in others),
        digits(row["flop/step"] * steps / unit),
        digits(row["bytes/step"] * steps / 1e9),
        f"not of {', '.join(row['differs'])}" if row["differs"] else "yes",
    ]
    return f"| {' | '.join(cells)} |"


def digits(number):
    """Formats a number with at least three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def ratio(rates, name):
    """The median over the rounds of the ratio of our rate to another's."""
    pairs = zip(rates["ours"], rates[name], strict=True)
    return statistics.median(a / b for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--networks", type=names_of(NETWORKS), help="default: all")
    parser.add_argument("--contestants", type=names_of(CONTESTANTS))
    parser.add_argument("--batch", type=int, help="default: 16, of small images 128")
    parser.add_argument("--size", type=int, help="of images; default: the network's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help=f"of a round; default: {SECONDS} s")
    parser.add_argument("--out", help="JSON file of all figures")
    args = parser.parse_args()
    gpu = args.device == "gpu"
    dtype = args.dtype or ("bfloat16" if gpu else "float32")
    names = args.contestants or (GPU_CONTESTANTS if gpu else CONTESTANTS)
    networks = args.networks or (GPU_NETWORKS if gpu else NETWORKS)
    if "ours" not in names:
        parser.error("--contestants: without ours there is nothing to compare")
    if not gpu:
        jax.config.update("jax_platforms", "cpu")
    elif len(names) > 1:
        # The rest is left to torch. JAX reads this when it first uses the GPU.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    if gpu and jax.default_backend() != "gpu":
        parser.error('--device=gpu: JAX finds none; pip install "jax[cuda13]"')

    tasks = []
    for network in networks:
        shape, fields = NETWORKS[network]
        batch = args.batch or (256 if gpu else 128 if shape[0] <= 32 else 16)
        if args.size:
            shape = (args.size, args.size, shape[2])
        tasks.append(Task(network, batch, shape, fields, args.device, dtype))
    result = {
        "environment": environment(args.device, names),
        "dtype": dtype,
        "ceilings": ceilings(tasks[0], names),
        "networks": [],
    }
    print(f"{result['environment']}; {dtype}, images/s")
    prefix, unit = ("T", 1e12) if gpu else ("G", 1e9)
    for framework, (flops, traffic) in result["ceilings"].items():
        print(
            f"{framework}: product of matrices {digits(flops / unit)} {prefix}FLOP/s, "
            f"copy {digits(traffic / 1e9)} GB/s"
        )
    print(f"\n{table_head(names, prefix)}", flush=True)
    for task in tasks:
        release_memory()
        row = measure_what_fits(task, names, args.rounds, args.steps)
        result["networks"].append(row)
        print(table_row(row, names, unit), flush=True)
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(result, indent=1))
    for row in result["networks"]:
        for name, reason in row["missing"].items():
            print(f"{row['network']} without {name}: {reason}")


def names_of(known):
    """An argparse type: names from `known`, separated by commas, as a list."""

    def names(text):
        listed = text.split(",")
        if unknown := sorted(set(listed) - set(known)):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return listed

    return names


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
