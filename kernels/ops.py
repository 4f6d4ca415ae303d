"""The operations of the networks, by the kernels that are quickest on this machine.

This is the one door to the room: everything outside kernels/ imports this file alone.
"""

import contextlib

import jax
import jaxlib

from kernels import native, onednn, probes, processor
from kernels.choice import choice
from kernels.convolution import conv_general_dilated as conv
from kernels.pixel_sums import spread as spread_pixels
from kernels.pixel_sums import total as sum_pixels
from kernels.pooling import avg_pool, max_pool, once

__all__ = [
    "avg_pool",
    "compiler_options",
    "conv",
    "describe",
    "every_kernel",
    "for_mesh",
    "in_words",
    "max_pool",
    "once",
    "portable",
    "spread_pixels",
    "sum_pixels",
    "use",
]

# Compiler options of XLA's CPU backend (`compiler_options`).
_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
_LIBRARIES = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "xla_cpu_prefer_vector_width": 512,
}


def use(kernels):
    """Chooses the kernels of all programs traced from now on.

    "auto" takes those that measured fastest on the processor at hand; "xla" leaves
    every operation, and the choice of its libraries, to XLA. Programs traced before are
    forgotten, so that none is used again by mistake.
    """
    if kernels not in ("auto", "xla"):
        raise ValueError(f"kernels: {kernels!r} is neither 'auto' nor 'xla'")
    if kernels != choice.kernels:
        choice.kernels = kernels
        jax.clear_caches()


@contextlib.contextmanager
def portable():
    """Programs traced inside have XLA's own operations alone, on every platform.

    Exported programs need that: custom calls of ours and oneDNN's exist in this process
    only, a convolution's blocks are chosen for a batch size that an exported program
    leaves open, and other runtimes recognise a plain pool.
    """
    before, choice.portable = choice.portable, True
    try:
        yield
    finally:
        choice.portable = before


@contextlib.contextmanager
def every_kernel():
    """Programs compiled inside may use kernels that no compilation cache can store.

    A program that uses one is kept out of JAX's compilation cache. Outside of this
    context such kernels are used only while that cache is off.
    """
    before, keep_after = choice.uncached, jax.config.values[onednn.KEEP_AFTER]
    choice.uncached = True
    try:
        yield
    finally:
        choice.uncached = before
        jax.config.update(onednn.KEEP_AFTER, keep_after)


@contextlib.contextmanager
def for_mesh(mesh):
    """For programs over a mesh, whose images are split over all of its devices.

    XLA does not split a convolution in groups: it gathers the batch on every device and
    computes all of it there (https://github.com/openxla/xla/issues/47945). In programs
    that are traced inside, each device computes its own images. `every_kernel` holds.
    """
    with jax.set_mesh(mesh), every_kernel():
        yield


def compiler_options(platform):
    """XLA's options for a training step, for `jax.jit`; there are none but on a CPU.

    XLA's CPU backend (jaxlib 0.10.2) removes the barriers of a program ahead of its
    fusions. Rematerialised stages (training/remat.py) then run beside the first pass,
    and ResNet-50 needs more memory than without, 1,208 MB instead of 1,082 MB at batch
    8; with the barriers it is 351 MB. `once`, kernels/onednn.py and max pooling need
    theirs to be fast.

    It gives convolutions to YNNPACK, whose gradient of a kernel takes 30 ms where Eigen
    takes 12 (3x3, 64 to 64 at 56x56, batch 16, two cores); every list of what YNNPACK
    gets that leaves convolutions out avoids that. It writes vectors of 256 bits where
    the processor has 512. With these two options ResNet-50's step takes a tenth less.
    The list leaves reductions out as well, because YNNPACK gives wrong sums of small
    products from the 32,768th element on: with v 3x3,
    i[None] + (v[None] * d[:, None]).sum(-1)[:, None, None].

    With `use("xla")` only the barriers are kept, for rematerialisation.
    """
    if platform != "cpu":
        return {}
    wanted = _BARRIERS | (_LIBRARIES if choice.kernels == "auto" else {})
    return {k: v for k, v in wanted.items() if probes.has_option(k, v)}


def describe(devices=1, platform=None):
    """Which kernels compute programs traced now, over so many devices in one program.

    `platform` None is that of JAX's default backend. Equal results mean equal
    arithmetic, as far as kernels decide it: on the same number of cores a program gives
    the same bits. The values are text, so that the result can be stored as JSON.
    """
    platform = platform or jax.default_backend()
    auto, cpu = choice.kernels == "auto", platform == "cpu"
    ours = auto and cpu and devices == 1  # XLA cannot divide a custom call.
    built = ours and native.available()
    called = {name for name in probes.CALLS if ours and probes.has_call(name)}
    convolution = ["blocks"] if auto and cpu else []
    convolution += ["winograd"] if built else []
    convolution += ["onednn"] if "convolution" in called else ["xla"]
    options = compiler_options(platform).items()
    return {
        "kernels": choice.kernels,
        "convolution": "+".join(convolution),
        "kernel_gradient": "native" if built else "xla",
        "product": "onednn" if "matmul" in called else "xla",
        "sum": "turns" if ours else "xla",
        "pool": "taps" if auto else "xla",
        "library": native.path().stem if built else "",
        "options": " ".join(f"{name}={value}" for name, value in options),
        "device": processor.name()
        if cpu
        else jax.local_devices(backend=platform)[0].device_kind,
        "jaxlib": jaxlib.__version__,
    }


def in_words(description):
    """`describe`'s result as one line for people."""
    names = ("convolution", "kernel_gradient", "product", "sum", "pool")
    if {description[name] for name in names} == {"xla"}:
        return "kernels: XLA's own"
    parts = (f"{name.replace('_', ' ')} {description[name]}" for name in names)
    return f"kernels: {', '.join(parts)}"
