"""Nothing is left behind by streams closed early, reads given up, datasets that are none, a store that is down.

`benchmarks/leaks.py` watches 100,000 samples.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs import UserError
from configs.schema import DataConfig
from configs.store import StoreConfig
from data import Dataset, open_stream
from data.store.circuit import Circuit
from tests.data.faulty import Faults
from tests.data.test_faults import config_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")


def mine() -> tuple[int, int, int]:
    """Threads of ours, descriptors, children; a server in this process keeps threads of its own."""
    gc.collect()
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(("headway", "fsspec"))]
    return len(ours), len(os.listdir("/proc/self/fd")), len(psutil.Process().children(recursive=True))


def flat(work: Callable[[], Any], times: int, slack: int = 0) -> None:
    """`work` leaves nothing behind, however often it is done.

    A leak is there each time, so that fewer descriptors than half of `times`, or than `slack`, are somebody else's in
    this process: servers of other tests open and close theirs when they please.
    """
    slack = max(slack, times // 2)
    work()
    before = settled(mine())
    for _ in range(times):
        work()
    until = time.monotonic() + 3
    while not within(mine(), before, slack) and time.monotonic() < until:
        time.sleep(0.05)
    assert within(mine(), before, slack), (before, mine())


def settled(counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """The counts once they no longer fall."""
    time.sleep(0.1)
    again = mine()
    return settled(again) if again < counts else again


def within(after: tuple[int, int, int], before: tuple[int, int, int], slack: int) -> bool:
    return after[0] <= before[0] and after[1] <= before[1] + slack and after[2] <= before[2]


def stream_of(dataset: Dataset, **changes: Any):
    fields = {"batch_size": 4, "image_size": (24, 20), "source_views": (1, 3), "target_views": 2, "readers": 3}
    return open_stream([dataset], DataConfig.model_validate({**fields, **changes}), seed=0, rank=0, world_size=1)


def test_datasets_and_streams_opened_again_and_again(make_dataset):
    url = make_dataset(5).url

    def work() -> None:
        with Dataset.open(url) as dataset, stream_of(dataset) as stream:
            next(stream)

    flat(work, 30)


def test_streams_closed_before_their_first_batch_and_in_the_middle(make_dataset):
    dataset = make_dataset(5)

    def work() -> None:
        stream_of(dataset, prefetch=6).close()
        with stream_of(dataset, prefetch=6) as stream:
            next(stream)

    flat(work, 25)


def test_a_stream_that_nobody_closes_is_not_kept_by_its_threads(make_dataset):
    dataset = make_dataset(5)

    def work() -> None:
        next(stream_of(dataset))

    flat(work, 5)


def test_runs_that_end_with_an_error(make_dataset, make_capture):
    images = make_capture(0).images
    dataset = make_dataset(3, images=tuple(image[:-40] for image in images))

    def work() -> None:
        with pytest.raises(UserError), stream_of(dataset, bad_share=0.0) as stream:
            next(stream)

    flat(work, 20)


def test_datasets_that_are_none(bucket):
    def work() -> None:
        with pytest.raises(UserError, match="no dataset"):
            Dataset.open(f"{bucket}/nothing")

    flat(work, 6, slack=4)


def test_remote_streams_closed_with_reads_in_flight(proxied):
    url, proxy = proxied
    proxy.latency, settings = 0.02, StoreConfig(in_flight=8)

    def work() -> None:
        with Dataset.open(url, settings=settings) as dataset, stream_of(dataset, cache_mb=0, prefetch=6) as stream:
            next(stream)

    flat(work, 6, slack=8)  # connections inside the server's process close a little later


def tasks_of(dataset: Dataset) -> int:
    reader = dataset._store._reader
    assert reader
    return len(asyncio.all_tasks(reader._loop))


def test_a_dataset_closed_under_a_stream_is_no_endless_wait(proxied):
    url, proxy = proxied
    dataset = Dataset.open(url, settings=config_of(url, in_flight=8).store)
    stream = stream_of(dataset, cache_mb=0, prefetch=2)
    next(stream)
    outcome: list[object] = []

    def follow() -> None:
        try:
            outcome.extend(next(stream) for _ in range(20))
        except UserError as error:
            outcome.append(error)

    proxy.latency = 1.0
    consumer = threading.Thread(target=follow, daemon=True)
    consumer.start()
    time.sleep(0.5)
    proxy.latency = 0.0
    dataset.close()
    consumer.join(5)
    assert outcome
    assert not consumer.is_alive()


def test_hedges_and_cancelled_requests_leave_no_task(proxied):
    url, proxy = proxied
    config = config_of(url, in_flight=8)
    with Dataset.open(url, settings=config.store) as dataset:
        for number in range(4):
            with open_stream([dataset], config, seed=0, rank=0, world_size=1) as stream:
                for _ in range(10):
                    next(stream)
            if number == 0:  # by now it is known what is slow
                proxy.faults = Faults(error_503=0.04, truncated=0.04, flipped=0.02, stalled=0.04, stall_seconds=2)
        assert dataset.traffic.hedges > 0
        until = time.monotonic() + 5
        while tasks_of(dataset) and time.monotonic() < until:
            time.sleep(0.02)
        assert tasks_of(dataset) == 0


def test_whoever_gives_up_while_the_store_is_down_blocks_nobody():
    """A reader that doubts and one that waits are cancelled; the others still learn when it is back."""

    async def ask() -> bool:
        back = time.monotonic() + 1

        async def ping() -> None:
            await asyncio.sleep(0.05)
            if time.monotonic() < back:
                raise OSError("down")

        circuit = Circuit("s3://heads", 60, ping, tell=lambda _: None)
        circuit.succeeded()
        doubting = asyncio.ensure_future(circuit.failed(OSError("down"), late=True))
        await asyncio.sleep(0.01)
        doubting.cancel()
        assert await circuit.failed(OSError("down"), late=True)
        waiting = asyncio.ensure_future(circuit.ready())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait_for(circuit.ready(), 5)
        return not circuit.is_open and time.monotonic() >= back

    assert asyncio.run(ask())


def test_a_dataset_that_nobody_holds_any_more_ends_its_thread(bucket, make_dataset):
    def readers() -> int:
        return sum(thread.name == "headway-store" for thread in threading.enumerate())

    url = make_dataset(2, url=f"{bucket}/dropped").url
    before = readers()
    for _ in range(3):
        Dataset.open(url).capture("person000")
    gc.collect()
    end = time.monotonic() + 5
    while readers() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert readers() == before
