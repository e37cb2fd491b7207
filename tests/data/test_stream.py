"""The stream: the same global batches however many ranks, threads and restarts; clean ends."""

from __future__ import annotations

import os
import pickle
import re
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
from data import Batch, CaptureStream, Dataset
from data.arkit import ARKIT, coefficients
from data.cache import PixelCache
from data.dataset import capture_views, decode_view
from data.loader import open_stream
from data.manifest import commit
from data.quarantine import TooManyBad
from data.shards import write_shard
from data.store import BadMember, StoreError

FACES = [(person, face) for person in range(4) for face in range(2)]


def config_of(**changes) -> DataConfig:
    fields = {"batch_size": 4, "image_size": (24, 20), "source_views": (1, 3), "target_views": 2, "readers": 2}
    return DataConfig(**{**fields, **changes})


def take(dataset: Dataset, config: DataConfig, count: int, **place) -> list[Batch]:
    place = {"seed": 0, "rank": 0, "world_size": 1, **place}
    with CaptureStream(dataset, config, **place) as stream:
        return [next(stream).unpack() for _ in range(count)]


def same(one: Batch, two: Batch) -> bool:
    tensors = [
        (getattr(side_one, name), getattr(side_two, name))
        for side_one, side_two in ((one.source, two.source), (one.target, two.target))
        for name in ("images", "masks")
    ]
    tensors += [(one.source.cameras.K, two.source.cameras.K)]
    tensors += [(one.target.cameras.world_to_camera, two.target.cameras.world_to_camera)]
    tensors += [(one.source.coefficients, two.source.coefficients), (one.target.coefficients, two.target.coefficients)]
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


def damage(dataset: Dataset, rows: list[int], views: list[int]) -> set[str]:
    """Flip a byte in some images; their names."""
    names = set()
    for row in rows:
        for members in dataset.members(row, views):
            part = members.image
            path = Path(dataset.url.removeprefix("file://")) / part.path
            data = bytearray(path.read_bytes())
            data[part.offset + part.length // 2] ^= 4
            path.write_bytes(data)
            names.add(part.where)
    return names


def test_a_capture_with_a_bad_member_is_replaced_the_same_way_everywhere(make_dataset):
    dataset, config = make_dataset(20), config_of(batch_size=4, bad_share=1.0)
    clean = take(dataset, config, 10)
    bad = damage(dataset, [3, 11], list(range(6)))
    dataset = Dataset.open(dataset.url)
    with CaptureStream(dataset, config, seed=0, rank=0, world_size=1) as stream:
        whole = [next(stream).unpack() for _ in range(10)]
        assert {name for _, name in stream.quarantine.found} <= bad
        assert stream.quarantine.found
    for before, after in zip(clean, whole, strict=True):
        for place, (one, two) in enumerate(zip(before.names, after.names, strict=True)):
            assert two not in ("person003_0", "person011_0")
            if one not in ("person003_0", "person011_0"):
                assert one == two
                assert torch.equal(before.source.images[place], after.source.images[place])
    ranks = [take(dataset, config, 10, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[step].source.images for rank in ranks]), batch.source.images)
    rest = take(dataset, config, 4, start=whole[5].consumed)
    assert all(same(one, two) for one, two in zip(rest, whole[6:], strict=True))


def test_a_bad_view_that_nobody_asks_for_changes_nothing(make_dataset):
    dataset = make_dataset(5)
    config = config_of(source_sampling="fixed", source_cameras=("Cam0",), source_views=(1, 1), target_views=1)
    config = config.model_copy(update={"target_sampling": "fixed", "target_cameras": ("Cam2",)})
    clean = take(dataset, config, 4)
    damage(dataset, list(range(5)), [1, 3, 4, 5])
    assert all(same(one, two) for one, two in zip(clean, take(dataset, config, 4), strict=True))


def test_a_list_of_bad_members_is_passed_over_without_reading(make_dataset, tmp_path):
    dataset = make_dataset(12)
    bad = damage(dataset, [2], list(range(6)))
    met = take(dataset, config_of(bad_share=1.0), 9)
    listed = tmp_path / "bad.txt"
    listed.write_text("# found by verify\n" + "\n".join(sorted(bad)) + "\n")
    with CaptureStream(dataset, config_of(quarantine=str(listed)), seed=0, rank=0, world_size=1) as stream:
        known = [next(stream).unpack() for _ in range(9)]
        assert not stream.quarantine.found
    assert all(same(one, two) for one, two in zip(met, known, strict=True))
    with pytest.raises(UserError, match=r"data\.quarantine: .*nowhere"):
        take(dataset, config_of(quarantine=str(tmp_path / "nowhere")), 1)


def test_what_is_bad_in_one_dataset_of_a_mixture_is_not_bad_in_another(make_dataset):
    """The same people twice: members have the same names, but only those of the first are damaged."""
    one, two = make_dataset(6), make_dataset(6, frame="0", expression={"jawOpen": 0.5})
    config = config_of(batch_size=2, bad_share=1.0, mixture=[{"url": two.url}])
    damage(one, [1, 4], list(range(6)))
    both = [Dataset.open(one.url), Dataset.open(two.url)]

    def names(start: int, count: int) -> list[tuple[str, ...]]:
        with CaptureStream(both, config, seed=0, rank=0, world_size=1, start=start) as stream:
            return [next(stream).names for _ in range(count)]

    whole = names(0, 40)
    for done in (7, 20, 33):
        assert names(2 * done, 40 - done) == whole[done:]


