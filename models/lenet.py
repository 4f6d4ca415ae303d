"""LeNet-5: Gradient-based learning applied to document recognition.

LeCun, Bottou, Bengio, Haffner, 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.

The network has 60,000 trainable parameters. What the paper leaves open is chosen as
follows. A sub-sampling unit sums its inputs (section II.B) and starts with a
coefficient of 1/4 and a bias of 0, so at first it averages them (section II.A). Other
biases start like the weights of their unit and do not count in the fan-in. Weights
start within 2.4 / sqrt(fan-in), where the paper prints 2.4 / fan-in (`uniform_fan_in`).
The logits are the penalties of the paper's radial basis functions with their signs
changed, so the paper's argmin is an argmax here.

What libraries call LeNet-5 is in models/lenet_modern.py.

Counts: tests/models/registry_test.py; published results: comparison/published.py;
twins: none.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kernels import ops
from models.layers import Classifier, Conv, random_init

# Table I: which maps of S2 (rows) feed which maps of C3 (columns).
C3_TABLE = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""

# Figure 3: the 7x12 bitmaps of the digits 0 to 9, the targets for F6's 84 units.
BITMAPS = """
    .#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.
    ....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###
    ..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##
    .##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##
    ##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###
    ##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######
    ##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##
    ##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##
    .##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.
    ..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..
    ....... ....... ....... ....... .....## ....... ....... ....... ....... .......
    ....... ....... ....... ....... .....## ....... ....... ....... ....... .......
"""


def connection_table():
    """Table I as booleans [S2 maps, C3 maps]."""
    rows = C3_TABLE.split("\n")[1:-1]
    return np.array([[mark == "X" for mark in row.split()] for row in rows])


def prototypes():
    """Figure 3 as float32 [10, 84]: ink +1, background -1, row by row."""
    rows = [row.split() for row in BITMAPS.split("\n")[1:-1]]
    codes = ["".join(row[digit] for row in rows) for digit in range(10)]
    return np.array([[1 if p == "#" else -1 for p in c] for c in codes], np.float32)


def scaled_tanh(x):
    """f(a) = A tanh(S a), which keeps -1 and 1 in place (appendix A)."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def uniform_fan_in(fan_in):
    """Initializer: uniform within 2.4 / sqrt(fan_in) either side of 0.

    Appendix A prints 2.4 / fan_in, so that the weighted sums of all units have one
    range. It assumes highly correlated inputs, whose sums grow like the fan-in. But
    where the weights are independent, the deviation of sum(w x) is w's deviation times
    sqrt(sum(x^2)), however correlated x is, and grows like the root. With the printed
    bound, signals vanish from layer to layer and the curvature with them: most steps of
    the first pass would exceed 0.016, the largest that section III.B reports.

    `fan_in` is a number, or one number for each entry of the array's last axis.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = 2.4 / np.sqrt(np.asarray(fan_in, np.float32))
        bound = np.broadcast_to(bound, shape).astype(dtype)
        return bound * jax.random.uniform(key, shape, dtype, -1, 1)

    return random_init(init)


class SubSampling(nn.Module):
    """Sums each 2x2 window of a map, times the map's coefficient, plus its bias.

    [B, 2h, 2w, C] to [B, h, w, C]; of odd sizes the last row or column is left out, as
    pools that are not in ceil mode do. The coefficient multiplies the sum (section
    II.B), so `sdlm`, which reads the connections from the program, takes it for the
    weight of one connection, although the paper counts four.
    """

    KERNEL = "2x2/2/0"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        if h % 2 or w % 2:  # a last row or column that fills no window
            x = x[:, : h // 2 * 2, : w // 2 * 2]
        coefficient = self.param("coefficient", nn.initializers.constant(1 / 4), (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        x, coefficient, bias = nn.dtypes.promote_dtype(
            x, coefficient, bias, dtype=self.dtype
        )
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).sum((2, 4))
        return x * coefficient.reshape(1, 1, 1, c) + bias.reshape(1, 1, 1, c)

    def connections(self, output_shape):
        """Four inputs and a bias for each unit."""
        return 5 * int(np.prod(output_shape[1:]))

    def multiply_adds(self, output_shape):
        """None: pooling is not counted, as for every other network."""
        del output_shape
        return 0


class PartialConv(nn.Module):
    """A 5x5 convolution in which an output map sees only some of the input maps.

    `table` is boolean [input maps, output maps]. The kernel [5, 5, connections] holds
    only the connections, ordered by output map and then by input map.
    """

    KERNEL = "5x5/1/0"
    table: np.ndarray
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        outputs, inputs = np.nonzero(self.table.T)
        fan_in = 25 * self.table.sum(0)
        kernel = self.param(
            "kernel", uniform_fan_in(fan_in[outputs]), (5, 5, len(outputs))
        )
        bias = self.param("bias", uniform_fan_in(fan_in), fan_in.shape)
        # A product with zeros and ones is exact; its gradient is not a slow scatter.
        place = np.zeros((len(outputs), *self.table.shape), np.float32)
        place[np.arange(len(outputs)), inputs, outputs] = 1
        kernel = jnp.einsum(
            "hwk,kio->hwio", kernel, place, precision=lax.Precision.HIGHEST
        )
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = ops.conv(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x + bias.reshape(1, 1, 1, -1)

    def connections(self, output_shape):
        """25 weights for each connected pair of maps and a bias for each map."""
        positions = int(np.prod(output_shape[1:-1]))
        return positions * (25 * int(self.table.sum()) + self.table.shape[1])

    def multiply_adds(self, output_shape):
        return int(np.prod(output_shape[1:-1])) * 25 * int(self.table.sum())


class RBF(nn.Module):
    """Squared distances to fixed prototypes, eq. 7, negated: [..., 84] to [..., 10]."""

    @nn.compact
    def __call__(self, x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))[..., None, :]
        codes = prototypes().astype(x.dtype)
        difference = x - codes.reshape((1,) * (x.ndim - 2) + codes.shape)
        return -jnp.square(difference).sum(-1)

    def connections(self, output_shape):
        """One for each element of the prototypes."""
        return int(np.prod(output_shape[1:])) * prototypes().shape[1]

    def multiply_adds(self, output_shape):
        return self.connections(output_shape)


class LeNet5Backbone(nn.Module):
    """Figure 2 up to F6: [B, 32, 32, 1] to a dict of its layers' outputs by name.

    F6 sees C5's 1x1 maps; larger images give larger maps, and F6 sees them pixel by
    pixel.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        del train  # Nothing here differs between training and evaluation.

        def init(fan_in):
            uniform = uniform_fan_in(fan_in)
            return {"kernel_init": uniform, "bias_init": uniform, "dtype": self.dtype}

        layers = {
            "C1": Conv(6, (5, 5), padding=0, name="C1", **init(25)),
            "S2": SubSampling(self.dtype, name="S2"),
            "C3": PartialConv(self.c3_table(), self.dtype, name="C3"),
            "S4": SubSampling(self.dtype, name="S4"),
            "C5": Conv(120, (5, 5), padding=0, name="C5", **init(400)),
            "F6": nn.Dense(84, name="F6", **init(120)),
        }
        outputs = {}
        for name, layer in layers.items():
            x = outputs[name] = scaled_tanh(layer(x))
        return outputs

    def c3_table(self):
        """The connections of C3; a descendant may have others."""
        return connection_table()


