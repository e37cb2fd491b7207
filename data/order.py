"""The global sequence of samples, computed and never replayed: position k of epoch e in O(1) time and memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def digest(*parts: object) -> int:
    """64 bits that depend on every part; the root of every random choice about data."""
    content = "\0".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def words(key: int | Words, count: int) -> Words:
    """`count` uniform 64-bit words of a key (SplitMix64), `[count, *key.shape]`; the same everywhere."""
    keys = np.asarray(key, np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64).reshape(-1, *(1,) * keys.ndim)
    return _mix(keys + _GOLDEN * steps)


class Permutation:
    """A keyed permutation of 0..count-1 by a generalised Feistel network with cycle walking.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002. The two halves count to a and b with
    a b just above `count`, so hardly any position has to walk.

    Args:
        count: at least 1; or one for each position that will be asked.
        key: 64 bits; or one for each position.
    """

    def __init__(self, count: int | Integers, key: int | Words) -> None:
        counts = np.asarray(count, np.uint64)
        a = [math.isqrt(each - 1) + 1 for each in counts.ravel().tolist()]
        self._count = counts
        self._a = np.array(a, np.uint64).reshape(counts.shape)
        self._b = (counts + self._a - np.uint64(1)) // self._a
        self._keys = words(key, _ROUNDS)

    def __call__(self, positions: Integers) -> Integers:
        """Where each position goes; int64 of the same shape."""
        values = self._shuffle(np.asarray(positions, np.uint64))
        while (outside := values >= self._count).any():
            values = np.where(outside, self._shuffle(values), values)
        return values.astype(np.int64)

    def _shuffle(self, values: Words) -> Words:
        left, right = values % self._a, values // self._a
        for number, key in enumerate(self._keys):
            if number % 2 == 0:
                left = (left + _mix(right ^ key) % self._a) % self._a
            else:
                right = (right + _mix(left ^ key) % self._b) % self._b
        return left + self._a * right


class Subjects(Protocol):
    """What an order asks of an index."""

    @property
    def subjects(self) -> Sequence[str]:
        """Everybody's names."""
        ...

    @property
    def subject_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number in `subjects` of its subject."""
        ...


class Captures:
    """The captures that a run draws from, subject after subject, in memory that grows with runs of rows only.

    Args:
        first: row of the index at which each run of neighbouring rows begins.
        length: rows in each run.
        subject_starts: captures before each subject, and all captures at the end; a range from 0 where all subjects
            have the same number but the last, who may have fewer.
    """

    def __init__(self, first: Integers, length: Integers, subject_starts: Integers | range) -> None:
        self._first = first
        self._starts = np.concatenate([[0], np.cumsum(length)])
        self._subject_starts = subject_starts

    @classmethod
    def of(cls, index: Subjects, subjects: int | None = None, where: str = "data.subjects") -> Captures:
        """All captures of a dataset, or those of the first `subjects` of the nested order; `where` names the key.

        Raises:
            UserError: more subjects asked for than there are.
        """
        codes = index.subject_numbers
        rank = np.full(len(index.subjects), -1, np.int64)
        everybody = subjects in (None, len(rank))
        chosen = range(len(rank)) if everybody else nested_subjects(index.subjects, subjects, where)
        rank[chosen] = np.arange(len(chosen))
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        length, ranks = np.diff(first, append=len(codes)), rank[codes[first]]
        runs = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
        captures = np.bincount(ranks[runs], weights=length[runs], minlength=len(chosen)).astype(np.int64)
        return cls(first[runs], length[runs], np.concatenate([[0], np.cumsum(captures)]))

    def __len__(self) -> int:
        """How many there are."""
        return int(self._starts[-1])

    @property
    def subjects(self) -> int:
        """Of how many people."""
        return len(self._subject_starts) - 1

    @property
    def most_frames(self) -> int:
        """Captures of the subject that has most."""
        starts = self._subject_starts
        return min(starts.step, len(self)) if isinstance(starts, range) else int(np.diff(starts).max())

    def before(self, subjects: Integers) -> Integers:
        """Captures before each of these subjects; before one past the last, all."""
        starts = self._subject_starts
        return np.minimum(subjects * starts.step, len(self)) if isinstance(starts, range) else starts[subjects]

    def rows(self, places: Integers) -> Integers:
        """Rows of the index at these places, 0 to `len` - 1."""
        runs = np.searchsorted(self._starts, places, side="right") - 1
        return self._first[runs] + places - self._starts[runs]


class SampleOrder:
    """Which capture stands at which place of the endless sequence of one dataset's samples.

    The sequence is epoch after epoch without a seam: where the batch size does not divide the samples, a batch holds
    the end of one epoch and the beginning of the next. It is a function of the dataset's fingerprint, the number of
    subjects, the seed and `frames`, and of nothing else.

    Args:
        captures: what to draw from.
        fingerprint: of the dataset.
        seed: the run's.
        frames: `all`: an epoch has every capture once; `one`: an epoch has every subject once, in another of its
            frames from epoch to epoch, and all its frames before any comes again.
    """

    def __init__(self, captures: Captures, fingerprint: str, seed: int, frames: str = "all") -> None:
        self.captures, self._one = captures, frames == "one"
        self._root = ("order", fingerprint, captures.subjects, seed)
        self._length = captures.subjects if self._one else len(captures)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._length

    def at(self, positions: Integers) -> Integers:
        """Rows of the index at these places of the sequence."""
        epochs, places = np.divmod(np.asarray(positions, np.int64), len(self))
        found = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = Permutation(len(self), digest(*self._root, int(epoch)))(places[chosen])
        return self.captures.rows(self._frame(found, epochs) if self._one else found)

    def after(self, position: int, steps: int) -> int:
        """The place `steps` behind a place within its own epoch, from whose end it goes on at the beginning."""
        epoch, place = divmod(position, len(self))
        return epoch * len(self) + (place + steps) % len(self)

    def _frame(self, subjects: Integers, epochs: Integers) -> Integers:
        """Places of the frames that these subjects show in these epochs."""
        first = self.captures.before(subjects)
        counts = self.captures.before(subjects + 1) - first
        turns, places = np.divmod(epochs, counts)
        root = np.array([digest(*self._root, "frames")], np.uint64)
        keys = _mix(_mix(root ^ subjects.astype(np.uint64)) + _GOLDEN * turns.astype(np.uint64))
        return first + Permutation(counts, keys)(places)


def nested_subjects(subjects: Sequence[str], count: int | None = None, where: str = "data.subjects") -> list[int]:
    """The first `count` subjects of an order that depends on their names alone; as numbers into `subjects`.

    A smaller subset is contained in every larger one, whatever the seed, so that runs that differ in the number of
    identities differ in what they add.
    """
    if count is not None and count > len(subjects):
        raise UserError(f"asks for {count} subjects, the dataset has {len(subjects)}", where=where)
    ranked = sorted(range(len(subjects)), key=lambda number: (digest("subject", subjects[number]), subjects[number]))
    return ranked[:count]


def _mix(values: Words) -> Words:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the argument."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
