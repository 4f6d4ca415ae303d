"""Memory in pages of 2 MiB instead of 4 KiB, which a training step on a CPU feels.

XLA's CPU backend takes the memory of a step's intermediate arrays from the C library
and gives it back after the step, so every step touches gigabytes of fresh pages. With
huge ones ResNet-20's step takes three quarters of its time (benchmarks/RESULTS.md).
glibc asks the kernel for them only if an environment variable says so when the process
starts.
"""

import os
import pathlib
import platform
import sys

_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE, _TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def start_anew():
    """Starts this program anew with that variable, once, where it has an effect.

    Before anything is imported that takes time: Python's own start is paid twice, some
    10 ms. Nothing happens where the variable names `glibc.malloc.hugetlb` already (0
    turns it off), where the kernel gives huge pages to everybody or to nobody, or
    without glibc.
    """
    given = os.environ.get(_VARIABLE, "")
    if _TUNABLE in given or not _on_request() or platform.libc_ver()[0] != "glibc":
        return
    os.environ[_VARIABLE] = f"{given}:{_TUNABLE}=1".lstrip(":")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _on_request():
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:
        return False
