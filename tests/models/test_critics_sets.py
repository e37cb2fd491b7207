"""Sets that the set critic learns from: what is mixed, what is perturbed, by how much."""

from __future__ import annotations

import math

import pytest
import torch
from critic_scenes import rigid
from hypothesis import given, settings
from hypothesis import strategies as st
from render_scenes import orbit_cameras, random_gaussians
from torch import Tensor

from data.views import Cameras
from models.critics.sets import (
    mixed_gaussians,
    mixed_heads,
    motions,
    perturbed_cameras,
    perturbed_gaussians,
    render_each,
    swapped_views,
)
from models.render import render


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(sets: int, views: int) -> tuple[Tensor, Cameras]:
    """Images and intrinsics that say which head and view they are of."""
    labels = torch.stack(torch.meshgrid(torch.arange(sets), torch.arange(views), indexing="ij"), dim=-1).float()
    images = labels[..., None, None].expand(sets, views, 2, 4, 4)
    images = torch.cat([images, torch.zeros(sets, views, 1, 4, 4)], dim=2)
    K = torch.eye(3).repeat(sets, views, 1, 1)
    K[..., :2, 2] = labels
    return images, Cameras(torch.eye(4).expand(sets, views, 4, 4), K, 4, 4)


@settings(max_examples=20, deadline=None)
@given(sets=st.integers(2, 6), views=st.integers(2, 6))
def test_mixed_sets_have_different_heads_at_the_same_views(sets: int, views: int) -> None:
    images, cameras = mixed_heads(*labelled(sets, views))
    heads, places = images[:, :, 0, 0, 0].long(), images[:, :, 1, 0, 0]
    assert torch.equal(places, torch.arange(views).expand(sets, views).float())
    assert torch.equal(cameras.K[..., :2, 2], images[:, :, :2, 0, 0]), "a view keeps its camera"
    for row in heads.tolist():
        assert len(set(row)) == min(sets, views)
    for column in heads.T.tolist():
        assert sorted(column) == list(range(sets)), "every view is used once"


def test_mixed_gaussians_are_the_same_mixture() -> None:
    gaussians = random_gaussians(0, 5, batch=3)
    numbered = gaussians.map(lambda t: torch.arange(3.0).reshape(3, *[1] * (t.dim() - 1)).expand_as(t))
    heads = mixed_gaussians(numbered, 4).means[:, 0, 0].unflatten(0, (3, 4))
    images, _ = mixed_heads(*labelled(3, 4))
    assert torch.equal(heads, images[:, :, 0, 0, 0])


@settings(max_examples=10, deadline=None)
@given(sets=st.integers(1, 20), views=st.integers(2, 6), seed=st.integers(0, 1000))
def test_swapped_sets_have_the_views_of_both(sets: int, views: int, seed: int) -> None:
    first = torch.arange(sets * views).reshape(sets, views, 1, 1, 1).expand(-1, -1, 3, 2, 2).float()
    second = first + 1000
    one, other = swapped_views(first, second, seeded(seed))
    changed = (one >= 1000)[:, :, 0, 0, 0]
    assert torch.equal(changed, (other < 1000)[:, :, 0, 0, 0])
    assert torch.equal(one % 1000, first)
    assert torch.equal(other % 1000, first)
    assert changed.any(1).all()
    assert not changed.all(1).any()


def test_every_number_of_views_is_swapped() -> None:
    zeros = torch.zeros(500, 4, 3, 1, 1)
    one, _ = swapped_views(zeros, zeros + 1, seeded())
    assert set(one[:, :, 0, 0, 0].sum(1).tolist()) == {1.0, 2.0, 3.0}
    assert (one[:, :, 0, 0, 0].mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize(("sets", "views"), [(1, 4), (3, 1)])
def test_there_must_be_something_to_mix(sets: int, views: int) -> None:
    with pytest.raises(ValueError, match="cannot be mixed"):
        mixed_heads(*labelled(sets, views))
    with pytest.raises(ValueError, match="cannot be mixed"):
        mixed_gaussians(random_gaussians(0, 5, batch=sets), views)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), degrees=st.floats(0, 40), metres=st.floats(0, 0.2))
