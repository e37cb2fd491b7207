"""The stream: the same global batches however many ranks, threads and restarts; clean ends."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import UserError
from configs.schema import DataConfig
from data import BadMember, Batch, CaptureStream, Dataset
from data.cache import PixelCache


def config_of(**changes) -> DataConfig:
    fields = {"batch_size": 4, "image_size": (24, 20), "source_views": (1, 3), "target_views": 2, "readers": 2}
    return DataConfig(**{**fields, **changes})


def take(dataset: Dataset, config: DataConfig, count: int, **place) -> list[Batch]:
    place = {"seed": 0, "rank": 0, "world_size": 1, **place}
    with CaptureStream(dataset, config, **place) as stream:
        return [next(stream) for _ in range(count)]


def same(one: Batch, two: Batch) -> bool:
    tensors = [
        (getattr(side_one, name), getattr(side_two, name))
        for side_one, side_two in ((one.source, two.source), (one.target, two.target))
        for name in ("images", "masks")
    ]
    tensors += [(one.source.cameras.K, two.source.cameras.K)]
    tensors += [(one.target.cameras.world_to_camera, two.target.cameras.world_to_camera)]
    return one.names == two.names and one.consumed == two.consumed and all(torch.equal(a, b) for a, b in tensors)


def test_a_batch_is_what_views_says_it_is(make_dataset):
    dataset = make_dataset(6)
    batch = take(dataset, config_of(), 1)[0]
    assert batch.consumed == 4
    assert batch.source.images.dtype == batch.target.masks.dtype == torch.float32
    assert batch.target.images.shape == (4, 2, 3, 24, 20)
    assert batch.target.cameras.shape == (4, 2)
    assert 0 <= batch.source.images.min() < batch.source.images.max() <= 1
    for place, name in enumerate(batch.names):
        centers = torch.from_numpy(dataset.centers(name)).float()
        for side in (batch.source, batch.target):
            for view in range(side.images.shape[1]):
                nearest = int(torch.cdist(side.cameras.centers[place, view][None], centers).argmin())
                alone = dataset.views(name, [dataset.cameras(name)[nearest]], (24, 20))
                assert torch.equal(alone.images[0, 0], side.images[place, view])
                assert torch.equal(alone.masks[0, 0], side.masks[place, view])
                assert torch.equal(alone.cameras.K[0, 0], side.cameras.K[place, view])


def test_calibration_follows_the_fitted_image(make_dataset):
    """A world point falls on the same place of the picture whatever the size, but for the cut-off margin."""
    dataset = make_dataset(1)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.05
    full = dataset.views("person000", ["Cam2"], (48, 40)).cameras
    square = dataset.views("person000", ["Cam2"], (80, 80)).cameras
    one, two = (cameras.project(points)[0][0, 0] for cameras in (full, square))
    torch.testing.assert_close((one - torch.tensor([0.0, 4.0])) * 2, two, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (2, 3), (3, 2), (4, 1), (6, 1), (12, 1)])
def test_any_world_size_sees_the_same_global_batches(make_dataset, world, accumulation):
    dataset = make_dataset(7)
    config = config_of(batch_size=12)
    whole = take(dataset, config, 3)
    ranks = [
        take(dataset, config, 3 * accumulation, rank=rank, world_size=world, accumulation=accumulation)
        for rank in range(world)
    ]
    for step in range(3):
        parts = [ranks[r][step * accumulation + micro] for micro in range(accumulation) for r in range(world)]
        assert tuple(name for part in parts for name in part.names) == whole[step].names
        assert torch.equal(torch.cat([part.source.images for part in parts]), whole[step].source.images)
        assert torch.equal(torch.cat([part.target.cameras.K for part in parts]), whole[step].target.cameras.K)
        assert parts[-1].consumed == whole[step].consumed == 12 * (step + 1)


@pytest.mark.parametrize("world", range(1, 17))
def test_positions_are_shared_out_for_every_world_size(make_dataset, world):
    dataset = make_dataset(5)
    config = config_of(batch_size=2 * world)
    streams = [CaptureStream(dataset, config, seed=1, rank=r, world_size=world, start=37) for r in range(world)]
    whole = CaptureStream(dataset, config, seed=1, rank=0, world_size=1, start=37)
    for step in range(5):
        parts = [sample for stream in streams for sample in stream.samples(step)[0]]
        assert parts == whole.samples(step)[0]
    for stream in (*streams, whole):
        stream.close()


def test_a_restart_at_any_point_goes_on_bitwise_the_same(make_dataset):
    dataset = make_dataset(5)
    whole = take(dataset, config_of(), 8)
    for done in (1, 4, 7):
        rest = take(dataset, config_of(), 8 - done, start=whole[done - 1].consumed)
        assert all(same(one, two) for one, two in zip(rest, whole[done:], strict=True))


@pytest.mark.parametrize("change", [{"readers": 1}, {"readers": 5}, {"prefetch": 0}, {"prefetch": 7}, {"cache_mb": 0}])
def test_threads_and_caches_change_nothing_but_speed(make_dataset, change):
    dataset = make_dataset(5)
    for one, two in zip(take(dataset, config_of(), 6), take(dataset, config_of(**change), 6), strict=True):
        assert same(one, two)


def test_the_last_batch_of_an_epoch_runs_on_into_the_next(make_dataset):
    dataset = make_dataset(5)
    names = [name for batch in take(dataset, config_of(), 10) for name in batch.names]
    for epoch in np.array(names).reshape(8, 5):
        assert sorted(epoch) == sorted(dataset.captures)


def test_source_views_may_be_targets(make_dataset):
    config = config_of(source_views=(6, 6), target_views=6, target_sampling="any")
    batch = take(make_dataset(2), config, 1)[0]
    order = [
        [int((side.cameras.centers[0, v] - c).norm(dim=-1).argmin()) for v in range(6)]
        for side in (batch.source, batch.target)
        for c in [batch.source.cameras.centers[0]]
    ]
    assert order[0] == list(range(6))
    assert torch.equal(batch.target.images[0], batch.source.images[0][order[1]])


def test_a_batch_that_cannot_be_shared_is_the_users_mistake(make_dataset):
    with pytest.raises(UserError, match=r"data\.batch_size: 4 captures cannot be shared by 3 ranks"):
        CaptureStream(make_dataset(2), config_of(), seed=0, rank=0, world_size=3)


def test_a_corrupted_byte_stops_the_consumer_with_the_members_name(make_dataset):
    dataset = make_dataset(2, per_shard=1)
    shard = Path(dataset.url.removeprefix("file://")) / dataset.index.shards[1].path
    data = bytearray(shard.read_bytes())
    for part in dataset.index.image_ranges(1, list(range(6)), dataset.cameras("person001")):
        data[part.offset + part.length // 2] ^= 4
    shard.write_bytes(data)
    before = threading.active_count()
    with pytest.raises(BadMember, match=r"shards/000001\.tar, member person001_0\.Cam\d\.jpg: its checksum is wrong"):
        take(dataset, config_of(), 3)
    assert threading.active_count() == before


def test_broken_pixels_behind_good_checksums_name_the_camera(make_dataset, make_capture):
    images = make_capture(0).images
    dataset = make_dataset(1, images=tuple(image[:-40] for image in images))
    with pytest.raises(BadMember, match=r"capture person000_0, camera Cam\d: broken image"):
        take(dataset, config_of(batch_size=1), 1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_closed_streams_leave_no_threads_and_no_descriptors(make_dataset):
    dataset = make_dataset(4)
    take(dataset, config_of(), 1)
    threads, files = threading.active_count(), open_files()
    for _ in range(10):
        stream = CaptureStream(dataset, config_of(readers=4, prefetch=4), seed=0, rank=0, world_size=1)
        next(stream)
        stream.close()
        stream.close()
        assert list(stream) == []
    assert (threading.active_count(), open_files()) == (threads, files)


def test_waiting_is_measured_and_reading_goes_on_meanwhile(make_dataset):
    with CaptureStream(make_dataset(4), config_of(prefetch=3), seed=0, rank=0, world_size=1) as stream:
        next(stream)
        first = stream.waited
        assert first > 0
        time.sleep(0.5)
        next(stream)
        assert stream.waited - first < 0.25


def test_a_dataset_travels_to_a_spawned_process_as_its_url(make_dataset):
    dataset = make_dataset(3)
    code = (
        "import pickle, sys; from data import CaptureStream; from configs.schema import DataConfig\n"
        "dataset, config = pickle.loads(sys.stdin.buffer.read())\n"
        "with CaptureStream(dataset, config, seed=0, rank=0, world_size=1) as stream:\n"
        "    print(next(stream).source.images.sum().item())"
    )
    sent = pickle.dumps((dataset, config_of()))
    assert len(sent) < 2000
    there = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert float(there.stdout) == take(dataset, config_of(), 1)[0].source.images.sum().item()


def test_a_dataset_that_changed_on_the_way_is_refused(make_dataset):
    dataset = make_dataset(3)
    sent = pickle.dumps(dataset)
    assert pickle.loads(sent).fingerprint == dataset.fingerprint
    make_dataset(4, url=dataset.url, frame="9")
    with pytest.raises(UserError, match=dataset.fingerprint):
        pickle.loads(sent)


def test_the_cache_keeps_to_its_limit():
    cache = PixelCache(1000)
    pair = (np.zeros(300, np.uint8), np.zeros(100, np.uint8))
    for key in range(5):
        cache.put(key, pair)
        assert cache.get(key) is pair
    assert cache.bytes == 800
    assert [key for key in range(5) if cache.get(key)] == [3, 4]
    cache.get(3)
    cache.put(5, pair)
    assert [key for key in range(6) if cache.get(key)] == [3, 5]
    cache.put(6, (np.zeros(2000, np.uint8), pair[1]))
    assert cache.get(6) is None
