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


def smoothstep(low: float, high: float, x: Array) -> Array:
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
        total += weight * np.sin(points[..., 0] * vector[0] + points[..., 1] * vector[1] + points[..., 2] * vector[2] + phase)
    return total
