"""The kernel's gradient by a program of our own, built where there is a C++ compiler.

    python models/native.py

builds models/kernel_gradient.cc for this processor, into the Python environment; `make`
does so when it installs. XLA's CPU backend has no quick gradient for the kernel of a
convolution, and jaxlib's oneDNN has none among its custom calls. Without a compiler, or
where the environment is used on another kind of processor, the gradients are XLA's:
slower (benchmarks/RESULTS.md), and equal up to rounding.

The calls are JAX's foreign function interface, which is public and versioned: programs
that make them can be stored in the compilation cache.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax
import jaxlib
import numpy as np

SOURCE = pathlib.Path(__file__).with_name("kernel_gradient.cc")
_OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")
_NAME = "convnets_kernel_gradient"


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def path():
    """Where the library for this source, jaxlib and processor is, if it was built."""
    cpu = pathlib.Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = {line for line in lines if line.startswith(("flags", "Features"))}
    parts = platform.machine(), *sorted(features), jaxlib.__version__, *_OPTIONS
    key = hashlib.sha256(SOURCE.read_bytes() + "\n".join(parts).encode()).hexdigest()
    return pathlib.Path(sys.prefix, "lib", "convnets", f"{SOURCE.stem}-{key[:16]}.so")


def build():
    """Builds the library, if it is not there yet, and returns its path."""
    target = path()
    if target.exists():
        return target
    if sys.platform != "linux":
        raise BuildError(f"on {sys.platform}, where it was not tested")
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next(filter(None, map(shutil.which, filter(None, names))), None)
    if compiler is None:
        raise BuildError("no C++ compiler: no c++, g++ or clang++, and CXX names none")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = pathlib.Path(folder, target.name)
            include = ("-isystem", jax.ffi.include_dir())
            command = [compiler, *_OPTIONS, *include, str(SOURCE), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise BuildError(f"{' '.join(command)}\n{done.stderr.strip()}")
            built.replace(target)  # Whole or not at all, when two build at once.
    except OSError as error:
        raise BuildError(error) from None
    return target


@functools.cache
def available():
    """Whether the library is there. The first call loads it."""
    try:
        library = ctypes.CDLL(path())
    except OSError:
        return False
    function = jax.ffi.pycapsule(getattr(library, _NAME))
    jax.ffi.register_ffi_target(_NAME, function, platform="cpu")
    return True


def kernel_gradient(images, dy, *, window, strides, padding, dilation, groups):
    """[N, H, W, Cin] and [N, Ho, Wo, Cout] to [Kh, Kw, Cin / groups, Cout], float32."""
    shape = (*window, images.shape[3] // groups, dy.shape[3])
    call = jax.ffi.ffi_call(_NAME, jax.ShapeDtypeStruct(shape, np.float32))
    return call(
        images,
        dy,
        strides=np.array(strides, np.int64),
        low=np.array([low for low, _ in padding], np.int64),
        dilation=np.array(dilation, np.int64),
        groups=np.int64(groups),
    )


def main():
    try:
        print(f"kernel gradients: {build()}")
    except BuildError as error:
        print(f"kernel gradients stay XLA's, which are slower: {error}")


if __name__ == "__main__":
    main()
