"""Times main.py from Enter to its first answer, in turn with another checkout.

    python -m benchmarks.first_answer [--against=FOLDER] [--rounds=5]

--mode=predict classifies one image with a LeNet-5 and with a ResNet-50 at 224x224, and
--mode=summarize lists ResNet-50's layers. Each measurement is its own process. The
table has medians over the rounds, in seconds:

    answer   until the first line is printed
    all      until the process has ended
    CPU      the processor time of all its threads, until the answer and in all

FOLDER holds another version of this code. The compilation cache is filled before, and
the files of Python and its packages are in memory.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import start_up

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config.dataset.train_split=train[:64]",
    "--config.dataset.eval_split=test[:2]",
)
STEP = ("--config.num_steps=1", "--config.batch_size=2", "--config.eval.batch_size=2")


def measure(folder, arguments):
    """Returns (answer, all, CPU until the answer, CPU) in seconds of main.py."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "main.py", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        if not child.stdout.readline():
            command = " ".join(["main.py", *arguments])
            raise RuntimeError(f"{command} gave no answer in {folder}")
        answer = time.monotonic() - start
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2]
        ticks = sum(map(int, fields.split()[11:13]))  # of user and system: proc(5)
        child.stdout.read()
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
    whole = time.monotonic() - start
    until = ticks / os.sysconf("SC_CLK_TCK")
    return answer, whole, until, usage.ru_utime + usage.ru_stime


def commands(folder, names, trainer):
    """Trains in `folder` by the version in `trainer`; {name: arguments of main.py}."""
    image = folder / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(image)
    cache = f"--compilation_cache={folder}/cache"
    found = {}
    for name in names:
        if name == "summarize":
            found[name] = ["--mode=summarize", "--config=configs/resnet50.py"]
            continue
        run = f"--workdir={folder}/{name}"
        training = [sys.executable, "main.py", *start_up.RUNS[name], *SMALL, *STEP, run]
        subprocess.run([*training, cache], cwd=trainer, check=True, capture_output=True)
        found[name] = ["--mode=predict", f"--images={image}", run, cache]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", help="the folder of another version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[*start_up.RUNS, "summarize"])
    args = parser.parse_args()
    versions = {"here": ROOT} | ({"there": args.against} if args.against else {})
    names = [args.only] if args.only else [*start_up.RUNS, "summarize"]
    print("| command | version | answer | all | CPU: answer | all |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        trainer = args.against or ROOT  # A version reads the runs of older ones.
        runs = commands(pathlib.Path(folder), names, trainer)
        for name, arguments in runs.items():
            measured = {version: [] for version in versions}
            for place in versions.values():
                measure(place, arguments)  # fills the caches
            for _ in range(args.rounds):
                for version, place in versions.items():
                    measured[version].append(measure(place, arguments))
            for version, found in measured.items():
                medians = map(statistics.median, zip(*found, strict=True))
                cells = " | ".join(f"{x:.2f}" for x in medians)
                print(f"| {name} | {version} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
