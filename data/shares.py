"""Who does what of each global batch: arithmetic on positions, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from configs.errors import UserError


class Part(NamedTuple):
    """A micro-batch: positions `first` to `first + count` of the sequence.

    Attributes:
        batch_start: position at which its global batch begins.
        consumed: samples that all ranks together have consumed once this micro-batch is done everywhere.
    """

    batch_start: int
    first: int
    count: int
    consumed: int


@dataclass(frozen=True)
class Shares:
    """How ranks and workers share the sequence of samples from `start` on.

    A global batch is `batch_size` consecutive positions. Micro-batch `a` of rank `r` is block `a * world_size + r` of
    it, so the ranks together see the same samples in the same order whatever their number; and every rank has the
    same number of micro-batches of the same size.

    Attributes:
        start: samples consumed by all ranks together so far, at the end of a step.

    Raises:
        UserError: a batch that cannot be shared.
    """

    batch_size: int
    world_size: int
    accumulation: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulation
        if self.batch_size % parts:
            what = (
                f"{self.batch_size} captures cannot be shared by {self.world_size} ranks "
                f"x {self.accumulation} micro-batches"
            )
            raise UserError(what, where="data.batch_size", hint=f"take a multiple of {parts}")

    def micro_batch(self, rank: int, number: int) -> Part:
        """Micro-batch `number` of a rank, counted from `start`."""
        size = self.batch_size // (self.world_size * self.accumulation)
        step, micro = divmod(number, self.accumulation)
        batch_start = self.start + step * self.batch_size
        first = batch_start + (micro * self.world_size + rank) * size
        return Part(batch_start, first, size, batch_start + (micro + 1) * self.world_size * size)

    @staticmethod
    def numbers(worker: int = 0, workers: int = 1) -> Iterator[int]:
        """Micro-batches that one of a rank's workers makes: every `workers`-th, so that taking turns gives all."""
        return itertools.count(worker, max(workers, 1))
