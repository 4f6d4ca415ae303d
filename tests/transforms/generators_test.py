"""Generators of a whole batch draw what numpy's own draw."""

import numpy as np
import pytest

from transforms import generators

# They have one to four words of 32 bits.
SEEDS = (0, 1, 2**32 - 1, 2**32, 2**64 + 5, 2**100)


@pytest.mark.parametrize("seed", SEEDS)
def test_states_are_those_of_a_seed_sequence(seed):
    rng = np.random.default_rng(0)
    numbers = rng.integers(2**32, size=(50, 3), dtype=np.uint32)
    numbers[0], numbers[1] = 0, 2**32 - 1
    found = generators.states(seed, numbers)
    sequences = [np.random.SeedSequence((seed, *row)) for row in numbers.tolist()]
    expected = [sequence.generate_state(4, np.uint64) for sequence in sequences]
    np.testing.assert_array_equal(found, expected)


def test_generators_draw_the_same_bits():
    numbers = np.array([[0, 0, 1], [3, 70_000, 1], [1, 2, 3]], np.int32)
    for row, state in zip(numbers, generators.states(7, numbers), strict=True):
        ours, numpys = generators.generator(state), np.random.default_rng((7, *row))
        for draw in ("random", "standard_normal", "bytes", "permutation"):
            found, expected = (getattr(rng, draw)(9) for rng in (ours, numpys))
            np.testing.assert_array_equal(found, expected)
        assert ours.integers(300) == numpys.integers(300)
        assert ours.bit_generator.state == numpys.bit_generator.state
