"""A training that starts from the parameters of another: `config.init_from`."""

import re

import jax
import numpy as np
from flax import traverse_util

import checkpoints
import configuration
import workdir


def load(source, variables, layers):
    """`variables` with those of `source` in place of the chosen ones, which it prints.

    Args:
      source: a run directory; of its newest checkpoint the Polyak average, if it has
        one, else the parameters.
      variables: a dict of collections (params, batch_stats), nested dicts of arrays.
      layers: regular expressions, searched in paths such as "backbone/conv1_1/kernel";
        (): all.

    Raises:
      ConfigError: `source` lacks a variable that is chosen, or has it in another shape.
      CheckpointError: nothing saved in `source`, or nothing that can be read.
    """
    found = _variables_of(source)
    loaded, wrong = {}, []
    for name, value in _flatten(variables).items():
        if layers and not any(re.search(layer, name[1]) for layer in layers):
            continue
        if name in found and found[name].shape == value.shape:
            loaded[name] = np.asarray(found[name], value.dtype)
        else:
            other = found[name].shape if name in found else "none"
            wrong.append(f"  {name[1]}: {other} there, {value.shape} in the network")
    if wrong:
        raise configuration.ConfigError(
            f"config.init_from = {source!r} does not fit; config.init_layers chooses "
            "what to take:\n" + "\n".join(wrong)
        )
    if jax.process_index() == 0:
        print(f"from {source}:")
        for (_, path), value in loaded.items():
            print(f"  {path} {'x'.join(map(str, value.shape))}")
    return _unflatten(_flatten(variables) | loaded)


def _variables_of(source):
    """{(collection, path): array} of a run directory."""
    run = workdir.Workdir(source)
    saved = checkpoints.Checkpoints(run.checkpoints)
    restored = saved.restore()
    saved.close()
    if restored is None:
        raise configuration.ConfigError(
            f"config.init_from = {source!r}: {run} holds no checkpoint"
        )
    state = restored[0]
    return _flatten(
        {
            "params": state["ema"] or state["params"],
            "batch_stats": state["batch_stats"] or {},
        }
    )


def _flatten(variables):
    return {
        (collection, path): value
        for collection, tree in variables.items()
        for path, value in traverse_util.flatten_dict(tree, sep="/").items()
    }


def _unflatten(flat):
    variables = {}
    for (collection, path), value in flat.items():
        variables.setdefault(collection, {})[path] = value
    return {
        collection: traverse_util.unflatten_dict(tree, sep="/")
        for collection, tree in variables.items()
    }
