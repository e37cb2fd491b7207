"""What the judge of sets calls false."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.critics import SetCriticConfig
from configs.objectives.adversarial import SetCriticTraining
from data.views import Batch, Cameras, Views
from trainer.objectives.judges import SetJudge

NETWORK = SetCriticConfig(patch=4, width=32, heads=2, blocks=1, se3_channels=8)
NAMES = ("anna", "bert", "cleo")
VIEWS = 4


class Watched(SetJudge):
    """Remembers every set that it is shown, and its poses."""

    def __init__(self, config: SetCriticTraining) -> None:
        super().__init__(config)
        self.shown: list[tuple[Tensor, Tensor]] = []

    def __call__(self, images: Tensor, cameras: Cameras | None) -> Tensor:
        assert cameras is not None
        self.shown.append((images, cameras.world_to_camera))
        return super().__call__(images, cameras)


def judge(**settings: object) -> Watched:
    torch.manual_seed(0)
    return Watched(SetCriticTraining(weight=1.0, network=NETWORK, penalty="none", **settings))  # type: ignore[arg-type]


def batch() -> tuple[Batch, Tensor]:
    """Photos in [0, 0.4], renderings in [0.6, 1]."""
    generator = torch.Generator().manual_seed(0)
    photos, made = (torch.rand(len(NAMES), VIEWS, 3, 8, 8, generator=generator) * 0.4 + shift for shift in (0, 0.6))
    poses = torch.eye(4).repeat(len(NAMES), VIEWS, 1, 1)
    poses[..., :3, 3] = torch.randn(len(NAMES), VIEWS, 3, generator=generator)
    cameras = Cameras(poses, torch.eye(3).repeat(len(NAMES), VIEWS, 1, 1), 8, 8)
    views = Views(photos, torch.ones(len(NAMES), VIEWS, 1, 8, 8), cameras)
    return Batch(views, views, NAMES, len(NAMES)), made


def swapped(watched: Watched, seen: Batch, made: Tensor, key: int = 5) -> Tensor:
    """The set that was shown last: the photos with renderings among them."""
    watched.shown.clear()
    watched.losses(made, seen, key, 1)
    images, poses = watched.shown[-1]
    assert torch.equal(poses, seen.target.cameras.world_to_camera), "the true cameras, which tell nothing"
    return images


def test_swapped_sets_have_photos_and_renderings_at_their_own_cameras() -> None:
    seen, made = batch()
    images = swapped(judge(), seen, made)
    replaced = (images >= 0.6).flatten(2).all(dim=2)
    assert torch.equal(images, torch.where(replaced[:, :, None, None, None], made, seen.target.images))
    assert replaced.any(dim=1).all()
    assert not replaced.all(dim=1).any()


def test_what_is_swapped_depends_on_the_capture_and_the_step_alone() -> None:
    seen, made = batch()
    whole, watched = swapped(judge(), seen, made), judge()
    order = torch.tensor([2, 0, 1])
    views = seen.target[order]
    other = replace(seen, source=views, target=views, names=tuple(NAMES[i] for i in order))
    assert torch.equal(swapped(watched, other, made[order]), whole[order])
    assert any(not torch.equal(swapped(watched, seen, made, key), whole) for key in range(6, 12))


def test_hard_negatives_share_their_weight() -> None:
    seen, made = batch()
    watched = judge(mixed=0.0, hard=2.0)
    losses = watched.losses(made, seen, 5, 1)
    real, false, wrong, replaced = (
        watched(images, Cameras(poses, seen.target.cameras.K, 8, 8)) for images, poses in watched.shown[:4]
    )
    softplus = torch.nn.functional.softplus
    expected = (
        softplus(-real).mean() + (softplus(false).mean() + softplus(wrong).mean() + softplus(replaced).mean()) / 3
    )
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {"real", "made", "hard", "swapped"} == losses.terms.keys()


def test_without_hard_negatives_nothing_is_swapped() -> None:
    seen, made = batch()
    watched = judge(hard=0.0)
    assert watched.losses(made, seen, 5, 1).terms.keys() == {"real", "made", "mixed"}
    assert len(watched.shown) == 3


def test_the_system_is_judged_by_what_it_made_alone() -> None:
    seen, made = batch()
    made.requires_grad_()
    watched = judge()
    watched.reward(made, seen, 5).backward()
    assert made.grad is not None
    assert (made.grad != 0).flatten(2).any(dim=2).all()
    assert all(parameter.grad is None for parameter in watched.module.parameters())
    assert len(watched.shown) == 1
