"""Regions of the neutral face as soft masks of position; centimetres, `points [n, 3]` -> `[n]`."""

from __future__ import annotations

import numpy as np

from data.synth.fields import Array, smoothstep
from data.synth.sculpt import EYE, eye_aperture, lip_line


def lips(points: Array, margin: float = 0.0) -> Array:
    """1 on the red of the lips, grown by `margin`."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    line = lip_line(x)
    along = np.maximum(1.0 - (x / (2.55 + margin)) ** 2, 0.0)
    bow = 0.10 * np.exp(-((x / 0.32) ** 2)) - 0.07 * np.exp(-(((np.abs(x) - 0.55) / 0.35) ** 2))
    upper = line + (0.60 - bow) * along**0.75 + margin
    lower = line - 0.86 * along**0.65 - margin
    inside = np.minimum(upper - y, y - lower)
    return smoothstep(-0.06, 0.10, inside) * (along > 0) * smoothstep(6.0, 7.5, z)


def mouth_interior(points: Array, opening: float = 0.0) -> Array:
    """1 on the line between the lips, which an opening mouth stretches."""
    width = 0.05 + 0.16 * min(opening, 1.0)
    line = np.exp(-(((points[:, 1] - lip_line(points[:, 0])) / width) ** 2))
    return line * smoothstep(2.6, 2.1, np.abs(points[:, 0])) * smoothstep(6.0, 7.5, points[:, 2])


def left_side(points: Array) -> Array:
    """The points mirrored to the subject's left."""
    return np.stack([np.abs(points[:, 0]), points[:, 1], points[:, 2]], axis=1)


def eye_opening(points: Array) -> Array:
    """1 between the lids of either eye."""
    return eye_aperture(left_side(points)) * smoothstep(5.5, 6.5, points[:, 2])


def eye_offset(points: Array) -> tuple[Array, Array]:
    """x and y from the centre of the nearer eye, x outward."""
    return np.abs(points[:, 0]) - EYE[0], points[:, 1] - EYE[1]


def brow_distance(points: Array, arch: float) -> tuple[Array, Array]:
    """Distance from the nearer brow's arc and place along it, 0 at the nose to 1 at the temple."""
    x = np.abs(points[:, 0])
    along = np.clip((x - 0.95) / 4.0, 0.0, 1.0)
    arc = 2.95 + 0.57 * np.sin(np.pi * np.clip(along * 0.9 + 0.08, 0.0, 1.0) * 0.93) * (1.0 + arch) - 0.15 * along
    beyond = np.maximum(np.maximum(0.95 - x, x - 4.95), 0.0)
    return np.hypot(points[:, 1] - arc, beyond), along


def front(points: Array) -> Array:
    """1 on the front of the face, 0 from the ears back and down the neck."""
    return smoothstep(1.0, 4.5, points[:, 2]) * smoothstep(-12.5, -10.5, points[:, 1])
