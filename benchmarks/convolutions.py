"""Times single convolutions and their gradients in the kernel, on a CPU.

    python -m benchmarks.convolutions [--rounds=25]

The table has the milliseconds of the best round without the programs of
kernels/native.py (oneDNN then computes the convolution, XLA's Eigen its gradient), with
them, and in PyTorch. It gives our GFLOP/s by the definition's count, which Winograd's
algorithm may raise above the processor's peak. It needs a C++ compiler and, for its
column, PyTorch. The machine must be idle.
"""

import argparse
import contextlib
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import side_by_side
from kernels import huge_pages, native, onednn, ops

LAYERS = [
    # images, size, inputs, outputs, kernel, stride, groups
    (128, 32, 16, 16, 3, 1, 1),
    (128, 16, 32, 32, 3, 1, 1),
    (128, 8, 64, 64, 3, 1, 1),
    (128, 32, 16, 32, 3, 2, 1),
    (128, 32, 64, 64, 3, 1, 1),
    (128, 32, 192, 96, 5, 1, 1),
    (16, 227, 3, 96, 11, 4, 1),
    (16, 27, 96, 256, 5, 1, 2),
    (16, 224, 3, 64, 7, 2, 1),
    (16, 224, 3, 64, 3, 1, 1),
    (16, 56, 64, 64, 3, 1, 1),
    (16, 28, 128, 128, 3, 1, 1),
    (16, 14, 256, 256, 3, 1, 1),
    (16, 7, 512, 512, 3, 1, 1),
    (16, 56, 128, 32, 3, 1, 1),
    (16, 14, 128, 32, 3, 1, 1),
    (16, 56, 128, 128, 3, 1, 32),
    (16, 28, 256, 256, 3, 1, 32),
    (16, 14, 512, 512, 3, 1, 32),
    (16, 7, 1024, 1024, 3, 1, 32),
]


def contestants(of, n, size, cin, cout, kernel, stride, groups):
    """Returns (multiply-adds, {name: a function that computes the layer}).

    `of` is "convolution" or "gradient", the gradient in the kernel.
    """
    pad = 0 if kernel == 11 else kernel // 2
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((n, size, size, cin), np.float32))
    w = rng.standard_normal((kernel, kernel, cin // groups, cout), np.float32)
    w = jnp.asarray(w)

    def conv(x, w):
        pads = ((pad, pad), (pad, pad))
        return onednn.conv(x, w, (stride, stride), pads, (1, 1), groups)

    def gradient(x, dy):
        return jax.linear_transpose(lambda w: conv(x, w), w)(dy)[0]

    y = jax.eval_shape(conv, x, w)
    dy = jnp.asarray(rng.standard_normal(y.shape, np.float32))
    operands = (x, w) if of == "convolution" else (x, dy)

    def compiled(own):
        def f(*operands):
            return (conv if of == "convolution" else gradient)(*operands)

        options = ops.compiler_options("cpu")  # else YNNPACK gets XLA's convolutions
        with mock.patch.object(native, "available", lambda: own):
            program = jax.jit(f, compiler_options=options).lower(*operands).compile()
        return lambda: program(*operands).block_until_ready()

    found = {"without": compiled(False), "ours": compiled(True)}
    with contextlib.suppress(ImportError):
        found["torch"] = by_torch(of, x, w, dy, stride, pad, groups)
    return dy.size * kernel**2 * cin // groups, found


def by_torch(of, x, w, dy, stride, pad, groups):
    import torch

    x, dy = (torch.from_numpy(np.array(z)).permute(0, 3, 1, 2) for z in (x, dy))
    w = torch.from_numpy(np.array(w)).permute(3, 2, 0, 1)
    w = w.contiguous(memory_format=torch.channels_last)
    if of == "convolution":
        return lambda: torch.nn.functional.conv2d(x, w, None, stride, pad, 1, groups)
    options = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups)
    return lambda: torch.ops.aten.convolution_backward(
        dy, x, w, None, *options, [False, True, False]
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    if not native.available():
        raise SystemExit(
            "kernels/native.py has built nothing: python -m kernels.native"
        )
    print(f"{side_by_side.environment('cpu', ('ours', 'torch'))}\n")
    print("| layer | of | without | ours | torch | GFLOP/s |")
    print("|---|---|---:|---:|---:|---:|")
    for layer in LAYERS:
        for of in "convolution", "gradient":
            with ops.every_kernel():
                work, found = contestants(of, *layer)
            best = dict.fromkeys(found, float("inf"))
            for _ in range(args.rounds):
                for name, run in found.items():
                    start = time.perf_counter()
                    run()
                    best[name] = min(best[name], time.perf_counter() - start)
            cells = [f"{1e3 * best[c]:.2f}" for c in ("without", "ours")]
            cells.append(f"{1e3 * best['torch']:.2f}" if "torch" in best else "")
            n, size, cin, cout, kernel, stride, groups = layer
            name = f"{kernel}x{kernel}/{stride}, {n}x{size}x{size}, {cin} to {cout}"
            name += f" in {groups}" if groups > 1 else ""
            rate = 2e-9 * work / best["ours"]
            print(f"| {name} | {of} | {' | '.join(cells)} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
