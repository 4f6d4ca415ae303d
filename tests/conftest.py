"""Every test runs on eight virtual CPU devices, whatever the machine has."""

import atexit
import gc
import os
import pathlib
import shutil
import socket
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["COLUMNS"] = "80"  # argparse fills the terminal's width
# What runs for a moment is compiled for a moment: without LLVM's optimisations and with
# XLA's older emitter of fusions, a training step compiles four times as fast.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_prefer_vector_width=128",
    ]
)
# Children find tiny_networks there.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH")])
)
# The user's own data sets, for the tests that read one of them and for no other.
os.environ.setdefault("CONVNETS_TEST_DATA", os.environ.pop("TFDS_DATA_DIR", ""))
# A program is compiled once for all workers, tests and children. The limit, which is
# never reached, makes JAX lock the cache.
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has its parent's variables
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="xla-cache-")
    atexit.register(
        shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
    )
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**40)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

# The variables above must be set first.
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tiny_datasets  # noqa: E402

import data_source  # noqa: E402
import input_pipeline  # noqa: E402
from detection import digits  # noqa: E402
from models import resnet  # noqa: E402
from sweep import in_process  # noqa: E402

# Tracing makes millions of objects and little garbage; to look for it as often as usual
# takes a fifth of the time of tests that trace.
gc.set_threshold(100_000, 50, 100)
jax.config.update("jax_numpy_rank_promotion", "raise")
# The next test would trace and compile all again; `bounded_memory` frees them in time.
in_process._free_programs = lambda: None


@pytest.fixture(autouse=True)
def bounded_memory():
    """A worker keeps the compiled programs, and their constants, of all its tests."""
    yield
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > 3 * 2**30:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def nothing_was_said():
    """Another test of this worker may have logged the same line."""
    input_pipeline._said.clear()


@pytest.fixture
def some():
    """Images uint8 [20, 8, 8, 1] and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 8, 8, 1), np.uint8), rng.integers(0, 3, 20)


@pytest.fixture
def shallow(monkeypatch):
    """Leaves resnet20 and plain20 one block in each stage: they compile in a third."""
    monkeypatch.setitem(resnet.CIFAR, 20, (1, 1, 1))


@pytest.fixture(scope="module")
def few_digits():
    """Leaves 24 and 10 canvases, and resnet18 one block in each stage."""
    with pytest.MonkeyPatch.context() as patch:
        for split, size in (("train", 24), ("test", 10)):
            patch.setitem(digits.SIZES, split, size)
        block, _ = resnet.TABLE_1[18]
        patch.setitem(resnet.TABLE_1, 18, (block, (1, 1, 1, 1)))
        yield


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tiny(tmp_path, some):
    tiny_datasets.prepare(tmp_path, *some)
    return data_source.open_split("tiny", "train", data_dir=tmp_path)


@pytest.fixture
def no_other_data(monkeypatch, tmp_path):
    """Neither the user's data nor the network may decide a test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def refuse(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)


def pytest_terminal_summary(terminalreporter):
    """Prints what tests/parity reported: under xdist only this file is loaded here."""
    lines = [
        "  ".join(f"{n} {v:.1e}" for n, v in found.items()) + "  " + report.nodeid
        for report in terminalreporter.getreports("")
        if report.when == "teardown"
        for name, found in report.user_properties
        if name == "logits"
    ]
    if lines:
        terminalreporter.section("largest difference relative to the largest logit")
        terminalreporter.write_line(
            "\n".join(sorted(lines, key=lambda x: x.split()[-1]))
        )
