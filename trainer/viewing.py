"""Cameras that look at a head from in front."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data.views import Cameras

DISTANCE, FOCAL = 1.0, 2.5  # metres; focal length over the picture's side: a head fills two thirds of it


def frontal_cameras(
    azimuths: Sequence[float],
    size: tuple[int, int],
    *,
    distance: float = DISTANCE,
    focal: float | None = None,
    device: torch.device | None = None,
) -> Cameras:
    """Level cameras around the head, `[1, n]`.

    Args:
        azimuths: radians; 0 looks into the face, positive comes from the subject's left.
        size: (height, width) of the pictures in pixels.
        distance: from the middle of the head, metres.
        focal: in pixels; default shows a whole head from 1 m.
        device: where they are used.
    """
    height, width = size
    length = FOCAL * height if focal is None else focal
    K = torch.tensor([[length, 0, width / 2], [0, length, height / 2], [0, 0, 1]])
    poses = torch.stack([look_at(azimuth, distance) for azimuth in azimuths])
    return Cameras(poses[None].to(device), K.expand(1, len(azimuths), 3, 3).to(device), width, height)


def look_at(azimuth: float, distance: float) -> Tensor:
    """World-to-camera `[4, 4]` of a level camera that looks at the origin from `azimuth` (0 in front, towards +x)."""
    s, c = math.sin(azimuth), math.cos(azimuth)
    return torch.tensor([[c, 0, -s, 0], [0, -1, 0, 0], [-s, 0, -c, distance], [0, 0, 0, 1.0]])
