"""Batches without end: the part of one rank, read and decoded ahead by threads, in an order no thread can change."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from configs.schema import DataConfig
from data.assembly import Assembly, Task
from data.batches import BatchStream
from data.cache import PixelCache
from data.dataset import Dataset
from data.quarantine import Quarantine, TooManyBad, read_quarantine
from data.sampling import Sample, Sampler
from data.shares import Shares
from data.store import BadMember, Buffer, StoreError
from data.views import PackedBatch


def sampler_of(datasets: Sequence[Dataset], config: DataConfig, seed: int) -> Sampler:
    """What decides which samples a stream over these datasets yields."""
    return Sampler([(dataset.index, dataset.fingerprint) for dataset in datasets], config, seed)


class CaptureStream(BatchStream[PackedBatch]):
    """This rank's micro-batches, from any position on.

    Which samples make a batch is arithmetic (`data.shares`, `data.sampling`); nothing depends on threads, processes,
    prefetching or caches but speed. A sample with a bad member is replaced by rule (`Sampler.replacement`).

    Args:
        datasets: of `data.train`, then of `data.mixture`; they stay open when the stream closes.
        config: the section `data`.
        seed: the run's.
        rank: of this process.
        world_size: processes that share each global batch.
        accumulation: micro-batches per optimiser step.
        start: samples consumed by all ranks together so far; the whole state of a stream.
        pin: hand over page-locked memory, for GPUs.
        worker, workers: make every `workers`-th micro-batch only, beginning with number `worker`.

    Attributes:
        sampler: what decides; its `fingerprint` names the data.
        quarantine: bad members that this process met.
        waited: seconds that the consumer has waited for batches.
        latencies: seconds from asking for a sample to having it decoded, of the latest ones.

    Raises:
        UserError: a batch that cannot be shared, too few cameras or subjects; while iterating, a store that does not
            answer, or too many bad members.
    """

    def __init__(
        self,
        datasets: Dataset | Sequence[Dataset],
        config: DataConfig,
        *,
        seed: int,
        rank: int,
        world_size: int,
        accumulation: int = 1,
        start: int = 0,
        pin: bool = False,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        super().__init__(Quarantine(config.bad_share, read_quarantine(config.quarantine)))
        self._datasets = [datasets] if isinstance(datasets, Dataset) else list(datasets)
        self._shares = Shares(config.batch_size, world_size, accumulation, start)
        self.sampler = sampler_of(self._datasets, config, seed)
        self.latencies: deque[float] = deque(maxlen=20_000)
        self._config, self._rank, self._pin = config, rank, pin
        self._numbers = Shares.numbers(worker, workers)
        self._cache = PixelCache(config.cache_mb * 2**20)
        self._ahead: deque[Future[PackedBatch]] = deque()
        self._reads: set[Future[list[Buffer]]] = set()
        self._pool = ThreadPoolExecutor(config.readers, "headway-data")

    def _take(self) -> PackedBatch:
        for number in itertools.islice(self._numbers, self._config.prefetch + 1 - len(self._ahead)):
            done: Future[PackedBatch] = Future()
            self._ahead.append(done)
            self._pool.submit(self._begin, number, done)
        batch = self._ahead[0].result()
        self._ahead.popleft()
        return batch

    def _end(self) -> None:
        for read in list(self._reads):
            read.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for done in self._ahead:  # somebody may wait in another thread
            _fail(done, StoreError("the stream was closed"))
        self._ahead.clear()

    def samples(self, number: int) -> tuple[list[Sample], int]:
        """Micro-batch `number` of this rank, counted from `start`, and the samples consumed once it is done."""
        part = self._shares.micro_batch(self._rank, number)
        return self.sampler.samples(part.batch_start, part.first, part.count), part.consumed

    def _begin(self, number: int, done: Future[PackedBatch]) -> None:
        """Compute a micro-batch's samples and start to read them. The pool works in order, oldest batch first."""
        try:
            samples, consumed = self.samples(number)
            assembly = Assembly(self._datasets, samples, self._config.image_size, consumed, done, self._pin)
            for place, sample in enumerate(samples):
                self._submit(Task(assembly, place, sample))
        except BaseException as error:
            _fail(done, error)

    def _submit(self, task: Task) -> None:
        with contextlib.suppress(RuntimeError):  # closed in between: nobody waits any more
            self._pool.submit(self._read, task)

    def _read(self, task: Task) -> None:
        """Ask for what a sample needs and no cache has; a folder answers at once, a store some time later."""
        try:
            url = self._datasets[task.sample.dataset].url
            while any(self.quarantine.holds(url, part.where) for part in task.plan(self._cache)):
                task = self._replaced(task)
            task.asked = time.perf_counter()
            read = self._datasets[task.sample.dataset].fetch(task.ranges)
            if read.done():
                return self._decode(task, read)
            self._reads.add(read)
            read.add_done_callback(lambda read: self._answered(task, read))
        except BaseException as error:
            _fail(task.assembly.done, error)

    def _answered(self, task: Task, read: Future[list[Buffer]]) -> None:
        self._reads.discard(read)
        if read.cancelled():
            url = self._datasets[task.sample.dataset].url
            _fail(task.assembly.done, StoreError("was closed while it was read from", where=url))
        else:
            with contextlib.suppress(RuntimeError):
                self._pool.submit(self._decode, task, read)

    def _decode(self, task: Task, read: Future[list[Buffer]]) -> None:
        try:
            task.decode(read.result(), self._cache)
            self.quarantine.passed(len(task.ranges))
            self.latencies.append(time.perf_counter() - task.asked)
        except BadMember as error:
            self._quarantine(task, error)
        except BaseException as error:
            _fail(task.assembly.done, error)

    def _quarantine(self, task: Task, error: BadMember) -> None:
        try:
            self.quarantine.add(self._datasets[task.sample.dataset].url, error)
            self._submit(self._replaced(task))
        except BaseException as worse:
            _fail(task.assembly.done, worse)

    def _replaced(self, task: Task) -> Task:
        if task.attempt + 1 >= len(self.sampler.orders[task.original.dataset]):
            where = self._datasets[task.original.dataset].url
            raise TooManyBad("no capture is left without bad members", where=where, hint=self.quarantine.list())
        sources = len(task.sample.source)
        sample = self.sampler.replacement(task.original, task.attempt + 1, sources)
        return Task(task.assembly, task.place, sample, task.original, task.attempt + 1)


def _fail(done: Future[PackedBatch], error: BaseException) -> None:
    """Hand an error to whoever waits for the batch, once."""
    with contextlib.suppress(Exception):
        done.set_exception(error)
