"""Colours of people and clothes. Tables are sRGB for the eye; everything computed is linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.floating]
Palette = Sequence[tuple[str, tuple[float, float, float]]]

SKIN: Palette = (
    ("deep", (0.32, 0.21, 0.16)),
    ("dark", (0.42, 0.29, 0.21)),
    ("brown", (0.54, 0.38, 0.28)),
    ("olive", (0.70, 0.53, 0.40)),
    ("tan", (0.79, 0.61, 0.48)),
    ("light", (0.88, 0.71, 0.60)),
    ("fair", (0.93, 0.78, 0.70)),
)
HAIR: Palette = (
    ("black", (0.09, 0.075, 0.07)),
    ("dark brown", (0.19, 0.13, 0.10)),
    ("brown", (0.33, 0.22, 0.15)),
    ("auburn", (0.42, 0.22, 0.14)),
    ("copper", (0.58, 0.32, 0.18)),
    ("light brown", (0.50, 0.36, 0.23)),
    ("blond", (0.76, 0.61, 0.38)),
    ("platinum", (0.88, 0.80, 0.64)),
)
GREY_HAIR: Palette = (("grey", (0.50, 0.49, 0.48)), ("silver", (0.70, 0.69, 0.68)), ("white", (0.86, 0.85, 0.83)))
EYES: Palette = (
    ("dark brown", (0.16, 0.09, 0.06)),
    ("brown", (0.31, 0.18, 0.10)),
    ("hazel", (0.45, 0.34, 0.18)),
    ("green", (0.33, 0.44, 0.29)),
    ("blue", (0.32, 0.48, 0.66)),
    ("grey", (0.47, 0.53, 0.57)),
)
CLOTH: Palette = (
    ("white", (0.86, 0.86, 0.84)),
    ("black", (0.11, 0.11, 0.12)),
    ("grey", (0.48, 0.49, 0.51)),
    ("navy", (0.13, 0.18, 0.33)),
    ("blue", (0.22, 0.40, 0.66)),
    ("teal", (0.13, 0.43, 0.44)),
    ("green", (0.24, 0.42, 0.25)),
    ("mustard", (0.78, 0.59, 0.20)),
    ("rust", (0.65, 0.31, 0.18)),
    ("red", (0.63, 0.16, 0.17)),
    ("plum", (0.38, 0.19, 0.35)),
    ("rose", (0.80, 0.53, 0.54)),
    ("sand", (0.75, 0.66, 0.52)),
)


def to_linear(srgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """sRGB in [0, 1] to linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: NDArray[np.floating]) -> NDArray[np.floating]:
    """Linear light to sRGB in [0, 1]; clips what is out of range."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1.0 / 2.4) - 0.055)


def mix_palette(rng: np.random.Generator, palette: Palette, spread: float = 0.12) -> tuple[str, Colour]:
    """A colour near a random entry, and the entry's name; linear RGB."""
    name, srgb = palette[int(rng.integers(len(palette)))]
    return name, jitter(rng, to_linear(np.asarray(srgb)), spread)


def jitter(rng: np.random.Generator, linear: Colour, spread: float) -> Colour:
    """A colour nearby: lightness changes by `spread` (relative), hue by a third of it."""
    factor = np.exp(rng.normal(0.0, spread) + rng.normal(0.0, spread / 3.0, 3))
    return np.clip(linear * factor, 0.005, 0.92)
