"""The studio: its light on a surface and its backdrop, both in linear RGB and without a shadow's edge."""

from __future__ import annotations

import numpy as np
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from data.synth.fields import Array, length
from data.synth.grid import ROWS
from data.synth.head import template

Floats = NDArray[np.float32]

SKY, GROUND = np.array([0.40, 0.42, 0.46]), np.array([0.24, 0.21, 0.19])
# Direction towards the light, colour, and how far it wraps around the terminator.
LAMPS = (
    (np.array([-0.45, 0.55, 0.70]), np.array([0.72, 0.69, 0.64]), 0.35),
    (np.array([0.75, 0.20, 0.45]), np.array([0.24, 0.26, 0.30]), 0.5),
    (np.array([0.15, 0.45, -0.9]), np.array([0.22, 0.22, 0.24]), 0.4),
)
OCCLUSION_REACH = 0.12
"""Metres beyond which nothing takes ambient light away."""


def irradiance(normals: Array, openness: Array) -> Array:
    """Diffuse light `[n, 3]` on a surface.

    Args:
        normals: `[n, 3]` unit.
        openness: `[n]` share of the hemisphere that is not blocked nearby.
    """
    up = 0.5 + 0.5 * normals[:, 1:2]
    light = (GROUND + (SKY - GROUND) * up) * openness[:, None]
    for direction, colour, wrap in LAMPS:
        direction = direction / length(direction)
        cosine = normals[:, 0] * direction[0] + normals[:, 1] * direction[1] + normals[:, 2] * direction[2]
        lit = np.maximum((cosine + wrap) / (1.0 + wrap), 0.0) ** 1.3
        light = light + (lit * (0.35 + 0.65 * openness))[:, None] * colour
    return light


def openness(scene: EmbreeScene, vertices: Floats, normals: Floats, rays: int = 28) -> Floats:
    """Share of each vertex's hemisphere that is open, `[v]`, by rays from every other node of the chart."""
    index = template().grid.index
    rows = np.unique(np.append(np.arange(0, ROWS, 2), ROWS - 1))
    picked = index[rows][:, ::2]
    points, axes = vertices[picked.ravel()], normals[picked.ravel()]
    directions = axes[:, None] + 0.999 * _sphere(rays)[None]  # cosine-weighted
    directions /= np.maximum(length(directions), 1e-6)[..., None]
    origins = np.repeat(points + 0.0025 * axes, rays, axis=0)
    hit = scene.run(origins, np.ascontiguousarray(directions.reshape(-1, 3)), output=1)
    near = (hit["primID"] >= 0) & (hit["tfar"] < OCCLUSION_REACH)
    weight = np.where(near, 1.0 - hit["tfar"] / OCCLUSION_REACH, 0.0).reshape(-1, rays)
    coarse = (1.0 - weight.mean(1)).reshape(picked.shape)
    return _refine(coarse, rows, index)


def _refine(coarse: Array, rows: NDArray[np.int64], index: NDArray[np.int32]) -> Floats:
    """Every other node to every vertex, linearly."""
    low = np.clip(np.searchsorted(rows, np.arange(ROWS), side="right") - 1, 0, len(rows) - 2)
    share = ((np.arange(ROWS) - rows[low]) / (rows[low + 1] - rows[low]))[:, None]
    along = coarse[low] * (1.0 - share) + coarse[low + 1] * share
    nodes = np.repeat(along, 2, axis=1)[:, :-1]
    nodes[:, 1::2] = 0.5 * (along[:, :-1] + along[:, 1:])
    values = np.empty(int(index.max()) + 1, np.float32)
    values[index.ravel()] = nodes.ravel()
    return values


def _sphere(count: int) -> Floats:
    """Evenly spread unit vectors `[count, 3]`."""
    k = np.arange(count) + 0.5
    y, angle = 1.0 - 2.0 * k / count, np.pi * (1.0 + 5.0**0.5) * k
    r = np.sqrt(1.0 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], axis=1).astype(np.float32)


class Backdrop:
    """Light from the surroundings as a smooth function of direction: a graded sweep and a few soft lamps behind.

    Args:
        seed: of the dataset; all its subjects stand before the same backdrop.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng((seed, 0xBACD))
        base = rng.uniform(0.10, 0.26) * np.exp(rng.normal(0.0, 0.10, 3))
        self._floor, self._ceiling = (base * 0.55).astype(np.float32), (base * 1.35).astype(np.float32)
        directions = rng.normal(size=(7, 3)) * [1.0, 0.45, 1.0]
        self._directions = (directions / length(directions)[:, None]).astype(np.float32)
        colours = rng.uniform(-0.35, 0.9, (7, 1)) * base * np.exp(rng.normal(0.0, 0.25, (7, 3)))
        self._colours = colours.astype(np.float32)
        self._sharpness = rng.uniform(2.5, 9.0, 7).astype(np.float32)

    def __call__(self, directions: Floats) -> Floats:
        """Linear RGB `[n, 3]` seen along unit directions `[n, 3]`."""
        x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
        light = self._floor + (self._ceiling - self._floor) * (0.5 + 0.5 * np.tanh(2.2 * y))[:, None]
        for axis, colour, sharpness in zip(self._directions, self._colours, self._sharpness, strict=True):
            lobe = np.exp(sharpness * (x * axis[0] + y * axis[1] + z * axis[2] - np.float32(1.0)))
            light = light + lobe[:, None] * colour
        return np.maximum(light, 0.0)
