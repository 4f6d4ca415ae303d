"""From a stored image to the pixels that a network is trained or tested on.

decode.py, views.py and policies.py work on the host, on one image at a time, and draw
from a numpy generator; augment.py works inside jit, on batches of one size.
"""

import dataclasses


def select(options, fields):
    """The dataclass `options` of those of `fields`, a mapping, that it has."""
    return options(**{f.name: fields[f.name] for f in dataclasses.fields(options)})