def test_closing_from_another_thread_ends_the_wait(make_dataset):
    stream = CaptureStream(make_dataset(4), config_of(prefetch=0, readers=1), seed=0, rank=0, world_size=1)
    assert stream._pool
    stream._pool.submit(time.sleep, 1.0)
    threading.Timer(0.2, stream.close).start()
    with pytest.raises((StoreError, StopIteration)):
        [next(stream) for _ in range(100)]


def test_an_image_of_another_size_than_its_camera_says_is_a_bad_member(make_dataset, make_capture):
    sizes = ((48, 40),) * 5 + ((96, 80),)
    capture = make_capture(0)
    with pytest.raises(UserError, match="the camera says 80 x 96"):
        make_dataset(1, sizes=sizes)
    pixels, coverage = np.empty((24, 20, 3), np.uint8), np.empty((24, 20), np.uint8)
    with pytest.raises(BadMember, match="it is 40 x 48 pixels, its camera says 80 x 96"):
        decode_view(capture.images[5], None, pixels, coverage, (96, 80), "here")


def test_too_many_bad_members_end_the_run_with_their_names(make_dataset):
    dataset = make_dataset(8)
    damage(dataset, [1, 2, 3, 4], list(range(6)))
    before = threading.active_count()
    with pytest.raises(TooManyBad, match=r"member person00\d_0\.Cam\d\.jpg: its checksum is wrong") as caught:
        take(dataset, config_of(bad_share=0.001), 9)
    assert re.search(r"data\.bad_share: \d of \d+ members read are bad", str(caught.value))
    assert threading.active_count() == before


def test_a_dataset_of_nothing_but_bad_members_ends(make_dataset, make_capture):
    images = make_capture(0).images
    dataset = make_dataset(2, images=tuple(image[:-40] for image in images))
    with pytest.raises(TooManyBad, match=r"no capture is left.*\n.*Cam\d\.jpg: broken image"):
        take(dataset, config_of(batch_size=1, bad_share=1.0), 1)


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
        "    print(next(stream).unpack().source.images.sum().item())"
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


def test_the_cache_keeps_what_it_has():
    cache = PixelCache(1000)
    pixels, coverage = np.arange(300, dtype=np.uint8), np.zeros(100, np.uint8)
    for key in range(5):
        cache.put(key, pixels, coverage)
    assert cache.bytes == 800
    assert [key for key in range(5) if cache.get(key)] == [0, 1]
    cache.put(6, pixels[:100], coverage)
    assert (len(cache), cache.bytes) == (3, 1000)
    pixels[:] = 0
    kept = cache.get(0)
    assert kept is not None
    assert kept[0][5] == 5


def test_batches_know_the_faces_of_their_targets(make_dataset):
    dataset = make_dataset(6)
    batch = take(dataset, config_of(batch_size=6), 1)[0]
    faces = batch.target.coefficients
    assert faces is not None
    assert faces.shape == (6, len(ARKIT))
    for name, row in zip(batch.names, faces, strict=True):
        expression = dataset.index.expression(dataset.index.row(name))
        assert row.tolist() == [expression.get(shape, 0.0) for shape in ARKIT]
    assert faces.any(dim=0).sum() == 2
    assert batch.source.coefficients is not None
    assert torch.equal(batch.source.coefficients, faces), "source and target show one instant"


def two_faces_each(url: str, make_capture) -> Dataset:
    """Four people with a closed and an open mouth."""
    faces = [make_capture(2 * n + f, subject=f"s{n}", frame=f"f{f}", expression={"jawOpen": f / 2}) for n, f in FACES]
    write_shard(url, 0, faces)
    commit(url, licence="CC0-1.0", provenance={})
    return Dataset.open(url)


@pytest.mark.parametrize("loaders", [0, 1])
def test_source_and_target_of_other_frames_have_faces_of_their_own(make_capture, tmp_path, loaders):
    with two_faces_each(str(tmp_path / "faces"), make_capture) as dataset:
        config = config_of(other_frame=1.0, loaders=loaders)
        with open_stream([dataset], config, seed=0, rank=0, world_size=1) as stream:
            packed = next(stream).to("cpu")
        assert packed.coefficients.shape == (4, 2, len(ARKIT))
        batch = packed.unpack()
        assert isinstance(batch, Batch)
        assert batch.source.coefficients is not None
        assert batch.target.coefficients is not None
        jaw = ARKIT.index("jawOpen")
        target = batch.target.coefficients[:, jaw]
        assert target.tolist() == [0.5 if name.endswith("f1") else 0.0 for name in batch.names]
        assert batch.source.coefficients[:, jaw].tolist() == (0.5 - target).tolist()


def test_views_of_datasets_and_of_captures_know_their_face(make_dataset):
    dataset = make_dataset(4)
    found = dataset.views("person003", ["Cam1", "Cam2"], (24, 20)).coefficients
    loaded = capture_views(dataset.capture("person003"), ["Cam1"], (24, 20)).coefficients
    assert found is not None
    assert loaded is not None
    assert found.tolist() == loaded.tolist() == [coefficients({"jawOpen": 0.1 * 3, "eyeBlinkLeft": 1.0}).tolist()]


def test_a_capture_that_names_no_expression_is_neutral(make_dataset):
    for expression in ({}, {"flame_003": 1.0}):
        found = make_dataset(1, expression=expression).views("person000", ["Cam1"], (24, 20)).coefficients
        assert found is not None
        assert not found.any()


def test_other_bases_coefficients_are_no_arkit_s():
    assert coefficients({"jawOpen": 0.25, "flame_003": 1.0}).tolist() == [
        0.25 if name == "jawOpen" else 0.0 for name in ARKIT
    ]
