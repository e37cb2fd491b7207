"""Ears as a displacement of the side of the head; centimetres."""

from __future__ import annotations

import numpy as np

from data.synth.fields import Array, smoothstep

CENTER = np.array([7.0, 1.2, -1.55])
LENGTH, WIDTH = 3.15, 1.75
"""Half extents of the ear along its axis and across it."""
TILT = np.deg2rad(14.0)


def ear_coordinates(points: Array) -> tuple[Array, Array, Array]:
    """Position in the ear's own plane: along its axis (up), across it (backwards), and radius (1 at the rim).

    Args:
        points: `[n, 3]` of the head without ears.
    """
    y, back = points[:, 1] - CENTER[1], -(points[:, 2] - CENTER[2])
    along = y * np.cos(TILT) + back * np.sin(TILT)
    across = back * np.cos(TILT) - y * np.sin(TILT)
    width = WIDTH * (1.0 + 0.16 * np.clip(along / LENGTH, -1.2, 1.2))
    return along, across, np.sqrt((along / LENGTH) ** 2 + (across / width) ** 2)


def ear_weight(points: Array) -> Array:
    """1 on the ears, 0 elsewhere, `[n]`, on points of the head without ears."""
    _, _, radius = ear_coordinates(points)
    return smoothstep(1.16, 0.93, radius) * (np.abs(points[:, 0]) > 4.0)


def ear_offset(points: Array) -> Array:
    """Displacement `[n, 3]` that grows ears out of the head without ears."""
    along, across, radius = ear_coordinates(points)
    side = np.where(np.abs(points[:, 0]) > 4.0, np.sign(points[:, 0]), 0.0)
    rise = np.clip((across + WIDTH) / (2.0 * WIDTH), 0.0, 1.1)
    height = 1.75 * rise**0.85
    rim = 0.34 * np.exp(-(((radius - 0.87) / 0.10) ** 2)) * smoothstep(-2.4, -1.2, along)
    fold = 0.30 * np.exp(-(((radius - 0.50) / 0.14) ** 2)) * smoothstep(-0.3, 0.5, across)
    concha = 0.85 * np.exp(-(((along + 0.45) / 0.85) ** 2) - (((across + 0.35) / 0.62) ** 2))
    tragus = 0.50 * np.exp(-(((along + 0.75) / 0.42) ** 2) - (((across + 1.35) / 0.30) ** 2))
    lobe = 0.25 * np.exp(-(((along + 2.5) / 0.7) ** 2) - ((across / 0.9) ** 2))
    out = (height + rim + fold - concha + tragus + lobe) * smoothstep(1.16, 0.93, radius)
    # The flap leans back: what stands out also moves behind its root.
    return np.stack([side * out * 0.86, out * 0.10 * np.sign(along), -np.abs(side) * out * 0.42], axis=1)
