"""The networks' operations, computed by the fastest kernels that this machine has.

This is the package's interface, and docs/structure.md names the few that import more.
"""

import contextlib

import jax
import jaxlib

from kernels import native, onednn, probes, processor
from kernels.activation import relu
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
    "relu",
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
    """Chooses the kernels of all programs that are traced from now on.

    "auto" takes the kernels that measured fastest on the processor at hand. "xla"
    leaves every operation, and the choice of its libraries, to XLA. A change makes JAX
    forget the programs that it traced before, so that none of them runs by mistake.
    Raises a ValueError for any other name.
    """
    if kernels not in ("auto", "xla"):
        raise ValueError(f"kernels: {kernels!r} is neither 'auto' nor 'xla'")
    if kernels != choice.kernels:
        choice.kernels = kernels
        jax.clear_caches()


@contextlib.contextmanager
def portable():
    """Programs traced inside contain only XLA's own operations, on every platform.

    An exported program needs that: the custom calls exist only in this process, the
    blocks of a convolution depend on a batch size that an exported program leaves open,
    and other runtimes recognise a plain pool.
    """
    before, choice.portable = choice.portable, True
    try:
        yield
    finally:
        choice.portable = before


@contextlib.contextmanager
def every_kernel():
    """Programs compiled inside may use kernels that the compilation cache cannot store.

    A program that uses one of them is kept out of JAX's compilation cache. Elsewhere
    these kernels are used only while that cache is off.
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
    """Traces programs for a mesh that splits the images over all of its devices.

    XLA does not split a grouped convolution: it gathers the batch on every device and
    computes all of it there (https://github.com/openxla/xla/issues/47945). In programs
    traced inside, each device computes its own images. `every_kernel` holds as well.
    """
    with jax.set_mesh(mesh), every_kernel():
        yield


def compiler_options(platform):
    """Returns XLA's options for a training step, for `jax.jit`: {} except on a CPU.

    XLA's CPU backend (jaxlib 0.10.2) removes a program's barriers before it fuses
    operations. Rematerialised stages (training/remat.py) then run beside the first
    pass, and at batch 8 ResNet-50 needs 1,208 MB, more than the 1,082 MB it needs
    without them; with the barriers it needs 351 MB. `once`, kernels/onednn.py and max
    pooling need their barriers to be fast.

    The backend gives convolutions to YNNPACK, whose kernel's gradient takes 30 ms where
    Eigen takes 12 (3x3, 64 to 64 at 56x56, batch 16, two cores); any list of what
    YNNPACK gets avoids that if it leaves convolutions out. It uses vectors of 256 bits
    where the processor has 512. Both options together save a tenth of ResNet-50's step.
    The list leaves out reductions too, because from the 32,768th element on YNNPACK
    gives wrong sums of small products: i[None] + (v[None] * d[:, None]).sum(-1)[:,
    None, None] for a 3x3 v.

    An option is left out if XLA does not know it (kernels/probes.py). With `use("xla")`
    only the barriers are kept, for rematerialisation.
    """
    if platform != "cpu":
        return {}
    wanted = _BARRIERS | (_LIBRARIES if choice.kernels == "auto" else {})
    return {k: v for k, v in wanted.items() if probes.has_option(k, v)}


def describe(devices=1, dtype="float32"):
    """Says which kernels a program for so many devices has if it is traced now.

    Returns a dict of strings, for JSON. Two equal dicts mean equal arithmetic as far as
    kernels, XLA's options and threads, jaxlib and the kind of processor decide it.
    `dtype` is that of the convolutions. `every_kernel` is assumed.
    """
    platform = jax.default_backend()
    auto, cpu = choice.kernels == "auto", platform == "cpu"
    ours = auto and cpu and devices == 1  # XLA cannot partition a custom call.
    libraries = ours and dtype == "float32"
    built = libraries and native.available()
    called = {name for name in probes.CALLS if libraries and probes.has_call(name)}
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
        "threads": str(processor.cores()) if cpu else "",
        "device": processor.name()
        if cpu
        else jax.local_devices(backend=platform)[0].device_kind,
        "jaxlib": jaxlib.__version__,
    }


def in_words(description):
    """Puts a result of `describe` into one line for people."""
    names = ("convolution", "kernel_gradient", "product", "sum", "pool")
    if {description[name] for name in names} == {"xla"}:
        return "kernels: XLA's own"
    parts = (f"{name.replace('_', ' ')} {description[name]}" for name in names)
    return f"kernels: {', '.join(parts)}"
