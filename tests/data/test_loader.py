"""Streams made by other processes yield the very same batches, and leave nobody behind."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import psutil
import pytest
import torch

from configs import UserError
from configs.schema import DataConfig
from data import Dataset, PackedBatch, open_datasets, open_stream
from data.quarantine import TooManyBad


def config_of(dataset: Dataset, **changes) -> DataConfig:
    fields = {"train": dataset.url, "batch_size": 4, "image_size": (24, 20), "source_views": (1, 3), "target_views": 2}
    return DataConfig.model_validate({**fields, **changes})


def take(config: DataConfig, count: int, **place) -> list[PackedBatch]:
    datasets = open_datasets(config)
    with open_stream(datasets, config, **{"seed": 3, "rank": 0, "world_size": 1, **place}) as stream:
        return [next(stream) for _ in range(count)]


def same(one: PackedBatch, two: PackedBatch) -> bool:
    tensors = [(one.views.images, two.views.images), (one.views.masks, two.views.masks)]
    tensors += [(one.views.cameras.K, two.views.cameras.K), (one.coefficients, two.coefficients)]
    return one.names == two.names and one.consumed == two.consumed and all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("loaders", [1, 3])
def test_processes_change_nothing_but_speed(make_dataset, loaders):
    dataset = make_dataset(7)
    whole = take(config_of(dataset), 8, rank=1, world_size=2, accumulation=2)
    made = take(config_of(dataset, loaders=loaders), 8, rank=1, world_size=2, accumulation=2)
    assert all(same(one, two) for one, two in zip(whole, made, strict=True))
    rest = take(config_of(dataset, loaders=loaders), 4, rank=1, world_size=2, accumulation=2, start=8)
    assert all(same(one, two) for one, two in zip(whole[4:], rest, strict=True))


def test_a_closed_stream_leaves_no_process_and_no_thread(make_dataset):
    config = config_of(make_dataset(4), loaders=2)
    take(config, 1)
    before, threads = len(psutil.Process().children(recursive=True)), threading.active_count()
    stream = open_stream(open_datasets(config), config, seed=0, rank=0, world_size=1)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert len(psutil.Process().children(recursive=True)) == before
    assert threading.active_count() == threads
    assert not multiprocessing.active_children()


def test_what_goes_wrong_in_a_process_arrives_as_it_is(make_dataset, make_capture):
    images = make_capture(0).images
    dataset = make_dataset(3, images=tuple(image[:-40] for image in images))
    with pytest.raises(TooManyBad, match="no capture is left without bad members") as caught:
        take(config_of(dataset, loaders=1), 1)
    assert "Traceback" not in str(caught.value)


def test_bad_members_met_in_processes_are_listed(make_dataset):
    dataset = make_dataset(6)
    part = dataset.members(2, [0])[0].image
    shard = Path(dataset.url.removeprefix("file://")) / part.path
    data = bytearray(shard.read_bytes())
    data[part.offset + 9] ^= 1
    shard.write_bytes(data)
    config = config_of(dataset, loaders=2, source_views=4, bad_share=1.0)
    with open_stream(open_datasets(config), config, seed=0, rank=0, world_size=1) as stream:
        for _ in range(8):
            next(stream)
        assert set(stream.quarantine.found) == {(dataset.url, part.where)}


def test_a_mixture_streams_from_all_its_datasets(make_dataset):
    one, two = make_dataset(4), make_dataset(5, frame="7")
    config = config_of(one, mixture=[{"url": two.url, "weight": 3}])
    names = [name for batch in take(config, 256) for name in batch.names]
    frames = [name.rsplit("_", 1)[1] for name in names]
    assert frames.count("7") == 768
    assert take(config, 3)[2].names == take(config.model_copy(update={"loaders": 1}), 3)[2].names
    with pytest.raises(UserError, match="nowhere"):
        open_datasets(config_of(one, mixture=[{"url": f"{one.url}/nowhere"}]))
