"""Makes one of oneDNN's calls and compares its numbers with XLA's own operation.

    python -m kernels.onednn_check convolution

kernels/probes.py runs this in a child process, because a call that XLA does not
understand ends the process. It exits with 0 if the numbers agree, and with
probes.LASTING if the call cannot be used here. The last line on stderr says what is
wrong.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from kernels import onednn, probes
from kernels.choice import choice

# Each has kernel, strides, padding, dilation and groups. Its 8 channels are too few for
# Winograd's algorithm, so oneDNN computes it.
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
    """Yields (primitive, options, operands) whose program makes the call."""
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
    """Raises an ArithmeticError if the call's numbers differ from XLA's."""
    for primitive, options, operands in cases(name):

        def call(*operands, primitive=primitive, options=options):
            return primitive.bind(*operands, **options)

        program = jax.jit(call).lower(*operands).compile()
        if f"__onednn${name}" not in program.as_text():
            raise ArithmeticError("XLA did not make the call")
        plain = onednn.plain_conv if primitive is onednn.conv_p else onednn.plain_gram
        expected = plain(*operands, **options)
        error = float(jnp.abs(program(*operands) - expected).max())
        # Sums of up to 5,000 terms of size 1 differed by up to 2e-4. With operands
        # rounded to bfloat16 that would be 1e-2 or more.
        if not error < 1e-3:
            raise ArithmeticError(f"its numbers are wrong by {error:.1e}: {options}")


def main():
    choice.onednn = dict.fromkeys(probes.CALLS, "")  # or no call would be made
    try:
        check(sys.argv[1])
    except (ArithmeticError, jax.errors.JaxRuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        # Memory may be there another time.
        short = any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "memory"))
        sys.exit(1 if short else probes.LASTING)


if __name__ == "__main__":
    main()
