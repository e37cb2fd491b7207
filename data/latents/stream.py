"""Latents without end: the part of one rank, read ahead by threads, in an order that no thread can change."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from configs.schema import DataConfig
from data.batches import BatchStream
from data.latents.batch import LatentBatch
from data.latents.dataset import LatentSet
from data.latents.sampling import LatentSample, LatentSampler
from data.latents.shards import Floats
from data.quarantine import Quarantine, TooManyBad, read_quarantine
from data.shares import Shares
from data.store import BadMember, Range


class LatentStream(BatchStream[LatentBatch]):
    """This rank's micro-batches of whitened latents, from any position on.

    The contract is that of `data.stream.CaptureStream`: which latents make a batch is arithmetic, the whole state is
    `consumed`, any number of ranks gives the same global batches, and a sample with a bad member is replaced by rule.
    Everything is whitened by the moments of the first set. Only what a batch needs is read: nothing stays in memory.

    Args:
        sets: of `data.train`, then of `data.mixture`; they stay open when the stream closes.
        config: the section `data`; what is said of views and images does not apply, nor `loaders`: there is nothing to
            decode.
        seed, rank, world_size, accumulation, start, pin: as in `CaptureStream`.

    Attributes:
        sampler: what decides; its `fingerprint` names the data.
        quarantine: bad members that this process met.
        waited: seconds that the consumer has waited for batches.

    Raises:
        UserError: a batch that cannot be shared, sets that do not go together; while iterating, a store that does not
            answer, or too many bad members.
    """

    def __init__(
        self,
        sets: LatentSet | Sequence[LatentSet],
        config: DataConfig,
        *,
        seed: int,
        rank: int,
        world_size: int,
        accumulation: int = 1,
        start: int = 0,
        pin: bool = False,
    ) -> None:
        super().__init__(Quarantine(config.bad_share, read_quarantine(config.quarantine)))
        self._sets = [sets] if isinstance(sets, LatentSet) else list(sets)
        self._shares = Shares(config.batch_size, world_size, accumulation, start)
        self.sampler = LatentSampler(self._sets, config, seed)
        self._rank, self._pin, self._prefetch = rank, pin, config.prefetch
        self._numbers = Shares.numbers()
        self._ahead: deque[Future[LatentBatch]] = deque()
        self._pool = ThreadPoolExecutor(config.readers, "headway-latents")

    def _take(self) -> LatentBatch:
        while len(self._ahead) <= self._prefetch:
            self._ahead.append(self._pool.submit(self._make, next(self._numbers)))
        return self._ahead.popleft().result()

    def _end(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def samples(self, number: int) -> tuple[list[LatentSample], int]:
        """Micro-batch `number` of this rank, counted from `start`, and the samples consumed once it is done."""
        part = self._shares.micro_batch(self._rank, number)
        return self.sampler.samples(part.first, part.count), part.consumed

    def _make(self, number: int) -> LatentBatch:
        drawn, consumed = self.samples(number)
        while True:
            chosen = [self._passable(sample) for sample in drawn]
            try:
                latents = self._read([(s.dataset, s.row) for s in chosen] + [(s.dataset, s.neutral) for s in chosen])
            except _Bad as bad:
                self.quarantine.add(bad.url, bad.error)
            else:
                batch = self._batch(chosen, latents, consumed)
                return batch.pin_memory() if self._pin else batch

    def _passable(self, sample: LatentSample) -> LatentSample:
        """The sample, or the first behind it without a member that is known to be bad."""
        found = sample
        for attempt in range(1, len(self.sampler.orders[sample.dataset]) + 1):
            one = self._sets[found.dataset]
            if not any(self.quarantine.holds(one.url, one.index.range(r).where) for r in (found.row, found.neutral)):
                return found
            found = self.sampler.replacement(sample, attempt)
        where = self._sets[sample.dataset].url
        raise TooManyBad("no latent is left without bad members", where=where, hint=self.quarantine.list())

    def _read(self, places: list[tuple[int, int]]) -> Floats:
        """Z `[n, c, h, w]` at these (set, row); each is fetched once, the sets at the same time."""
        rows = {number: sorted({row for its, row in places if its == number}) for number in {its for its, _ in places}}
        ranges = {number: [self._sets[number].index.range(row) for row in its] for number, its in rows.items()}
        asked = {number: self._sets[number].fetch(parts) for number, parts in ranges.items()}
        found: dict[tuple[int, int], Floats] = {}
        for number, answer in asked.items():
            found |= self._decode(number, rows[number], ranges[number], answer)
        self.quarantine.passed(len(found))
        return np.stack([found[place] for place in places])

    def _decode(
        self, number: int, rows: list[int], ranges: list[Range], answer: Future[list]
    ) -> dict[tuple[int, int], Floats]:
        one = self._sets[number]
        try:
            read = zip(rows, ranges, answer.result(), strict=True)
            return {(number, row): one.decode(part, data) for row, part, data in read}
        except BadMember as error:
            raise _Bad(one.url, error) from error

    def _batch(self, chosen: list[LatentSample], latents: Floats, consumed: int) -> LatentBatch:
        first, indexes = self._sets[0], [self._sets[sample.dataset].index for sample in chosen]
        white = first.whiten(torch.from_numpy(latents))
        where = list(zip(indexes, chosen, strict=True))
        return LatentBatch(
            latents=white[: len(chosen)],
            neutral=white[len(chosen) :],
            coefficients=torch.from_numpy(np.stack([index.coefficients[sample.row] for index, sample in where])),
            mean=first.mean,
            std=first.std,
            captions=tuple(index.text("caption", sample.row) for index, sample in where),
            attributes=tuple(index.attributes(sample.row) for index, sample in where),
            names=tuple(index.text("name", sample.row) for index, sample in where),
            consumed=consumed,
        )


class _Bad(Exception):
    """A bad member of one of the sets."""

    def __init__(self, url: str, error: BadMember) -> None:
        super().__init__(url)
        self.url, self.error = url, error
