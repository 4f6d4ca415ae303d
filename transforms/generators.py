"""Makes numpy's random generators for all examples of a batch at once.

numpy seeds one generator in 28 microseconds, a third of what a crop from cached pixels
takes (benchmarks/RESULTS.md, "Input of photographs"). Here it takes 7, and the
generators draw the same bits. The hash of the seeds is numpy's SeedSequence, after
O'Neill, https://www.pcg-random.org/posts/developing-a-seed_seq-alternative.html.
"""

import itertools

import numpy as np
from numpy.random.bit_generator import ISeedSequence

POOL = 4  # words of 32 bits between the seed and the state
# The first constant of a hash, and the factor to the next one.
ENTROPY_HASH = 0x43B0D7E5, 0x931E8875
STATE_HASH = 0x8B51F9DD, 0x58F38DED
MIX = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
HALF = np.uint32(16)  # bits of half a word


def states(seed, numbers):
    """Returns a PCG64's first state for each row of numbers, uint64 [B, 4].

    They are those of the seeds (seed, *row).

    Args:
      seed: not negative.
      numbers: int [B, K], K at least 3, of 0 to 2^32 - 1.
    """
    rows = numbers.astype(np.uint32)
    columns = [np.full(len(rows), word) for word in _words(seed)] + [*rows.T]
    constants = _constants(*ENTROPY_HASH)
    pool = [_hash(column, constants) for column in columns[:POOL]]
    for source, target in itertools.permutations(range(POOL), 2):
        pool[target] = _mix(pool[target], _hash(pool[source], constants))
    for column, target in itertools.product(columns[POOL:], range(POOL)):
        pool[target] = _mix(pool[target], _hash(column, constants))
    constants = _constants(*STATE_HASH)
    halves = [_hash(word, constants) for word in 2 * pool]
    return np.stack(halves, axis=1).view("<u8")


def generator(state):
    """Returns the numpy Generator of one of the `states`, uint64 [4]."""
    return np.random.Generator(np.random.PCG64(_Seeded(state)))


class _Seeded(ISeedSequence):
    """Gives PCG64 a state that is known already."""

    def __init__(self, state):
        self._state = state

    def generate_state(self, n_words, dtype=np.uint32):
        return self._state


def _words(seed):
    """Returns the words of 32 bits of an integer, the lowest first."""
    count = max(1, -(-seed.bit_length() // 32))
    return np.frombuffer(seed.to_bytes(4 * count, "little"), "<u4")


def _constants(first, factor):
    """Iterates over the pairs of constants that follow each other in a hash."""
    powers = (first * pow(factor, i, 2**32) % 2**32 for i in itertools.count())
    return itertools.pairwise(map(np.uint32, powers))


def _hash(words, constants):
    before, after = next(constants)
    words = (words ^ before) * after
    return words ^ words >> HALF


def _mix(words, others):
    mixed = words * MIX[0] - others * MIX[1]
    return mixed ^ mixed >> HALF
