"""The processor at hand, and where to keep what is built or found out for it."""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

import jaxlib

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
    return len(os.sched_getaffinity(0))


def places(name, sources, options=()):
    """Yields where a file made for this jaxlib, processor and source may be.

    The best place, the Python environment, comes first, then the user's cache, for
    where that cannot be written. The braces in `name` take a hash of all.
    """
    parts = *features(), jaxlib.__version__, *options
    key = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        key.update((FOLDER / source).read_bytes())
    name = name.format(key.hexdigest()[:16])
    yield pathlib.Path(sys.prefix, "lib", "convnets", name)
    with contextlib.suppress(RuntimeError):  # The user may have no home.
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        yield pathlib.Path(cache, "convnets", name)
