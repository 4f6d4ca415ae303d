"""Measures and draws how costs grow: python -m benchmarks.growth

    python -m benchmarks.growth --only=batch,side,depth    a training step
    python -m benchmarks.growth --only=images              opening a data set

The first three take a training step of a ResNet for CIFAR (He et al., 2015, Section
4.2), in float32 on random images, and change one of BASE at a time. They give the
seconds of a step, a median of STEPS, and of the first one with its tracing and
compiling. The memory is what the program plans, as training says at the start, and the
peak of the process.

`images` opens the training and the validation split, as a training does: of a folder
(folder:PATH) and of an index of the same files (csv:PATH), whose lines lie in a random
order. There are two classes, the hardest case, and a tenth of the images is held out.
The seconds are those of the processor. The memory is the peak while the data are
opened, and what is held afterwards, without freed memory that the C library keeps. Most
names are links to one folder of PART empty files, and all lie in the memory of the
operating system: a disk or a network that is read for the first time adds its own time.

Each figure comes from a process of its own, and memory is the resident set above that
after the imports. The command prints a line for each value and draws growth_<what>.png
into --output, by default docs/.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from benchmarks import memory
from kernels import huge_pages

ROOT = pathlib.Path(__file__).parent.parent
BASE = {"depth": 20, "batch": 32, "side": 32}
GROWTH = {
    "batch": (8, 16, 32, 64, 128, 256),
    "side": (16, 32, 64, 128),
    "depth": (20, 32, 44, 56, 110),
    "images": (10**3, 10**4, 10**5, 10**6, 3 * 10**6, 10**7),
}
AXES = {
    "batch": "images in a batch",
    "side": "side of an image, pixels",
    "depth": "layers of the ResNet",
    "images": "images of the data set",
}
STEPS = 5
CLASSES = ("cat", "dog")
PART = 100_000  # files of a folder


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(GROWTH), help="what grows")
    parser.add_argument("--output", default=ROOT / "docs", help="folder of the figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # arguments of `measure`
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(measure(**json.loads(args.child))))
        return
    names = args.only.split(",")
    if unknown := set(names) - set(GROWTH):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for what in names:
        rows = {}
        for value in GROWTH[what]:
            rows[value] = opening(value) if what == "images" else step(what, value)
            print(line(what, value, rows[value]), flush=True)
        draw(what, rows, pathlib.Path(args.output) / f"growth_{what}.png")


def step(what, value):
    """Returns the seconds and the bytes of a step, each {name: number}."""
    found = child(**BASE | {what: value})
    return (
        {"a step": found["step"], "the first step, with compiling": found["first"]},
        {"peak": found["peak"], "planned": found["planned"]},
    )


def opening(count):
    """Returns the seconds and the bytes of opening `count` images, as `step` does."""
    seconds, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        make_images(pathlib.Path(folder), count)
        for kind, name in {"folder": folder, "csv": f"{folder}/all.csv"}.items():
            found = child(name=f"{kind}:{name}")
            seconds[kind] = found["seconds"]
            sizes |= {f"{kind}, {key}": found[key] for key in ("peak", "held")}
    return seconds, sizes


def make_images(root, count):
    """Makes a folder of `count` images, and all.csv with the same in random order."""
    each = count // len(CLASSES)
    part = min(each, PART)
    first = root / CLASSES[0] / "0000"
    first.mkdir(parents=True)
    for number in range(part):
        (first / f"image_{number:08}.jpg").touch()
    for number in range(1, each // part):
        (root / CLASSES[0] / f"{number:04}").symlink_to(first)
    for label in CLASSES[1:]:
        (root / label).symlink_to(root / CLASSES[0])
    order = np.random.default_rng(0).permutation(each * len(CLASSES))
    with open(root / "all.csv", "w") as file:
        file.write("path,label\n")
        for number in order:
            number, label = divmod(int(number), len(CLASSES))
            folder, number = divmod(number, part)
            label = CLASSES[label]
            file.write(f"{label}/{folder:04}/image_{number:08}.jpg,{label}\n")


def child(**arguments):
    """Runs `measure` in a fresh process; raises SystemExit if that fails."""
    return memory.fresh("benchmarks.growth", f"--child={json.dumps(arguments)}")


def measure(name=None, **sizes):
    """Measures in this process: a data set's opening, or a step of these sizes."""
    return measure_opening(name) if name else measure_step(**sizes)


def measure_opening(name):
    """Opens a data set; returns its images, the seconds and the bytes."""
    import data_source
    from training import memory as planning

    baseline = start_of_peak()
    start = time.process_time()
    splits = data_source.open_splits(name, ("train", "auto"))
    seconds = time.process_time() - start
    peak = memory.resident("VmHWM") - baseline
    planning.give_back()
    held = memory.resident("VmRSS") - baseline
    images = sum(map(len, splits))
    return {"images": images, "seconds": seconds, "peak": peak, "held": held}


def measure_step(depth, batch, side):
    """Trains a ResNet for some steps; returns seconds and bytes."""
    import jax

    from benchmarks import side_by_side, train_step
    from training import memory as planning

    class Task(side_by_side.Task):
        num_classes = 10

    jax.devices()
    baseline = start_of_peak()
    start = time.perf_counter()
    shape = (side, side, 3)
    ours = train_step.Ours(Task(f"resnet{depth}", batch, shape, {}, "cpu", "float32"))
    ours.run(1)
    times = [time.perf_counter() - start]
    for _ in range(STEPS):
        start = time.perf_counter()
        ours.run(1)
        times.append(time.perf_counter() - start)
    return {
        "step": statistics.median(times[1:]),
        "first": times[0],
        "planned": planning.plan(ours.program, ours.state, ours.batch).total,
        "peak": memory.resident("VmHWM") - baseline,
    }


def start_of_peak():
    """Returns this process' bytes, from which VmHWM rises anew (proc(5))."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return memory.resident("VmRSS")


def line(what, value, row):
    """Says in one line what was measured."""
    seconds, sizes = row
    words = [f"{name} {number:.3g} s" for name, number in seconds.items()]
    words += [f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items()]
    return f"{what} {value:,}: {', '.join(words)}"


def draw(what, rows, file):
    """Draws {value: (seconds, bytes)} in two panels with logarithmic axes."""
    from matplotlib import ticker

    from analysis import curves

    values = list(rows)
    with curves.figure(1, 2, 10, 4, [file]) as (_, axes):
        for axis, (number, label, unit) in zip(
            axes.flat, ((0, "seconds", 1), (1, "memory, MiB", 2**20)), strict=True
        ):
            parts = [rows[value][number] for value in values]
            lines = {n: [part[n] / unit for part in parts] for n in parts[0]}
            for at, (name, numbers) in enumerate(lines.items()):
                axis.plot(values, numbers, label=name, **curves.style(at))
            every = [n for numbers in lines.values() for n in numbers if n > 0]
            curves.logarithmic(axis, max(every) / min(every))
            axis.set_xscale("log")
            axis.set_xticks(values)
            axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 10k, 3M
            axis.xaxis.set_minor_locator(ticker.NullLocator())
            axis.set_xlabel(AXES[what])
            axis.set_ylabel(label)
            axis.legend(frameon=False, fontsize=9)


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
