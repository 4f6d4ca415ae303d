"""Times programs of ours and of PyTorch in turn, on the same task, in one process.

Most benchmarks of this folder share it.
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

import jax
import jax.numpy as jnp
import numpy as np

import models
from kernels.processor import cores

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
SECONDS = 2.0  # timed for each contestant in a round


class Missing(Exception):
    """A contestant is not available here."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The task that all contestants of a network work on."""

    network: str
    batch: int
    shape: tuple  # of an image
    fields: dict  # of models.create
    device: str  # cpu or gpu
    dtype: str  # of the computation

    @property
    def num_classes(self):
        return num_classes(self.network)

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


def num_classes(network):
    """The classes of benchmarks/torch_networks.py."""
    return 10 if NETWORKS[network][0][0] <= 32 else 1000


class TorchContestant:
    """A task's network and data in PyTorch, channels last, on the task's device.

    Raises:
      Missing: PyTorch, or the library of the network, is not available.
    """

    compiled = False  # by torch.compile

    def __init__(self, task):
        self.torch, self.device = import_torch(task.device)
        from benchmarks import torch_networks  # what it lacks of ours is an error

        try:
            network = torch_networks.create(task.network)
        except ImportError as error:
            raise Missing(error) from error
        last = {"memory_format": self.torch.channels_last}
        self.network = network.to(self.device, **last)
        self.parameters = sum(p.numel() for p in network.parameters())
        images, labels = map(self.torch.from_numpy, task.data())
        self.images = images.permute(0, 3, 1, 2).to(self.device).contiguous(**last)
        self.labels = labels.long().to(self.device)
        dtype, low = getattr(self.torch, task.dtype), task.dtype != "float32"
        # Arguments of torch.autocast.
        self.cast = {"device_type": self.device, "dtype": dtype, "enabled": low}


def started(contestants, task):
    """Makes contestants and runs each once.

    Args:
      contestants: {name: a function of the task}. A contestant has its number of
        `parameters`, and `run(calls)`.

    Returns:
      {name: contestant}, and {name: why it is missing}.

    Raises:
      ValueError: the contestants have different numbers of parameters.
    """
    found, missing = {}, {}
    for name, make in contestants.items():
        try:
            contestant = make(task)
            contestant.run(1)
            found[name] = contestant
        except Missing as error:
            missing[name] = str(error)
        except RuntimeError as error:
            # Without a C++ compiler, the other columns are kept.
            if name != "compiled" or out_of_memory(error):
                raise
            missing[name] = f"torch.compile: {str(error).splitlines()[0]}"
    parameters = {name: x.parameters for name, x in found.items()}
    if len(set(parameters.values())) > 1:
        raise ValueError(f"{task.network} is not one network: {parameters}")
    return found, missing


def in_turn(contestants, batch, rounds, calls):
    """Times contestants, in each round one after another.

    A turn is one call without the clock and then `calls` with it; None means as many as
    fill SECONDS.

    Returns:
      {name: images/s in each round}, and {name: what the last turn returned}.
    """
    calls = {name: calls or _calls(x) for name, x in contestants.items()}
    rates, last = {name: [] for name in contestants}, {}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            contestant.run(1)
            start = time.perf_counter()
            last[name] = contestant.run(calls[name])
            elapsed = time.perf_counter() - start
            rates[name].append(calls[name] * batch / elapsed)
    return rates, last


def _calls(contestant):
    start = time.perf_counter()
    contestant.run(1)
    return math.ceil(SECONDS / (time.perf_counter() - start))


def measure_what_fits(measure, task, *args):
    """Calls `measure(task, *args)` with the batch halved until it fits into memory."""
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
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def digits(number):
    """Formats a number with at least three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def ratio(rates, name):
    """The median over the rounds of the ratio of our rate to another's."""
    pairs = zip(rates["ours"], rates[name], strict=True)
    return statistics.median(a / b for a, b in pairs)


def rate_head(names):
    """The columns of `rate_cells`."""
    return [*names, *(f"ours / {name}" for name in names if name != "ours")]


def rate_cells(rates, names):
    """The median rate of each contestant, and the ratio of ours to each other one."""
    others = [name for name in names if name != "ours"]
    medians = {name: digits(statistics.median(x)) for name, x in rates.items()}
    return [
        *(medians.get(name, "") for name in names),
        *(f"{ratio(rates, name):.2f}" if name in rates else "" for name in others),
    ]


def measure_each(measure, tasks, args, result, line):
    """Measures each task, and prints the table's lines and why contestants are missing.

    Args:
      measure: maps (task, names of contestants, rounds, calls) to a dict for JSON.
      args: the flags; `args.out` gets `result` after each task.
      result: a dict; its "networks" gets the dicts.
      line: maps such a dict to a line of the table.
    """
    rows = result["networks"] = []
    for task in tasks:
        release_memory()
        chosen = args.contestants, args.rounds, args.steps
        rows.append(measure_what_fits(measure, task, *chosen))
        print(line(rows[-1]), flush=True)
        if args.out:
            pathlib.Path(args.out).write_text(json.dumps(result, indent=1))
    absent = [
        f"{row['network']} without {name}: {reason}"
        for row in rows
        for name, reason in row["missing"].items()
    ]
    for text in dict.fromkeys(absent):
        print(text)


def argument_parser(description, contestants):
    """Returns a parser of the flags that the benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--networks", type=names_of(NETWORKS), help="default: all")
    parser.add_argument("--contestants", type=names_of(contestants))
    parser.add_argument("--batch", type=int, help="default: 16, of small images 128")
    parser.add_argument("--size", type=int, help="of images; default: the network's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help=f"in a round; default: {SECONDS} s")
    parser.add_argument("--out", help="JSON file of all figures")
    return parser


def parse(parser, contestants, gpu_contestants):
    """Parses the flags, fills in their defaults, and gives JAX the device.

    Returns:
      The flags, and the tasks.
    """
    args = parser.parse_args()
    gpu = args.device == "gpu"
    args.dtype = args.dtype or ("bfloat16" if gpu else "float32")
    args.contestants = args.contestants or (gpu_contestants if gpu else contestants)
    if "ours" not in args.contestants:
        parser.error("--contestants: without ours there is nothing to compare")
    use_device(parser, args.device, alone=len(args.contestants) == 1)

    tasks = []
    for network in args.networks or (GPU_NETWORKS if gpu else NETWORKS):
        shape, fields = NETWORKS[network]
        batch = args.batch or (256 if gpu else 128 if shape[0] <= 32 else 16)
        if args.size:
            shape = (args.size, args.size, shape[2])
        tasks.append(Task(network, batch, shape, fields, args.device, args.dtype))
    return args, tasks


def use_device(parser, device, *, alone):
    """Gives JAX the device, a GPU's memory whole or with a rest for torch."""
    if device != "gpu":
        jax.config.update("jax_platforms", "cpu")
        return
    # An older name of the variable may be set; both are refused.
    if not alone and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        # JAX reads this when it first uses the GPU.
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.45")
    if jax.default_backend() != "gpu":
        parser.error('--device=gpu: JAX finds none; pip install "jax[cuda13]"')


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


def different_bits(a, b):
    """Names of the arrays whose bits differ between two trees of one structure."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, x), y in pairs
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]
