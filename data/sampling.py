"""Which views of which captures make a batch: pure functions of the seed and the position in the sequence."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.schema import DataConfig
from data.capture import camera_centers
from data.index import Index
from data.order import SampleOrder, digest, words


@dataclass(frozen=True)
class Sample:
    """One capture of a batch: its row of the index and the numbers of its source and target views."""

    row: int
    source: tuple[int, ...]
    target: tuple[int, ...]


class Sampler:
    """Computes any sample of the run from its position.

    Args:
        index: the dataset.
        fingerprint: of the dataset.
        config: how views are drawn.
        seed: the run's.

    Raises:
        UserError: a capture with too few cameras, or more subjects asked for than there are.
    """

    def __init__(self, index: Index, fingerprint: str, config: DataConfig, seed: int) -> None:
        self.order = SampleOrder(index, fingerprint, seed, config.subjects)
        self._index, self._config, self._seed = index, config, seed
        _check_cameras(index, self.order.rows, config)

    def source_views(self, batch_start: int) -> int:
        """How many source views the global batch that starts at this position has, on every rank."""
        fewest, most = self._config.source_views
        return fewest + digest("source views", self._seed, batch_start) % (most - fewest + 1)

    def samples(self, batch_start: int, first: int, count: int) -> list[Sample]:
        """Samples `first`.. of the sequence, `count` of them, in the global batch that starts at `batch_start`."""
        sources = self.source_views(batch_start)
        rows = self.order.at(np.arange(first, first + count))
        return [self._sample(int(row), first + number, sources) for number, row in enumerate(rows)]

    def _sample(self, row: int, position: int, sources: int) -> Sample:
        config = self._config
        source, target = draw_views(
            camera_centers(self._index.rig(row).world_to_camera),
            sources,
            config.target_views,
            method=config.view_sampling,
            target_sources=config.target_sources,
            key=digest("views", self._seed, position),
        )
        return Sample(row, source, target)


def draw_views(
    centers: NDArray[np.float64], sources: int, targets: int, *, method: str, target_sources: bool = False, key: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw source and target views of one capture.

    Args:
        centers: camera centres `[v, 3]` in metres; the head is at the origin, +y is up.
        sources: how many views the network sees.
        targets: how many views supervise it.
        method: `uniform`, or `spread`: the rig's azimuths are cut into as many sectors of equally many cameras as
            there are sources and one camera is drawn from each. Ordered so that the first n are far apart for any n.
        target_sources: targets are drawn from all views; else only from those that are no sources.
        key: decides every choice.

    Returns:
        numbers of the source and of the target views.

    Raises:
        UserError: not enough views.
    """
    count = len(centers)
    needed = max(sources, targets) if target_sources else sources + targets
    if needed > count:
        raise UserError(f"needs {needed} cameras ({sources} source, {targets} target), there are {count}")
    # The first words order the sources, the next the targets.
    draws = words(key, 2 * count + 1)
    if method == "spread":
        source = _spread(centers, sources, draws[:count], int(draws[-1]))
    else:
        source = [int(view) for view in np.argsort(draws[:count], kind="stable")[:sources]]
    shuffled = np.argsort(draws[count:-1], kind="stable")
    allowed = [int(view) for view in shuffled if target_sources or view not in source]
    return tuple(source), tuple(allowed[:targets])


def _spread(centers: NDArray[np.float64], sources: int, draws: NDArray[np.uint64], first: int) -> list[int]:
    """One camera of each sector, then farthest first from an arbitrary one."""
    ring = _around(centers)
    bounds = [len(ring) * sector // sources for sector in range(sources + 1)]
    sectors = [ring[start:stop] for start, stop in itertools.pairwise(bounds)]
    picked = [int(sector[np.argmin(draws[sector])]) for sector in sectors]
    directions = centers[picked] / np.maximum(np.linalg.norm(centers[picked], axis=1, keepdims=True), 1e-12)
    # Rounded, so that ties of symmetric rigs fall the same way on every machine.
    near = np.round(directions @ directions.T, 6)
    order = [first % sources]
    while len(order) < sources:
        closest = near[:, order].max(axis=1)
        closest[order] = np.inf
        order.append(int(np.argmin(closest)))
    return [picked[place] for place in order]


def _around(centers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cameras by azimuth around +y, beginning behind the widest gap so that no sector spans it."""
    azimuth = np.round(np.arctan2(centers[:, 0], centers[:, 2]), 6)
    ring = np.argsort(azimuth, kind="stable")
    gaps = np.diff(azimuth[ring], append=azimuth[ring[0]] + 2 * np.pi)
    return np.roll(ring, -(int(np.argmax(np.round(gaps, 6))) + 1))


def _check_cameras(index: Index, rows: NDArray[np.int64], config: DataConfig) -> None:
    most, targets = config.source_views[1], config.target_views
    needed = max(most, targets) if config.target_sources else most + targets
    counts = index.view_counts()[rows]
    if counts.min() < needed:
        short = int(rows[np.argmin(counts)])
        where = f"data.source_views: {index.where}, capture {index.text('name', short)}"
        hint = "lower data.source_views or data.target_views, or set data.target_sources"
        raise UserError(
            f"needs {needed} cameras ({most} source, {targets} target), it has {counts.min()}", where=where, hint=hint
        )
