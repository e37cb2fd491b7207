"""Random heads' worth of Gaussians, and the comparison of two renderings of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data.views import Cameras
from models.gaussians import Gaussians
from models.render import Rendering, render


def random_gaussians(seed: int, count: int, batch: int = 1, degree: int = 1, size: float = 0.01) -> Gaussians:
    """Blobs of about `size` metres in a ball of a head's size; float64."""
    g = torch.Generator().manual_seed(seed)
    lead = (batch, count)
    return Gaussians(
        means=torch.randn(*lead, 3, generator=g).double() * 0.06,
        quats=torch.randn(*lead, 4, generator=g).double(),
        scales=torch.randn(*lead, 3, generator=g).double() * 0.7 + torch.tensor(size).log(),
        opacities=torch.randn(*lead, generator=g).double() * 2,
        sh=torch.randn(*lead, (degree + 1) ** 2, 3, generator=g).double() * 0.6,
    )


def orbit_cameras(seed: int, width: int, height: int, batch: int = 1, views: int = 1, distance: float = 0.6) -> Cameras:
    """Cameras on a sphere that look at the origin, principal points off the centre; float64."""
    g = torch.Generator().manual_seed(seed + 1)
    out = torch.nn.functional.normalize(torch.randn(batch, views, 3, generator=g).double(), dim=-1)
    right = torch.linalg.cross(out, torch.tensor([0.1, 1.0, 0.2]).double().expand_as(out))
    right = torch.nn.functional.normalize(right, dim=-1)
    matrix = torch.eye(4).double().repeat(batch, views, 1, 1)
    matrix[..., :3, :3] = torch.stack([right, torch.linalg.cross(-out, right), -out], dim=-2)
    matrix[..., 2, 3] = distance
    K = torch.eye(3).double().repeat(batch, views, 1, 1)
    focal = distance / 0.3 * min(width, height)
    K[..., 0, 0], K[..., 1, 1] = focal, focal * 1.1
    K[..., 0, 2], K[..., 1, 2] = width * 0.47, height * 0.55
    return Cameras(matrix, K, width, height)


def leaves(gaussians: Gaussians, cameras: Cameras, dtype: torch.dtype) -> tuple[Gaussians, Cameras]:
    """Copies that collect gradients."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype).clone().requires_grad_()

    return gaussians.map(leaf), replace(
        cameras, world_to_camera=leaf(cameras.world_to_camera), K=leaf(cameras.K)
    )  # fmt: skip


def gradients(gaussians: Gaussians, cameras: Cameras) -> dict[str, Tensor]:
    """What `backward` left on leaves."""
    tensors = {name: getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")}
    tensors |= {"world_to_camera": cameras.world_to_camera, "K": cameras.K}
    return {name: tensor.grad for name, tensor in tensors.items()}


def pixel_loss(rendering: Rendering, weight: Tensor) -> Tensor:
    """A loss that every pixel of every output moves: `weight` is `[batch, view, 5, h, w]`."""
    outputs = [rendering.images, rendering.alphas]
    if rendering.depths is not None:
        # 1 / alpha amplifies rounding without bound where next to nothing is drawn
        outputs.append(torch.where(rendering.alphas > 0.1, rendering.depths, 0))
    return (torch.cat(outputs, dim=2) * weight[:, :, : sum(o.shape[2] for o in outputs)].to(outputs[0])).sum()


def assert_same_as_reference(
    gaussians: Gaussians, cameras: Cameras, tolerance: float = 1e-5, **settings: object
) -> None:
    """The CPU backend against the float64 reference: images within 2e-6, gradients within `tolerance`, relative L2.

    A decision (alpha under 1/255, order of depths) may fall differently in float32. A pixel that one changed is left
    out of both losses; there may be next to none.
    """
    exact_leaves, fast_leaves = (leaves(gaussians, cameras, dtype) for dtype in (torch.float64, torch.float32))
    exact = render(*exact_leaves, backend="reference", **settings)  # type: ignore[arg-type]
    fast = render(*fast_leaves, backend="cpu", **settings)  # type: ignore[arg-type]
    error = torch.cat([fast.images - exact.images, fast.alphas - exact.alphas], dim=2).detach().abs().amax(2, True)
    same = error <= 2e-6
    assert (~same).double().mean() <= 2e-3, f"{int((~same).sum())} pixels differ, the worst by {error.max():.1e}"
    if exact.depths is not None and fast.depths is not None:
        firm = same & (exact.alphas > 0.1)
        assert (fast.depths - exact.depths)[firm].abs().max() <= 2e-5 if firm.any() else True

    shape = (*cameras.shape, 5, cameras.height, cameras.width)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5)).double() * same
    pixel_loss(exact, weight).backward()
    pixel_loss(fast, weight).backward()
    expected = gradients(*exact_leaves)
    for name, found in gradients(*fast_leaves).items():
        scale = expected[name].norm()
        assert (found - expected[name]).norm() <= tolerance * scale + 1e-9, f"gradient of {name}"