def test_motions_are_rigid_and_as_large_as_asked(seed: int, degrees: float, metres: float) -> None:
    moves = motions((4000,), seeded(seed), degrees, metres, torch.zeros(1, dtype=torch.float64))
    rotation = moves[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand(4000, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, rtol=0, atol=1e-12)
    assert (torch.linalg.det(rotation) > 0).all()
    cosine = ((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)
    assert cosine.acos().rad2deg().square().mean().sqrt().item() == pytest.approx(degrees, rel=0.05, abs=1e-4)
    assert moves[:, :3, 3].square().sum(-1).mean().sqrt().item() == pytest.approx(metres, rel=0.05, abs=1e-12)
    assert torch.equal(moves[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(4000, 4))


def test_perturbed_cameras_go_around_the_head_each_in_its_own_way() -> None:
    cameras = orbit_cameras(0, 32, 32, batch=2, views=3)
    turned = perturbed_cameras(cameras, seeded(), 10.0, 0.0)
    torch.testing.assert_close(turned.centers.norm(dim=-1), cameras.centers.norm(dim=-1))
    assert torch.equal(turned.K, cameras.K)
    relative = torch.linalg.inv(cameras.world_to_camera) @ turned.world_to_camera
    assert (relative[:, 0] - relative[:, 1]).abs().max() > 1e-3
    origin = torch.zeros(1, 3, dtype=torch.float64)
    torch.testing.assert_close(turned.project(origin)[0], cameras.project(origin)[0])


def test_nothing_is_perturbed_by_nothing() -> None:
    cameras, gaussians = orbit_cameras(0, 8, 8, batch=2, views=3), random_gaussians(0, 5, batch=2)
    torch.testing.assert_close(perturbed_cameras(cameras, seeded(), 0.0, 0.0).world_to_camera, cameras.world_to_camera)
    bent = perturbed_gaussians(gaussians, 3, seeded(), 0.0)
    assert torch.equal(bent.means, gaussians.means.repeat_interleave(3, 0))
    assert torch.equal(bent.sh, gaussians.sh.repeat_interleave(3, 0))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), metres=st.floats(1e-3, 0.05))
def test_heads_bend_smoothly_by_as_much_as_asked(seed: int, metres: float) -> None:
    gaussians = random_gaussians(seed, 40, batch=2)
    bent = perturbed_gaussians(gaussians, 300, seeded(seed), metres, wavelength=0.1)
    offsets = bent.means - gaussians.means.repeat_interleave(300, 0)
    assert offsets.square().sum(-1).mean().sqrt().item() == pytest.approx(metres, rel=0.1)
    assert (offsets[0] - offsets[1]).abs().max() > 0.1 * metres, "every view bends in its own way"
    close = gaussians.map(lambda t: t[:1, :2].clone())
    close.means[:, 1] = close.means[:, 0] + torch.tensor([1e-4, 0, 0])
    near = perturbed_gaussians(close, 300, seeded(seed), metres, wavelength=0.1).means
    stretch = (near[:, 1] - near[:, 0]).norm(dim=-1) / 1e-4
    assert (stretch - 1).abs().max() < 2 * math.pi / 0.1 * metres * 6


def test_everything_follows_the_seed() -> None:
    cameras, gaussians = orbit_cameras(0, 8, 8, batch=2, views=2), random_gaussians(0, 5, batch=2)
    draws = [
        (
            perturbed_cameras(cameras, seeded(seed), 5.0, 0.01).world_to_camera,
            perturbed_gaussians(gaussians, 2, seeded(seed), 0.01).means,
        )
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(draws[0], draws[2], strict=True))


def test_bending_passes_gradients_on() -> None:
    gaussians = random_gaussians(0, 5)
    gaussians.means.requires_grad_()
    perturbed_gaussians(gaussians, 2, seeded(), 0.01).means.sum().backward()
    assert gaussians.means.grad is not None
    assert gaussians.means.grad.abs().min() > 0


@pytest.mark.parametrize("background", [None, torch.rand(3), torch.rand(2, 3, 3)])
def test_drawing_each_view_s_own_gaussians(background: Tensor | None) -> None:
    cameras = orbit_cameras(0, 16, 12, batch=2, views=3)
    gaussians = random_gaussians(0, 20, batch=2)
    same = gaussians.map(lambda t: t.repeat_interleave(3, 0))
    each, together = render_each(same, cameras, background), render(gaussians, cameras, background=background)
    torch.testing.assert_close(each.images, together.images)
    torch.testing.assert_close(each.alphas, together.alphas)


def test_turning_the_cameras_is_turning_the_head() -> None:
    cameras = orbit_cameras(0, 16, 16, batch=1, views=1)
    gaussians = random_gaussians(0, 20, degree=0, size=0.01)
    round_ones = gaussians.map(Tensor.clone)
    round_ones.scales[:] = math.log(0.01)
    motion = rigid(seeded(), 1, 1, metres=0.02)
    moved = Cameras(cameras.world_to_camera @ motion, cameras.K, 16, 16)
    turned = round_ones.map(Tensor.clone)
    turned.means[:] = round_ones.means @ motion[0, 0, :3, :3].mT + motion[0, 0, :3, 3]
    torch.testing.assert_close(render(round_ones, moved).images, render(turned, cameras).images, atol=1e-4, rtol=1e-3)


def test_mistakes_are_named() -> None:
    cameras = orbit_cameras(0, 8, 8, views=2)
    with pytest.raises(ValueError, match=r"expected \[batch, view\]"):
        mixed_heads(torch.zeros(2, 3, 8, 8), cameras[0])
    with pytest.raises(ValueError, match="two views or more"):
        swapped_views(torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 3, 3, 4, 4), seeded())
    with pytest.raises(ValueError, match="leading dimensions"):
        render_each(random_gaussians(0, 5, batch=3), cameras)
