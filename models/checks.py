"""Checks of a network's fields, called where the fields are declared.

A network calls them in its `__post_init__`, so a bad field is refused when the network
is constructed, before it sees an image. Every message starts with the field's name. A
module is constructed anew whenever flax clones it, so a check only compares numbers.
"""

import math
import numbers


def rates(network, *fields):
    """Raises ValueError unless each field is a number in [0, 1)."""
    for field in fields:
        value = getattr(network, field)
        if not is_rate(value):
            raise ValueError(f"{field} {value!r} is not in [0, 1)")


def is_rate(value):
    return isinstance(value, numbers.Real) and 0 <= value < 1


def switches(network, *fields):
    """Raises ValueError unless each field is True or False."""
    for field in fields:
        value = getattr(network, field)
        if value not in (True, False):
            raise ValueError(f"{field} {value!r} is neither True nor False")


def choice(network, field, choices):
    """Raises ValueError, listing the `choices`, unless the field is one of them."""
    value = getattr(network, field)
    if value not in tuple(choices):  # not the dict, which would hash the value
        names = ", ".join(map(str, choices))
        raise ValueError(f"{field} {value!r} is none of {names}")


def positive(network, *fields):
    """Raises ValueError unless each field is a finite number above 0."""
    for field in fields:
        value = getattr(network, field)
        if not _is_positive(value):
            raise ValueError(f"{field} {value!r} is not a positive number")


def all_positive(network, *fields, count=None):
    """Raises ValueError unless each field lists finite numbers above 0, or `count`."""
    for field in fields:
        value = getattr(network, field)
        listed = (
            isinstance(value, list | tuple) and value and all(map(_is_positive, value))
        )
        if not listed or len(value) != (count or len(value)):
            what = f"{count or 'a list of'} positive numbers"
            raise ValueError(f"{field} {value!r} is not {what}")


def pairs(network, minimum, *fields):
    """Raises ValueError unless each field is two integers of `minimum` or more."""
    for field in fields:
        value = getattr(network, field)
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not (pair and all(_is_integer(number, minimum) for number in value)):
            raise ValueError(f"{field} {value!r} is not two integers from {minimum} up")


def at_least(network, minimum, *fields):
    """Raises ValueError unless each field is an integer of `minimum` or more."""
    for field in fields:
        value = getattr(network, field)
        if not _is_integer(value, minimum):
            raise ValueError(f"{field} {value!r} is not an integer from {minimum} up")


def depth(network, layers, others):
    """Raises ValueError unless the depth is `layers` n + `others`, n from 1 up."""
    value = network.depth
    if (
        not isinstance(value, numbers.Integral)
        or value < layers + others
        or (value - others) % layers
    ):
        raise ValueError(f"depth {value!r} is not {layers} n + {others}, n from 1 up")


def _is_positive(value):
    return isinstance(value, numbers.Real) and 0 < value < math.inf


def _is_integer(value, minimum):
    return isinstance(value, numbers.Integral) and value >= minimum
