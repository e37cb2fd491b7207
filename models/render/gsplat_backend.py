"""Backend `cuda`: gsplat's kernels, called so that every version from 1.5 on means the same."""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from typing import Any

import torch
from torch import Tensor

from models.render.reference import sh_colors


@functools.cache
def built_in_max_alpha() -> float:
    """The largest alpha that the installed gsplat lets a Gaussian have; a constant of its kernels."""
    major, minor = importlib.metadata.version("gsplat").split(".")[:2]
    return 0.999 if (int(major), int(minor)) < (1, 6) else 0.99


@functools.cache
def _warn_about_max_alpha(wanted: float) -> None:
    warnings.warn(f"gsplat clamps alpha at {built_in_max_alpha()}, not at {wanted}", stacklevel=3)


def arguments(
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
    antialiased: bool,
    depth: bool,
) -> dict[str, Any]:
    """`gsplat.rasterization`'s keyword arguments for `rasterizer.rasterize`'s.

    Harmonics are evaluated here: gsplat 1.5 copies them per view, and later versions share them over the batch.
    """
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    centers = -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]
    return {
        "means": means,
        "quats": quats,
        "scales": log_scales.exp(),
        "opacities": opacity_logits.sigmoid(),
        "colors": sh_colors(means[:, None], sh[:, None], centers),
        "viewmats": world_to_camera,
        "Ks": intrinsics,
        "width": width,
        "height": height,
        "near_plane": near,
        "backgrounds": background,
        "render_mode": "RGB+D" if depth else "RGB",
        "rasterize_mode": "antialiased" if antialiased else "classic",
        "packed": False,
    }


def rasterize(*tensors: Tensor, max_alpha: float, **settings: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `rasterizer.rasterize`, float32 on a CUDA device; intrinsics get no gradient and `max_alpha` is gsplat's."""
    from gsplat import rasterization  # imports its CUDA extension, which only this backend needs

    if max_alpha != built_in_max_alpha():
        _warn_about_max_alpha(max_alpha)
    call = arguments(*(tensor.to(torch.float32) for tensor in tensors), **settings)
    drawn, alphas, _ = rasterization(**call)
    drawn, alphas = drawn.movedim(-1, 2), alphas.movedim(-1, 2)
    return drawn[:, :, :3], alphas, drawn[:, :, 3:] if settings["depth"] else None
