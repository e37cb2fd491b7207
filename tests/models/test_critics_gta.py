"""Geometric transform attention: its formulas, and that a rigid motion of the world changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from critic_scenes import rigid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.critics.gta import GeometricBlock, Geometry, anchored, pixel_angles

WIDTH, HEADS, MOVING, GRID = 24, 2, 4, (2, 3)


def coordinates() -> Tensor:
    rows, columns = (torch.arange(count, dtype=torch.float64) / count for count in GRID)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def geometry(poses: Tensor) -> Geometry:
    return Geometry(poses, pixel_angles(coordinates(), WIDTH // HEADS - MOVING, 1.0))


def block(dtype: torch.dtype = torch.float64, translation: float = 1.0) -> GeometricBlock:
    torch.manual_seed(0)
    return GeometricBlock(WIDTH, HEADS, translation).to(dtype)


def tokens(views: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (2, views, GRID[0] * GRID[1], WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), views=st.integers(2, 5), translation=st.sampled_from([0.01, 1.0]))
def test_a_rigid_motion_of_the_world_changes_nothing(seed: int, views: int, translation: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    poses, motion = rigid(generator, 2, views), rigid(generator, 2, 1)
    network, x = block(translation=translation), tokens(views)
    before, after = network(x, geometry(poses)), network(x, geometry(poses @ motion))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    torch.testing.assert_close(before, network(x, geometry(anchored(poses))), rtol=0, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), views=st.integers(2, 5))
def test_nor_does_it_in_float32(seed: int, views: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    poses, motion = rigid(generator, 2, views), rigid(generator, 2, 1)
    network, x = block(torch.float32), tokens(views, torch.float32)
    before, after = (network(x, geometry(p.float())) for p in (poses, poses @ motion))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_cameras_standing_another_way_change_the_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = rigid(generator, 2, 3)
    network, x = block(), tokens(3)
    moved = torch.cat([poses[:, :1] @ rigid(generator, 2, 1), poses[:, 1:]], dim=1)
    assert (network(x, geometry(poses)) - network(x, geometry(moved))).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["rotation", "translation"])
def test_both_parts_of_a_pose_count(part: str) -> None:
    poses = rigid(torch.Generator().manual_seed(0), 2, 3)
    other = poses.clone()
    rows = (slice(None), 0, slice(None, 3), slice(None, 3) if part == "rotation" else 3)
    other[rows] = rigid(torch.Generator().manual_seed(1), 2)[:, :3, :3] if part == "rotation" else 0.3
    assert (block()(tokens(3), geometry(poses)) - block()(tokens(3), geometry(other))).abs().max() > 1e-4


def test_it_is_the_formula_written_out() -> None:
    """Per pair of tokens, with rho as one dense matrix: the sum that the paper's equation 6 is."""
    poses = rigid(torch.Generator().manual_seed(3), 2, 3)
    attention, x = block().attention, tokens(3)
    scale = attention.translation.item()
    head, places = WIDTH // HEADS, GRID[0] * GRID[1]
    angles = geometry(poses).angles
    for b in range(2):
        rho = []
        for view in range(3):
            E = poses[b, view].clone()
            E[:3, 3] *= scale
            turns = [torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]]) for a in angles.flatten()]
            turns = [turns[p * angles.shape[1] : (p + 1) * angles.shape[1]] for p in range(places)]
            rho += [torch.block_diag(*[E] * (MOVING // 4), *turns[p]) for p in range(places)]
        parts = attention.query_key_value(x[b]).flatten(0, 1).unflatten(-1, (3, HEADS, head))
        outputs = []
        for h in range(HEADS):
            query, key, value = parts[:, :, h].unbind(1)
            relative = [[rho_q @ torch.linalg.inv(rho_k) for rho_k in rho] for rho_q in rho]
            rows = []
            for q in range(len(rho)):
                logits = torch.stack([query[q] @ relative[q][k] @ key[k] for k in range(len(rho))]) / math.sqrt(head)
                moved = torch.stack([relative[q][k] @ value[k] for k in range(len(rho))])
                rows.append(logits.softmax(0) @ moved)
            outputs.append(torch.stack(rows))
        expected = attention.out(torch.cat(outputs, dim=-1))
        torch.testing.assert_close(attention(x, geometry(poses))[b].flatten(0, 1), expected, rtol=0, atol=1e-10)


def test_only_the_way_from_pixel_to_pixel_counts() -> None:
    poses = rigid(torch.Generator().manual_seed(0), 2, 2)
    place, x, network = coordinates(), tokens(2), block()
    answers = [
        network(x, Geometry(poses, pixel_angles(place + shift, WIDTH // HEADS - MOVING, 1.0))) for shift in (0.0, 0.3)
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)
    other = network(x, Geometry(poses, pixel_angles(place * 0.5, WIDTH // HEADS - MOVING, 1.0)))
    assert (answers[0] - other).abs().max() > 1e-4


def test_angles_double_up_to_the_fastest() -> None:
    angles = pixel_angles(torch.tensor([[0.5, 0.25]], dtype=torch.float64), 12, 2.0)
    rows, columns = angles[0].reshape(2, 3)
    torch.testing.assert_close(rows / math.pi, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(columns, rows / 2)


def test_anchoring_makes_the_first_view_the_world() -> None:
    poses = rigid(torch.Generator().manual_seed(0), 2, 3, metres=100.0)
    moved = anchored(poses)
    torch.testing.assert_close(moved[:, 0], torch.eye(4, dtype=torch.float64).expand(2, 4, 4), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        moved[:, 1] @ torch.linalg.inv(moved[:, 2]), poses[:, 1] @ torch.linalg.inv(poses[:, 2]), atol=1e-10, rtol=0
    )


def test_the_second_derivative_is_right() -> None:
    poses = rigid(torch.Generator().manual_seed(0), 1, 2)
    attention = block().attention
    x = tokens(2)[:1, :, :2].clone().requires_grad_()
    near = Geometry(poses, geometry(poses).angles[:2])
    assert torch.autograd.gradgradcheck(lambda x: attention(x, near).sum(-1), x, atol=1e-6)
