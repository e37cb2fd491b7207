"""The global sequence of samples, computed and never replayed: position k of epoch e in O(1) time and memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.index import Index

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def digest(*parts: object) -> int:
    """64 bits that depend on every part; the root of every random choice about data."""
    content = "\0".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def words(key: int, count: int) -> Words:
    """`count` uniform 64-bit words of a key (SplitMix64); the same on every machine and numpy."""
    return _mix(np.uint64(key) + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


class Permutation:
    """A keyed permutation of 0..count-1 by a generalised Feistel network with cycle walking.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002. The two halves count to a and b with
    a b just above `count`, so hardly any position has to walk.

    Args:
        count: at least 1.
        key: 64 bits.
    """

    def __init__(self, count: int, key: int) -> None:
        self.count = count
        self._a = math.isqrt(count - 1) + 1
        self._b = -(-count // self._a)
        self._keys = words(key, _ROUNDS)

    def __call__(self, positions: Integers) -> Integers:
        """Where each position goes; int64 of the same shape."""
        values = self._shuffle(np.asarray(positions, np.uint64))
        while (outside := values >= self.count).any():
            values[outside] = self._shuffle(values[outside])
        return values.astype(np.int64)

    def _shuffle(self, values: Words) -> Words:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = values % a, values // a
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                left = (left + _mix(right ^ key) % a) % a
            else:
                right = (right + _mix(left ^ key) % b) % b
        return left + a * right


class SampleOrder:
    """Which capture stands at which place of the endless sequence of samples.

    The sequence is epoch after epoch without a seam: where the batch size does not divide the captures, a batch holds
    the end of one epoch and the beginning of the next. It is a function of the dataset's fingerprint, the number of
    subjects, the seed and nothing else.

    Args:
        index: the dataset.
        fingerprint: of the dataset.
        seed: the run's.
        subjects: train on the first n subjects of the nested order; all when None.

    Raises:
        UserError: more subjects asked for than there are.
    """

    def __init__(self, index: Index, fingerprint: str, seed: int, subjects: int | None = None) -> None:
        chosen = nested_subjects(index.subjects, subjects)
        self.rows = np.concatenate([index.rows_of(subject) for subject in chosen])
        self._root = ("order", fingerprint, len(chosen), seed)
        self._epoch: tuple[int, Permutation] | None = None

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.rows)

    def at(self, positions: Integers) -> Integers:
        """Rows of the index at these places of the sequence."""
        epochs, places = np.divmod(np.asarray(positions, np.int64), len(self.rows))
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self.rows[self._permutation(int(epoch))(places[chosen])]
        return found

    def _permutation(self, epoch: int) -> Permutation:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, Permutation(len(self.rows), digest(*self._root, epoch))
        return self._epoch[1]


def nested_subjects(subjects: Sequence[str], count: int | None = None) -> list[int]:
    """The first `count` subjects of an order that depends on their names alone; as numbers into `subjects`.

    A smaller subset is contained in every larger one, whatever the seed, so that runs that differ in the number of
    identities differ in what they add.
    """
    if count is not None and count > len(subjects):
        raise UserError(f"asks for {count} subjects, the dataset has {len(subjects)}", where="data.subjects")
    ranked = sorted(range(len(subjects)), key=lambda number: (digest("subject", subjects[number]), subjects[number]))
    return ranked[:count]


def _mix(values: Words) -> Words:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the argument."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
