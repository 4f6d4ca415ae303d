"""Converts epochs to steps, and says when something is due."""

import fractions
import math


def exact_steps(epochs, epoch_steps):
    """Converts `epochs` to steps as a Fraction; 0.1 means 1/10."""
    return fractions.Fraction(str(epochs)) * epoch_steps


def in_steps(epochs, epoch_steps):
    """Converts `epochs` to the nearest number of whole steps."""
    return round(exact_steps(epochs, epoch_steps))


def due(step, every):
    """True at the first step at or after each multiple of `every` (0: never)."""
    return every > 0 and step > 0 and step // every > (step - 1) // every


def next_due(step, every):
    """Returns the first step after `step` at which something is due."""
    return math.ceil((step // every + 1) * every) if every > 0 else math.inf
