"""Times a run from its start to 1 % error on MNIST, 92 % accuracy on Fashion-MNIST, or
90 % on CIFAR-10.

    python -m benchmarks.time_to_accuracy [--only=mnist] [--data_dir=DIR] [--seeds=3]
    python -m benchmarks.time_to_accuracy --only=cifar10 --contestants=ours,torch \
        --data_dir=DIR --seeds=0

The targets are 1 % error on MNIST, 8 % on Fashion-MNIST and 10 % on CIFAR-10, which is
run only if it is named. Each row is one `python main.py ...`: a new process, imports,
data, compilation, training, and evaluations of the whole test split after each epoch.
The clock stops at the first line that reports no more than the target error; the
process is then told to stop; `--whole` lets it end, and prints when it ended and with
which error. Seed 0 runs twice, first with an empty compilation cache
(cold), then with the one that this run has filled (warm). Further seeds are warm,
because a seed is not part of a program. `--seeds=0` is the cold run alone. `--data_dir`
names a place that docs/data.md does not.

On CIFAR-10 two other programs may take part, `--contestants=ours,torch,compiled`. They
run in turn with ours, once for each seed: benchmarks/torch_cifar.py trains the same
network by the same recipe in PyTorch, and evaluates it as often; "compiled" has
torch.compile. All of them then run on the CPU. `--steps=20` trains no more than 20
steps, to see that all of it works.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import typing

from kernels import processor

ROOT = pathlib.Path(__file__).parent.parent


class Row(typing.NamedTuple):
    """A target error in per cent, and the flags of main.py and of torch_cifar.py."""

    target: float
    ours: list
    torch: list | None = None


ROWS = {
    "mnist": Row(1.0, ["--config=configs/lenet5.py:modern", "--config.num_epochs=4"]),
    "fashion_mnist": Row(8.0, ["--config=configs/fashion_mnist.py"]),
    # The error falls to the target while the rate nears zero, so the length counts. The
    # length lies between 20 epochs, after which ours ended at 10.28 %, and 40 (8.72 %).
    "cifar10": Row(
        10.0,
        ["--config=configs/cifar10.py:resnet20", "--config.num_epochs=28"],
        ["--network=resnet20", "--epochs=28"],
    ),
}
TORCH = {"torch": [], "compiled": ["--compile"]}
RESULT = re.compile(r"error \S+ % \((\d+) errors, (\d+)/\2 images counted\)")


class Reached(typing.NamedTuple):
    """Seconds from the start to the target, or None; seconds to the end of the process,
    and the last error in per cent.
    """

    target: float | None
    end: float
    error: float


def run_to(target, command, whole=False):
    """Runs a program until it reports an error <= target, in per cent, or to its end.

    Raises:
      SystemExit: the program failed, or reported no error.
    """
    start, reached, error = time.perf_counter(), None, None
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        for line in child.stdout:
            if found := RESULT.search(line):
                error = 100 * int(found[1]) / int(found[2])
                if reached is None and error <= target:
                    reached = time.perf_counter() - start
                    if not whole:
                        child.send_signal(signal.SIGTERM)
                        child.stdout.read()
    stopped = reached is not None and not whole
    if error is None or (child.returncode and not stopped):
        sys.exit(f"{' '.join(command)} exited with {child.returncode}")
    return Reached(reached, time.perf_counter() - start, error)


def commands(name, contestants, folder, seeds, steps=None, data_dir=""):
    """Yields (contestant, seed, cache, command) in the order of the runs.

    `folder` takes the run directories and the compilation cache.
    """
    row = ROWS[name]
    starts = [(0, "cold"), *((seed, "warm") for seed in range(seeds))]
    for number, (seed, cache) in enumerate(starts):
        if "ours" in contestants:
            yield (
                "ours",
                seed,
                cache,
                [
                    *(sys.executable, "main.py", *row.ours),
                    *([f"--config.num_steps={steps}"] if steps else []),
                    f"--config.dataset.data_dir={data_dir}",
                    f"--compilation_cache={folder}/cache",
                    f"--workdir={folder}/{number}",
                    f"--config.seed={seed}",
                ],
            )
        if row.torch is None or (seed, cache) == (0, "warm"):
            continue
        for other in (c for c in contestants if c in TORCH):
            yield (
                other,
                seed,
                "",
                [
                    *(sys.executable, "-m", "benchmarks.torch_cifar", *row.torch),
                    *TORCH[other],
                    *([f"--steps={steps}"] if steps else []),
                    f"--data_dir={data_dir}",
                    f"--seed={seed}",
                ],
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="mnist,fashion_mnist", help="commas between")
    parser.add_argument("--contestants", default="ours", help="ours,torch,compiled")
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="train to the end")
    parser.add_argument("--steps", type=int, help="train no longer than this")
    args = parser.parse_args()
    names, contestants = args.only.split(","), args.contestants.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if unknown := set(contestants) - {"ours", *TORCH}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    alone = [name for name in names if ROWS[name].torch is None]
    if alone and contestants != ["ours"]:
        parser.error(f"--contestants: {', '.join(alone)} has only ours")

    if contestants != ["ours"]:
        os.environ["JAX_PLATFORMS"] = "cpu"  # as the other programs
    print(f"{processor.cores()} cores")
    print(f"{'data':13}  {'program':8}  target  seed  cache  seconds      end  error")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for contestant, seed, cache, command in commands(
                name, contestants, folder, args.seeds, args.steps, args.data_dir
            ):
                found = run_to(ROWS[name].target, command, args.whole)
                reached = "never" if found.target is None else f"{found.target:.1f}"
                print(
                    f"{name:13}  {contestant:8}  {ROWS[name].target:4.1f} %  {seed:4}"
                    f"  {cache:5}  {reached:>7}  {found.end:7.1f}  {found.error:.2f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
