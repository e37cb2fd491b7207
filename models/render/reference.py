"""Backend `reference`: the rasteriser's definition in plain torch, in any precision and on any device.

Slow, but short enough to check by eye. It is the oracle of the tests and serves where nothing was compiled. Constants
and rules are gsplat's (docs/rendering.md).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4
BLUR = 0.3
FAR = 1e10
MIN_COMPENSATION = 0.005
TILE = 16
PAIRS = 2**22  # of pixel and Gaussian, handled at once: bounds memory


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics in the order and signs of 3DGS.

    Args:
        degree: 0 to 3.
        directions: `[..., 3]` unit vectors.

    Returns:
        `[..., (degree + 1) ** 2]`.
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.2820947917738781)]
    if degree >= 1:
        basis += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree >= 2:
        basis += [1.092548430592079 * x * y, -1.092548430592079 * y * z]
        basis += [0.9461746957575601 * z * z - 0.3153915652525201]
        basis += [-1.092548430592079 * x * z, 0.5462742152960395 * (x * x - y * y)]
    if degree >= 3:
        ring = 0.4570457994644658 - 2.285228997322329 * z * z
        basis += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z, y * ring]
        basis += [z * (1.865881662950577 * z * z - 1.119528997770346), x * ring]
        basis += [1.445305721320277 * z * (x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y)]
    return torch.stack(basis, dim=-1)


def sh_colors(means: Tensor, sh: Tensor, centers: Tensor) -> Tensor:
    """Colours of Gaussians as cameras see them, `max(0, 0.5 + basis(direction) . sh)`.

    Args:
        means: `[..., n, 3]`.
        sh: `[..., n, (degree + 1) ** 2, 3]`.
        centers: `[..., 3]` camera centres; leading dimensions broadcast against those of `means`.

    Returns:
        `[..., n, 3]`.
    """
    degree = {1: 0, 4: 1, 9: 2, 16: 3}[sh.shape[-2]]
    directions = torch.nn.functional.normalize(means - centers[..., None, :], dim=-1)
    return (0.5 + torch.einsum("...nk,...nkc->...nc", sh_basis(degree, directions), sh)).clamp_min(0)


def rotation_matrices(quats: Tensor) -> Tensor:
    """`[..., 3, 3]` rotations of `[..., 4]` quaternions (wxyz) of any length but 0."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    entries = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    entries += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    entries += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class Splats:
    """Gaussians in one image, `[n, ...]`.

    Attributes:
        centers: `[n, 2]` pixels.
        covariances: `[n, 3]` xx, xy, yy in pixels squared, blurred.
        opacities: `[n]`, antialiasing factor included.
        depths: `[n]` camera z in metres.
        colors: `[n, 3]`.
    """

    centers: Tensor
    covariances: Tensor
    opacities: Tensor
    depths: Tensor
    colors: Tensor

    def __getitem__(self, index: Tensor) -> Splats:
        return Splats(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def determinants(self) -> Tensor:
        """`[n]` of the covariances."""
        xx, xy, yy = self.covariances.unbind(-1)
        return xx * yy - xy * xy

    @property
    def half_extents(self) -> Tensor:
        """`[n, 2]` pixels from the centre to where alpha falls to MIN_ALPHA."""
        sigma = (self.opacities / MIN_ALPHA).clamp_min(1).log()
        return (2 * sigma[:, None] * self.covariances[:, [0, 2]]).sqrt()

    @property
    def finite(self) -> Tensor:
        """`[n]` whether every value is finite."""
        values = [self.centers, self.covariances, self.opacities[:, None], self.depths[:, None], self.colors]
        return torch.cat(values, dim=-1).isfinite().all(-1)


def project(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    sh: Tensor,
    *,
    world_to_camera: Tensor,
    K: Tensor,
    width: int,
    height: int,
    antialiased: bool,
) -> Splats:
    """EWA projection (Zwicker et al. 2001; gsplat): Gaussians `[n, ...]` as one pinhole camera sees them."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    # The Jacobian is taken inside the image and 15 % around it; far outside it would blow up.
    slope_x = (x / z).clamp((-(cx + 0.15 * width) / fx).expand_as(x), ((1.15 * width - cx) / fx).expand_as(x))
    slope_y = (y / z).clamp((-(cy + 0.15 * height) / fy).expand_as(y), ((1.15 * height - cy) / fy).expand_as(y))
    zero = torch.zeros_like(z)
    rows = [torch.stack([fx / z, zero, -fx * slope_x / z], -1), torch.stack([zero, fy / z, -fy * slope_y / z], -1)]
    axes = rotation @ rotation_matrices(quats) * log_scales.exp()[:, None, :]
    u, v = ((row[:, None, :] @ axes)[:, 0] for row in rows)
    xx, xy, yy = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    opacities = opacity_logits.sigmoid()
    if antialiased:
        sharp = torch.linalg.cross(u, v).square().sum(-1)
        ratio = sharp / (sharp + BLUR * (xx + yy + BLUR))
        opacities = opacities * ratio.clamp_min(MIN_COMPENSATION**2).sqrt()
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    covariances = torch.stack([xx + BLUR, xy, yy + BLUR], -1)
    colors = sh_colors(means, sh, -rotation.T @ translation)
    return Splats(centers, covariances, opacities, z, colors)


def _visible(splats: Splats, width: int, height: int, near: float) -> Tensor:
    extents, size = splats.half_extents, splats.centers.new_tensor([width, height])
    inside = (splats.centers + extents > 0).all(-1) & (splats.centers - extents < size).all(-1)
    in_range = (splats.depths >= near) & (splats.depths <= FAR)
    return splats.finite & inside & in_range & (splats.determinants > 0) & (splats.opacities >= MIN_ALPHA)


def _blend(pixels: Tensor, splats: Splats, max_alpha: float) -> Tensor:
    """Front-to-back alpha blending of depth-sorted splats: `[p, 2]` pixels to `[p, 5]` colour, alpha, depth."""
    dx, dy = (splats.centers[None] - pixels[:, None]).unbind(-1)
    xx, xy, yy = splats.covariances.unbind(-1)
    sigma = (0.5 * (yy * dx * dx + xx * dy * dy) - xy * dx * dy) / splats.determinants
    alpha = (splats.opacities * torch.exp(-sigma)).clamp_max(max_alpha)
    alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, 0)
    # A pixel ends before the Gaussian that would take it below the threshold; transmittance never rises again.
    alpha = torch.where(torch.cumprod(1 - alpha.detach(), dim=1) > MIN_TRANSMITTANCE, alpha, 0)
    passed = torch.cumprod(1 - alpha, dim=1)
    weights = alpha * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], dim=1)
    values = torch.cat([splats.colors, torch.ones_like(splats.depths)[:, None], splats.depths[:, None]], dim=-1)
    return weights @ values


def _draw(splats: Splats, width: int, height: int, max_alpha: float) -> Tensor:
    """One image as `[5, height, width]`: colour, alpha, sum of weight times depth."""
    with torch.no_grad():
        low, high = splats.centers - splats.half_extents, splats.centers + splats.half_extents
    ys = torch.arange(height, device=low.device).to(low) + 0.5
    xs = torch.arange(width, device=low.device).to(low) + 0.5
    strips = []
    for rows in ys.split(TILE):
        strip = []
        for columns in xs.split(TILE):
            corner = torch.stack([columns[0], rows[0]])
            end = torch.stack([columns[-1], rows[-1]])
            near = splats[((high >= corner) & (low <= end)).all(-1).nonzero()[:, 0]]
            pixels = torch.cartesian_prod(rows, columns).reshape(-1, 2).flip(-1)
            parts = pixels.split(max(1, PAIRS // max(1, len(near.depths))))
            # Recomputed in the backward pass: otherwise every pair of pixel and Gaussian would be kept.
            drawn = [checkpoint(_blend, part, near, max_alpha, use_reentrant=False) for part in parts]
            strip.append(torch.cat(drawn).T.reshape(5, len(rows), len(columns)))
        strips.append(torch.cat(strip, dim=2))
    return torch.cat(strips, dim=1)


def rasterize(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    sh: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    background: Tensor,
    *,
    width: int,
    height: int,
    near: float,
    max_alpha: float,
    antialiased: bool,
    depth: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `rasterizer.rasterize`, in the precision and on the device of `means`."""
    images = []
    for subject in range(len(means)):
        gaussians = [tensor[subject] for tensor in (means, quats, log_scales, opacity_logits, sh)]
        for camera, K in zip(world_to_camera[subject], intrinsics[subject], strict=True):
            seen = functools.partial(
                project, world_to_camera=camera, K=K, width=width, height=height, antialiased=antialiased
            )
            with torch.no_grad():
                first = seen(*gaussians)
                kept = _visible(first, width, height, near).nonzero()[:, 0]
                kept = kept[first.depths[kept].argsort(stable=True)]
            # Projected again without what was culled: its infinities would reach the gradients as 0 * inf.
            images.append(_draw(seen(*(tensor[kept] for tensor in gaussians)), width, height, max_alpha))
    drawn = torch.stack(images).unflatten(0, world_to_camera.shape[:2])
    color, alpha, weighted_depth = drawn.split([3, 1, 1], dim=2)
    color = color + (1 - alpha) * background[..., None, None]
    return color, alpha, weighted_depth if depth else None
