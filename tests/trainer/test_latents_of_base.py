"""`headway latents`: every capture once, the same whatever the batches, and on from where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import Config, UserError
from data.dataset import Dataset
from data.latents import LatentSet
from tests.trainer.animated import Animated, animated  # noqa: F401 - a fixture
from trainer import latents as encoding
from trainer.latents import encode, encode_dataset, open_base, source_cameras, weights_digest
from trainer.loop import train


def test_a_latent_is_what_the_encoder_says(animated: Animated) -> None:  # noqa: F811
    frozen = open_base(animated.base)
    with LatentSet.open(animated.train_latents) as found, Dataset.open(animated.train) as captures:
        assert found.info.base == frozen.base
        assert (found.info.origin.url, found.info.origin.views) == (captures.url, 2)
        assert len(found) == len(captures) == 9
        name = found.captures_of(found.subjects[2])[1]
        views = captures.views(name, source_cameras(captures, name, 2)[0], (48, 48))
        torch.testing.assert_close(found.latents([name]), encode(frozen.system, views))
        assert found.index.attributes(found.index.row(name))["source"] == "synthetic"
        assert found.neutral_of(name) == f"{found.subjects[2]}_f000"
        assert found.coefficients(name).sum() > 0.5


def test_frames_of_a_subject_share_their_source_cameras(animated: Animated) -> None:  # noqa: F811
    with Dataset.open(animated.train) as captures:
        for subject in captures.subjects:
            chosen = [source_cameras(captures, name, 3, 4) for name in captures.captures_of(subject)]
            assert chosen[0] == chosen[1] == chosen[2]
            assert chosen[0][0] == source_cameras(captures, captures.captures_of(subject)[0], 3)[0]
            assert not set(chosen[0][0]) & set(chosen[0][1])


def test_it_goes_on_where_it_stopped(
    animated: Animated,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "SHARD_BYTES", 4 * 64 * 8 * 8 * 4)  # four latents a shard
    out = str(tmp_path / "latents")

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise Killed

    with pytest.raises(Killed):
        encode_dataset(animated.base, animated.train, out, progress=kill, batch_size=3)
    with pytest.raises(UserError, match="no set of latents"):
        LatentSet.open(out)
    before = (tmp_path / "latents/shards/000000.tar").stat().st_mtime_ns
    seen: list[int] = []
    encode_dataset(animated.base, animated.train, out, progress=lambda done, _: seen.append(done))
    assert seen[0] == 4
    assert (tmp_path / "latents/shards/000000.tar").stat().st_mtime_ns == before
    with LatentSet.open(out) as found, LatentSet.open(animated.train_latents) as whole:
        names = whole.index.names.to_pylist()
        torch.testing.assert_close(found.latents(names), whole.latents(names))
        np.testing.assert_allclose(found.info.std, whole.info.std, rtol=1e-5)
    again: list[int] = []
    encode_dataset(animated.base, animated.train, out, progress=lambda done, _: again.append(done))
    assert again == [9]


def test_other_views_are_other_latents(animated: Animated, tmp_path: Path) -> None:  # noqa: F811
    out = shutil.copytree(animated.unseen_latents, tmp_path / "copy")
    info = encode_dataset(animated.base, animated.unseen, str(out), views=1)
    with LatentSet.open(animated.unseen_latents) as before:
        assert (info.origin.views, info.fingerprint == before.fingerprint) == (1, False)
    with pytest.raises(UserError, match="has 16 cameras, 40 are needed"):
        encode_dataset(animated.base, animated.unseen, str(tmp_path / "many"), views=40)


def test_a_decoder_that_sees_the_photos_is_refused(tiny: Callable[..., Config], people: Path, tmp_path: Path) -> None:
    checkpoint = train(tiny("trainer.steps=1", "data.test=null")).checkpoint
    assert checkpoint is not None
    with pytest.raises(UserError, match=r"model\.color_skip"):
        encode_dataset(checkpoint, str(people / "train"), str(tmp_path / "latents"))
    assert not (tmp_path / "latents").exists()


def test_a_digest_names_the_weights_alone(animated: Animated) -> None:  # noqa: F811
    weights = open_base(animated.base).system.state_dict()
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    name = next(iter(weights))
    assert digest != weights_digest(weights | {name: weights[name] + 1e-3})
    with pytest.raises(UserError, match="did not make the latents"):
        open_base(animated.base, "0" * 64)
