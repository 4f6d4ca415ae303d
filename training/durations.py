"""From epochs to steps, and when something is due."""

import fractions
import math


def exact_steps(epochs, epoch_steps):
    """`epochs` in steps as a Fraction, with 0.1 meaning 1/10."""
    return fractions.Fraction(str(epochs)) * epoch_steps


def in_steps(epochs, epoch_steps):
    """The number of whole steps in `epochs`, nearest."""
    return round(exact_steps(epochs, epoch_steps))


def due(step, every):
    """True at the first step at or after each multiple of `every` (0: never)."""
    return every > 0 and step > 0 and step // every > (step - 1) // every


def next_due(step, every):
    """The first step after `step` at which something is due."""
    return math.ceil((step // every + 1) * every) if every > 0 else math.inf
