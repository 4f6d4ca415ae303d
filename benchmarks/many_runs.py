"""Compares a sweep over seeds with as many runs of main.py, with and without the start.

    python -m benchmarks.many_runs [--runs=8] [--epochs=2] [--rounds=2]

The modern LeNet-5 on MNIST (configs/lenet5.py:modern), in turn in each round:

    separate     `main.py --config.seed=S` for each seed, one after another
    together=1   `main.py --mode=sweep`, one run at a time in one process
    together=K   the same, K runs in one program by vmap

It first times the steps alone, in this process: images per second once all is compiled.
Then it times the whole commands from start to end, evaluations and checkpoints
included, with a common compilation cache that is empty when each of them begins
("cold") or filled ("warm"). A ratio is the median over the rounds of the time of
`separate` divided by the sweep's: above 1 the sweep is faster.
"""

import argparse
import functools
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types

import jax

import train
from configs import lenet5
from experiment import workdir
from kernels import huge_pages, processor
from sweep import grid, together

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=configs/lenet5.py:modern"
NO_STOP = types.SimpleNamespace(requested=False)


def steps_alone(folder, count):
    """{contestant: function that continues `count` runs and returns images/s}."""
    config = lenet5.get_config("modern")
    config.num_devices = 1
    config.log.tensorboard = False
    parent = workdir.Workdir(f"{folder}/sweep")
    runs = grid.make_runs(config, parent, [{"seed": n} for n in range(count)])
    program = together.Program(runs)
    trainer = train.Trainer(config, workdir.Workdir(f"{folder}/run"), NO_STOP)

    def separate():
        for _ in range(count):
            trainer._advance(trainer.step + config.steps_per_dispatch)
        return trainer.state

    def grouped(groups):
        for group in groups:
            group.advance(group.step + config.steps_per_dispatch)
        return [group.state for group in groups]

    functions = {"separate": separate}
    for at_once in (1, count):
        groups = [
            together.Group(program, runs[i : i + at_once])
            for i in range(0, count, at_once)
        ]
        functions[f"together={at_once}"] = functools.partial(grouped, groups)
    images = count * config.steps_per_dispatch * config.batch_size

    def rate(train_on):
        start = time.perf_counter()
        jax.block_until_ready(train_on())
        return images / (time.perf_counter() - start)

    return {name: functools.partial(rate, f) for name, f in functions.items()}


def commands(count, epochs):
    """Returns {contestant: its command lines, without directories}."""
    flags = [CONFIG, f"--config.num_epochs={epochs}", "--config.num_devices=1"]
    seeds = ",".join(map(str, range(count)))
    found = {"separate": [[*flags, f"--config.seed={seed}"] for seed in range(count)]}
    for at_once in (1, count):
        more = ["--mode=sweep", f"--vary=seed={seeds}", f"--together={at_once}"]
        found[f"together={at_once}"] = [[*flags, *more]]
    return found


def seconds_of(lines, cache):
    """Times the commands one after another, with that cache, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for number, line in enumerate(lines):
            where = [f"--workdir={folder}/{number}", f"--compilation_cache={cache}"]
            subprocess.run(
                [sys.executable, "main.py", *line, *where],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return time.perf_counter() - start


def show(title, values, ratio, rounds):
    """Prints the medians, and the medians of the ratios to "separate"."""
    print(f"\n{title:28} {'median':>9} {'ratio':>6}   ({rounds} rounds)")
    for name, found in values.items():
        ratios = [ratio(a, b) for a, b in zip(values["separate"], found, strict=True)]
        median, times = statistics.median(found), statistics.median(ratios)
        print(f"{name:28} {median:9,.1f} {times:6.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=2.0, help="of whole commands")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {processor.cores()} cores")

    with tempfile.TemporaryDirectory() as folder:
        contestants = steps_alone(folder, args.runs)
        rates = {name: [] for name in contestants}
        for number in range(2 * args.rounds + 1):
            for name, rate in contestants.items():
                found = rate()
                if number:  # the first compiles
                    rates[name].append(found)
    show("steps alone, images/s", rates, lambda a, b: b / a, 2 * args.rounds)

    with tempfile.TemporaryDirectory() as cache:
        seconds = {c: {name: [] for name in contestants} for c in ("cold", "warm")}
        for _ in range(args.rounds):
            for name, lines in commands(args.runs, args.epochs).items():
                for state in seconds:
                    if state == "cold":
                        shutil.rmtree(cache)
                    seconds[state][name].append(seconds_of(lines, cache))
    for state, found in seconds.items():
        show(f"{state}, seconds", found, lambda a, b: a / b, args.rounds)


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
