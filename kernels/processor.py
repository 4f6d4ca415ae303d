"""The processor at hand, and where to keep what is built or found out for it."""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

FOLDER = pathlib.Path(__file__).parent


def features():
    """Returns the processor's architecture and instruction sets, as strings."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = {line for line in lines if line.startswith(("flags", "Features"))}
    return platform.machine(), *sorted(features)


def name():
    """Returns a short name that processors with the same instruction sets share."""
    digest = hashlib.sha256("\n".join(features()).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def cores():
    """Returns how many cores this process may use, which XLA takes as its threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def places(name):
    """Yields where a file made on this machine may be, the best place first.

    That is the Python environment, and the user's cache if it cannot be written.
    """
    yield pathlib.Path(sys.prefix, "lib", "convnets", name)
    with contextlib.suppress(RuntimeError):  # The user may have no home.
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        yield pathlib.Path(cache, "convnets", name)
