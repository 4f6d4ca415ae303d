"""Times main.py from Enter to the report of the first training step, by phase.

    python -m benchmarks.start_up [--rounds=5]

Each measurement runs main.py in its own process, training on embedded MNIST: first with
an empty compilation cache, then with the one that the first filled. The table has
medians over the rounds, in seconds:

    imports     from the start of the process until training begins
    data        opening the splits, decoding them, sending them to the device
    init        parameters and optimizer state: tracing, compiling and running
    step        the first training step, likewise
    rest        what lies between: shapes, the run directory, writers
    compiled    the part of all that spent in XLA's compiler or its cache

The files of Python and its packages are in memory, since an earlier run has read them.
"""

import argparse
import functools
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from kernels import huge_pages

ROOT = pathlib.Path(__file__).parent.parent
RUNS = {
    "lenet5": ("--config=configs/lenet5.py",),
    "resnet50": (
        "--config=configs/resnet50.py",
        "--config.dataset.name=mnist",
        "--config.dataset.fit=resize",
        "--config.dataset.image_size=224",
        "--config.batch_size=16",
    ),
}
ONE_STEP = ("--config.num_steps=1", "--config.log.every_steps=1")
PHASES = ("imports", "data", "init", "step", "rest", "compiled")
MARK = "start-up: "


def measure(arguments, cache):
    """The seconds of each phase, and of all as "total"."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "benchmarks.start_up",
            "--child",
            str(time.time()),
            *arguments,
            *ONE_STEP,
            f"--compilation_cache={cache}",
            f"--workdir={directory}/run",
        ]
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for line in child.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(f"{' '.join(command)}\n{child.stderr}")


def run_main(start, arguments):
    """Runs main.py in this process, which ends at the report of the first step.

    `start` is the `time.time` at which the process was requested.
    """
    huge_pages.start_anew()  # this and the next, as main.py does if it is the program
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    import jax

    import main as program
    import train
    from experiment import build, reporting
    from weights import starting

    program.THRESHOLD = threshold
    seconds = dict.fromkeys(PHASES, 0.0)

    def timed(owner, name, phase):
        """Adds the time of calls to the function `owner.name` to `phase`."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            since = time.time()
            result = jax.block_until_ready(function(*args, **kwargs))
            seconds[phase] += time.time() - since
            return result

        setattr(owner, name, wrapper)

    timed(build, "open_splits", "data")
    timed(build.Setup, "feed", "data")
    timed(starting, "restore", "init")
    timed(starting, "new_state", "init")
    timed(train.Trainer, "_advance", "step")
    timed(train.Trainer, "_checked", "step")  # waits for the step's sums

    def count_compilation(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds["compiled"] += duration

    jax.monitoring.register_event_duration_secs_listener(count_compilation)
    begin = train.train

    def train_from_now(*args):
        seconds["imports"] = time.time() - start
        return begin(*args)

    def end(*args):
        total = time.time() - start
        parts = ("imports", "data", "init", "step")
        seconds["rest"] = total - sum(seconds[phase] for phase in parts)
        print(MARK + json.dumps({"total": total, **seconds}), flush=True)
        os._exit(0)  # skips the evaluation and the checkpoint

    train.train, reporting.Progress.line = train_from_now, end
    sys.exit(program.main(["main.py", *arguments]))


def main():
    if sys.argv[1:2] == ["--child"]:
        run_main(float(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=RUNS)
    args = parser.parse_args()
    names = [args.only] if args.only else list(RUNS)
    measured = {(name, cache): [] for name in names for cache in ("cold", "warm")}
    for _ in range(args.rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as directory:
                for cache in ("cold", "warm"):
                    measured[name, cache].append(measure(RUNS[name], directory))

    columns = ("total", *PHASES)
    print(f"| run | cache | {' | '.join(columns)} |")
    print(f"|---|---|{'---:|' * len(columns)}")
    for (name, cache), found in measured.items():
        medians = (statistics.median(x[column] for x in found) for column in columns)
        print(f"| {name} | {cache} | {' | '.join(f'{x:.2f}' for x in medians)} |")


if __name__ == "__main__":
    main()
