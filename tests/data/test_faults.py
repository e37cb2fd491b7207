"""A store's bad days, with a real S3 server behind a proxy: no wrong pixel, no crash, and it goes on by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch

from configs.schema import DataConfig
from data import Dataset, PackedBatch, open_stream
from data.store import Store
from tests.data.faulty import Faults


def config_of(url: str, **store) -> DataConfig:
    fields = {"train": url, "batch_size": 4, "image_size": (24, 20), "source_views": 2, "target_views": 2}
    return DataConfig.model_validate({**fields, "cache_mb": 0, "readers": 2, "store": store})


def take(url: str, count: int, begin: Callable[[], object] = bool, **store) -> tuple[list[PackedBatch], dict[str, int]]:
    config = config_of(url, **store)
    with Dataset.open(url, settings=config.store) as dataset:
        begin()
        with open_stream([dataset], config, seed=0, rank=0, world_size=1) as stream:
            batches = [next(stream) for _ in range(count)]
            assert not stream.quarantine.found
        return batches, vars(dataset.traffic)


def test_no_fault_reaches_a_batch(proxied):
    url, proxy = proxied
    clean, _ = take(url, 16)
    faults = Faults(error_503=0.08, truncated=0.08, shortened=0.08, flipped=0.08, stalled=0.02, stall_seconds=3)
    spoiled, traffic = take(url, 16, lambda: setattr(proxy, "faults", faults), timeout=2)
    for one, two in zip(clean, spoiled, strict=True):
        assert one.names == two.names
        assert torch.equal(one.views.images, two.views.images)
        assert torch.equal(one.views.masks, two.views.masks)
    hit = vars(proxy.counts)
    assert all(hit[fault] > 0 for fault in ("error_503", "truncated", "shortened", "flipped"))
    assert traffic["failures"] > 0


def test_lists_are_asked_for_again(proxied):
    url, proxy = proxied
    store = Store(url)
    expected = store.names("shards")
    proxy.faults = Faults(error_503=0.6)
    assert [store.names("shards") for _ in range(8)] == [expected] * 8
    assert len(expected) == 4
    assert proxy.counts.error_503 > 0
    store.close()


def test_a_server_that_stops_for_a_while_is_waited_for(proxied, caplog):
    url, proxy = proxied
    clean, _ = take(url, 8)
    config = config_of(url, deadline=5)
    with Dataset.open(url, settings=config.store) as dataset:
        stream = open_stream([dataset], config, seed=0, rank=0, world_size=1)
        with stream:
            made = [next(stream) for _ in range(2)]
            proxy.stop()
            threading.Timer(9, proxy.start).start()
            began = time.monotonic()
            made += [next(stream) for _ in range(6)]
            assert time.monotonic() - began > 4
    assert all(torch.equal(one.views.images, two.views.images) for one, two in zip(clean, made, strict=True))
    assert "does not answer" in caplog.text
    assert "answers again" in caplog.text


def test_hedges_cut_the_tail_and_cost_little(proxied):
    url, proxy = proxied
    proxy.faults = Faults(stalled=0.04, stall_seconds=1)
    slow, hedges = {}, {}
    for hedge in (False, True):
        config = config_of(url, hedge=hedge)
        with Dataset.open(url, settings=config.store) as dataset:
            waits = []
            for number in range(200):
                parts = [members.image for members in dataset.members(number % 24, [number % 6])]
                began = time.monotonic()
                dataset.fetch(parts).result()
                waits.append(time.monotonic() - began)
            slow[hedge] = sum(wait > 0.9 for wait in waits[40:])
            hedges[hedge] = dataset.traffic.hedges
    assert slow[False] >= 3
    assert slow[True] <= slow[False] / 3
    assert hedges[False] == 0 < hedges[True] <= 0.05 * 200 + 16
