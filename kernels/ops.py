"""The operations of the networks, as they are computed best on the processor at hand.

This is the one door to the room: everything outside kernels/ imports this file alone.
"""

import contextlib

import jax

from kernels import onednn
from kernels.convolution import conv_general_dilated as conv
from kernels.convolution import portable
from kernels.onednn import permitted as every_kernel
from kernels.pixel_sums import spread as spread_pixels
from kernels.pixel_sums import total as sum_pixels
from kernels.pooling import avg_pool, max_pool, once

__all__ = [
    "avg_pool",
    "compiler_options",
    "conv",
    "every_kernel",
    "for_mesh",
    "max_pool",
    "once",
    "portable",
    "spread_pixels",
    "sum_pixels",
]


@contextlib.contextmanager
def for_mesh(mesh):
    """For programs over a mesh, whose images are split over all of its devices.

    XLA does not split a convolution in groups: it gathers the batch on every device and
    computes all of it there (https://github.com/openxla/xla/issues/47945). In programs
    that are traced inside, each device has its own images.
    """
    with jax.set_mesh(mesh), every_kernel():
        yield


def compiler_options(platform):
    """What XLA is told of a training step, for `jax.jit`: of a CPU's alone something.

    XLA's CPU backend (jaxlib 0.10.2) removes the barriers of a program ahead of its
    fusions. Rematerialised stages (models/remat.py) then run beside the first pass, and
    ResNet-50 needs more memory than without, 1,208 MB instead of 1,082 MB at batch 8;
    with the barriers it is 351 MB. kernels/onednn.py and max pooling need theirs to be
    fast.

    It gives convolutions to YNNPACK, whose gradient of a kernel takes 30 ms where Eigen
    takes 12 (3x3, 64 to 64 at 56x56, batch 16, two cores); any list of what YNNPACK
    gets that leaves them out does. It writes vectors of 256 bits where the processor
    has 512. With these two ResNet-50's step takes a tenth less. Reductions are left out
    of that list because YNNPACK gives wrong sums of small products from the 32,768th
    element on: i[None] + (v[None] * d[:, None]).sum(-1)[:, None, None], v 3x3.
    """
    if platform != "cpu":
        return {}
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    if onednn.AVAILABLE:  # The version of XLA that was measured.
        options |= {
            "xla_cpu_experimental_ynn_fusion_type": (
                "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
            ),
            "xla_cpu_prefer_vector_width": 512,
        }
    return options
