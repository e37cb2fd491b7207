"""Which views of which captures make a batch: pure functions of the seed and the position in the sequence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.schema import DataConfig
from data.capture import camera_centers
from data.index import Rig
from data.mixture import Mixture
from data.order import Captures, SampleOrder, Subjects, digest
from data.viewpoints import Viewpoints, cameras_needed, draw_views

_RIGS_KEPT = 512  # geometries of rigs in memory; a rig of 80 cameras takes 100 kB
_BLOCK = 1 << 20  # captures looked at in one go


@dataclass(frozen=True)
class Sample:
    """One member of a batch.

    Attributes:
        position: its place in the global sequence.
        dataset: number in the mixture; 0 is `data.train`.
        source_row: row of that dataset's index whose views the network sees.
        source: numbers of these views.
        target_row: row whose views supervise; another frame of the same subject, or `source_row`.
        target: numbers of these views.
    """

    position: int
    dataset: int
    source_row: int
    source: tuple[int, ...]
    target_row: int
    target: tuple[int, ...]


class Catalogue(Subjects, Protocol):
    """What sampling asks of an index (`data.index.Index`)."""

    where: str

    @property
    def rig_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number of its rig."""
        ...

    def rig(self, row: int) -> Rig:
        """The cameras of a row."""
        ...

    def view_counts(self) -> NDArray[np.int32]:
        """How many cameras saw each capture."""
        ...

    def siblings(self, row: int) -> NDArray[np.int64]:
        """Rows of all captures of the subject of a row."""
        ...

    def text(self, column: str, row: int) -> str:
        """`name`, `subject` or `frame` of a row."""
        ...


