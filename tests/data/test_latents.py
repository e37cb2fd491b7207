"""Sets of latents: what is written is read, whitening is that of the whole set, whatever is odd is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.errors import UserError
from data.arkit import ARKIT
from data.latents import LatentSet, commit_latents, existing_latents, write_latents
from data.latents.captions import caption
from data.latents.moments import Moments
from data.latents.shards import Latent, decode_npy, encode_npy, npy_length
from data.store import BadMember
from tests.data.latent_sets import BASE, ORIGIN, SHAPE, latent_of, write_set

_DRESSED = "A person, wearing a cap and a striped crew-neck top."


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "latents")


def test_every_latent_comes_back_as_it_was(url: str) -> None:
    write_set(url)
    with LatentSet.open(url) as found:
        assert (len(found), len(found.subjects), found.shape) == (15, 5, SHAPE)
        names = ["s003_f02", "s000_f00", "s003_f02"]
        wanted = np.stack([latent_of(3, 2).latents, latent_of(0, 0).latents, latent_of(3, 2).latents])
        assert torch.equal(found.latents(names), torch.from_numpy(wanted))
        assert found.captures_of("s004") == ["s004_f00", "s004_f01", "s004_f02"]
        row = found.index.row("s003_f02")
        assert found.index.attributes(row)["number"] == 3
        assert found.index.text("caption", row) == "A person with tan skin and brown hair in a bob."
        assert found.coefficients("s003_f02")[ARKIT.index("jawOpen")] == pytest.approx(0.5)
        assert (found.info.base, found.info.origin, found.info.licence) == (BASE, ORIGIN, "CC0-1.0")


def test_the_neutral_capture_is_the_one_with_least_expression(url: str) -> None:
    write_set(url)
    with LatentSet.open(url) as found:
        assert {found.neutral_of(name) for name in found.captures_of("s002")} == {"s002_f01"}


def test_whitening_is_that_of_all_values(url: str) -> None:
    write_set(url)
    everything = np.stack([latent_of(s, f).latents for s in range(5) for f in range(3)]).astype(np.float64)
    with LatentSet.open(url) as found:
        np.testing.assert_allclose(found.info.mean, everything.mean(axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(found.info.std, everything.std(axis=(0, 2, 3)), rtol=1e-12)
        white = found.whiten(torch.from_numpy(everything).float())
        assert white.mean(dim=(0, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(found.unwhiten(white), torch.from_numpy(everything).float())


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2), st.just(3)), elements=st.floats(-1e6, 1e6)),
    st.integers(0, 2**32),
)
def test_moments_do_not_depend_on_how_they_are_merged(values: np.ndarray, seed: int) -> None:
    latents = [values[:, None, None, 0, 0] + np.random.default_rng((seed, n)).normal(size=(1, 2, 3)) for n in range(7)]
    one = Moments.of(np.concatenate(latents, axis=1))
    left = Moments.of(latents[0]).merged(Moments.of(latents[1])).merged(Moments.of(latents[2]))
    right = Moments.of(latents[3]).merged(Moments.of(latents[4])).merged(Moments.of(latents[5]))
    both = left.merged(right).merged(Moments.of(latents[6]))
    assert both.count == one.count
    np.testing.assert_allclose(both.mean, one.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(both.std, one.std, rtol=1e-6, atol=1e-6)


def test_a_channel_that_never_changes_is_divided_by_one() -> None:
    assert Moments.of(np.full((2, 3, 3), 7.0)).std.tolist() == [1.0, 1.0]


def test_webdataset_itself_reads_a_shard(url: str) -> None:
    write_set(url)
    with (Path(url) / "shards/000000.tar").open("rb") as file:
        members = webdataset.tariterators.tar_file_expander([{"url": url, "stream": file}])
        samples = list(webdataset.tariterators.group_by_keys(members))
    assert [sample["__key__"] for sample in samples] == [f"s00{s}_f0{f}" for s in range(2) for f in range(3)]
    assert np.array_equal(decode_npy(samples[4]["npy"], SHAPE), latent_of(1, 1).latents)
    assert json.loads(samples[0]["json"])["expression"]["eyeBlinkLeft"] == 0.5


def test_the_same_latents_give_the_same_bytes_and_fingerprint(tmp_path: Path) -> None:
    first, second = (write_set(str(tmp_path / name)).fingerprint for name in "ab")
    assert first == second
    assert first != write_set(str(tmp_path / "c"), first=1).fingerprint


def test_parts_survive_on_their_own(url: str) -> None:
    info = write_set(url)
    (Path(url) / "dataset.json").unlink()
    parts = existing_latents(url)
    assert sorted(parts) == [0, 1, 2]
    assert commit_latents(url, BASE, ORIGIN, parts.values(), "CC0-1.0") == info


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_a_member_is_numpy_s_own_format(values: np.ndarray) -> None:
    data = encode_npy(values)
    assert len(data) == npy_length(values.shape)
    assert np.array_equal(decode_npy(data, values.shape), values)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not numpy",
        encode_npy(np.zeros((3, 4, 5), np.float32)),
        encode_npy(np.zeros(SHAPE, np.float32))[:-4],
        encode_npy(np.full(SHAPE, np.nan, np.float32)),
        pickle.dumps([1]),
    ],
)
def test_odd_members_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_npy(data, SHAPE)


def test_a_changed_byte_is_found_and_named(url: str) -> None:
    write_set(url)
    with LatentSet.open(url) as found:
        part = found.index.range(found.index.row("s001_f02"))
    shard = Path(url) / part.path
    content = bytearray(shard.read_bytes())
    content[part.offset + 200] ^= 1
    shard.write_bytes(content)
    with LatentSet.open(url) as found, pytest.raises(BadMember, match=r"s001_f02\.npy"):
        found.latents(["s001_f02"])


def test_a_latent_that_is_not_finite_is_not_written(url: str) -> None:
    bad = Latent("s0", "f0", np.full(SHAPE, np.inf, np.float32))
    with pytest.raises(UserError, match="capture s0_f0"):
        write_latents(url, 0, [bad])
    assert not list(Path(url).rglob("*.tar"))


def test_another_shape_in_one_set_is_refused(url: str) -> None:
    write_latents(url, 0, [latent_of(0, 0)])
    write_latents(url, 1, [latent_of(1, 0, (3, 4, 5))])
    with pytest.raises(UserError, match="different shapes"):
        commit_latents(url, BASE, ORIGIN)


def test_captures_are_told_from_latents(tmp_path: Path, make_dataset) -> None:
    with pytest.raises(UserError, match="not a set of latents"):
        LatentSet.open(make_dataset(2).url)
    with pytest.raises(UserError, match="no set of latents here"):
        LatentSet.open(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 9, "version 9"),
        ("mean", [1.0], "incomplete"),
        ("std", [0.0] * 3, "incomplete"),
        ("shards", [], "fingerprint"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(url: str, key: str, value: object, message: str) -> None:
    write_set(url)
    file = Path(url) / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=message):
        LatentSet.open(url)


def test_a_set_travels_as_its_url(url: str) -> None:
    write_set(url)
    with LatentSet.open(url) as found, pickle.loads(pickle.dumps(found)) as other:
        assert other.fingerprint == found.fingerprint
        assert torch.equal(other.latents(["s000_f00"]), found.latents(["s000_f00"]))


def test_coefficients_are_bounded_and_in_order(url: str) -> None:
    face = {"tongueOut": 1.5, "browDownLeft": -0.2, "jawOpen": 0.25, "smirk": 1.0}
    write_latents(url, 0, [Latent("s0", "f0", np.ones(SHAPE, np.float32), face)])
    commit_latents(url, BASE, ORIGIN)
    with LatentSet.open(url) as found:
        values = found.coefficients("s0_f0")
        assert found.info.coefficients == ARKIT
    assert values[[0, ARKIT.index("jawOpen"), -1]].tolist() == [0.0, 0.25, 1.0]
    assert values.sum() == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({}, "A person."),
        ({"source": "ava256", "beard": "none"}, "A person."),
        ({"hair": "bald", "hair_colour": "none"}, "A person with a bald head."),
        ({"hat": "cap", "clothes": "crew", "clothes_pattern": "stripes"}, _DRESSED),
        (
            {"skin": "fair", "eyes": "blue", "hair": "long", "hair_colour": "blond", "beard": "full", "hat": "none"},
            "A person with fair skin, blue eyes, long blond hair and a full beard.",
        ),
    ],
)
def test_captions_say_what_is_known(attributes: dict, sentence: str) -> None:
    assert caption(attributes) == sentence
