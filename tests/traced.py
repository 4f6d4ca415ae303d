"""The published networks, each traced once for all the tests of a process."""

import functools

import models
from comparison import counting
from comparison.published import PUBLISHED


def create(name):
    """Returns a network and the shape [H, W, C] of its images, as published."""
    row = PUBLISHED[name]
    model = models.create(name, num_classes=row.classes)
    return model, (row.image, row.image, row.channels)


@functools.cache
def layers(name):
    return counting.layers(*create(name))


def counts(name):
    return counting.total(layers(name))
