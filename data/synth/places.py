"""Where on the template something is: the coordinates in which hair, clothes and colours are defined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np

from data.synth.fields import Array, curve, resample
from data.synth.grid import COLUMNS, rows_v
from data.synth.head import template

AXIS_Z = -0.8
"""z of the vertical axis that azimuths are measured about, centimetres."""
SIDE = 7.5
"""Radius at which azimuths count as distances, centimetres."""


@dataclass(frozen=True, eq=False)
class Places:
    """n places on the neutral template, vertices or texels; centimetres.

    Attributes:
        points: `[n, 3]`.
        shell: `[n, 3]` the same on the head without ears.
        ears: `[n]` 1 on the ears.
    """

    points: Array
    shell: Array
    ears: Array

    @cached_property
    def azimuth(self) -> Array:
        """Degrees from the front (0) to the back (180) on either side, `[n]`."""
        return np.rad2deg(np.arctan2(np.abs(self.shell[:, 0]), self.shell[:, 2] - AXIS_Z))

    @cached_property
    def radius(self) -> Array:
        """Distance from the vertical axis, `[n]`."""
        return np.hypot(self.shell[:, 0], self.shell[:, 2] - AXIS_Z)

    def above(self, degrees: tuple[float, ...], heights: tuple[float, ...]) -> Array:
        """Distance above a border whose height goes through knots of azimuth, negative below, `[n]`.

        It is the distance over the unrolled side of the head, so it means the same however steep the border runs.
        """
        return _above(self, degrees, heights)


@lru_cache(maxsize=8)  # a subject asks several times for the same border
def _above(places: Places, degrees: tuple[float, ...], heights: tuple[float, ...]) -> Array:
    knots = np.linspace(0.0, 180.0, 37)
    x, y = np.deg2rad(knots) * SIDE, curve(knots, np.asarray(degrees), np.asarray(heights))
    here = np.stack([np.deg2rad(places.azimuth) * SIDE, places.shell[:, 1]]).astype(np.float32)
    nearest = np.full(len(places.points), np.inf, np.float32)
    for i in range(len(knots) - 1):
        nearest = np.minimum(nearest, _segment_distance(here, x[i : i + 2], y[i : i + 2]))
    above = here[1] > np.interp(here[0], x, y)
    return np.where(above, 1.0, -1.0).astype(places.points.dtype) * np.sqrt(nearest)


def _segment_distance(here: Array, x: Array, y: Array) -> Array:
    """Squared distance of points `[2, n]` from the segment (x0, y0) .. (x1, y1)."""
    x0, y0, dx, dy = (np.float32(value) for value in (x[0], y[0], x[1] - x[0], y[1] - y[0]))
    px, py = here[0] - x0, here[1] - y0
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return (px - along * dx) ** 2 + (py - along * dy) ** 2


@cache
def vertex_places() -> Places:
    """Places of the template's vertices."""
    head = template()
    return Places(head.positions, head.shell, head.ears)


@cache
def texel_places(size: int) -> Places:
    """Places of the texel centres of a `size` x `size` map, row 0 at v = 0; `size ** 2` of them, float32."""
    vertices = vertex_places()
    return Places(
        *(sample_nodes(field, size).astype(np.float32) for field in (vertices.points, vertices.shell, vertices.ears))
    )


def sample_nodes(field: Array, size: int) -> Array:
    """A per-vertex field `[v]` or `[v, c]` at the texel centres of a square map, bilinear: `[size ** 2]` or with c."""
    nodes = field[template().grid.index]
    centres = (np.arange(size) + 0.5) / size
    row = np.interp(centres, rows_v(), np.arange(len(nodes)))
    column = centres * COLUMNS
    return resample(resample(nodes, row, 0), column, 1).reshape(size * size, *field.shape[1:])
