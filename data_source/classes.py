"""The names of classes: their order, and the numbers that others know them by.

A network knows its classes by number, and only a record of their names says which is
which. Whatever joins a network with data compares the names: the same names in another
order are renumbered, and others are refused.
"""

import numpy as np

from data_source.split import DataError
from errors import shortened

SHOWN = 6  # most names that a message lists


def in_order(names):
    """Sorts names of classes: by number (2 before 10) if all are whole numbers."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def numbers(names, wanted):
    """Returns for each of `names` its place in `wanted`; None if one has no place."""
    places = {name: number for number, name in enumerate(wanted)}
    if len(places) < len(wanted) or len(set(names)) < len(names):
        return None  # a name that occurs twice says nothing
    found = [places.get(name) for name in names]
    return None if None in found else found


def compared(names, others):
    """Says in words how the names of classes here differ from others there."""
    text = f"here {shortened(names, SHOWN)}; there {shortened(others, SHOWN)}"
    for where, more in (
        ("here", sorted(set(names) - set(others))),
        ("there", sorted(set(others) - set(names))),
    ):
        text += f"; only {where} {shortened(more, SHOWN)}" if more else ""
    return text


def numbered_as(split, names, owner, advice, *, subset=False, report=print):
    """Returns `split` with its classes numbered as in `names`, and reports a change.

    Args:
      names: the classes of `owner`, such as a run, in the order of their numbers.
      advice: what the error says can be done.
      subset: whether the split may lack some of the classes.

    Raises:
      DataError: the split has other classes.
    """
    own, names = tuple(split.label_names), tuple(names)
    if own == names:
        return split
    places = numbers(own, names)
    if places is None or (len(own) < len(names) and not subset):
        raise DataError(
            f"{split.name} has other classes than {owner}: {compared(own, names)}; "
            f"{advice}"
        )
    if len(own) < len(names):
        report(f"note: {split.name} has {len(own)} of the {len(names)} classes")
    else:
        report(
            f"note: {split.name} has the classes of {owner} in another order; they are "
            "numbered as there"
        )
    return split.renumbered(np.array(places, np.int32), names)
