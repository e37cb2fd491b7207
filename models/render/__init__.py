"""The one function that turns Gaussians into images, and its three backends (docs/rendering.md)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.views import Cameras
from models.gaussians import Gaussians
from models.render import gsplat_backend, rasterizer, reference

Backend = Literal["cuda", "cpu", "reference"]
_RASTERIZE: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor | None]]] = {
    "cuda": gsplat_backend.rasterize,
    "cpu": rasterizer.rasterize,
    "reference": reference.rasterize,
}


@dataclass(frozen=True)
class Rendering:
    """What cameras see of Gaussians.

    Attributes:
        images: `[batch, view, 3, h, w]`, background included; not clipped to 1.
        alphas: `[batch, view, 1, h, w]` coverage in [0, 1], 1 minus what is left of the background.
        depths: `[batch, view, 1, h, w]` metres, or None if not asked for: the mean of the Gaussians' camera z weighted
            by their contribution to the pixel, sum w z / sum w; 0 where nothing is drawn (gsplat's "ED").
    """

    images: Tensor
    alphas: Tensor
    depths: Tensor | None = None


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    antialiased: bool = False,
    depth: bool = False,
    backend: Backend | None = None,
    near: float = 0.01,
    max_alpha: float = 0.999,
) -> Rendering:
    """Draw every subject's Gaussians as each of its cameras sees them.

    Differentiable by Gaussians, cameras and background. Non-finite Gaussians are left out and get zero gradients.
    "cpu" and "cuda" compute in float32, "reference" in the precision of `gaussians.means`, at least float32.

    Args:
        gaussians: leading dimension `[batch]`.
        cameras: `[batch, view]`; only fx, fy, cx and cy of `K` count.
        background: colour behind everything, `[3]` or `[batch, view, 3]`; black by default.
        antialiased: dim Gaussians that are smaller than a pixel (Yu et al. 2024, Mip-Splatting).
        depth: also return depths.
        backend: "cuda" (gsplat), "cpu" (ours, C++), "reference" (torch, slow); by default the device's own.
        near: metres; Gaussians whose centre is nearer are left out.
        max_alpha: largest alpha of one Gaussian in one pixel, at most 0.999. gsplat has its own: 0.999 before 1.6.

    Raises:
        ValueError: shapes that do not fit, an empty batch, or a backend that cannot serve these tensors.
    """
    _check(gaussians, cameras, near, max_alpha)
    device, shape = gaussians.means.device, (*cameras.shape, 3)
    dtype = torch.promote_types(gaussians.means.dtype, torch.float32)
    background = torch.zeros(3) if background is None else background
    if tuple(background.shape) not in ((3,), shape):
        raise ValueError(f"background has shape {tuple(background.shape)}, expected (3,) or {shape}")
    tensors = (*_tensors(gaussians), cameras.world_to_camera, cameras.K, background.expand(shape))
    rasterize = _RASTERIZE[_choose(backend, device)]
    with torch.autocast(device.type, enabled=False):
        images, alphas, weighted_depths = rasterize(
            *(tensor.to(device, dtype) for tensor in tensors),
            width=cameras.width,
            height=cameras.height,
            near=near,
            max_alpha=max_alpha,
            antialiased=antialiased,
            depth=depth,
        )
    depths = None if weighted_depths is None else weighted_depths / alphas.clamp_min(1e-10)
    return Rendering(images, alphas, depths)


def _tensors(gaussians: Gaussians) -> tuple[Tensor, ...]:
    return gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh


def _check(gaussians: Gaussians, cameras: Cameras, near: float, max_alpha: float) -> None:
    lead = tuple(gaussians.opacities.shape[:-1])
    if len(lead) != 1 or len(cameras.shape) != 2 or lead[0] != cameras.shape[0]:
        found = f"gaussians have leading dimensions {lead} and cameras {tuple(cameras.shape)}"
        raise ValueError(f"{found}, expected [batch] and [batch, view]")
    if 0 in cameras.shape:
        raise ValueError(f"nothing to draw: cameras have shape {tuple(cameras.shape)}")
    if cameras.width < 1 or cameras.height < 1 or cameras.width * cameras.height >= 2**31:
        raise ValueError(f"cannot draw an image of {cameras.width} x {cameras.height} pixels")
    if not near > 0:
        raise ValueError(f"near is {near}, must be positive")
    if not 0 < max_alpha <= 0.999:
        raise ValueError(f"max_alpha is {max_alpha}, must be in (0, 0.999]")


def _choose(backend: str | None, device: torch.device) -> str:
    chosen = backend or {"cuda": "cuda", "cpu": "cpu"}.get(device.type, "reference")
    if chosen not in _RASTERIZE:
        raise ValueError(f"unknown backend {backend!r}, expected one of {', '.join(_RASTERIZE)}")
    if chosen != "reference" and device.type != chosen:
        raise ValueError(f"backend {chosen!r} cannot draw tensors on {device}")
    if chosen == "cpu" and rasterizer.load_library() is None:
        if backend == "cpu":
            raise ValueError("backend 'cpu' is not built: run `python -m models.render.build`")
        _warn_not_built()
        return "reference"
    return chosen


@functools.cache
def _warn_not_built() -> None:
    warnings.warn(
        "the C++ rasteriser is not built, so rendering is slow: run `python -m models.render.build`", stacklevel=4
    )


__all__ = ["Backend", "Rendering", "render"]
