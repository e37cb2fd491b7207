"""Blendshapes of the left eye: lids that slide over the eyeball and the gaze; centimetres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.synth.fields import Array, smoothstep
from data.synth.sculpt import EYE, EYE_RADIUS, eye_aperture, lid_heights

LID_RADIUS = EYE_RADIUS + 0.17
GAZE = 0.34
REACH = 1.25
"""How far above and below the aperture the lids give."""


def blink(p: Array) -> Array:
    """The upper lid comes down onto the lower one."""
    return _slide(p, close_upper=0.97, raise_lower=0.06)


def squint(p: Array) -> Array:
    """The lower lid comes up, the upper one a little down."""
    return _slide(p, close_upper=0.18, raise_lower=0.38)


def wide(p: Array) -> Array:
    """Both lids open further."""
    return _slide(p, close_upper=-0.30, raise_lower=-0.12)


def _slide(p: Array, close_upper: float, raise_lower: float) -> Array:
    """Move the lid margins by fractions of the aperture; what lies between is squeezed, what lies beyond stretched."""
    x, y = p[:, 0] - EYE[0], p[:, 1]
    upper, lower = lid_heights(p)
    gap = upper - lower
    new_upper, new_lower = upper - close_upper * gap, lower + raise_lower * gap
    # Piecewise linear in y: (bottom, lower, upper, top) -> (bottom, new lower, new upper, top).
    inside = new_lower + (y - lower) / np.maximum(gap, 1e-3) * (new_upper - new_lower)
    above = y + (new_upper - upper) * _fade((y - upper) / REACH)
    below = y + (new_lower - lower) * _fade((lower - y) / REACH)
    moved = np.where(y > upper, above, np.where(y < lower, below, inside))
    near = smoothstep(2.1, 1.45, np.abs(x)) * smoothstep(4.5, 6.5, p[:, 2])
    dy = (moved - y) * near
    # What has moved lies on the lid's own sphere around the eyeball; what has not stays.
    onto_ball = EYE[2] + _on_ball(x, y + dy - EYE[1]) - p[:, 2]
    share = np.clip(np.abs(dy) / np.maximum(0.6 * gap, 0.15), 0.0, 1.0)
    return np.stack([np.zeros_like(dy), dy, onto_ball * share * near], axis=1)


def _fade(t: Array) -> Array:
    return (1.0 - np.clip(t, 0.0, 1.0)) ** 2


def _on_ball(x: Array, y: Array) -> Array:
    return np.sqrt(np.maximum(LID_RADIUS**2 - x * x - y * y, 0.05))


def _look(dx: float, dy: float) -> Callable[[Array], Array]:
    def shape(p: Array) -> Array:
        x, y = p[:, 0] - EYE[0], p[:, 1] - EYE[1]
        weight = eye_aperture(p) * smoothstep(1.5, 0.7, np.abs(x)) * (p[:, 0] > 0) * (p[:, 2] > 6.0)
        lift = _on_ball(x + dx * weight, y + dy * weight) - _on_ball(x, y)
        return np.stack([dx * weight, dy * weight, lift], axis=1)

    return shape


SHAPES: dict[str, Callable[[Array], Array]] = {
    "eyeBlink": blink,
    "eyeSquint": squint,
    "eyeWide": wide,
    "eyeLookIn": _look(-GAZE, 0.0),
    "eyeLookOut": _look(GAZE, 0.0),
    "eyeLookUp": _look(0.0, 0.6 * GAZE),
    "eyeLookDown": _look(0.0, -0.6 * GAZE),
}
"""Fields of the left eye by ARKit name without its side."""