class LeNet5(Classifier):
    """The network of 1998: images [B, 32, 32, 1] to logits [B, 10], minus eq. 7.

    Raises:
      ValueError: another number of classes (there are ten bitmaps) or, when called,
        another image shape.
    """

    num_classes: int = 10
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        if self.num_classes != 10:
            raise ValueError(
                f"lenet5 has ten bitmaps, so num_classes must be 10, not "
                f"{self.num_classes}; lenet5_modern takes any number"
            )
        super().__post_init__()

    def setup(self):
        self.backbone = LeNet5Backbone(self.dtype)
        self.output = RBF()

    def __call__(self, x, *, train):
        if x.shape[1:] != (32, 32, 1):
            raise ValueError(
                f"lenet5 takes images of 32x32x1 (28x28 padded by 2), not "
                f"{'x'.join(map(str, x.shape[1:]))}; lenet5_modern takes colours, too"
            )
        return super().__call__(x, train=train)

    def class_map(self, x, *, train, window=None):
        del window  # Nothing is averaged over a map.
        return self.output(self.backbone(x, train=train)["F6"])

    def codes(self, x):
        """F6's outputs [B, 84], which the output layer compares with the bitmaps."""
        return self.features(x)[:, 0, 0]

    def classify(self, codes):
        """F6's outputs [B, 84] to logits [B, 10]; without trainable parameters."""
        return self.output(codes)


def ml_loss(logits, labels):
    """Eq. 8, the penalty of each example's own class: [B, 10], [B] to [B]."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def map_loss(logits, labels, rubbish):
    """Eq. 9, which also pushes the other classes' penalties up: [B, 10], [B] to [B].

    `rubbish` is the paper's j > 0, the penalty of a class for everything else. It
    hardly pushes classes whose penalty is larger still. The loss is never negative.
    """
    total = jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1), -rubbish)
    return ml_loss(logits, labels) + total


MODELS = {"lenet5": LeNet5}
