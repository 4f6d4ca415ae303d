"""LeNet-5: Gradient-based learning applied to document recognition.

LeCun, Bottou, Bengio, Haffner, 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf.

`LeNet5` is the paper's network, 60,000 trainable parameters. What the paper leaves open
and what is chosen here: a sub-sampling unit sums its inputs (section II.B), and starts
with a coefficient of 1/4 and a bias of 0, with which it averages them (section II.A);
other biases start like the unit's weights and do not count in the fan-in. Weights start
within 2.4 / sqrt(fan-in), where the paper prints 2.4 / fan-in (`uniform_fan_in`). The
logits are minus the penalties of the paper's radial basis functions, so that the
paper's argmin is an argmax here.

`LeNet5Modern` is what libraries call LeNet-5, not the paper: pooling without
parameters, a C3 that sees all maps, and a linear output for softmax cross-entropy;
61,706 parameters for 28x28x1 images and ten classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kernels import ops
from models.layers import Classifier, Conv, FullyConnected, avg_pool, max_pool

# Table I: which maps of S2 (rows) feed which maps of C3 (columns).
C3_TABLE = """
    X . . . X X X . . X X X X . X X
    X X . . . X X X . . X X X X . X
    X X X . . . X X X . . X . X X X
    . X X X . . X X X X . . X . X X
    . . X X X . . X X X X . X X . X
    . . . X X X . . X X X X . X X X
"""

# Figure 3: the 7x12 bitmaps of the digits 0 to 9, the targets of F6's 84 units.
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

    Appendix A prints 2.4 / fan_in, for weighted sums in one range in all units, and
    assumes highly correlated inputs, with which they grow like the fan-in. But if the
    weights are independent, the deviation of sum(w x) is w's times sqrt(sum(x^2)),
    however x is correlated, and grows like the root. As printed, signals vanish from
    layer to layer, and with them the curvature: most steps of the first pass would be
    greater than 0.016, the greatest that section III.B reports.

    `fan_in` is a number, or one number for each entry of the array's last axis.
    """

    def init(key, shape, dtype=jnp.float32):
        bound = 2.4 / np.sqrt(np.asarray(fan_in, np.float32))
        bound = np.broadcast_to(bound, shape).astype(dtype)
        return bound * jax.random.uniform(key, shape, dtype, -1, 1)

    return init


class SubSampling(nn.Module):
    """A map's every 2x2 inputs are summed, times one coefficient, plus one bias.

    [B, 2h, 2w, C] to [B, h, w, C]. As section II.B has it the coefficient multiplies
    the sum. So `sdlm`, which reads the connections from the program, takes it for the
    weight of one connection, though the paper counts four.
    """

    KERNEL = "2x2/2/0"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
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
    the connections alone, ordered by output map and then by input map.
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
        # A product with zeros and ones is exact, and its gradient is no slow scatter.
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

    F6 sees the 1x1 maps of C5, one by one where larger images give larger ones.
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
            "C3": PartialConv(connection_table(), self.dtype, name="C3"),
            "S4": SubSampling(self.dtype, name="S4"),
            "C5": Conv(120, (5, 5), padding=0, name="C5", **init(400)),
            "F6": nn.Dense(84, name="F6", **init(120)),
        }
        outputs = {}
        for name, layer in layers.items():
            x = outputs[name] = scaled_tanh(layer(x))
        return outputs


class LeNet5(Classifier):
    """The network of 1998: images [B, 32, 32, 1] to logits [B, 10], minus eq. 7.

    Raises:
      ValueError: another number of classes (there are ten bitmaps) or image shape.
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
                f"{'x'.join(map(str, x.shape[1:]))}"
            )
        return super().__call__(x, train=train)

    def class_map(self, x, *, train, window=None):
        del window  # Nothing is averaged over a map.
        return self.output(self.backbone(x, train=train)["F6"])

    def codes(self, x):
        """F6's outputs [B, 84], which the output compares with the bitmaps."""
        return self.features(x)[:, 0, 0]

    def classify(self, codes):
        """F6's outputs [B, 84] to logits [B, 10]; without trainable parameters."""
        return self.output(codes)


ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}
POOLS = {"max": max_pool, "avg": avg_pool}


class LeNet5ModernBackbone(nn.Module):
    """C1 to F6 with pooling: [B, 28 or 32, 28 or 32, C] to outputs by layer name.

    C1 pads what is smaller than 32x32; on larger images C5 slides.
    """

    activation: str
    pool: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        del train  # Nothing here differs between training and evaluation.
        activation = ACTIVATIONS[self.activation]
        pool = POOLS[self.pool]
        padding = max(0, 32 - x.shape[1]) // 2
        out = {}
        x = Conv(6, (5, 5), padding=padding, dtype=self.dtype, name="C1")(x)
        x = out["C1"] = activation(x)
        x = out["S2"] = pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
        x = Conv(16, (5, 5), padding=0, dtype=self.dtype, name="C3")(x)
        x = out["C3"] = activation(x)
        x = out["S4"] = pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)))
        x = out["C5"] = activation(FullyConnected(120, self.dtype, name="C5")(x))
        out["F6"] = activation(nn.Dense(84, dtype=self.dtype, name="F6")(x))
        return out


class LeNet5Modern(Classifier):
    """LeNet-5 as libraries have it: images of 28x28 or 32x32 to logits.

    Images of 28x28 are padded by 2 in C1, those of 32x32 are not.

    Raises:
      ValueError: unknown activation or pool, or another image size.
    """

    num_classes: int
    activation: str = "relu"
    pool: str = "max"
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        for field, choices in (("activation", ACTIVATIONS), ("pool", POOLS)):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"lenet5_modern has no {field} {getattr(self, field)!r}; "
                    f"the choices are: {', '.join(choices)}"
                )
        super().__post_init__()

    def setup(self):
        self.backbone = LeNet5ModernBackbone(self.activation, self.pool, self.dtype)
        self.output = nn.Dense(self.num_classes, dtype=self.dtype)

    def __call__(self, x, *, train):
        if x.shape[1:3] not in ((28, 28), (32, 32)):
            raise ValueError(
                f"lenet5_modern takes images of 28x28 or 32x32, not "
                f"{x.shape[1]}x{x.shape[2]}"
            )
        return super().__call__(x, train=train)

    def class_map(self, x, *, train, window=None):
        del window  # That of C5 is the size of its kernel.
        x = self.output(self.backbone(x, train=train)["F6"])
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def ml_loss(logits, labels):
    """Eq. 8, each example's penalty of its own class: [B, 10], [B] to [B]."""
    return -jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def map_loss(logits, labels, rubbish):
    """Eq. 9, which also pushes the other classes' penalties up: [B, 10], [B] to [B].

    `rubbish` is the paper's j > 0, the penalty of a class for everything else; classes
    with larger penalties than that are hardly pushed any further. Never negative.
    """
    total = jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1), -rubbish)
    return ml_loss(logits, labels) + total


MODELS = {"lenet5": LeNet5, "lenet5_modern": LeNet5Modern}
