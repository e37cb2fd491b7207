"""Identity modes of the template: smooth offset fields, one standard deviation each; centimetres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.synth.fields import Array, bump, smoothstep
from data.synth.sculpt import EYE

Mode = Callable[[Array], Array]
FAR = np.inf


def identity_basis(points: Array, ears: Array) -> Array:
    """Offsets `[k, n, 3]` of all modes in the order of `IDENTITY_NAMES`.

    Args:
        points: `[n, 3]` neutral positions.
        ears: `[n]` 1 on the ears.
    """
    basis = [mode(points) for mode in MODES.values()]
    side = np.sign(points[:, 0])
    root = np.array([7.0, 1.0, -0.2]) * np.stack([side, np.ones_like(side), np.ones_like(side)], 1)
    basis.append(0.11 * ears[:, None] * (points - root) * [0.5, 1.0, 1.0])  # ear_size
    flap = ears * smoothstep(0.2, -3.0, points[:, 2])
    basis.append(np.stack([0.38 * side * flap, 0 * flap, 0.25 * flap], 1))  # ear_protrusion
    return np.stack(basis)


def _above(p: Array) -> Array:
    """1 on the head, 0 from the neck down."""
    return smoothstep(-13.0, -8.0, p[:, 1])


def _front(p: Array) -> Array:
    return smoothstep(0.0, 5.0, p[:, 2])


def _pair(p: Array, x: float, y: float, z: float, radii: tuple[float, float, float]) -> Array:
    """A bump on each side."""
    folded = np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], 1)
    return bump(folded, (x, y, z), radii)


def _move(weight: Array, x: float | Array = 0.0, y: float | Array = 0.0, z: float | Array = 0.0) -> Array:
    return np.stack([weight * x, weight * y, weight * z], axis=1)


def _apart(p: Array, weight: Array, amount: float) -> Array:
    """Both sides move away from the middle, smoothly zero at it."""
    return _move(weight * amount, x=np.tanh(p[:, 0] / 1.0))


def _eye_scale(p: Array) -> Array:
    weight = 0.10 * _pair(p, EYE[0], EYE[1], 8.0, (1.7, 1.2, 1.6))
    return _move(weight, x=p[:, 0] - np.sign(p[:, 0]) * EYE[0], y=1.8 * (p[:, 1] - EYE[1]))


def _lips(p: Array, y: float, amount: float) -> Array:
    weight = bump(p, (0, y, 10.0), (1.7, 0.42, 1.8))
    return _move(weight, y=amount * 0.7 * np.sign(y + 6.15), z=amount)


def _neck(p: Array) -> Array:
    return smoothstep(-6.5, -11.0, p[:, 1]) * smoothstep(-20.0, -15.0, p[:, 1])


def _front_neck(p: Array) -> Array:
    return np.maximum(_neck(p) * (1.0 - bump(p, (0, -9.5, 8.0), (4.0, 3.0, 3.0))), 0.0)


MODES: dict[str, Mode] = {
    "head_size": lambda p: 0.026 * _above(p)[:, None] * p,
    "head_width": lambda p: _move(0.034 * _above(p), x=p[:, 0]),
    "head_height": lambda p: _move(0.055 * np.maximum(p[:, 1] - 2.5, 0.0), y=1.0),
    "head_length": lambda p: _move(0.55 * smoothstep(0.0, -8.0, p[:, 2]) * smoothstep(-7.0, 0.0, p[:, 1]), z=-1.0),
    "crown_shape": lambda p: _move(0.5 * bump(p, (0, 11.5, -5.0), (4.5, 3.5, 4.0)), y=0.8, z=-0.5),
    "forehead_slope": lambda p: _move(0.5 * smoothstep(2.5, 9.0, p[:, 1]) * _front(p), z=-1.0),
    "forehead_width": lambda p: _apart(p, _pair(p, 6.0, 6.0, 4.5, (2.5, 3.0, 3.5)), 0.32),
    "brow_ridge": lambda p: _move(0.27 * _pair(p, 2.2, 3.1, 8.6, (2.0, 0.8, 1.5)), z=1.0, y=-0.2),
    "face_width": lambda p: _move(0.042 * smoothstep(5.0, 0.0, p[:, 1]) * _above(p) * _front(p), x=p[:, 0]),
    "face_length": lambda p: _move(0.055 * np.minimum(p[:, 1], 0.0) * _front(p) * _above(p), y=1.0),
    "cheekbones": lambda p: _move(0.34 * _pair(p, 5.4, -0.9, 6.2, (1.5, 1.2, 1.8)), x=np.sign(p[:, 0]), z=0.5),
    "cheek_fullness": lambda p: _move(0.5 * _pair(p, 4.6, -5.0, 6.3, (1.7, 2.2, 2.4)), x=np.sign(p[:, 0]), z=0.5),
    "jaw_width": lambda p: _apart(p, _pair(p, 5.2, -6.6, 2.8, (2.0, 2.6, 3.2)), 0.55),
    "jaw_length": lambda p: _move(0.5 * smoothstep(-5.5, -9.0, p[:, 1]) * _above(p) * _front(p), y=-1.0),
    "chin_forward": lambda p: _move(0.45 * bump(p, (0, -9.2, 9.2), (2.3, 1.7, 3.0)), z=1.0),
    "chin_width": lambda p: _apart(p, bump(p, (0, -9.4, 8.6), (2.8, 1.5, 2.5)), 0.38),
    "eye_spacing": lambda p: _apart(p, _pair(p, EYE[0], EYE[1], 8.0, (1.9, 1.4, 2.2)), 0.17),
    "eye_size": _eye_scale,
    "eye_height": lambda p: _move(0.2 * _pair(p, EYE[0], EYE[1] + 0.5, 8.0, (2.4, 1.8, 2.2)), y=1.0),
    "eye_depth": lambda p: _move(0.26 * _pair(p, EYE[0], EYE[1], 8.0, (1.6, 1.1, 2.0)), z=-1.0),
    "eye_tilt": lambda p: _move(
        0.13 * _pair(p, EYE[0], EYE[1], 8.0, (1.7, 1.3, 2.0)), y=np.clip((np.abs(p[:, 0]) - EYE[0]) / 1.5, -1.5, 1.5)
    ),
    "nose_length": lambda p: _move(0.32 * bump(p, (0, -3.0, 10.8), (1.7, 1.5, 2.4)), y=-1.0),
    "nose_width": lambda p: _apart(p, _pair(p, 1.3, -3.0, 10.0, (0.9, 1.0, 1.6)), 0.26),
    "nose_projection": lambda p: _move(0.38 * bump(p, (0, -2.5, 11.4), (1.2, 1.2, 1.8)), z=1.0),
    "nose_bridge": lambda p: _move(0.3 * bump(p, (0, 0.4, 10.0), (0.9, 1.3, 1.5)), z=1.0),
    "nose_tip": lambda p: _move(0.28 * bump(p, (0, -2.8, 11.6), (0.9, 0.8, 1.2)), y=1.0),
    "mouth_width": lambda p: _apart(p, bump(p, (0, -6.15, 9.4), (2.6, 0.9, 2.4)), 0.26),
    "mouth_height": lambda p: _move(0.24 * bump(p, (0, -6.1, 9.6), (2.6, 1.4, 2.4)), y=1.0),
    "mouth_forward": lambda p: _move(0.28 * bump(p, (0, -6.0, 9.8), (2.2, 1.6, 2.4)), z=1.0),
    "lip_upper": lambda p: _lips(p, -5.6, 0.15),
    "lip_lower": lambda p: _lips(p, -6.8, 0.17),
    "neck_width": lambda p: _front_neck(p)[:, None] * 0.07 * (p - [0, 0, -2.5]) * [1.0, 0.0, 0.8],
    "neck_length": lambda p: _move(0.6 * smoothstep(-9.5, -15.0, p[:, 1]), y=-1.0),
    "shoulder_width": lambda p: _move(0.055 * smoothstep(-14.0, -18.0, p[:, 1]), x=p[:, 0]),
    "shoulder_drop": lambda p: _move(
        smoothstep(5.0, 17.0, np.abs(p[:, 0])) * smoothstep(-13.0, -16.0, p[:, 1]), y=-0.9
    ),
    "asymmetric_jaw": lambda p: _move(0.16 * smoothstep(-2.0, -9.0, p[:, 1]) * _above(p) * _front(p), x=1.0),
    "asymmetric_brow": lambda p: _move(0.09 * _pair(p, 3.0, 3.3, 8.4, (1.8, 0.9, 1.8)), y=np.tanh(p[:, 0] / 1.0)),
}

IDENTITY_NAMES = (*MODES, "ear_size", "ear_protrusion")
"""Names of the modes of `neutral_head().identity`, in order."""
