"""Batches without end: the part of one rank, read and decoded ahead by threads, in an order no thread can change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from configs.schema import DataConfig
from data.cache import PixelCache
from data.dataset import Dataset, as_views
from data.sampling import Sample, Sampler
from data.shares import Shares
from data.views import Batch, Views

Pixels = NDArray[np.uint8]
Loaded = tuple[Pixels, Pixels]


class CaptureStream(Iterator[Batch]):
    """This rank's micro-batches, from any position on.

    A global batch is `config.batch_size` consecutive samples of the sequence (`data.order`). Its micro-batch `a` of
    rank `r` is block `a * world_size + r`, so the ranks together see the same samples in the same order whatever
    their number. Nothing depends on `config.readers`, `config.prefetch` or the cache but speed.

    Args:
        dataset: stays open when the stream closes.
        config: the section `data`.
        seed: the run's.
        rank: of this process.
        world_size: processes that share each global batch.
        accumulation: micro-batches per optimiser step.
        start: samples consumed by all ranks together so far; the whole state of a stream.
        pin: hand over page-locked memory, for GPUs.

    Attributes:
        waited: seconds that the consumer has waited for batches.

    Raises:
        UserError: a batch that cannot be shared, too few cameras or subjects; while iterating, a member that
            cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DataConfig,
        *,
        seed: int,
        rank: int,
        world_size: int,
        accumulation: int = 1,
        start: int = 0,
        pin: bool = False,
    ) -> None:
        self.shares = Shares(config.batch_size, world_size, accumulation, start)
        self.sampler = Sampler([(dataset.index, dataset.fingerprint)], config, seed)
        self.waited = 0.0
        self._dataset, self._config, self._pin = dataset, config, pin
        self._rank, self._next = rank, 0
        self._cache = PixelCache(config.cache_mb * 2**20)
        self._ahead: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(config.readers, "headway-data")

    def __enter__(self) -> CaptureStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Batch:
        if self._pool is None:
            raise StopIteration
        began = time.perf_counter()
        while len(self._ahead) <= self._config.prefetch:
            self._ahead.append(self._submit(self._pool, self._next))
            self._next += 1
        try:
            return self._ahead.popleft().result()
        except BaseException:
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - began

    def close(self) -> None:
        """Stop reading ahead and join every thread; a closed stream is at its end."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
            self._ahead.clear()

    def samples(self, number: int) -> tuple[list[Sample], int]:
        """Micro-batch `number` of this rank, counted from `start`, and the samples consumed once it is done."""
        part = self.shares.micro_batch(self._rank, number)
        return self.sampler.samples(part.batch_start, part.first, part.count), part.consumed

    def _submit(self, pool: ThreadPoolExecutor, number: int) -> Future[Batch]:
        """Start a micro-batch. The pool works in order, so a batch's parts have all begun when it waits for them."""
        samples, consumed = self.samples(number)
        parts = [pool.submit(self._load, sample) for sample in samples]
        return pool.submit(self._assemble, samples, parts, consumed)

    def _load(self, sample: Sample) -> Loaded:
        wanted = [(sample.source_row, view) for view in sample.source]
        wanted += [(sample.target_row, view) for view in sample.target]
        found: dict[tuple[int, int], Loaded] = {}
        for row in {sample.source_row, sample.target_row}:
            views = sorted({view for its, view in wanted if its == row})
            images, masks = self._dataset.pixels(row, views, self._config.image_size, self._cache)
            found |= {(row, view): (images[place], masks[place]) for place, view in enumerate(views)}
        images, masks = zip(*(found[each] for each in wanted), strict=True)
        return np.stack(images), np.stack(masks)

    def _assemble(self, samples: list[Sample], parts: list[Future[Loaded]], consumed: int) -> Batch:
        images, masks = (np.stack(part) for part in zip(*(part.result() for part in parts), strict=True))
        sources = len(samples[0].source)
        batch = Batch(
            source=self._views(images[:, :sources], masks[:, :sources], samples, "source"),
            target=self._views(images[:, sources:], masks[:, sources:], samples, "target"),
            names=tuple(self._dataset.index.text("name", sample.source_row) for sample in samples),
            consumed=consumed,
        )
        return batch.pin() if self._pin else batch

    def _views(self, images: Pixels, masks: Pixels, samples: list[Sample], kind: str) -> Views:
        size = self._config.image_size
        calibrations = [
            self._dataset.calibration(getattr(sample, f"{kind}_row"), list(getattr(sample, kind)), size)
            for sample in samples
        ]
        return as_views(images, masks, calibrations, size)
