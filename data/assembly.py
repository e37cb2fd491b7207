"""One batch while it is being made: room for its pixels, and the samples that are decoded into it, in any order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import torch

from data.cache import PixelCache
from data.dataset import Dataset, Members, decode_view, empty_pixels, pack_views
from data.sampling import Sample
from data.store import Buffer, Range
from data.views import PackedBatch


class Assembly:
    """A batch that is whole when every sample has been decoded into it.

    Args:
        datasets: that the samples come from.
        samples: as drawn; any of them may be replaced before it is decoded.
        image_size: (height, width).
        consumed: samples consumed once the batch is done.
        done: gets the batch, or the first error.
        pin: put the batch into page-locked memory.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        samples: Sequence[Sample],
        image_size: tuple[int, int],
        consumed: int,
        done: Future[PackedBatch],
        pin: bool = False,
    ) -> None:
        self.datasets, self.image_size, self.done, self._pin = datasets, image_size, done, pin
        self._samples, self._consumed = list(samples), consumed
        self._sources = len(samples[0].source)
        views = self._sources + len(samples[0].target)
        self.images, self.masks = empty_pixels((len(samples), views), image_size)
        self._left = len(samples)
        self._lock = threading.Lock()

    def finish(self, place: int, sample: Sample) -> None:
        """The sample at `place` is decoded; the last one makes the batch."""
        with self._lock:
            self._samples[place] = sample
            self._left -= 1
            last = self._left == 0
        if last and not self.done.done():
            self.done.set_result(self._batch())

    def _batch(self) -> PackedBatch:
        parts = [self._calibration(sample) for sample in self._samples]
        calibration = np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
        views = pack_views(self.images, self.masks, calibration, self.image_size)
        names = tuple(self.datasets[s.dataset].index.text("name", s.target_row) for s in self._samples)
        faces = torch.from_numpy(np.stack([self._faces(sample) for sample in self._samples]))
        batch = PackedBatch(views, self._sources, faces, names, self._consumed)
        return batch.pin_memory() if self._pin else batch

    def _calibration(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        dataset = self.datasets[sample.dataset]
        source = dataset.calibration(sample.source_row, self.image_size)
        target = source
        if sample.target_row != sample.source_row:
            target = dataset.calibration(sample.target_row, self.image_size)
        both = zip(source, target, strict=True)
        matrices, K = (np.concatenate([s[list(sample.source)], t[list(sample.target)]]) for s, t in both)
        return matrices, K

    def _faces(self, sample: Sample) -> np.ndarray:
        """Coefficients `[2, 52]` of a sample's source and of its target."""
        dataset = self.datasets[sample.dataset]
        target = dataset.coefficients(sample.target_row)
        same = sample.source_row == sample.target_row
        return np.stack([target if same else dataset.coefficients(sample.source_row), target])


class Task:
    """One sample of an assembly, or what stands in for it.

    Attributes:
        sample: what to read; `original` what was drawn, `attempt` how many stand-ins it took.
        ranges: members to fetch, after `plan`.
        asked: when it was asked for, by `time.perf_counter`.
    """

    def __init__(
        self, assembly: Assembly, place: int, sample: Sample, original: Sample | None = None, attempt: int = 0
    ) -> None:
        self.assembly, self.place, self.sample = assembly, place, sample
        self.original, self.attempt = original or sample, attempt
        self.ranges: list[Range] = []
        self.asked = 0.0
        self._views = [(sample.source_row, view) for view in sample.source]
        self._views += [(sample.target_row, view) for view in sample.target]
        self._missing: list[tuple[int, int]] = []
        self._members: list[Members] = []

    def plan(self, cache: PixelCache) -> list[Range]:
        """What has to be fetched: every view once, but for those that are in the cache."""
        dataset = self.assembly.datasets[self.sample.dataset]
        self._missing = [each for each in dict.fromkeys(self._views) if cache.get(self._key(*each)) is None]
        self._members = []
        for row in dict.fromkeys(row for row, _ in self._missing):
            self._members += dataset.members(row, [view for its, view in self._missing if its == row])
        self.ranges = [part for members in self._members for part in members.ranges]
        return self.ranges

    def decode(self, fetched: Sequence[Buffer], cache: PixelCache) -> None:
        """Fill the sample's place in the batch.

        Raises:
            BadMember: what does not decode.
        """
        images, masks = self.assembly.images[self.place], self.assembly.masks[self.place]
        data = iter(fetched)
        done: dict[tuple[int, int], int] = {}
        for each, members in zip(self._missing, self._members, strict=True):
            slot = done[each] = self._views.index(each)
            image, mask = next(data), None if members.mask is None else next(data)
            decode_view(image, mask, images[slot], masks[slot], members.size, members.image.where)
            cache.put(self._key(*each), images[slot], masks[slot])
        for slot, each in enumerate(self._views):
            if each not in done:
                pair = cache.get(self._key(*each))
                assert pair is not None, "the cache never drops what it has"
                images[slot], masks[slot] = pair
            elif done[each] != slot:
                images[slot], masks[slot] = images[done[each]], masks[done[each]]
        self.assembly.finish(self.place, self.sample)

    def _key(self, row: int, view: int) -> tuple[int, int, int]:
        return self.sample.dataset, row, view
