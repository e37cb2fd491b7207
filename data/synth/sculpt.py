"""The neutral head as an implicit surface: skull, face, eyes, lips, neck and bust, symmetric about x = 0.

Lengths in this file are centimetres in the canonical frame (origin between the ears, y up, z out of the face,
Frankfurt plane horizontal). Proportions follow common adult anthropometry: head 15.4 wide, 19.6 deep, 23 from
crown to chin, 6.3 between the pupils. Ears are not part of it: they are a displacement (`data.synth.ears`).
"""

from __future__ import annotations

import numpy as np

from data.synth.fields import Array, bump, capsule, carve, ellipsoid, smoothstep, union

EYE = np.array([3.15, 1.45, 6.75])
"""Centre of the left eyeball."""
EYE_RADIUS = 1.22
MOUTH_Y = -6.15
"""Height of the line between the lips."""
BOTTOM = -23.5
"""Height at which the bust is cut."""


def signed_distance(points: Array) -> Array:
    """Approximate signed distance `[n]` of the head without ears; negative inside.

    Args:
        points: `[n, 3]`, centimetres.
    """
    p = points.copy()
    p[:, 0] = np.sqrt(p[:, 0] ** 2 + 0.0025)  # rounded |x|: no crease along the middle
    head = _skull(p)
    head = union(head, _bust(p), 2.6)
    head = _nose(p, head)
    head = _mouth(p, head)
    return _eyes(p, head)


def lid_heights(points: Array) -> tuple[Array, Array]:
    """Heights of the left eye's upper and lower lid margin at the x of `points [..., 3]`; they meet at the corners."""
    x = np.clip((points[..., 0] - EYE[0]) / 1.6, -1.0, 1.0)
    along = 1.0 - x * x
    middle = EYE[1] - 0.05 + 0.10 * x
    return middle + 0.68 * along**0.65 * (1.0 - 0.12 * x), middle - 0.46 * along**0.8 * (1.0 + 0.15 * x)


def eye_aperture(points: Array) -> Array:
    """1 between the lids of the left eye, 0 on them, by x and y alone."""
    upper, lower = lid_heights(points)
    y = points[..., 1]
    return smoothstep(-0.03, 0.09, np.minimum(upper - y, y - lower))


def lip_line(x: Array) -> Array:
    """Height of the line between the lips at |x|."""
    return MOUTH_Y + 0.10 * (np.cos(x * 2.4) * 0.5 - np.exp(-((x / 0.45) ** 2)))


def _skull(p: Array) -> Array:
    head = ellipsoid(p, (0, 4.7, -1.7), (7.55, 7.9, 8.1))
    head = union(head, ellipsoid(p, (0, 5.0, 2.3), (6.7, 6.7, 7.0)), 2.0)
    head = union(head, ellipsoid(p, (0, -2.0, 2.6), (5.9, 6.8, 6.2)), 2.0)  # face
    head = union(head, ellipsoid(p, (0, -4.4, 4.4), (4.3, 4.4, 5.3)), 2.0)  # maxilla
    head = union(head, capsule(p, (5.35, -0.5, 0.6), (4.5, -5.9, 1.5), 1.05, 1.0), 2.6)  # ramus
    head = union(head, capsule(p, (4.4, -6.0, 1.7), (1.3, -8.9, 7.0), 1.0, 1.3), 2.6)  # mandible
    head = union(head, ellipsoid(p, (0, -9.05, 7.6), (2.0, 1.6, 1.95)), 1.4)  # chin
    head = union(head, ellipsoid(p, (4.6, -1.0, 5.1), (1.8, 1.4, 2.1)), 2.6)  # cheekbone
    head = union(head, ellipsoid(p, (3.7, -4.3, 5.3), (2.6, 3.2, 2.85)), 2.2)  # cheek
    head = carve(head, ellipsoid(p, (3.1, 1.3, 9.9), (1.7, 1.15, 1.9)), 1.6)  # socket
    brow = capsule(p, (0.9, 2.9, 8.35), (4.3, 3.5, 6.6), 0.9, 0.8)
    return union(head, brow, 1.6)