class Sampler:
    """Computes any sample of the run from its position. Safe to share between threads, to fork and to pickle.

    Args:
        parts: index and fingerprint of `data.train`, then of each dataset of `data.mixture`.
        config: how captures and views are drawn.
        seed: the run's.
        captures: what to draw from in each part, where that is known without looking.

    Attributes:
        fingerprint: names the data, their subsets and shares; that of the dataset where one is taken whole.
        mixture: whose turn each position is.
        orders: of the samples of each dataset.

    Raises:
        UserError: a capture with too few cameras or without a camera that is asked for, or more subjects asked for
            than there are.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Catalogue, str]],
        config: DataConfig,
        seed: int,
        captures: Sequence[Captures] | None = None,
    ) -> None:
        subjects = [config.subjects, *(other.subjects for other in config.mixture)]
        weights = [config.train_weight, *(other.weight for other in config.mixture)]
        self._config, self._seed = config, seed
        self._indexes, marks = [index for index, _ in parts], [mark for _, mark in parts]
        named = list(zip(marks, subjects, weights, strict=True))
        _check_twins(named, self._indexes)
        whole = len(parts) == 1 and config.subjects is None and config.frames == "all"
        described = repr((named, config.frames)).encode()
        self.fingerprint = marks[0] if whole else hashlib.sha256(described).hexdigest()
        self.mixture = Mixture(weights, seed)
        if captures is None:
            keys = ["data.subjects", *(f"data.mixture.{number}.subjects" for number in range(len(config.mixture)))]
            captures = [Captures.of(*part) for part in zip(self._indexes, subjects, keys, strict=True)]
        for index, chosen in zip(self._indexes, captures, strict=True):
            _check_cameras(index, chosen, config)
        self.orders = [SampleOrder(*part, seed, config.frames) for part in zip(captures, marks, strict=True)]
        self._rigs: dict[tuple[int, int], Viewpoints] = {}

    def source_views(self, batch_start: int) -> int:
        """How many source views the global batch that starts at this position has, on every rank."""
        fewest, most = self._config.source_views
        return fewest + digest("source views", self._seed, batch_start) % (most - fewest + 1)

    def samples(self, batch_start: int, first: int, count: int) -> list[Sample]:
        """Samples `first`.. of the sequence, `count` of them, in the global batch that starts at `batch_start`."""
        sources = self.source_views(batch_start)
        datasets, places = self.mixture.at(np.arange(first, first + count))
        rows = np.empty(count, np.int64)
        for dataset in np.unique(datasets):
            its = datasets == dataset
            rows[its] = self.orders[dataset].at(places[its])
        drawn = zip(datasets.tolist(), rows.tolist(), strict=True)
        return [
            self._sample(first + number, dataset, row, sources, first + number)
            for number, (dataset, row) in enumerate(drawn)
        ]

    def replacement(self, sample: Sample, attempt: int, sources: int) -> Sample:
        """What stands in for a sample of which a member cannot be read; the same on every rank and in every run.

        Args:
            sample: as `samples` gave it.
            attempt: 1, 2, ...; each is another capture, those that come behind the sample's own in its dataset's
                epoch, until all have been tried.
            sources: how many source views the batch has.
        """
        datasets, places = self.mixture.at(np.array([sample.position]))
        order = self.orders[int(datasets[0])]
        row = order.at(np.array([order.after(int(places[0]), attempt)]))[0]
        return self._sample(sample.position, int(datasets[0]), int(row), sources, sample.position, attempt)

    def _sample(self, position: int, dataset: int, row: int, sources: int, *key: int) -> Sample:
        config = self._config
        target_row = self._target_row(dataset, row, *key) if config.other_frame else row
        rig = self._rig(dataset, row)
        source, target = draw_views(
            rig,
            sources,
            config.target_views,
            method=config.source_sampling,
            target_method=config.target_sampling,
            exclude=config.nearest_excluded,
            target_rig=rig if target_row == row else self._rig(dataset, target_row),
            key=digest("views", self._seed, *key),
        )
        return Sample(position, dataset, row, source, target_row, target)

    def _target_row(self, dataset: int, row: int, *key: int) -> int:
        """Another frame of the subject where the draw says so and there is one."""
        index = self._indexes[dataset]
        draw = digest("target frame", self._seed, *key)
        rows = index.siblings(row)
        if len(rows) < 2 or (draw >> 32) >= self._config.other_frame * 2**32:
            return row
        others = rows[rows != row]
        return int(others[(draw & 0xFFFFFFFF) % len(others)])

    def _rig(self, dataset: int, row: int) -> Viewpoints:
        index, config = self._indexes[dataset], self._config
        number = dataset, int(index.rig_numbers[row])
        found = self._rigs.get(number)
        if found is None:
            rig = index.rig(row)
            fixed = (rig.views(names, index.where) for names in (config.source_cameras, config.target_cameras))
            found = Viewpoints(camera_centers(rig.world_to_camera), *fixed)
            if len(self._rigs) >= _RIGS_KEPT:
                self._rigs = {}
            self._rigs[number] = found
        return found


def _check_twins(named: Sequence[tuple[str, int | None, float]], indexes: Sequence[Catalogue]) -> None:
    seen: dict[tuple[str, int | None], str] = {}
    for (mark, subjects, _), index in zip(named, indexes, strict=True):
        if (mark, subjects) in seen:
            what = f"{index.where} holds the same captures as {seen[mark, subjects]}"
            raise UserError(what, where="data.mixture", hint="list it once and raise its weight instead")
        seen[mark, subjects] = index.where


def _check_cameras(index: Catalogue, captures: Captures, config: DataConfig) -> None:
    """Every capture has the cameras that any draw may ask for, or is named."""
    samples = _one_row_of_each_rig(index, captures)
    for key in ("source_cameras", "target_cameras"):
        if names := getattr(config, key):
            for row in samples.tolist():
                index.rig(row).views(names, f"data.{key}: {index.where}, capture {index.text('name', row)}")
    if config.source_sampling == config.target_sampling == "fixed":
        return
    most, targets = config.source_views[1], config.target_views
    needed = cameras_needed(most, targets, config.target_sampling, config.nearest_excluded, len(config.target_cameras))
    counts = index.view_counts()[samples]
    if counts.min() < needed:
        short = int(samples[np.argmin(counts)])
        where = f"data.source_views: {index.where}, capture {index.text('name', short)}"
        excluded = f", {config.nearest_excluded} nearest to each source left out"
        what = f"{most} source, {targets} target{excluded if config.target_sampling == 'nearest_excluded' else ''}"
        hint = "lower data.source_views or data.target_views, or set data.target_sampling=any"
        raise UserError(f"needs {needed} cameras ({what}), it has {counts.min()}", where=where, hint=hint)


def _one_row_of_each_rig(index: Catalogue, captures: Captures) -> NDArray[np.int64]:
    numbers = index.rig_numbers
    if not numbers.any():
        return captures.rows(np.zeros(1, np.int64))
    row_of = np.full(int(numbers.max()) + 1, -1, np.int64)
    for start in range(0, len(captures), _BLOCK):
        rows = captures.rows(np.arange(start, min(start + _BLOCK, len(captures))))
        row_of[numbers[rows]] = rows
    return row_of[row_of >= 0]
