"""Small trainings on embedded MNIST for the tests, in this process or in children."""

import contextlib
import io
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import claims.__main__
import main
import train
from configs import faster_rcnn, lenet5
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
# A detector's 12 steps of 4 canvases in two epochs of six. Most of its tests have the
# fixture few_digits, whose data and network are smaller than these.
DETECTOR = {
    "num_devices": 1,
    "batch_size": 4,
    "num_epochs": 2.0,
    "dataset.train_split": "train[:24]",
    "dataset.eval_split": "test[:10]",
    "detection.short_side": 64,
    "detection.long_side": 64,
    "detection.rpn_batch": 16,
    "detection.roi_batch": 8,
    "eval.batch_size": 4,
    "schedule.name": "constant",
    "schedule.warmup_epochs": 0.0,
    "optimizer.ema_decay": 0.9,
    "checkpoint.every_steps": 2,
    "checkpoint.keep_last": 6,
    "log.every_steps": 2,
    "log.tensorboard": False,
    "model.fields.features": 8,
    "model.fields.rpn_channels": 8,
    "model.fields.pool_size": 4,
    "model.fields.anchor_sizes": (12, 24),
    "model.fields.pre_nms": (60, 60),
    "model.fields.post_nms": (30, 20),
    "model.fields.max_detections": 20,
}


class NoStop:
    """Stands for stopping.StopSignal, which needs the main thread of a program."""

    requested = False


class StopAfter:
    """As NoStop, but asks for a stop after so many questions.

    One is asked before each step, and one before each batch of an evaluation.
    """

    def __init__(self, questions):
        self._left = questions

    @property
    def requested(self):
        self._left -= 1
        return self._left < 0


def free_ports(count):
    """Different ports that nothing listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


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


def small_detector(variant="digits", **overrides):
    """A shrunk variant of configs/faster_rcnn.py; overrides as for `small_config`."""
    config = faster_rcnn.get_config(variant)
    changes = DETECTOR | {k.replace("__", "."): v for k, v in overrides.items()}
    config.update_from_flattened_dict(changes)
    checks.check(config)
    return config.lock()


def train_detector(path, stop=NoStop, until=1, **overrides):
    """Trains a small detector in this process; returns the final line."""
    run = workdir.Workdir(path)
    return str(train.train(small_detector(**overrides), run, stop, until))


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
    make=small_config,
    **overrides,
):
    """Sweeps with small trainings; returns its command.Runs and command.Sweep."""
    config = make(**overrides)
    swept = sweeps.Runs(config, workdir.Workdir(path), vary, declared, factor)
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


def assert_answers(lines, predictions, examples):
    """What --mode=predict printed of images is what an evaluation found of them."""
    for line, example in zip(lines, examples, strict=True):
        exp = np.exp(predictions.logits[example])
        shares = 100 * exp / exp.sum()
        best = np.argsort(-shares)[:5]
        found = re.findall(r"  (\S+) (\d+\.\d) %", line)
        assert [name for name, _ in found] == predictions.label_names[best].tolist()
        printed = [float(share) for _, share in found]
        np.testing.assert_allclose(printed, shares[best], rtol=0, atol=0.051)  # rounded


@contextlib.contextmanager
def read_only(directory):
    """Makes a directory read-only: by a mount for root, who ignores permissions."""
    if os.geteuid():
        directory.chmod(0o555)
        yield "Permission denied"
        directory.chmod(0o755)
        return
    bind = ["mount", "--bind", directory, directory]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", directory], check=True)
        yield "Read-only file system"
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@contextlib.contextmanager
def file_size_limit(size):
    """Makes writes beyond `size` bytes of a file fail with EFBIG, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def command(*arguments, small=SMALL | TINY, **overrides):
    """The command line of main.py with the small changes and further ones."""
    changes = small | {k.replace("__", "."): v for k, v in overrides.items()}
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


def run_code(code):
    """Runs Python code to its end in a child of its own; returns as `run_main` does."""
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return child


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
