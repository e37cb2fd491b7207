"""Several datasets in one sequence: whose turn a position is and where that dataset then stands, in O(1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from data.order import Integers, digest, words

_LEAST, _MOST = 1024, 65536  # samples in a block


class Mixture:
    """Deals the positions 0, 1, 2, ... out to datasets by their weights.

    Every block of `len(pattern)` positions holds exact shares in one fixed, keyed pattern, and every prefix of the
    sequence is within a few samples of them: a dataset's j-th of n turns in a block falls into the j-th of n equal
    parts of it. Each dataset counts its own turns, so it has its own permutation and its own epochs.

    Args:
        weights: of each dataset, above 0. Shares of more than 65,536 parts are rounded to that many.
        seed: the run's.

    Attributes:
        counts: turns of each dataset in a block.
        pattern: whose turn each position of a block is.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.counts = np.array(_shares(weights), np.int64)
        draws = [words(digest("mixture", seed, n), int(count)) for n, count in enumerate(self.counts)]
        unit = [(draw >> np.uint64(11)) * 2.0**-53 for draw in draws]
        times = [(np.arange(len(part)) + part) / len(part) for part in unit]
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        turn = np.concatenate([np.arange(count) for count in self.counts])
        order = np.argsort(np.concatenate(times), kind="stable")
        self.pattern: NDArray[np.int64] = owner[order]
        self._turn: Integers = turn[order]

    @property
    def shares(self) -> list[float]:
        """Of the samples that come from each dataset; together 1."""
        return (self.counts / self.counts.sum()).tolist()

    def at(self, positions: Integers) -> tuple[Integers, Integers]:
        """Number of the dataset, and place in its own endless sequence, of each position."""
        blocks, places = np.divmod(np.asarray(positions, np.int64), len(self.pattern))
        datasets = self.pattern[places]
        return datasets, blocks * self.counts[datasets] + self._turn[places]


def _shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the weights, together a block."""
    exact = [Fraction(str(weight)) for weight in weights]
    if len(exact) == 1:
        return [1]
    unit = math.lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * unit) for weight in exact]
    divisor = math.gcd(*counts)
    counts = [count // divisor for count in counts]
    if sum(counts) > _MOST:
        parts = [weight / sum(exact) * _MOST for weight in exact]
        return [max(1, round(part)) for part in parts]
    repeats = -(-_LEAST // sum(counts))
    return [count * repeats for count in counts]
