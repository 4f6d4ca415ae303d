"""Convolutions by C++ programs of our own, built where there is a compiler.

    python -m kernels.native

builds kernels/winograd.cc and kernels/kernel_gradient.cc for this processor and puts
the library into the Python environment, or into the user's cache if that cannot be
written; `make` does that when it installs. It also tries what jaxlib's oneDNN can do
here (kernels/probes.py).

winograd.cc computes 3x3 convolutions by Winograd's algorithm, which takes 16
multiplications where the definition takes 36; the oneDNN of jaxlib and of PyTorch took
all 36 where it was measured. kernel_gradient.cc computes the kernel's gradient of most
other convolutions, for which XLA's CPU backend has nothing fast and jaxlib's oneDNN has
no custom call (that of a 1x1 layer is a product of matrices, which oneDNN has). Where
there is no compiler, or the environment came from another kind of processor, oneDNN and
XLA stand in; they are slower (benchmarks/RESULTS.md), and the results agree up to
rounding.

The programs are called through JAX's foreign function interface, which is public and
versioned, so the compilation cache can store programs that call them. What they need
beside their operands and results, some megabytes per thread and at most 16 MB more,
they free before a call ends.
"""

import contextlib
import ctypes
import functools
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
from absl import logging

from kernels import probes, processor

SOURCES = ("kernel_gradient.cc", "winograd.cc")
HEADER = "native.h"
_OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")
_KERNEL_GRADIENT = "convnets_kernel_gradient"
_WINOGRAD = "convnets_winograd"
_WINOGRAD_KERNEL_GRADIENT = "convnets_winograd_kernel_gradient"
# Winograd's algorithm needs channels in multiples of the widest vector's floats, and
# must save so many multiplications per pair of channels to be worth its transforms.
_CHANNELS = 16
_SAVED = 1800
# Its kernel's gradient sums up so many inputs and outputs together (winograd.cc), in up
# to so many tasks, each of which has sums of its own and at least so many tiles.
_PART = 64
_TASKS, _TASK_TILES = 16, 512


class BuildError(Exception):
    """The library cannot be built here; the message says why."""


