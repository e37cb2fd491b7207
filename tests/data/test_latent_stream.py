"""The stream of latents keeps the contract of captures: one order, any world size, exact resume, bad ones by rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import DataConfig, MixtureConfig
from data.dataset import Dataset
from data.latents import LatentBatch, LatentSet, LatentStream
from data.loader import open_dataset, open_datasets, open_stream, sampler_of
from tests.data.latent_sets import SHAPE, latent_of, write_set

PLACE = {"seed": 3, "rank": 0, "world_size": 1}


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> LatentSet:
    url = str(tmp_path_factory.mktemp("set"))
    write_set(url, subjects=7)
    return LatentSet.open(url)


def settings_of(latents: LatentSet, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"train": latents.url, "batch_size": 4, **changes})


def drawn(latents: LatentSet, steps: int, world: int = 1, accumulation: int = 1, start: int = 0, **config: object):
    """Names of `steps` global batches in order, from all ranks."""
    place = {"seed": 3, "world_size": world, "accumulation": accumulation, "start": start}
    streams = [LatentStream(latents, settings_of(latents, **config), rank=rank, **place) for rank in range(world)]
    batches = [[[next(stream) for stream in streams] for _ in range(accumulation)] for _ in range(steps)]
    for stream in streams:
        stream.close()
    return [name for micro in batches for turn in micro for batch in turn for name in batch.names]


def test_a_batch_is_whitened_and_knows_its_neutral(latents: LatentSet) -> None:
    with LatentStream(latents, settings_of(latents), **PLACE) as stream:
        batch = next(stream).to("cpu").unpack()
    assert isinstance(batch, LatentBatch)
    assert batch.latents.shape == batch.neutral.shape == (4, *SHAPE)
    assert (batch.coefficients.shape, batch.consumed) == ((4, 52), 4)
    for row, name in enumerate(batch.names):
        subject, frame = int(name[1:4]), int(name[-2:])
        torch.testing.assert_close(
            batch.unwhiten(batch.latents)[row], torch.from_numpy(latent_of(subject, frame).latents)
        )
        torch.testing.assert_close(batch.unwhiten(batch.neutral)[row], torch.from_numpy(latent_of(subject, 1).latents))
        assert batch.attributes[row]["number"] == subject
        assert batch.captions[row].startswith("A person with tan skin")
        assert torch.equal(batch.coefficients[row], latents.coefficients(name))


def test_an_epoch_has_every_latent_once(latents: LatentSet) -> None:
    names = drawn(latents, 21, batch_size=1)
    assert len(set(names)) == len(latents) == 21


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([(1, 4), (2, 1), (2, 2), (4, 1)]), st.integers(0, 5))
def test_any_world_size_from_any_position_sees_the_same(latents: LatentSet, parts: tuple[int, int], steps: int) -> None:
    whole = drawn(latents, steps + 3)
    assert drawn(latents, 3, *parts, start=4 * steps) == whole[4 * steps :]


def test_the_fingerprint_names_what_is_drawn(latents: LatentSet) -> None:
    whole, half = settings_of(latents), settings_of(latents, subjects=3)
    assert sampler_of([latents], whole, 3).fingerprint == latents.fingerprint
    assert sampler_of([latents], half, 3).fingerprint != latents.fingerprint
    assert {name[:4] for name in drawn(latents, 6, subjects=3)} < {subject for subject in latents.subjects}
    assert len({name[:4] for name in drawn(latents, 6, subjects=3)}) == 3


def test_a_bad_member_is_replaced_by_rule(tmp_path: Path, latents: LatentSet) -> None:
    url = str(tmp_path / "damaged")
    write_set(url, subjects=7)
    damaged = LatentSet.open(url)
    whole = drawn(damaged, 1)
    place = next(number for number, name in enumerate(whole) if not name.endswith("f01"))  # nobody's neutral
    part = damaged.index.range(damaged.index.row(whole[place]))
    content = bytearray((tmp_path / "damaged" / part.path).read_bytes())
    content[part.offset + 130] ^= 255
    (tmp_path / "damaged" / part.path).write_bytes(content)
    with LatentStream(damaged, settings_of(damaged), **PLACE) as stream:
        names = next(stream).names
        assert list(stream.quarantine.found) == [(damaged.url, part.where)]
    assert [n for n in range(4) if names[n] != whole[n]] == [place]
    assert list(names) == drawn(damaged, 1)


def test_too_many_bad_members_end_the_run(tmp_path: Path) -> None:
    url = str(tmp_path / "gone")
    write_set(url, subjects=40, frames=1)
    damaged = LatentSet.open(url)
    for shard in (tmp_path / "gone" / "shards").iterdir():
        shard.write_bytes(bytes(shard.stat().st_size))
    with LatentStream(damaged, settings_of(damaged), **PLACE) as stream, pytest.raises(UserError, match="bad"):
        next(stream)


def test_two_sets_mix_and_are_whitened_by_the_first(tmp_path: Path, latents: LatentSet) -> None:
    write_set(str(tmp_path / "more"), subjects=3, first=100)
    other = LatentSet.open(str(tmp_path / "more"))
    config = settings_of(latents, batch_size=8, mixture=(MixtureConfig(url=other.url, weight=1.0),))
    with LatentStream([latents, other], config, **PLACE) as stream:
        batches = [next(stream) for _ in range(8)]
    names = [name for batch in batches for name in batch.names]
    assert sum(name >= "s100" for name in names) == pytest.approx(32, abs=3)
    assert all(torch.equal(batch.mean, latents.mean) for batch in batches)


def test_sets_of_different_shapes_do_not_mix(tmp_path: Path, latents: LatentSet) -> None:
    write_set(str(tmp_path / "wide"), shape=(3, 4, 8))
    config = settings_of(latents, mixture=(MixtureConfig(url=str(tmp_path / "wide")),))
    with pytest.raises(UserError, match="its shape is not that"):
        sampler_of(open_datasets(config), config, 0)


def test_a_dataset_is_opened_as_what_it_is(latents: LatentSet, make_dataset) -> None:
    captures = make_dataset(2)
    assert isinstance(open_dataset(latents.url, settings_of(latents)), LatentSet)
    assert isinstance(open_dataset(captures.url, settings_of(latents)), Dataset)
    config = settings_of(latents, loaders=2)
    with open_stream(open_datasets(config), config, **PLACE) as stream:
        assert isinstance(stream, LatentStream)
    mixed = settings_of(latents, mixture=(MixtureConfig(url=captures.url),))
    with pytest.raises(UserError, match="do not mix"):
        open_datasets(mixed)


def test_a_closed_stream_is_at_its_end(latents: LatentSet) -> None:
    stream = LatentStream(latents, settings_of(latents), **PLACE)
    next(stream)
    stream.close()
    assert list(stream) == []


def test_an_object_store_gives_the_same_as_a_folder(latents: LatentSet) -> None:
    write_set("memory://latents-of-a-test", subjects=7)
    with LatentSet.open("memory://latents-of-a-test") as remote:
        assert remote.fingerprint == latents.fingerprint
        with (
            LatentStream(remote, settings_of(remote), **PLACE) as far,
            LatentStream(latents, settings_of(latents), **PLACE) as near,
        ):
            for _ in range(4):
                assert torch.equal(next(far).latents, next(near).latents)
        assert remote.traffic.requests > 0
