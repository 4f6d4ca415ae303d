"""Memory in pages of 2 MiB instead of 4 KiB, which speeds up a training step on a CPU.

XLA's CPU backend takes the memory of a step's intermediate arrays from the C library
and returns it after the step, so every step touches gigabytes of fresh pages. With huge
pages ResNet-20's step takes three quarters of the time (benchmarks/RESULTS.md). glibc
asks Linux for them only if an environment variable says so when the process starts.
"""

import os
import pathlib
import platform
import sys

_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def start_anew():
    """Restarts this program once with that variable set, where it has an effect.

    Call it before slow imports: Python's own start, some 10 ms, is paid twice. Nothing
    happens where the variable already names `glibc.malloc.hugetlb` (0 turns it off),
    where Linux gives huge pages to everybody or to nobody, or without glibc 2.35, the
    first that knows the variable.
    """
    given = os.environ.get(_VARIABLE, "")
    if _TUNABLE in given or not _on_request() or not _known():
        return
    os.environ[_VARIABLE] = f"{given}:{_TUNABLE}=1".lstrip(":")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _known():
    """Whether the C library is a glibc that knows the variable."""
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)


def _on_request():
    """Whether Linux gives huge pages to those who ask for them."""
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:
        return False
