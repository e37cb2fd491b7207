"""Which cameras of a rig a sample looks through: one small function for each way to draw them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.order import Integers, Words, words

Floats = NDArray[np.float64]


class Viewpoints:
    """What drawing views asks of a rig, computed once.

    Angles are between directions from the head's centre, the origin. Their cosines are rounded to six decimals, and
    ties fall to the camera listed first, so that symmetric rigs give the same views on every machine.

    Args:
        centers: camera centres `[v, 3]` in metres; +y is up.
        fixed_sources: numbers of the cameras that are sources wherever sources are fixed, in order.
        fixed_targets: the same of targets. No others' sources are drawn from them.
    """

    def __init__(self, centers: Floats, fixed_sources: Sequence[int] = (), fixed_targets: Sequence[int] = ()) -> None:
        self.centers, self.count = centers, len(centers)
        self.fixed_sources, self.fixed_targets = list(fixed_sources), list(fixed_targets)
        self.pool = np.array([view for view in range(self.count) if view not in self.fixed_targets], np.int64)
        self._sectors: dict[int, list[list[int]]] = {}

    @cached_property
    def directions(self) -> Floats:
        """Unit vectors `[v, 3]` from the head to the cameras."""
        return self.centers / np.maximum(np.linalg.norm(self.centers, axis=1, keepdims=True), 1e-12)

    @cached_property
    def near(self) -> Floats:
        """Cosines `[v, v]` of the angles between cameras."""
        return cosines(self.directions, self.directions)

    @cached_property
    def neighbours(self) -> Integers:
        """Of each camera all others, nearest first, `[v, v - 1]`."""
        near = self.near.copy()
        np.fill_diagonal(near, np.inf)
        return np.argsort(-near, axis=1, kind="stable")[:, 1:]

    def sectors(self, count: int) -> list[list[int]]:
        """The pool by azimuth around +y, cut into parts of equally many cameras; none spans the rig's widest gap."""
        if count not in self._sectors:
            ring = _around(self.centers[self.pool])
            bounds = [len(ring) * sector // count for sector in range(count + 1)]
            self._sectors[count] = [self.pool[ring[a:b]].tolist() for a, b in itertools.pairwise(bounds)]
        return self._sectors[count]


def cosines(one: Floats, two: Floats) -> Floats:
    """Rounded cosines `[a, b]` between unit vectors `[a, 3]` and `[b, 3]`; no BLAS, whose last bits differ."""
    return np.round(sum(one[:, None, axis] * two[None, :, axis] for axis in range(3)), 6)


# --- sources: of a rig, how many, one draw for each camera and one more; in order, all different


def _uniform(rig: Viewpoints, count: int, draws: Words, _: int) -> list[int]:
    return rig.pool[np.argsort(draws[rig.pool], kind="stable")[:count]].tolist()


def _spread(rig: Viewpoints, count: int, draws: Words, first: int) -> list[int]:
    """One camera of each sector, then farthest first from an arbitrary one."""
    drawn = draws.tolist()
    picked = [min(sector, key=drawn.__getitem__) for sector in rig.sectors(count)]
    return [picked[place] for place in _farthest_first(rig.near[np.ix_(picked, picked)], first % count, count)]


def _farthest(rig: Viewpoints, count: int, _: Words, first: int) -> list[int]:
    """An arbitrary camera, then always the one farthest from all so far."""
    near = rig.near if len(rig.pool) == rig.count else rig.near[np.ix_(rig.pool, rig.pool)]
    return [int(rig.pool[place]) for place in _farthest_first(near, first % len(rig.pool), count)]


def _fixed(rig: Viewpoints, count: int, _: Words, __: int) -> list[int]:
    return rig.fixed_sources[:count]


SOURCES: dict[str, Callable[[Viewpoints, int, Words, int], list[int]]] = {
    "uniform": _uniform,
    "spread": _spread,
    "farthest": _farthest,
    "fixed": _fixed,
}


def _farthest_first(near: Floats, first: int, count: int) -> list[int]:
    """Places in `near`, beginning with `first`, each the farthest from its nearest predecessor."""
    order, closest = [first], near[first].copy()
    closest[first] = np.inf
    while len(order) < count:
        order.append(int(closest.argmin()))
        np.maximum(closest, near[order[-1]], out=closest)
        closest[order[-1]] = np.inf
    return order


# --- targets: which cameras of the target's rig may not be drawn, given the source's rig and views


def _none(_: Viewpoints, __: Viewpoints, ___: list[int], ____: int) -> Collection[int]:
    return ()


def _seen(rig: Viewpoints, seen_by: Viewpoints, source: list[int], _: int) -> Collection[int]:
    return set(source) if rig is seen_by else _nearest(rig, seen_by, source, 0)


def _nearest(rig: Viewpoints, seen_by: Viewpoints, source: list[int], count: int) -> Collection[int]:
    """Sources and the `count` cameras nearest to each."""
    if rig is seen_by:
        return {*source, *rig.neighbours[source, :count].ravel().tolist()}
    near = cosines(seen_by.directions[source], rig.directions)
    return set(np.argsort(-near, axis=1, kind="stable")[:, : count + 1].ravel().tolist())


EXCLUDED: dict[str, Callable[[Viewpoints, Viewpoints, list[int], int], Collection[int]]] = {
    "any": _none,
    "unseen": _seen,
    "nearest_excluded": _nearest,
    "fixed": _none,
}


def cameras_needed(sources: int, targets: int, method: str, exclude: int = 0, fixed_targets: int = 0) -> int:
    """How many cameras suffice for any draw."""
    return {
        "any": max(sources, targets),
        "unseen": sources + targets,
        "nearest_excluded": sources * (1 + exclude) + targets,
        "fixed": sources + fixed_targets,
    }[method]


def draw_views(
    rig: Viewpoints | Floats,
    sources: int,
    targets: int,
    *,
    method: str,
    target_method: str = "unseen",
    exclude: int = 0,
    target_rig: Viewpoints | None = None,
    key: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw source and target views of one sample.

    Args:
        rig: cameras of the source's capture, or their centres `[v, 3]` in metres around the head.
        sources: how many views the network sees.
        targets: how many views supervise it.
        method: one of `SOURCES` (`DataConfig.source_sampling` says what each does).
        target_method: one of `EXCLUDED` (`DataConfig.target_sampling`).
        exclude: cameras nearest to each source that `nearest_excluded` leaves out.
        target_rig: cameras of the target's capture where it is another; a camera counts as seen where a source's
            is nearest.
        key: decides every choice.

    Returns:
        numbers of the source views in their rig and of the target views in theirs.

    Raises:
        UserError: not enough views.
    """
    rig = rig if isinstance(rig, Viewpoints) else Viewpoints(rig)
    other = rig if target_rig is None else target_rig
    needed = (
        0
        if method == "fixed" and target_method == "fixed"
        else cameras_needed(sources, targets, target_method, exclude, len(other.fixed_targets))
    )
    if needed > min(rig.count, other.count):
        there = f"there are {min(rig.count, other.count)}"
        raise UserError(f"needs {needed} cameras ({sources} source, {targets} target), {there}")
    # The first words order the sources, the next the targets.
    draws = words(key, rig.count + other.count + 1)
    source = SOURCES[method](rig, sources, draws[: rig.count], int(draws[-1]))
    if target_method == "fixed":
        return tuple(source), tuple(other.fixed_targets[:targets])
    excluded = EXCLUDED[target_method](other, rig, source, exclude)
    shuffled = np.argsort(draws[rig.count : -1], kind="stable").tolist()
    allowed = (view for view in shuffled if view not in excluded)
    return tuple(source), tuple(itertools.islice(allowed, targets))


def _around(centers: Floats) -> Integers:
    """Cameras by azimuth around +y, beginning behind the widest gap so that no sector spans it."""
    # Rounded, and without -0: a camera exactly behind the head must not be at +180 degrees here and at -180 there.
    flat = np.round(centers, 6) + 0.0
    azimuth = np.round(np.arctan2(flat[:, 0], flat[:, 2]), 6)
    ring = np.argsort(azimuth, kind="stable")
    gaps = np.diff(azimuth[ring], append=azimuth[ring[0]] + 2 * np.pi)
    return np.roll(ring, -(int(np.argmax(np.round(gaps, 6))) + 1))
