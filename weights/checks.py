"""Refuses weights that cannot be right: odd numbers, missing parts, further layers."""

import re

import ml_dtypes
import numpy as np

from errors import shortened
from weights import names
from weights.formats import WeightsError, quantised

# What all refusals of parts advise.
PARTS = "config.init_layers takes parts of it"


def check_numbers(source, arrays):
    """Raises WeightsError for numbers that are no weights; names the arrays.

    Args:
      arrays: {our name: (their name, their array, that array in our type)}.
    """
    found = {}
    for name, (theirs, given, array) in arrays.items():
        if (fault := _fault(name, given, array)) is not None:
            found.setdefault(fault, []).append(theirs)
    if found:
        raise WeightsError(
            f"{source} "
            + "; it ".join(
                quantised(listed, fault)
                if isinstance(fault, np.dtype)
                else f"has {fault} in {shortened(listed)}"
                for fault, listed in found.items()
            )
        )


def _fault(name, given, array):
    """What is wrong with the numbers of an array, or their type; None if nothing."""
    wide = given.dtype.kind == "f" and given.dtype.itemsize > 1
    if not wide and given.dtype != ml_dtypes.bfloat16:
        return given.dtype
    if not np.isfinite(array).all():
        return "numbers that are not finite"
    if name.startswith("batch_stats/") and name.endswith("/var") and (array < 0).any():
        return "negative variances"
    return None


def check_parts(report, theirs):
    """Raises WeightsError if the file lacks parts of the network or has more of it.

    Only side heads may be missing, and each as a whole.

    Args:
      report: a `weights.Report` whose left_over are their names.
      theirs: {our name: their name}.
    """

    def refuse(found, words, advice=PARTS):
        if found:
            raise WeightsError(f"{report.source} {words} {shortened(found)}; {advice}")

    def lacking(of):
        return [theirs.get(name, name) for name in missing if of(name)]

    heads = {names.side_head(name) for name in report.loaded + report.reinitialized}
    missing = [n for n in report.missing if names.side_head(n) in heads]
    if not any(map(_is_statistic, report.loaded)):
        refuse(
            lacking(_is_statistic),
            "has no batch statistics, such as",
            "save them with the parameters, as torch's state_dict() does",
        )
    refuse(
        lacking(lambda n: names.is_class_score(n) and not names.side_head(n)),
        f"has its head neither as {', '.join(names.HEADS)} nor as",
        "--config.init_layers=\"('backbone',)\" starts a new one",
    )
    other = f"is of another network than {report.network}: it"
    known = {_pattern(theirs[name]) for name in report.loaded}
    refuse(lacking(lambda n: _pattern(theirs.get(n, "")) in known), f"{other} lacks")
    refuse(lacking(lambda n: True), "lacks")
    check_no_more(report, theirs, report.loaded)


def check_no_more(report, theirs, loaded):
    """Raises WeightsError if the file has more in the layers or blocks of `loaded`.

    Args:
      report, theirs: as in `check_parts`.
      loaded: some of report.loaded.
    """
    known = {_pattern(theirs[name]) for name in loaded}
    # Each layer that was loaded, and the block that it belongs to.
    owners = {n for name in loaded for n in _outer(theirs[name])[-2:]}
    more = [
        name
        for name in report.left_over
        if _pattern(name) in known or not owners.isdisjoint(_outer(name))
    ]
    if more:
        raise WeightsError(
            f"{report.source} is of another network than {report.network}: it also has "
            f"{shortened(more)}; {PARTS}"
        )


def _is_statistic(name):
    return name.startswith("batch_stats/")


def _pattern(name):
    """A name without its numbers: arrays of a deeper network differ only in them."""
    return re.sub(r"\d+", "0", name)


def _outer(name):
    """What an array lies in, from the outside: ["layer1", "layer1.0", ...]."""
    *parts, _ = re.split(r"[./]", name)
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
