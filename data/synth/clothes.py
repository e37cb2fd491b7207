"""Clothes on the bust: where they begin, how far they stand off, what colour they are; centimetres."""

from __future__ import annotations

import numpy as np

from data.synth.fields import Array, smoothstep
from data.synth.places import Places
from data.synth.subject import Clothes

COLLARS = {
    "crew": (-16.4, -15.6, -13.6, -12.4, -11.6),
    "vneck": (-20.2, -16.4, -13.6, -12.4, -11.6),
    "shirt": (-17.2, -14.6, -12.4, -11.0, -10.0),
    "turtleneck": (-12.2, -11.6, -10.2, -9.2, -8.6),
    "hoodie": (-17.0, -15.2, -12.6, -10.6, -9.6),
}
"""Height of the collar's edge at azimuths 0, 40, 85, 120 and 180 degrees."""
RING = {
    "crew": (1.2, 0.15),
    "vneck": (1.2, 0.15),
    "shirt": (3.0, 0.75),
    "turtleneck": (3.6, 0.35),
    "hoodie": (4.0, 1.6),
}
"""Width of the collar and how far it stands off."""


def below_collar(places: Places, clothes: Clothes) -> Array:
    """Distance below the collar's edge, negative above, `[n]`."""
    return -places.above((0.0, 40.0, 85.0, 120.0, 180.0), COLLARS[clothes.kind])


def clothes_cover(places: Places, clothes: Clothes) -> Array:
    """1 under the clothes, `[n]`."""
    return smoothstep(-0.12, 0.12, below_collar(places, clothes) + 0.3)


def clothes_lift(places: Places, clothes: Clothes) -> Array:
    """How far the cloth lies above the skin, `[n]`."""
    depth = below_collar(places, clothes)
    width, stand = RING[clothes.kind]
    collar = stand * smoothstep(0.0, 0.7, depth) * smoothstep(width + 0.8, width - 0.2, depth)
    return 0.35 * smoothstep(0.0, 0.5, depth) + collar


def cloth_colour(places: Places, clothes: Clothes) -> Array:
    """Linear RGB of the cloth, `[n, 3]`."""
    depth = below_collar(places, clothes)
    y = places.shell[:, 1]
    trim = smoothstep(RING[clothes.kind][0] + 0.15, RING[clothes.kind][0] - 0.15, depth)
    if clothes.pattern == "stripes":
        wave = 0.5 + 0.5 * np.sin(2.0 * np.pi * y / clothes.pitch)
        trim = np.maximum(trim, smoothstep(0.42, 0.58, wave))
    elif clothes.pattern == "yoke":
        trim = np.maximum(trim, smoothstep(-19.2, -18.9, y))
    colour = clothes.colour + (clothes.trim - clothes.colour) * trim[:, None]
    return colour.astype(places.points.dtype)
