"""The convolution of every network: `lax`'s, or on a CPU whatever measured faster.

On a CPU that is Winograd's algorithm (kernels/native.py) or oneDNN's convolution
(kernels/onednn.py), and for layers as small as LeNet-5's one matrix product. XLA's CPU
backend runs a convolution well only as the forward pass of a wide layer. In LeNet-5's
two layers the gradients dominate the step. Inside `lax.scan`, `fori_loop` or
`while_loop` a convolution is three to ten times slower again, because there the
kernel's gradient misses its fast path. Matrix products have neither defect.

The usual product multiplies patches [N * Ho * Wo, Kh * Kw * Cin] by the kernel. It
copies every pixel Kh * Kw times and is only Cout columns wide. Here outputs are
computed in blocks of bh x bw instead. The image is cut into tiles of (bh * stride) x
(bw * stride) pixels, and a patch holds the few whole tiles that a block of outputs
sees. The kernel becomes a matrix with bh * bw * Cout columns, each of which is a copy
of a filter, shifted to its place among zeros. In blocks of 4x4 a 5x5 layer copies every
pixel 4 times instead of 25 and multiplies matrices 64 deep and 96 wide. The products
with zeros cost less than the copies saved.

Everything is pads, reshapes and one product. Gradients, forward mode, `vmap`, loops and
a sharded batch therefore come from JAX itself; nothing is gathered, and an image that
needs no gradient gets none. The sums run in another order than XLA's. An infinity or a
NaN in the image spoils its whole block of outputs (0 * inf), not only the outputs that
see it.

benchmarks/lenet_pass.py measures it.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from kernels import onednn
from kernels.choice import choice

_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_MAX_BLOCK = 8

# Moving one number costs as much as so many multiply-adds: into a patch and back, and
# into its copies in the kernel's matrix. Both fit LeNet-5 at batches of 128 and of 1.
_PATCH_COST = 50
_KERNEL_COST = 10
_LANES = 16  # a product's columns run 16 at a time (AVX-512, float32)


def conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
):
    """A drop-in for `jax.lax.conv_general_dilated`, which it calls off the CPU.

    On a CPU it has programs of its own for a two-dimensional NHWC/HWIO convolution
    without input dilation. A small layer (`_worthwhile`) may have any type; other
    layers must be float32 and have strides or dilation, not both. `lax` computes the
    rest.
    """
    spatial = lhs.ndim - 2
    rhs_dilation = tuple(rhs_dilation or (1,) * spatial)
    strides = tuple(window_strides)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)

    arguments = (
        *(strides, padding, lhs_dilation, rhs_dilation, numbers),
        *(feature_group_count, batch_group_count, precision, preferred_element_type),
    )

    def by_lax(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, *arguments)

    if feature_group_count > 1 and (mesh := _mesh_that_splits(lhs)):
        shared = PartitionSpec(mesh.axis_names)  # all of them split the images
        # Inside, the mesh's axes are manual, so this call does not come here again.
        return jax.shard_map(
            lambda lhs, rhs: conv_general_dilated(lhs, rhs, *arguments),
            in_specs=(shared, PartitionSpec()),
            out_specs=shared,
            check_vma=False,
        )(lhs, rhs)

    ordinary = (
        numbers == _NHWC and set(lhs_dilation or (1,)) == {1} and batch_group_count == 1
    )
    if choice.plain or not ordinary:
        return by_lax(lhs, rhs)
    if isinstance(padding, str):
        extent = _extent(rhs, rhs_dilation)
        padding = lax.padtype_to_pads(lhs.shape[1:3], extent, strides, padding)

    options = (precision, preferred_element_type)
    if _worthwhile(lhs.shape, rhs.shape, strides, padding, feature_group_count):

        def on_cpu(lhs, rhs):
            return blocked_conv(lhs, rhs, strides, padding, rhs_dilation, *options)

    elif (
        lhs.dtype == rhs.dtype == jnp.float32
        and options == (None, None)
        and (1, 1) in (strides, rhs_dilation)
        and all(p >= 0 for pads in padding for p in pads)
    ):

        def on_cpu(lhs, rhs):
            apart = strides
            if rhs.shape[:2] == (1, 1) and not any(map(any, padding)):
                lhs, apart = lhs[:, :: strides[0], :: strides[1]], (1, 1)
            return onednn.conv(
                lhs, rhs, apart, padding, rhs_dilation, feature_group_count
            )

    else:
        return by_lax(lhs, rhs)
    return lax.platform_dependent(lhs, rhs, cpu=on_cpu, default=by_lax)


def _mesh_that_splits(images):
    """The mesh of `jax.set_mesh`, if it can share out the images; otherwise None."""
    mesh = jax.sharding.get_abstract_mesh()
    able = mesh.size > 1 and not mesh.manual_axes and images.shape[0] % mesh.size == 0
    return mesh if able else None


def blocked_conv(
    images,
    kernel,
    strides,
    padding,
    dilation=(1, 1),
    precision=None,
    preferred_element_type=None,
    block=None,
):
    """Convolution [N, H, W, Cin] * [Kh, Kw, Cin, Cout] -> [N, Ho, Wo, Cout].

    `block` is the (height, width) of a block of outputs; None takes the one that
    `_cheapest_block` estimates to be cheapest. `padding` is ((top, bottom), (left,
    right)).
    """
    n, *size, cin = images.shape
    cout = kernel.shape[3]
    extent = _extent(kernel, dilation)
    out = [
        max(0, (h + sum(p) - k) // s + 1)
        for h, p, k, s in zip(size, padding, extent, strides, strict=True)
    ]
    if 0 in (n, *out):
        dtype = preferred_element_type or jnp.result_type(images, kernel)
        return jnp.zeros((n, *out, cout), dtype)
    bh, bw = block or _cheapest_block(n, out, extent, strides, cin, cout)
    (th, eh, nh), (tw, ew, nw) = (
        _tiling(*x) for x in zip((bh, bw), out, extent, strides, strict=True)
    )

    config = [(0, 0, 0)] * 4
    for axis, (tile, seen, blocks) in enumerate([(th, eh, nh), (tw, ew, nw)]):
        low = padding[axis][0]
        whole = (blocks + seen - 1) * tile
        config[axis + 1] = (low, whole - low - size[axis], 0)
    images = lax.pad(images, jnp.zeros((), images.dtype), config)
    tiles = images.reshape(n, nh + eh - 1, th, nw + ew - 1, tw, cin)
    tiles = tiles.transpose(0, 1, 3, 2, 4, 5)
    tiles = tiles.reshape(n, nh + eh - 1, nw + ew - 1, th * tw * cin)
    patches = jnp.concatenate(
        [tiles[:, i : i + nh, j : j + nw] for i in range(eh) for j in range(ew)], 3
    )

    zero = jnp.zeros((), kernel.dtype)
    copies = []
    for i, j in itertools.product(range(bh), range(bw)):
        top, left = i * strides[0], j * strides[1]
        bottom = eh * th - extent[0] - top
        right = ew * tw - extent[1] - left
        config = [(top, bottom, dilation[0] - 1), (left, right, dilation[1] - 1)]
        copies.append(lax.pad(kernel, zero, [*config, (0, 0, 0), (0, 0, 0)]))
    kernel = jnp.stack(copies, 3).reshape(eh, th, ew, tw, cin, bh * bw * cout)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(-1, bh * bw * cout)

    y = lax.dot(
        patches.reshape(n * nh * nw, -1),
        kernel,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    y = y.reshape(n, nh, nw, bh, bw, cout).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, nh * bh, nw * bw, cout)[:, : out[0], : out[1]]


def _extent(kernel, dilation):
    """The pixels that a kernel spans, (height, width)."""
    return [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]


def _tiling(block, out, extent, stride):
    """Returns, for one axis, (pixels in a tile, tiles that a block sees, blocks)."""
    blocks = -(-out // block)
    seen = (block - 1) * stride + extent
    if blocks == 1:
        return seen, 1, 1
    tile = block * stride
    return tile, -(-seen // tile), blocks


def _cheapest_block(n, out, extent, strides, cin, cout):
    """The (height, width) of a block of outputs with the least estimated work."""

    def cost(block):
        blocks, depth = n, cin
        for axis in range(2):
            tile, seen, count = _tiling(
                block[axis], out[axis], extent[axis], strides[axis]
            )
            blocks *= count
            depth *= seen * tile
        columns = math.prod(block) * cout
        lanes = -(-columns // _LANES) * _LANES
        product = blocks * depth * (lanes + _PATCH_COST)
        return product + depth * columns * _KERNEL_COST

    sizes = range(1, _MAX_BLOCK + 1)
    return min(itertools.product(sizes, sizes), key=cost)


def _worthwhile(image_shape, kernel_shape, strides, padding, groups):
    """Whether the forward pass and both gradients measured faster than XLA's.

    On two cores these ran at so many times XLA's speed: LeNet-5's C1 3.4, C3 2.2 and
    C5 8.7 at batch 128, and 4.3, 1.5 and 8.0 at batch 1; 3x3 from 3 to 16 at 32x32 1.9.
    These were slower: 3x3 from 16 to 16 at 32x32 0.6; 3x3 from 64 to 64 at 56x56 0.4;
    7x7/2 from 3 to 64 at 224 0.2; 11x11/4 from 3 to 96 at 227 0.7.
    """
    if strides != (1, 1) or groups > 1:
        return False
    if kernel_shape[:2] == tuple(image_shape[1:3]) and not any(map(any, padding)):
        return True  # It is a dense layer on the whole image.
    return kernel_shape[2] * kernel_shape[3] <= 128
