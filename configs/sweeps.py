"""Helpers for a config's own `sweep()`, which says what `--mode=sweep` varies.

    def sweep():
        return product(
            vary("model.name", ["resnet20", "resnet32"]),
            zipit(
                vary("optimizer.name", ["sgd", "adamw"]),
                vary("optimizer.learning_rate", [0.1, 1e-3]),
            ),
            vary("seed", range(3)),
        )

`sweep` returns a list of overrides, one dict {field: value} for each run. Lists can be
added: `product(...) + [{"seed": 7}]`.
"""

import itertools


def vary(field, values):
    """Returns one override for each value of a field such as "batch_size"."""
    return [{field: value} for value in values]


def product(*lists):
    """Returns every combination of the overrides of some lists; the last vary fastest.

    Raises:
      ValueError: two lists set the same field.
    """
    return [_merged(parts) for parts in itertools.product(*lists)]


def zipit(*lists):
    """Merges the first overrides of some lists, the second ones, and so on.

    Raises:
      ValueError: the lists differ in length, or two set the same field.
    """
    if len(set(map(len, lists))) > 1:
        lengths = ", ".join(str(len(overrides)) for overrides in lists)
        raise ValueError(f"zipit needs lists of one length, not of {lengths}")
    return [_merged(parts) for parts in zip(*lists, strict=True)]


def _merged(parts):
    merged = {}
    for part in parts:
        for field in part.keys() & merged.keys():
            raise ValueError(f"the field {field!r} is set twice")
        merged |= part
    return merged
