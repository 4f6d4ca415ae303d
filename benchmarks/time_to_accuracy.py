"""Times a run from its start to 1 % error on MNIST, or 92 % accuracy on Fashion-MNIST.

    python -m benchmarks.time_to_accuracy [--only=mnist] [--data_dir=DIR] [--seeds=3]

Each row is one `python main.py ...` with another seed: a new process, imports, data,
compilation, training, and evaluations of the whole test split after each epoch. The
clock stops at the first line that reports no more than the target error; the process is
then told to stop. Seed 0 runs twice, first with an empty compilation cache (cold), then
with the one that this run has filled (warm). Further seeds are warm, because a seed is
not part of a program. `--data_dir` names a place that docs/data.md does not.
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

ROOT = pathlib.Path(__file__).parent.parent
# Target error in per cent, and the flags of main.py.
ROWS = {
    "mnist": (1.0, ["--config=configs/lenet5.py:modern", "--config.num_epochs=4"]),
    "fashion_mnist": (8.0, ["--config=configs/fashion_mnist.py"]),
}
RESULT = re.compile(r"error \S+ % \((\d+) errors, (\d+)/\2 images counted\)")


def seconds_to(target, flags):
    """(seconds, error in per cent) at the first evaluation with an error <= target.

    The seconds are infinite if training ends before that; the error is then the last.

    Raises:
      SystemExit: main.py failed.
    """
    start, error = time.perf_counter(), None
    command = [sys.executable, "main.py", *flags]
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
                if error <= target:
                    seconds = time.perf_counter() - start
                    child.send_signal(signal.SIGTERM)
                    child.stdout.read()
                    return seconds, error
    if child.returncode:
        sys.exit(f"{' '.join(command)} exited with {child.returncode}")
    return float("inf"), error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), help="commas between")
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    print(f"{len(os.sched_getaffinity(0))} cores")
    print(f"{'data':13}  target  seed  cache  seconds  error")
    for name in names:
        target, flags = ROWS[name]
        flags = [*flags, f"--config.dataset.data_dir={args.data_dir}"]
        with tempfile.TemporaryDirectory() as folder:
            flags.append(f"--compilation_cache={folder}/cache")
            starts = [(0, "cold"), *((seed, "warm") for seed in range(args.seeds))]
            for number, (seed, cache) in enumerate(starts):
                more = [f"--workdir={folder}/{number}", f"--config.seed={seed}"]
                seconds, error = seconds_to(target, [*flags, *more])
                print(
                    f"{name:13}  {target:4.1f} %  {seed:4}  {cache:5}  {seconds:7.1f}"
                    f"  {error:.2f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
