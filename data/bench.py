"""How fast a dataset gives batches here: the real stream, measured, and what decoding alone would allow."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import psutil

from configs.errors import UserError
from configs.schema import DataConfig
from data.dataset import Dataset, decode_view, empty_pixels
from data.latents import LatentStream
from data.loader import ProcessStream, open_datasets, open_stream
from data.sampling import Sample
from data.store import Buffer, Traffic
from data.stream import CaptureStream
from data.views import PackedBatch

_BARE_BYTES, _BARE_SAMPLES = 128 * 2**20, 256  # encoded members that are kept to be decoded over and over
_BARE_SECONDS = 5.0

Progress = Callable[[float, float], object]
Encoded = list[tuple[Buffer, Buffer | None]]


@dataclass(frozen=True)
class Resources:
    """What this process holds: open descriptors, threads, resident memory in bytes."""

    descriptors: int
    threads: int
    memory: int

    @classmethod
    def now(cls) -> Resources:
        """As it is."""
        process = psutil.Process()
        return cls(process.num_fds(), process.num_threads(), process.memory_info().rss)


@dataclass(frozen=True)
class Measured:
    """One measurement; times in seconds.

    Attributes:
        first_batch: from opening the dataset to having the first batch.
        seconds: measured after it, for so many `batches`, `samples` and `images`.
        waiting: share of `seconds` that the consumer waited for batches.
        latency_p50, latency_p99: of a sample, from asking to decoded; None where other processes load.
        traffic: asked of the store after the first batch; None where other processes load. A local folder is asked
            for members and nothing else, so only their bytes are told.
        start, end: after the first batch and after the last.
        bare: samples per second that decoding alone makes of members in memory; None if that was not asked for.
    """

    first_batch: float
    seconds: float
    batches: int
    samples: int
    images: int
    waiting: float
    latency_p50: float | None
    latency_p99: float | None
    traffic: Traffic | None
    start: Resources
    end: Resources
    bare: float | None = None

    @property
    def samples_per_second(self) -> float:
        """Of the stream, with its consumer."""
        return self.samples / self.seconds

    @property
    def images_per_second(self) -> float:
        """Of the stream, with its consumer."""
        return self.images / self.seconds

    @property
    def over_bare(self) -> float | None:
        """Rate of the stream over that of bare decoding."""
        return None if self.bare is None else self.samples_per_second / self.bare


def measure(
    config: DataConfig,
    *,
    seconds: float = 20.0,
    step_seconds: float = 0.0,
    bare: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Measured:
    """Run a stream as one worker of a run would and measure it.

    Args:
        config: the section `data` of a run; decoded views that it keeps (`cache_mb`) make a small dataset fast.
        seconds: for how long, after the first batch.
        step_seconds: what the consumer takes for each batch.
        bare: also decode the same members from memory, with as many threads.
        seed: of the order.
        progress: told (seconds done, seconds in all).

    Raises:
        UserError: no dataset, too few cameras, or a store that does not answer.
    """
    if config.train.startswith("s3://"):
        importlib.import_module("obstore.store")  # imports are no part of the time to the first batch
    began = time.perf_counter()
    datasets = [dataset for dataset in open_datasets(config) if isinstance(dataset, Dataset)]
    if not datasets:
        raise UserError("holds latents, and this measures captures", where=config.train)
    try:
        with open_stream(datasets, config, seed=seed, rank=0, world_size=1) as stream:
            assert not isinstance(stream, LatentStream)
            next(stream)
            first = time.perf_counter() - began
            encoded = _encoded(stream, datasets, config) if bare else []
            half, threads = min(seconds, _BARE_SECONDS) / 2, config.readers * max(1, config.loaders)
            before = decode_bare(encoded, config.image_size, threads, half) if bare else None
            found = _run(stream, datasets, config, seconds, step_seconds, progress)
            if before is not None:
                # Before and after, because a machine's speed drifts.
                after = decode_bare(encoded, config.image_size, threads, half)
                found = replace(found, bare=(before + after) / 2)
        return replace(found, first_batch=first)
    finally:
        for dataset in datasets:
            dataset.close()


def decode_bare(samples: Sequence[Encoded], image_size: tuple[int, int], threads: int, seconds: float) -> float:
    """Samples per second that threads decode, a sample each, over and over.

    Args:
        samples: encoded images and masks of each.
        image_size: (height, width).
        threads: how many.
        seconds: for how long, at least.
    """
    numbers, over = itertools.count(), Event()

    def work() -> int:
        done = 0
        while not over.is_set():
            members = samples[next(numbers) % len(samples)]
            pixels, coverage = empty_pixels((len(members),), image_size)
            for place, (image, mask) in enumerate(members):
                decode_view(image, mask, pixels[place], coverage[place], None, "bare decoding")
            done += 1
        return done

    with ThreadPoolExecutor(threads, "headway-bare") as pool:
        began = time.perf_counter()
        jobs = [pool.submit(work) for _ in range(threads)]
        over.wait(seconds)
        over.set()
        return sum(job.result() for job in jobs) / (time.perf_counter() - began)


def _run(
    stream: CaptureStream | ProcessStream,
    datasets: Sequence[Dataset],
    config: DataConfig,
    seconds: float,
    step_seconds: float,
    progress: Progress,
) -> Measured:
    """Take batches for some seconds, once those are gone that were made while nobody took any."""
    ready = config.prefetch + 1
    for _ in range(ready):
        next(stream)
    inside = stream if isinstance(stream, CaptureStream) else None
    if inside is not None:
        inside.latencies.clear()
    before, waited, start = _traffic(datasets), stream.waited, Resources.now()
    began = time.perf_counter()
    batches = images = 0
    while (spent := time.perf_counter() - began) < seconds or batches == 0:
        progress(min(spent, seconds), seconds)
        images += _images(next(stream))
        batches += 1
        time.sleep(step_seconds)
    spent = time.perf_counter() - began
    progress(seconds, seconds)
    latencies = list(inside.latencies) if inside is not None else []
    p50, p99 = (float(np.quantile(latencies, q)) if latencies else None for q in (0.5, 0.99))
    traffic = _difference(_traffic(datasets), before) if inside is not None else None
    if traffic is not None and datasets[0].url.startswith("file://"):
        needed = sum(_bytes(datasets, stream, config, 1 + ready + number) for number in range(batches))
        traffic = Traffic(bytes_asked=needed, bytes_needed=needed)
    waiting = (stream.waited - waited) / spent
    samples = batches * config.batch_size
    return Measured(0.0, spent, batches, samples, images, waiting, p50, p99, traffic, start, Resources.now())


def _images(batch: PackedBatch) -> int:
    return batch.views.images.shape[0] * batch.views.images.shape[1]


def _traffic(datasets: Sequence[Dataset]) -> Traffic:
    total = Traffic()
    for dataset in datasets:
        total = Traffic(*(a + b for a, b in zip(_counts(total), _counts(dataset.traffic), strict=True)))
    return total


def _difference(after: Traffic, before: Traffic) -> Traffic:
    return Traffic(*(a - b for a, b in zip(_counts(after), _counts(before), strict=True)))


def _counts(traffic: Traffic) -> tuple[int, ...]:
    return tuple(vars(traffic).values())


def _samples(stream: CaptureStream | ProcessStream, config: DataConfig, number: int) -> list[Sample]:
    return stream.sampler.samples(number * config.batch_size, 0, config.batch_size)


def _members(datasets: Sequence[Dataset], sample: Sample) -> list:
    dataset = datasets[sample.dataset]
    found = dataset.members(sample.source_row, sample.source)
    return found + dataset.members(sample.target_row, sample.target)


def _bytes(datasets: Sequence[Dataset], stream: CaptureStream | ProcessStream, config: DataConfig, number: int) -> int:
    """Of the members of a batch."""
    samples = _samples(stream, config, number)
    return sum(part.length for s in samples for one in _members(datasets, s) for part in one.ranges)


def _encoded(stream: CaptureStream | ProcessStream, datasets: Sequence[Dataset], config: DataConfig) -> list[Encoded]:
    """Members of the first samples, as many as memory allows."""
    found: list[Encoded] = []
    size = 0
    for number in itertools.count():
        for sample in _samples(stream, config, number):
            members = _members(datasets, sample)
            data = iter(datasets[sample.dataset].fetch([part for one in members for part in one.ranges]).result())
            found.append([(bytes(next(data)), None if one.mask is None else bytes(next(data))) for one in members])
            size += sum(len(image) + len(mask or b"") for image, mask in found[-1])
            if size > _BARE_BYTES or len(found) >= _BARE_SAMPLES:
                return found
    raise AssertionError
