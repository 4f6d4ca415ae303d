"""Finds where to look in a network from how it runs, without knowing its family."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Layout:
    """What `layout` found.

    Attributes:
      stages: the shape [h, w, D] of each stage of the backbone, by name, in order.
      first: the path of the first convolution's kernel in the parameters.
      last: the last stage that is as large as some convolution's map, and larger than
        1x1: the last convolutional one, before it is pooled. None if the images are too
        small for such a stage.
    """

    stages: dict
    first: tuple
    last: str | None


class Forward(NamedTuple):
    """The results of a pass in evaluation: logits [B, K], features [B, D], stages.

    The stages are in order. The features are penultimate: the last layer's input (fc7's
    outputs in AlexNet), averaged if that layer works at several positions (NIN).
    """

    logits: jax.Array
    features: jax.Array
    stages: tuple


def layout(model, shape):
    """Finds a network's `Layout` for inputs of `shape` [H, W, C], from shapes alone."""
    kernels, maps, found = [], set(), {}

    def record(call, args, kwargs, context):
        module = context.module
        result = call(*args, **kwargs)
        if module.path[:1] == ("backbone",) and context.method_name == "__call__":
            kernel = module.variables.get("params", {}).get("kernel")
            if kernel is not None and kernel.ndim > 2:  # a dense layer has 2
                kernels.append((*module.path, "kernel"))
                maps.add(result.shape[1:3])
            if module.path == ("backbone",):
                found.update((name, x.shape[1:]) for name, x in result.items())
        return result

    def init(key, inputs):
        with nn.intercept_methods(record):
            return model.init(key, inputs, train=False)

    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jax.eval_shape(init, jax.random.key(0), inputs)
    mapped = [n for n, (*size, _) in found.items() if tuple(size) in maps - {(1, 1)}]
    return Layout(dict(found), kernels[0], mapped[-1] if mapped else None)


def forward(model, variables, inputs):
    """Runs normalised inputs [B, H, W, C] through the network; returns a `Forward`."""
    seen = {}

    def record(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        seen["last"] = args[0]
        result = call(*args, **kwargs)
        if context.module.path == ("backbone",):
            seen["stages"] = tuple(result.values())
        return result

    with nn.intercept_methods(record):
        logits = model.apply(variables, inputs, train=False)
    features = seen["last"].astype(jnp.float32)
    features = features.mean(tuple(range(1, features.ndim - 1)))
    return Forward(logits, features, seen["stages"])
