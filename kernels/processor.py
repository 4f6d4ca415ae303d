"""The processor at hand, and where to keep what is built or found out for it."""

import hashlib
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


def libraries():
    """Returns the folder in the Python environment for files made on this machine."""
    return pathlib.Path(sys.prefix, "lib", "convnets")
