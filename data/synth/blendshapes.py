"""The 52 ARKit expression blendshapes as smooth offset fields of the neutral head; centimetres.

Left is the subject's left, +x. Every field is written for the left side and mirrored.
"""

from __future__ import annotations

import numpy as np

from data.synth import eyelids
from data.synth.fields import Array, bump, smoothstep
from data.synth.sculpt import MOUTH_Y, lip_line

CONDYLE = np.array([0.0, -0.6, 0.6])
JAW_ANGLE = np.deg2rad(10.5)

# Bumps that move: name (of the left one where there are two), (centre, radii, displacement) ...
Bumps = tuple[tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]], ...]
PAIRED: dict[str, Bumps] = {
    "browDown": (
        ((1.6, 3.1, 8.8), (1.1, 0.9, 1.8), (-0.14, -0.48, 0.1)),
        ((3.6, 3.4, 8.0), (1.1, 0.8, 1.8), (0, -0.28, 0)),
    ),
    "browOuterUp": (((4.0, 3.5, 7.8), (1.2, 1.2, 1.8), (0.0, 0.62, -0.05)),),
    "cheekSquint": (((3.7, -0.9, 7.6), (1.3, 0.9, 1.8), (0.0, 0.42, 0.18)),),
    "noseSneer": (
        ((1.25, -2.4, 9.9), (0.75, 1.0, 1.4), (0.1, 0.38, 0.05)),
        ((0.9, 1.2, 9.2), (0.6, 0.8, 1.2), (0, -0.12, 0.08)),
    ),
    "mouthSmile": (
        ((2.5, -6.15, 8.8), (1.0, 0.9, 1.6), (0.55, 0.72, -0.28)),
        ((3.7, -3.9, 7.8), (1.3, 1.2, 1.8), (0.15, 0.35, 0.22)),
    ),
    "mouthFrown": (((2.4, -6.5, 8.8), (1.0, 1.0, 1.6), (0.1, -0.65, -0.1)),),
    "mouthDimple": (((2.8, -6.15, 8.6), (0.7, 0.8, 1.4), (0.3, 0.05, -0.42)),),
    "mouthStretch": (((2.7, -6.5, 8.6), (1.1, 1.2, 1.6), (0.6, -0.32, -0.25)),),
    "mouthPress": (
        ((1.3, -5.7, 9.7), (0.9, 0.4, 1.2), (0, -0.16, -0.12)),
        ((1.3, -6.75, 9.5), (0.9, 0.4, 1.2), (0, 0.18, -0.12)),
    ),
}
SINGLE: dict[str, Bumps] = {
    "browInnerUp": (
        ((1.2, 3.3, 8.8), (1.0, 1.1, 1.8), (0.0, 0.6, 0.0)),
        ((-1.2, 3.3, 8.8), (1.0, 1.1, 1.8), (0.0, 0.6, 0.0)),
    ),
    "cheekPuff": (
        ((4.2, -5.2, 7.4), (1.4, 1.6, 1.9), (0.75, 0.0, 0.5)),
        ((-4.2, -5.2, 7.4), (1.4, 1.6, 1.9), (-0.75, 0.0, 0.5)),
    ),
    "mouthShrugUpper": (((0.0, -5.4, 10.2), (1.7, 0.7, 1.6), (0.0, 0.36, 0.15)),),
    "mouthShrugLower": (((0.0, -7.4, 9.8), (1.8, 1.1, 1.8), (0.0, 0.45, 0.18)),),
}


def expression_basis(points: Array) -> tuple[Array, tuple[str, ...]]:
    """All 52 offsets `[52, n, 3]` at coefficient 1 and their ARKit names, sorted.

    Args:
        points: `[n, 3]` neutral positions.
    """
    shapes = {name: _bumps(points, bumps) for name, bumps in SINGLE.items()}
    shapes |= _jaw(points) | _lips(points) | _tongue(points)
    for name, field in _paired(points).items():
        shapes[f"{name}Left"] = field
        shapes[f"{name}Right"] = mirror_field(points, name)
    names = tuple(sorted(shapes))
    return np.stack([shapes[name] for name in names]), names


def mirror_field(points: Array, name: str) -> Array:
    """The right-hand twin of a left-hand field."""
    flip = np.array([-1.0, 1.0, 1.0])
    return _paired(points * flip, name)[name] * flip


def _paired(p: Array, only: str | None = None) -> dict[str, Array]:
    fields = {name: lambda bumps=bumps: _bumps(p, bumps) for name, bumps in PAIRED.items()}
    fields |= {name: lambda shape=shape: shape(p) for name, shape in eyelids.SHAPES.items()}
    fields |= {
        "mouthLowerDown": lambda: _lip_half(p, lower=True) * [0.12, -0.55, 0.0],
        "mouthUpperUp": lambda: _lip_half(p, lower=False) * [0.1, 0.5, 0.0],
    }
    return {name: field() for name, field in fields.items() if only in (None, name)}


