"""Patch mode: a critic of high-resolution images sees random crops, each with the camera that would have taken it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data.views import Cameras


def draw_corners(count: int, image_size: tuple[int, int], side: int, generator: torch.Generator) -> Tensor:
    """Where crops lie, uniformly; draw once and cut real and made images alike.

    Args:
        count: crops.
        image_size: height and width in pixels.
        side: of a crop, pixels; an image's shorter side where that is less.
        generator: of the caller, on the device that the corners shall be on.

    Returns:
        `[count, 2]` integers, row and column of the upper left pixel.
    """
    height, width = _sides(image_size, side)
    room = (image_size[0] - height + 1, image_size[1] - width + 1)
    return torch.stack([torch.randint(r, (count,), generator=generator, device=generator.device) for r in room], dim=-1)


def crop(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cut one crop out of every image, differentiably.

    Args:
        images: `[n, c, h, w]`.
        corners: `[n, 2]` of `draw_corners`.
        side: pixels.

    Returns:
        `[n, c, side, side]`, smaller where the images are.
    """
    height, width = _sides((images.shape[-2], images.shape[-1]), side)
    pairs = zip(images, corners.tolist(), strict=True)
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in pairs])


def crop_cameras(cameras: Cameras, corners: Tensor, side: int) -> Cameras:
    """The cameras `[n]` that see exactly the crops: the principal point moves with the corner."""
    height, width = _sides((cameras.height, cameras.width), side)
    shift = torch.zeros_like(cameras.K)
    shift[..., :2, 2] = corners.to(cameras.K).flip(-1)
    return replace(cameras, K=cameras.K - shift, height=height, width=width)


def _sides(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    return min(image_size[0], side), min(image_size[1], side)
