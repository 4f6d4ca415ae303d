"""Small trainings on embedded MNIST for the tests, in this process or in children."""

import contextlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import warnings

import jax
import numpy as np

import claims.__main__
import main
import train
from configs import lenet5
from experiment import checkpoints, checks, stopping, workdir
from sweep import command as sweeps
from sweep import in_process, local

ROOT = pathlib.Path(__file__).parent.parent
OLD_RUN = ROOT / "tests" / "old_run"  # made before the rooms were built

# 30 steps of 32 images in three epochs of ten steps.
SMALL = {
    "num_devices": 1,
    "batch_size": 32,
    "num_epochs": 3.0,
    "steps_per_dispatch": 7,
    "dataset.train_split": "train[:320]",
    "dataset.eval_split": "test[:203]",
    "eval.batch_size": 100,
    "log.every_steps": 4,
    "log.tensorboard": False,
}
# Most tests need a network that compiles quickly, no more.
TINY = {"model.name": "tiny_networks:Tiny"}


class NoStop:
    """Stands for stopping.StopSignal, which needs the main thread of a program."""

    requested = False


def small_config(variant=None, **overrides):
    """A shrunk variant of configs/lenet5.py, or :modern with a tiny network.

    Overrides are written with "__" for ".".
    """
    config = lenet5.get_config(variant or "modern")
    changes = SMALL | ({} if variant else TINY)
    changes |= {k.replace("__", "."): v for k, v in overrides.items()}
    config.update_from_flattened_dict(changes)
    checks.check(config)
    return config.lock()


def train_small(path, variant=None, stop=NoStop, **overrides):
    """Trains in this process; returns the final line."""
    run = workdir.Workdir(path)
    return str(train.train(small_config(variant, **overrides), run, stop))


def sweep(
    path,
    vary=(),
    stop=NoStop,
    declared=(),
    factor=None,
    jobs=0,
    at_once=0,
    **overrides,
):
    """Sweeps with small trainings; returns its command.Runs and command.Sweep."""
    swept = sweeps.Runs(
        small_config(**overrides), workdir.Workdir(path), vary, declared, factor
    )
    here = in_process.InProcess(stop, at_once)
    return swept, sweeps.sweep(swept, local.Local(stop, jobs) if jobs else here)


def final_state(path):
    """The newest saved state as nested dicts of numpy arrays, and its step."""
    saved = checkpoints.Checkpoints(workdir.Workdir(path).checkpoints)
    state, step, _ = saved.restore()
    saved.close()
    return state, step


def assert_same_bits(a, b):
    paths_a, paths_b = (jax.tree_util.tree_flatten_with_path(x)[0] for x in (a, b))
    assert [p for p, _ in paths_a] == [p for p, _ in paths_b]
    for (path, x), (_, y) in zip(paths_a, paths_b, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), f"{path}: {np.abs(x - y).max()}"


def assert_close(a, b):
    """30 float32 steps with sums in another order may differ by some 1e-6."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-4, 2e-5), a, b)


def command(*arguments, **overrides):
    """The command line of main.py with the small changes and further ones."""
    changes = SMALL | TINY | {k.replace("__", "."): v for k, v in overrides.items()}
    return [
        sys.executable,
        "main.py",
        *arguments,
        *(f"--config.{name}={value}" for name, value in changes.items()),
    ]


def environment(devices=1):
    """The environment of a child process: a CPU with that many devices."""
    env = dict(os.environ)
    env["JAX_PLATFORMS"] = "cpu"
    env["XLA_FLAGS"] = re.sub(r"(?<=device_count=)\d+", str(devices), env["XLA_FLAGS"])
    env["PYTHONUNBUFFERED"] = "1"
    return env


def call_main(arguments):
    """Calls main.py's main in this process; returns what `run_main` does.

    It costs no start of Python and no import, so most tests of flags and messages use
    it. The devices are those of the tests.
    """
    if arguments[0] == sys.executable:
        arguments = arguments[2:]
    arguments = ["main.py", *map(str, arguments)]
    out, err, folder = io.StringIO(), io.StringIO(), os.getcwd()
    handlers = {n: signal.getsignal(n) for n in stopping.SIGNALS}
    os.chdir(ROOT)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            # ml_collections loads a config by it.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            code = main.main(arguments)
    finally:
        os.chdir(folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def call_claims(arguments):
    """Calls `python -m claims` in this process; returns a CompletedProcess."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = claims.__main__.main(arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run_main(arguments, devices=1, timeout=300, env=None):
    """Runs main.py to its end; returns a CompletedProcess with text."""
    if arguments[0] != sys.executable:
        arguments = [sys.executable, "main.py", *arguments]
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env=env or environment(devices),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
