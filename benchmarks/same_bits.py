"""Says whether two trainings with one seed end in the same bits.

    python -m benchmarks.same_bits [--steps=100] [flags of main.py]

The default is NIN on MNIST, whose max pools overlap: where the gradient of a pool adds
in any order, its bits change. Each training is a process of its own, which compiles
everything anew, so another choice of algorithms shows as well. There are two trainings
as they are, and two with XLA's deterministic operations
(--xla_gpu_deterministic_ops=true). The table counts the arrays of the final state:
parameters, momentum and other moments, and batch statistics. benchmarks/train_step.py
compares two calls of one program.

JAX_PLATFORMS chooses the device of the trainings, as for main.py.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import jax

from benchmarks import side_by_side
from errors import shortened
from experiment import checkpoints, workdir

ROOT = pathlib.Path(__file__).parent.parent
RECIPE = ["--config=configs/cifar10.py:nin", "--config.dataset.name=mnist"]
OPTIONS = {
    "XLA's default": "",
    "deterministic operations": "--xla_gpu_deterministic_ops=true",
}


def final_state(folder, flags, options):
    """Trains in `folder` in a new process; returns the final state as numpy arrays.

    Raises:
      SystemExit: the training failed; the message has the end of its output.
    """
    child = subprocess.run(
        [sys.executable, "main.py", f"--workdir={folder}", *flags],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {options}".strip(),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if child.returncode:
        sys.exit(f"main.py exited with {child.returncode}: {child.stdout[-2000:]}")
    saved = checkpoints.Checkpoints(workdir.Workdir(folder).checkpoints)
    state, _, _ = saved.restore()
    return state


def table_row(name, states):
    """A line of the table about two final states."""
    differs = side_by_side.different_bits(*states)
    count = len(jax.tree.leaves(states[0]))
    bits = f"not of {shortened(differs)}" if differs else "yes"
    return f"| {name} | {count} | {bits} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, default=100)
    args, flags = parser.parse_known_args()
    # The device is for the trainings: a process that uses a GPU takes its memory.
    jax.config.update("jax_platforms", "cpu")
    flags = [
        *(flags or RECIPE),
        f"--config.num_steps={args.steps}",
        "--config.eval.every_epochs=0",
        "--config.log.tensorboard=False",
    ]
    print(
        f"{' '.join(flags)}\n\n| trainings with | arrays | same bits |\n|---|---:|---|"
    )
    for name, options in OPTIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            states = [final_state(f"{folder}/{n}", flags, options) for n in "ab"]
        print(table_row(name, states), flush=True)


if __name__ == "__main__":
    main()
