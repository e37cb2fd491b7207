"""What the set critic learns from: sets of one head, of mixed heads, and of one head that differs from view to view.

All are pure functions of tensors and the caller's generator, which lies on the tensors' device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from data.views import Cameras
from models.gaussians import Gaussians
from models.render import Rendering, render


def mixed_heads(images: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
    """Sets whose view k shows head i + k, counted around the batch: MVCHead's negatives, as many as there were.

    A view keeps its camera. Where all heads are seen from the same poses, as in MVCHead, cameras stay as they are.
    Elsewhere they move with their images, which is sound because all heads share one frame (between the ears).

    Args:
        images: `[b, v, 3, h, w]` of `b` different heads, two or more.
        cameras: `[b, v]`.

    Returns:
        the same shapes.
    """
    heads, views = _mixture(*_sets(cameras))
    return images[heads, views], cameras[heads, views]


def mixed_gaussians(gaussians: Gaussians, views: int) -> Gaussians:
    """As `mixed_heads`, before rendering: view k of set i shows head i + k, at set i's own poses.

    Args:
        gaussians: `[b]` different heads, two or more.
        views: of a set.

    Returns:
        `[b * views]` Gaussians, one for each view; `render_each` draws them.
    """
    heads, _ = _mixture(len(gaussians.means), views)
    return gaussians.map(lambda tensor: tensor[heads.flatten()])


def swapped_views(first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sets at the same poses, each consistent, become two that are not: some of their views change places.

    Positives and negatives then consist of the same images, so that nothing but what they say about each other tells
    them apart: the cheapest hard negatives, and those that a critic learns from fastest.

    Args:
        first, second: `[b, v, 3, h, w]`, two views or more.
        generator: draws how many views change places, 1 to v - 1, and which, for every set.

    Returns:
        the same shapes.
    """
    if first.shape != second.shape or first.dim() != 5 or first.shape[1] < 2:
        raise ValueError(f"sets have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected two views or more")
    sets, views = first.shape[:2]
    device = first.device
    ranks = torch.rand(sets, views, generator=generator, device=device).argsort(dim=1)
    count = torch.randint(1, views, (sets, 1), generator=generator, device=device)
    change = (ranks < count)[:, :, None, None, None]
    return torch.where(change, second, first), torch.where(change, first, second)


def perturbed_cameras(cameras: Cameras, generator: torch.Generator, degrees: float, metres: float) -> Cameras:
    """Cameras that are wrong, each in its own way: as if the head had turned and moved between the views.

    Told of images that the true cameras took, or taken images with while the true ones are told: both are hard
    negatives. The second leaves the cameras that the critic is told as they are in positives, so that they alone tell
    nothing.

    Args:
        cameras: `[...]`.
        generator: draws a motion for each camera.
        degrees, metres: how far, as in `motions`; the origin that heads turn about lies between the ears.
    """
    matrices = cameras.world_to_camera.double()  # which no autocast touches
    moved = matrices @ motions(tuple(cameras.shape), generator, degrees, metres, matrices)
    return replace(cameras, world_to_camera=moved.to(cameras.world_to_camera))


def motions(shape: tuple[int, ...], generator: torch.Generator, degrees: float, metres: float, like: Tensor) -> Tensor:
    """Random rigid motions of the world.

    Args:
        shape: how many.
        generator: draws them.
        degrees: root mean square angle of a rotation about the origin; any axis.
        metres: root mean square length of a translation.
        like: whose device and type to take.

    Returns:
        `[*shape, 4, 4]`.
    """
    motion = torch.eye(4, device=like.device, dtype=like.dtype).repeat(*shape, 1, 1)
    motion[..., :3, :3] = _rotation(math.radians(degrees) * _normal((*shape, 3), generator, like) / math.sqrt(3))
    motion[..., :3, 3] = metres * _normal((*shape, 3), generator, like) / math.sqrt(3)
    return motion


def perturbed_gaussians(
    gaussians: Gaussians, views: int, generator: torch.Generator, metres: float, wavelength: float = 0.1, waves: int = 4
) -> Gaussians:
    """One head, bent another way for every view: smooth random waves move its Gaussians.

    Args:
        gaussians: `[b]` heads.
        views: how many bent copies of each.
        generator: draws directions, phases and amplitudes.
        metres: root mean square displacement of a Gaussian.
        wavelength: metres; features of this size move as one.
        waves: how many are added.

    Returns:
        `[b * views]` Gaussians, one for each view; `render_each` draws them. Differentiable by `gaussians`.
    """
    copies = gaussians.map(lambda tensor: tensor.repeat_interleave(views, dim=0))
    means = copies.means
    count = len(means)
    directions = torch.nn.functional.normalize(_normal((count, waves, 3), generator, means), dim=-1)
    phases = 2 * math.pi * torch.rand(count, 1, waves, generator=generator, device=means.device, dtype=means.dtype)
    amplitudes = _normal((count, waves, 3), generator, means) * metres * math.sqrt(2 / (3 * waves))
    angles = means @ directions.transpose(-1, -2) * (2 * math.pi / wavelength) + phases
    return replace(copies, means=means + angles.sin() @ amplitudes)


def render_each(gaussians: Gaussians, cameras: Cameras, background: Tensor | None = None) -> Rendering:
    """Draw sets whose views have Gaussians of their own.

    Args:
        gaussians: `[b * v]`, those of a set's views one after the other.
        cameras: `[b, v]`.
        background: colour `[3]` or `[b, v, 3]`; black by default.

    Returns:
        as `models.render.render`: images `[b, v, 3, h, w]` and the rest.
    """
    sets, views = _sets(cameras)
    single = replace(
        cameras,
        world_to_camera=cameras.world_to_camera.reshape(-1, 1, 4, 4),
        K=cameras.K.reshape(-1, 1, 3, 3),
    )
    behind = background if background is None or background.dim() == 1 else background.reshape(-1, 1, 3)
    drawn = render(gaussians, single, background=behind)
    shaped = (tensor.unflatten(0, (sets, views))[:, :, 0] for tensor in (drawn.images, drawn.alphas))
    return Rendering(*shaped)


def _sets(cameras: Cameras) -> tuple[int, int]:
    if len(cameras.shape) != 2:
        raise ValueError(f"cameras have shape {tuple(cameras.shape)}, expected [batch, view]")
    return cameras.shape[0], cameras.shape[1]


def _mixture(sets: int, views: int) -> tuple[Tensor, Tensor]:
    """Head and view `[sets, views]` of every view of a mixture."""
    if sets < 2 or views < 2:
        raise ValueError(f"{sets} heads with {views} views each cannot be mixed: two or more of both are needed")
    view = torch.arange(views).expand(sets, views)
    return (torch.arange(sets)[:, None] + view) % sets, view


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _rotation(vectors: Tensor) -> Tensor:
    """Rotation matrices `[..., 3, 3]` of rotation vectors `[..., 3]`, radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross)