def _options():
    """Returns the compiler's options; CONVNETS_SANITIZE may name sanitizers."""
    sanitizers = os.environ.get("CONVNETS_SANITIZE")
    if not sanitizers:
        return _OPTIONS
    checked = ("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
    return *_OPTIONS, f"-fsanitize={sanitizers}", *checked


def places():
    """Yields where the library for this source, jaxlib and processor may be."""
    return processor.places("native-{}.so", (*SOURCES, HEADER), _options())


def path():
    """Returns the best place for the library."""
    return next(places())


def build():
    """Builds the library, unless it is there and can be loaded; returns its path.

    Raises a BuildError where that is not possible.
    """
    if found := _found():
        return found
    if sys.platform != "linux":
        raise BuildError(f"they were never tested on {sys.platform}")
    chosen = os.environ.get("CXX")
    if chosen and not shutil.which(chosen):
        raise BuildError(f"CXX={chosen} names no program")
    names = (chosen, "c++", "g++", "clang++")
    compiler = next(filter(None, map(shutil.which, filter(None, names))), None)
    if compiler is None:
        raise BuildError("there is no c++, g++ or clang++, and CXX names no compiler")
    target = next(filter(_can_be_written, places()), path())
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = pathlib.Path(folder, target.name)
            include = ("-isystem", jax.ffi.include_dir())
            sources = [str(processor.FOLDER / name) for name in SOURCES]
            command = [compiler, *_options(), *include, *sources, "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise BuildError(f"{' '.join(command)}\n{done.stderr.strip()}")
            built.replace(target)  # The file appears whole, even if two build at once.
    except OSError as error:
        raise BuildError(error) from None
    if why := _why_unloadable(target):
        raise BuildError(f"what {compiler} built cannot be loaded: {why}")
    return target


def _found():
    """Returns the library that is there and can be loaded, or None."""
    return next((place for place in places() if not _why_unloadable(place)), None)


def _can_be_written(place):
    """Makes the folder of a file; returns whether that may be written."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        return os.access(place.parent, os.W_OK)
    return False


def _why_unloadable(library):
    """Says why a library cannot be loaded; "" if it can.

    Its C++ runtime may be older than the compiler's, as in an environment that moved.
    """
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return ""


@functools.cache
def available():
    """Whether the library is there. The first call loads it or logs a warning."""
    found = _found()
    if found is None:
        damaged = [_why_unloadable(place) for place in places() if place.exists()]
        logging.warning(
            "our C++ convolutions %s: python -m kernels.native",
            f"cannot be loaded ({damaged[0]})" if damaged else "are not built here",
        )
        return False
    library = ctypes.CDLL(found)
    for name in (_KERNEL_GRADIENT, _WINOGRAD, _WINOGRAD_KERNEL_GRADIENT):
        function = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(name, function, platform="cpu")
    return True


def winograd_applies(cin, output, window, strides, dilation, groups):
    """Whether Winograd's algorithm can compute a convolution, and faster than others.

    `output` is the shape [N, Ho, Wo, Cout]. The multiplications that the algorithm
    saves have to pay for transforming the kernel.
    """
    n, h, w, cout = output
    return (
        tuple(window) == (3, 3)
        and tuple(strides) == tuple(dilation) == (1, 1)
        and groups == 1
        and cin % _CHANNELS == cout % _CHANNELS == 0
        and n * (9 * h * w - 16 * _tiles(h, w)) >= _SAVED
    )


def winograd(images, kernel, *, padding, layout):
    """Convolves [N, H, W, Cin] with [3, 3, Cin, Cout] to [N, Ho, Wo, Cout], float32.

    With the `layout` "HWOI" instead of "HWIO" the kernel is [3, 3, Cout, Cin]. An
    infinity or a NaN in the image spoils the whole tile of 2x2 outputs.
    """
    size = [
        x + sum(pads) - 2 for x, pads in zip(images.shape[1:3], padding, strict=True)
    ]
    cout = kernel.shape[layout.index("O")]
    # The transformed kernel lies in memory of XLA's, which is at hand.
    workspace = 16 * (images.shape[3] * cout + 2 * _CHANNELS)
    results = _arrays((len(images), *size, cout), (workspace,))
    call = jax.ffi.ffi_call(_WINOGRAD, results)
    outputs_first = np.bool_(layout == "HWOI")
    return call(images, kernel, low=_low(padding), outputs_first=outputs_first)[0]


def kernel_gradient(images, dy, *, window, strides, padding, dilation, groups):
    """Returns the kernel's gradient [Kh, Kw, Cin / groups, Cout], float32.

    `images` are [N, H, W, Cin], the gradient `dy` of the outputs is [N, Ho, Wo, Cout].
    """
    cin, cout = images.shape[3], dy.shape[3]
    shape = (*window, cin // groups, cout)
    if winograd_applies(cin, dy.shape, window, strides, dilation, groups):
        parts = math.ceil(cin / _PART) * math.ceil(cout / _PART)
        tiles = len(dy) * _tiles(*dy.shape[1:3])
        copies = max(1, min(_TASKS // parts, tiles // _TASK_TILES))
        results = _arrays(shape, (copies, parts, 16, _PART, _PART))
        call = jax.ffi.ffi_call(_WINOGRAD_KERNEL_GRADIENT, results)
        return call(images, dy, low=_low(padding))[0]
    call = jax.ffi.ffi_call(_KERNEL_GRADIENT, *_arrays(shape))
    return call(
        images,
        dy,
        strides=np.array(strides, np.int64),
        low=_low(padding),
        dilation=np.array(dilation, np.int64),
        groups=np.int64(groups),
    )


def _tiles(height, width):
    """Counts the tiles of 2x2 outputs in an image."""
    return math.ceil(height / 2) * math.ceil(width / 2)


def _arrays(*shapes):
    return [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]


def _low(padding):
    return np.array([low for low, _ in padding], np.int64)


def main():
    try:
        print(f"convolutions: {build()}")
    except BuildError as error:
        print(f"convolutions stay oneDNN's and XLA's, which are slower: {error}")
    for name, reason in probes.probe().items():
        print(f"oneDNN's {name}: {reason and f'left to XLA: {reason}' or 'works'}")


if __name__ == "__main__":
    main()
