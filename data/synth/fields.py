"""Smooth scalar fields: the vocabulary of the sculpting and texturing code.

Signed distances are negative inside. All functions take `points [..., 3]` and return `[...]`, in the unit of
the points. Nothing here uses BLAS, so results do not depend on a thread count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]
Vector = Sequence[float] | Array


def smoothstep(low: float | Array, high: float | Array, x: float | Array) -> Array:
    """0 below `low`, 1 above `high`, C1 between; falls instead of rising where `low > high`."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bump(points: Array, center: Vector, radii: ArrayLike) -> Array:
    """Gaussian bump of height 1 with the given standard deviation per axis; an infinite radius ignores an axis."""
    scaled = (points - np.asarray(center, points.dtype)) / np.asarray(radii, points.dtype)
    return np.exp(-0.5 * (scaled[..., 0] ** 2 + scaled[..., 1] ** 2 + scaled[..., 2] ** 2))


def length(vectors: Array) -> Array:
    """Euclidean norm of the last axis of size 3."""
    return np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2 + vectors[..., 2] ** 2)


def ellipsoid(points: Array, center: Vector, radii: Vector) -> Array:
    """Approximate signed distance of an axis-aligned ellipsoid; exact to first order at the surface."""
    offset, radii = points - np.asarray(center), np.asarray(radii)
    inner, outer = length(offset / radii), length(offset / radii**2)
    return inner * (inner - 1.0) / np.maximum(outer, 1e-6)


def capsule(points: Array, start: Vector, end: Vector, start_radius: float, end_radius: float) -> Array:
    """Signed distance of a capsule whose radius goes linearly from one end to the other."""
    start, axis = np.asarray(start), np.asarray(end) - np.asarray(start)
    offset = points - start
    along = sum(offset[..., i] * axis[i] for i in range(3)) / float((axis**2).sum())
    along = np.clip(along, 0.0, 1.0)
    return length(offset - along[..., None] * axis) - (start_radius + (end_radius - start_radius) * along)


def segment(points: Array, start: Vector, end: Vector) -> Array:
    """Distance to a line segment."""
    return capsule(points, start, end, 0.0, 0.0)


def union(a: Array, b: Array, blend: float) -> Array:
    """Smooth union of two signed distances; `blend` is the width of the fillet."""
    overlap = np.maximum(blend - np.abs(a - b), 0.0) / blend
    return np.minimum(a, b) - overlap * overlap * blend * 0.25


def carve(a: Array, b: Array, blend: float) -> Array:
    """`a` with `b` smoothly cut away."""
    return -union(-a, b, blend)


def curve(x: Array, knots: Array, values: Array) -> Array:
    """Smooth curve through `values [k, ...]` at ascending `knots [k]`: cubic, and flat where the values turn.

    The same as `scipy.interpolate.pchip_interpolate` to the eye; importing that costs every worker most of a second.

    Returns:
        `[*x.shape, ...]`.
    """
    steps = np.diff(values, axis=0) / np.diff(knots).reshape(-1, *[1] * (values.ndim - 1))
    before, after = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
    total = np.abs(before + after)
    slopes = np.where(before * after > 0, 2.0 * before * after / np.where(total > 0, before + after, 1.0), 0.0)
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    shape = (*x.shape, *[1] * (values.ndim - 1))
    width = (knots[i + 1] - knots[i]).reshape(shape)
    t = np.clip((x - knots[i]).reshape(shape) / width, 0.0, 1.0)
    rise = values[i + 1] - values[i]
    first, last = width * slopes[i], width * slopes[i + 1]
    return values[i] + t * (first + t * (3.0 * rise - 2.0 * first - last + t * (first + last - 2.0 * rise)))


def resample(values: Array, position: Array, axis: int) -> Array:
    """Linear interpolation along one axis at fractional indices `position [n]`."""
    low = np.clip(np.floor(position).astype(int), 0, values.shape[axis] - 2)
    share = (position - low).reshape(-1, *[1] * (values.ndim - 1 - axis))
    return np.take(values, low, axis) * (1.0 - share) + np.take(values, low + 1, axis) * share


def waves(points: Array, rng: np.random.Generator, count: int, frequency: float) -> Array:
    """Smooth band-limited noise of zero mean and unit variance: a sum of `count` random plane waves.

    Args:
        points: `[..., 3]`.
        rng: draws the waves, `5 * count` numbers whatever the points are.
        count: number of waves.
        frequency: typical angular frequency, radians per unit of the points.
    """
    vectors = rng.normal(0.0, frequency, (count, 3)).astype(points.dtype)
    phases = rng.uniform(0.0, 2.0 * np.pi, count).astype(points.dtype)
    weights = rng.normal(0.0, 1.0, count).astype(points.dtype)
    weights *= np.sqrt(2.0 / np.maximum((weights**2).sum(), 1e-6))
    total = np.zeros(points.shape[:-1], points.dtype)
    for vector, phase, weight in zip(vectors, phases, weights, strict=True):
        along = points[..., 0] * vector[0] + points[..., 1] * vector[1] + points[..., 2] * vector[2]
        total += weight * np.sin(along + phase)
    return total
