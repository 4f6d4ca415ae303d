"""Makes one of oneDNN's calls and compares what it computes with XLA's own operation.

    python -m kernels.onednn_check convolution

kernels/probes.py runs this as a child process, because a call that XLA does not
understand ends the process. Exit code 0: the numbers agree; otherwise the last line of
the errors says what is wrong.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from kernels import onednn, probes
from kernels.choice import choice

# kernel, strides, padding, dilation, groups; 8 channels to 16, which are too few for
# Winograd's algorithm, so that the call is oneDNN's.
CONVOLUTIONS = [
    ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((3, 3), (1, 1), ((2, 1), (0, 3)), (2, 1), 1),
    ((5, 2), (2, 3), ((2, 1), (0, 3)), (1, 1), 1),
    ((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 8),
]
SIZE, INPUTS, OUTPUTS = (2, 13, 19), 8, 16
ROWS = (3, 200, 5000)


def cases(name):
    """Pairs of a call's primitive with its options, and its operands."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    if name == "matmul":
        for rows in ROWS:
            yield onednn.gram_p, {}, (draw(rows, INPUTS), draw(rows, OUTPUTS))
        return
    names = ("strides", "padding", "dilation", "groups")
    for kernel, *values in CONVOLUTIONS:
        options, groups = dict(zip(names, values, strict=True)), values[-1]
        images = draw(*SIZE, INPUTS)
        shape = (INPUTS // groups, OUTPUTS)
        yield (
            onednn.conv_p,
            options | {"layout": "HWIO"},
            (images, draw(*kernel, *shape)),
        )
        if groups == 1:
            yield (
                onednn.conv_p,
                options | {"layout": "HWOI"},
                (images, draw(*kernel, *shape[::-1])),
            )


def check(name):
    """Raises an ArithmeticError where a call's numbers are not XLA's to rounding."""
    for primitive, options, operands in cases(name):

        def call(*operands, primitive=primitive, options=options):
            return primitive.bind(*operands, **options)

        program = jax.jit(call).lower(*operands).compile()
        if f"__onednn${name}" not in program.as_text():
            raise ArithmeticError("XLA did not make the call")
        plain = onednn.plain_conv if primitive is onednn.conv_p else onednn.plain_gram
        expected = plain(*operands, **options)
        error = float(jnp.abs(program(*operands) - expected).max())
        # Sums of up to 5,000 terms of size 1 in float32: 2e-5 was seen; one that was
        # rounded to bfloat16 on the way is off by 1e-2.
        if not error < 1e-3:
            raise ArithmeticError(f"its numbers are wrong by {error:.1e}: {options}")


def main():
    choice.onednn = dict.fromkeys(probes.CALLS, "")  # or the calls would not be made
    try:
        check(sys.argv[1])
    except (ArithmeticError, jax.errors.JaxRuntimeError) as error:
        raise SystemExit(" ".join(str(error).split())) from None


if __name__ == "__main__":
    main()
