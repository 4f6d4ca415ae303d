"""The processor at hand, and where what is built or found out for it is kept."""

import hashlib
import pathlib
import platform
import sys

FOLDER = pathlib.Path(__file__).parent
LIBRARIES = pathlib.Path(sys.prefix, "lib", "convnets")


def features():
    """The processor's name and its instruction sets, as text."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = {line for line in lines if line.startswith(("flags", "Features"))}
    return platform.machine(), *sorted(features)


def name():
    """A short name of this kind of processor: others have other instruction sets."""
    digest = hashlib.sha256("\n".join(features()).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"
