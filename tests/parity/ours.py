"""Gives our networks the weights of another implementation and compares the logits.

A network that others have takes their weights by weights/names.py, as a user's file
does. For the networks that only a test builds, layers are paired in the order in which
a forward pass calls them. Either way a layer that is missing, added, misplaced or of
another size ends the test.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import weights
from models import layers

COLLECTIONS = dict.fromkeys(("weight", "kernel", "bias", "scale"), "params")
COLLECTIONS |= dict.fromkeys(("mean", "var"), "batch_stats")

# What check_logits found, by type; conftest reports it.
differences = []


def random_images(size, channels=3, batch=2):
    """Images [B, H, W, C], float32; `size` is a number or (height, width)."""
    size = (size, size) if isinstance(size, int) else size
    draw = np.random.default_rng(0).normal(size=(batch, *size, channels))
    return draw.astype(np.float32)


def called_layers(model, images, train=False):
    """Paths of the layers with weights that `model` calls, in order, and all shapes."""
    paths = []
    kinds = nn.Conv | nn.Dense | nn.BatchNorm | layers.FullyConnected

    def record(call, args, kwargs, context):
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            paths.append(context.module.path)
        return call(*args, **kwargs)

    def apply(variables):
        with nn.intercept_methods(record):
            rngs = {"dropout": jax.random.key(0)}
            return model.apply(variables, images, train=train, mutable=True, rngs=rngs)

    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    jax.eval_shape(apply, shapes)
    return paths, shapes


def variables(model, images, theirs, train=False):
    """The collections of our `model`, float64, with the arrays of other layers.

    Args:
      images: [B, H, W, C], to call the model with; in training mode if `train`, which
        also calls auxiliary heads.
      theirs: for each layer, in calling order, its arrays by our names; "weight" is a
        kernel [out, in, ...], of a fully connected layer on a map that was laid flat.
    """
    paths, shapes = called_layers(model, images, train)
    listing = "\n".join(f"{i}: {'.'.join(path)}" for i, path in enumerate(paths))
    assert len(theirs) == len(paths), (
        f"the other network calls {len(theirs)} layers, we call:\n{listing}"
    )
    result = {"params": {}, "batch_stats": {}}
    for i, (arrays, path) in enumerate(zip(theirs, paths, strict=True)):
        for name, tree in result.items():
            wanted = shapes.get(name, {})
            for key in path:
                wanted = wanted.get(key, {})
            leaves = {n: v for n, v in arrays.items() if COLLECTIONS[n] == name}
            if "weight" in leaves:
                leaves["kernel"] = _kernel(leaves.pop("weight"), wanted["kernel"].shape)
            given = {n: v.shape for n, v in leaves.items()}
            expected = {n: v.shape for n, v in wanted.items()}
            assert given == expected, (
                f"layer {i}, {'.'.join(path)}: theirs has {given}, ours {expected}"
            )
            for key in path if leaves else ():
                tree = tree.setdefault(key, {})
            tree.update({n: np.float64(v) for n, v in leaves.items()})
    return result


def by_name(kind, network, model, images, arrays, train=False):
    """The collections of our `model`, float64, by the table of `network`.

    Args:
      kind: "torch" or "keras", which says whose names `arrays` has.
      arrays: {name: array}; all of them must be used, and none of ours may be missing
        except those that only training calls.
    """
    _, shapes = called_layers(model, images, train)
    double = jax.tree.map(lambda x: np.zeros(x.shape), shapes)
    variables, report = weights.fit("the network", kind, arrays, network, double)
    auxiliary = ("auxiliary_head/", "side_heads_")
    absent = [n for n in report.missing if n.split("/", 1)[1].startswith(auxiliary)]
    assert report.missing == (absent if kind == "keras" else [])
    assert not report.left_over + report.reinitialized
    return variables


def _kernel(weight, shape):
    """A weight [out, in, ...] as our kernel, `shape` [..., in, out]."""
    if weight.ndim == 2 and len(shape) == 4:  # on a map whose pixels were laid flat
        height, width, channels, features = shape
        weight = weight.reshape(features, channels, height, width)
    elif len(shape) == 2:
        weight = weight.reshape(len(weight), -1)
    return np.moveaxis(weight, (0, 1), (-1, -2))


def check_logits(model, variables, images, theirs):
    """Asserts that our `model` gives the logits of theirs(images) in evaluation mode.

    They agree to 1e-4 of the largest logit in float32, and to 1e-10 in float64, which
    shows that the former is only rounding. `theirs` gets images of both types.
    """
    found = {}
    for name in ("float32", "float64"):
        expected = theirs(images.astype(name))
        dtype = jnp.dtype(name)
        with jax.enable_x64(name == "float64"):
            cast = jax.tree.map(dtype.type, variables)
            apply = functools.partial(model.clone(dtype=dtype).apply, train=False)
            logits = np.asarray(jax.jit(apply)(cast, images.astype(name)))
        assert logits.dtype == name
        scale = np.abs(expected).max()
        # Logits that depend on the image, and on more than the last bias.
        assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
        found[name] = float(np.abs(logits - expected).max() / scale)
        assert found[name] < {"float32": 1e-4, "float64": 1e-10}[name], found
    differences.append(found)
