"""The reference against gsplat's own torch code, finite differences and a literal loop over pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from render_scenes import orbit_cameras, random_gaussians
from torch import Tensor

from models.gaussians import Gaussians
from models.render import reference, render


def splats_of(gaussians: Gaussians, cameras, antialiased: bool = False) -> reference.Splats:
    first = gaussians[0]
    return reference.project(
        first.means, first.quats, first.scales, first.opacities, first.sh,
        world_to_camera=cameras.world_to_camera[0, 0], K=cameras.K[0, 0],
        width=cameras.width, height=cameras.height, antialiased=antialiased,
    )  # fmt: skip


@pytest.mark.parametrize("distance", [0.3, 2.0])
def test_projection_is_gsplats(distance: float) -> None:
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    gaussians = random_gaussians(1, 200)
    cameras = orbit_cameras(1, 60, 44, distance=distance)
    covariances, _ = _quat_scale_to_covar_preci(gaussians.quats[0], gaussians.scales[0].exp(), True, False)
    _, centers, depths, conics, compensations = _fully_fused_projection(
        gaussians.means[0], covariances, cameras.world_to_camera[0], cameras.K[0], 60, 44, calc_compensations=True
    )
    ours, antialiased = splats_of(gaussians, cameras), splats_of(gaussians, cameras, antialiased=True)
    front = depths[0] > 0.05
    torch.testing.assert_close(ours.centers[front], centers[0][front])
    torch.testing.assert_close(ours.depths[front], depths[0][front])
    xx, xy, yy = ours.covariances.unbind(-1)
    conic = torch.stack([yy, -xy, xx], dim=-1) / ours.determinants[:, None]
    torch.testing.assert_close(conic[front], conics[0][front])
    factor = antialiased.opacities / ours.opacities
    torch.testing.assert_close(factor[front], compensations[0][front].clamp_min(reference.MIN_COMPENSATION))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_are_gsplats(degree: int) -> None:
    from gsplat.cuda._torch_impl import _spherical_harmonics

    gaussians = random_gaussians(2, 50, degree=degree)
    center = torch.tensor([0.3, -0.2, 0.5]).double()
    expected = _spherical_harmonics(degree, gaussians.means - center, gaussians.sh) + 0.5
    torch.testing.assert_close(reference.sh_colors(gaussians.means, gaussians.sh, center), expected.clamp_min(0))


def literal_pixel(splats: reference.Splats, x: float, y: float) -> tuple[list[float], float]:
    """gsplat's inner loop, one number at a time."""
    color, transmittance = [0.0, 0.0, 0.0], 1.0
    for i in splats.depths.argsort().tolist():
        xx, xy, yy = splats.covariances[i].tolist()
        determinant = xx * yy - xy * xy
        dx, dy = splats.centers[i, 0].item() - x, splats.centers[i, 1].item() - y
        sigma = 0.5 * (yy / determinant * dx * dx + xx / determinant * dy * dy) - xy / determinant * dx * dy
        alpha = min(0.999, splats.opacities[i].item() * math.exp(-sigma))
        if sigma < 0 or alpha < 1 / 255 or splats.depths[i] < 0.01:
            continue
        if transmittance * (1 - alpha) <= 1e-4:
            break
        color = [c + alpha * transmittance * s for c, s in zip(color, splats.colors[i].tolist(), strict=True)]
        transmittance *= 1 - alpha
    return color, 1 - transmittance


def test_blending_is_the_literal_loop() -> None:
    gaussians = random_gaussians(4, 120, size=0.03)
    gaussians = replace(gaussians, opacities=gaussians.opacities + 3)
    cameras = orbit_cameras(4, 19, 23)
    drawn = render(gaussians, cameras, backend="reference")
    splats = splats_of(gaussians, cameras)
    for y in range(0, 23, 3):
        for x in range(0, 19, 3):
            color, alpha = literal_pixel(splats, x + 0.5, y + 0.5)
            assert drawn.alphas[0, 0, 0, y, x].item() == pytest.approx(alpha, abs=1e-12)
            assert drawn.images[0, 0, :, y, x].tolist() == pytest.approx(color, abs=1e-12)


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_are_finite_differences(antialiased: bool) -> None:
    gaussians = random_gaussians(6, 5, size=0.05)
    cameras = orbit_cameras(6, 6, 5)
    inputs = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh]
    inputs = [t.clone().requires_grad_() for t in (*inputs, cameras.world_to_camera[:, :, :3], cameras.K[:, :, :2])]

    def draw(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        camera, K = tensors[5:]
        moved = replace(
            cameras,
            world_to_camera=torch.cat([camera, cameras.world_to_camera[:, :, 3:]], dim=2),
            K=torch.cat([K, cameras.K[:, :, 2:]], dim=2),
        )
        drawn = render(Gaussians(*tensors[:5]), moved, backend="reference", antialiased=antialiased, depth=True)
        assert drawn.depths is not None
        return drawn.images, drawn.depths * drawn.alphas

    assert torch.autograd.gradcheck(draw, inputs, eps=1e-7, atol=1e-4, fast_mode=True)


def test_memory_does_not_grow_with_pairs(monkeypatch) -> None:
    """However few pairs are handled at once, the image is the same."""
    gaussians, cameras = random_gaussians(8, 60), orbit_cameras(8, 40, 33)
    whole = render(gaussians, cameras, backend="reference").images
    monkeypatch.setattr(reference, "PAIRS", 100)
    torch.testing.assert_close(render(gaussians, cameras, backend="reference").images, whole)


def test_a_rigid_motion_of_everything_changes_nothing() -> None:
    gaussians, cameras = random_gaussians(9, 80, degree=0), orbit_cameras(9, 32, 32)
    motion = orbit_cameras(20, 1, 1, distance=0.4).world_to_camera[0, 0]
    rotation, shift = motion[:3, :3], motion[:3, 3]
    # Scales made equal: only means and cameras need to move.
    round_ = replace(gaussians, scales=gaussians.scales[..., :1].expand_as(gaussians.scales))
    moved = replace(round_, means=round_.means @ rotation.T + shift)
    follow = replace(cameras, world_to_camera=cameras.world_to_camera @ torch.linalg.inv(motion))
    expected = render(round_, cameras, backend="reference").images
    torch.testing.assert_close(render(moved, follow, backend="reference").images, expected, atol=1e-9, rtol=0)