def _bumps(p: Array, bumps: Bumps) -> Array:
    return sum((bump(p, center, radii)[:, None] * np.array(move) for center, radii, move in bumps), np.zeros_like(p))


def lower_lip_weight(p: Array) -> Array:
    """1 below the line between the lips, 0 above; sharp between the corners, soft beyond them."""
    softness = 0.06 + 1.5 * smoothstep(1.1, 3.6, np.abs(p[:, 0]))
    return smoothstep(softness, -softness, p[:, 1] - lip_line(p[:, 0]))


def _between_lips(p: Array, width: float) -> Array:
    """1 on the line between the lips."""
    line = np.exp(-(((p[:, 1] - lip_line(p[:, 0])) / width) ** 2))
    return line * smoothstep(2.5, 1.6, np.abs(p[:, 0])) * smoothstep(6.0, 8.0, p[:, 2])


def _lip_half(p: Array, *, lower: bool) -> Array:
    side = smoothstep(-0.4, 0.9, p[:, 0])
    below = lower_lip_weight(p)
    center = (1.1, -6.8, 9.7) if lower else (1.1, -5.5, 9.9)
    return ((below if lower else 1.0 - below) * side * bump(p, center, (1.1, 0.8, 1.6)))[:, None]


def jaw_weight(p: Array) -> Array:
    """1 on what the mandible carries, 0 on the skull and down the neck."""
    toward_joint = smoothstep(8.6, 1.0, p[:, 2])
    border = MOUTH_Y + 4.4 * toward_joint
    softness = 1.8
    side = smoothstep(border + softness, border - softness, p[:, 1])
    mix = smoothstep(1.9, 3.8, np.abs(p[:, 0]))
    weight = (1.0 - mix) * lower_lip_weight(p) + mix * side
    throat = smoothstep(-14.5, -10.0, p[:, 1] - 0.35 * np.maximum(p[:, 2] - 3.0, 0.0) + 1.0)
    return weight * smoothstep(-1.0, 3.0, p[:, 2]) * throat


def _jaw(p: Array) -> dict[str, Array]:
    weight = jaw_weight(p)
    c, s = np.cos(JAW_ANGLE), np.sin(JAW_ANGLE)
    y, z = p[:, 1] - CONDYLE[1], p[:, 2] - CONDYLE[2]
    opened = np.stack([0.0 * y, c * y - s * z - y, s * y + c * z - z], axis=1) * weight[:, None]
    opened += _between_lips(p, 0.16)[:, None] * [0.0, 0.0, -0.7]
    slide = weight * bump(p, (0, -8.0, 7.0), (6.0, 4.0, 5.0))
    return {
        "jawOpen": opened,
        "jawForward": slide[:, None] * [0.0, 0.0, 0.75],
        "jawLeft": slide[:, None] * [0.7, 0.0, 0.0],
        "jawRight": slide[:, None] * [-0.7, 0.0, 0.0],
    }


def _lips(p: Array) -> dict[str, Array]:
    mouth = bump(p, (0, MOUTH_Y, 9.6), (2.3, 1.2, 2.0))
    inward = -np.tanh(p[:, 0] / 1.3) * bump(p, (0, MOUTH_Y, 9.2), (2.8, 1.1, 2.4))
    below = lower_lip_weight(p)
    upper = (1.0 - below) * bump(p, (0, -5.7, 9.9), (1.8, 0.55, 1.6))
    lower = below * bump(p, (0, -6.7, 9.7), (1.8, 0.6, 1.6))
    apart = np.where(below > 0.5, -1.0, 1.0) * mouth
    zero = np.zeros(len(p))
    return {
        "mouthClose": np.stack([zero, 0.85 * lower - 0.3 * upper, 0.1 * lower], 1),
        "mouthFunnel": np.stack([0.5 * inward, 0.28 * apart, 0.75 * mouth], 1),
        "mouthPucker": np.stack([0.95 * inward, 0.05 * apart, 0.62 * mouth], 1),
        "mouthLeft": mouth[:, None] * [0.75, 0.0, -0.05],
        "mouthRight": mouth[:, None] * [-0.75, 0.0, -0.05],
        "mouthRollLower": lower[:, None] * [0.0, 0.26, -0.42],
        "mouthRollUpper": upper[:, None] * [0.0, -0.24, -0.42],
    }


def _tongue(p: Array) -> dict[str, Array]:
    weight = _between_lips(p, 0.35) * np.exp(-((p[:, 0] / 0.9) ** 4))
    return {"tongueOut": weight[:, None] * [0.0, -0.35, 1.5]}
