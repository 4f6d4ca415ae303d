"""Shows where the time of a training step goes, by XLA's operations, on a CPU.

    python -m benchmarks.profile_step --network=resnet50 [--top=30]

It runs the step of benchmarks/train_step.py under `jax.profiler` and prints
milliseconds per step for each kind of operation and for the longest operations. A kind
is an operation's name without its number; a fusion is named after what it fuses. Times
are those of the thread that started an operation. They leave out Eigen's convolutions,
which run on other threads and take the rest of the step. Tracing itself costs time.
"""

import argparse
import collections
import pathlib
import re
import tempfile
import time

import jax

from benchmarks import side_by_side, train_step
from kernels import huge_pages

STEPS = 2


def milliseconds(folder):
    """Reads {operation: milliseconds per step} from the trace in a folder."""
    found = collections.Counter()
    for path in pathlib.Path(folder).rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op")
                    if name:
                        found[name] += event.duration_ns / 1e6 / STEPS
    return found


def kind(operation):
    """An operation's name without numbers: add_fusion.12 is an add_fusion."""
    return re.sub(r"\.\d+(?=$|__)|\.clone", "", operation)


def shapes(program):
    """Reads {operation: "shape name in the network"} from a compiled program's text."""
    found = {}
    for line in program.splitlines():
        match = re.match(r"\s*(?:ROOT )?%(\S+) = (\S+?)(?:\{\S*)? ", line)
        if match:
            name = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = f"{match[2]} {name[1][-80:] if name else ''}"
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=side_by_side.NETWORKS, required=True)
    parser.add_argument("--batch", type=int, help="default: 16, of small images 128")
    parser.add_argument("--top", type=int, default=20, help="longest operations")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    shape, fields = side_by_side.NETWORKS[args.network]
    batch = args.batch or (128 if shape[0] <= 32 else 16)
    task = side_by_side.Task(args.network, batch, shape, fields, "cpu", "float32")
    ours = train_step.Ours(task)
    ours.run(2)
    start = time.perf_counter()
    ours.run(STEPS)
    step = (time.perf_counter() - start) / STEPS * 1e3
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            ours.run(STEPS)
        operations = milliseconds(folder)

    print(f"{side_by_side.environment('cpu', ())}; {args.network}, batch {batch}")
    print(f"a step: {step:.1f} ms; the operations of a traced one:")
    kinds = collections.Counter()
    for name, spent in operations.items():
        kinds[kind(name)] += spent
    for name, spent in kinds.most_common(args.top):
        print(f"{spent:9.1f}  {name}")
    print("the longest:")
    known = shapes(ours.program.as_text())
    for name, spent in operations.most_common(args.top):
        print(f"{spent:9.1f}  {name} {known.get(name, '')}")


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