def _bust(p: Array) -> Array:
    neck = capsule(p, (0, -3, -1.6), (0, -17, -3.4), 4.9, 5.3)
    neck = union(neck, capsule(p, (4.9, -3.5, -1.6), (1.4, -17.3, 0.9), 0.9, 0.75), 1.8)  # sternomastoid
    neck = union(neck, capsule(p, (0, -12.3, 1.9), (0, -14.0, 1.3), 0.6, 0.55), 1.6)  # larynx
    trunk = capsule(p, (1.6, -8, -4.9), (9.5, -18.9, -5.0), 1.9, 1.9)  # trapezius
    trunk = union(trunk, capsule(p, (3, -20.6, -2.2), (16.0, -21.6, -4.2), 2.6, 3.9), 3.0)  # shoulder
    trunk = union(trunk, ellipsoid(p, (0, -26, -2.5), (15.5, 9.0, 8.6)), 3.0)
    trunk = union(trunk, ellipsoid(p, (0, -27, -7.0), (14.0, 12.0, 5.0)), 3.0)
    return union(neck, trunk, 3.0)


def _nose(p: Array, head: Array) -> Array:
    nose = capsule(p, (0, 2.3, 8.35), (0, -2.3, 10.7), 0.62, 0.85)
    nose = union(nose, ellipsoid(p, (0, -2.75, 10.95), (1.0, 0.85, 0.95)), 0.8)
    nose = union(nose, ellipsoid(p, (1.15, -3.1, 9.75), (0.72, 0.72, 1.0)), 0.55)  # wing
    nose = union(nose, capsule(p, (0, -3.3, 10.6), (0, -3.9, 9.3), 0.38, 0.5), 0.4)  # columella
    head = union(head, nose, 1.15)
    return carve(head, ellipsoid(p, (0.62, -3.95, 10.1), (0.24, 0.36, 0.42)), 0.3)  # nostril


def _mouth(p: Array, head: Array) -> Array:
    muzzle = ellipsoid(p, (0, -5.9, 7.2), (3.0, 2.2, 2.75))
    head = union(head, muzzle, 1.4)
    upper = union(
        capsule(p, (0.5, -5.66, 9.95), (1.3, -5.85, 9.5), 0.46, 0.40),
        capsule(p, (1.3, -5.85, 9.5), (2.55, -6.2, 8.45), 0.40, 0.16),
        0.3,
    )
    lower = union(
        capsule(p, (0.0, -6.78, 9.68), (1.2, -6.68, 9.35), 0.58, 0.48),
        capsule(p, (1.2, -6.68, 9.35), (2.55, -6.25, 8.4), 0.48, 0.16),
        0.3,
    )
    head = union(head, union(upper, lower, 0.12), 0.45)
    crease = 0.16 * np.exp(-(((p[:, 1] - lip_line(p[:, 0])) / 0.13) ** 2)) * smoothstep(2.8, 2.2, p[:, 0])
    philtrum = 0.12 * bump(p, (0, -4.75, 10), (0.28, 0.55, 2.0))
    sulcus = 0.30 * bump(p, (0, -7.75, 9.3), (1.3, 0.42, 2.0))
    return head + np.where(p[:, 2] > 6.5, crease, 0.0) + philtrum + sulcus


def _eyes(p: Array, head: Array) -> Array:
    offset = p - EYE
    distance = np.sqrt((offset**2).sum(1))
    lids = distance - (EYE_RADIUS + 0.17)
    head = union(head, lids, 0.5)
    ball = distance - EYE_RADIUS
    opened = eye_aperture(p) * smoothstep(0.0, 0.4, offset[:, 2])
    return head + opened * (np.maximum(ball, head) - head)
