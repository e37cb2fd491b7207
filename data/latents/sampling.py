"""Which latents make a batch: the same arithmetic as for captures, without views."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from configs.errors import UserError
from configs.schema import DataConfig
from data.latents.dataset import LatentSet
from data.mixture import Mixture
from data.order import Captures, SampleOrder


class LatentSample(NamedTuple):
    """One member of a batch: its place in the global sequence, its set, its row and that of the neutral capture."""

    position: int
    dataset: int
    row: int
    neutral: int


class LatentSampler:
    """Computes any sample of the run from its position.

    Args:
        sets: of `data.train`, then of `data.mixture`.
        config: `subjects`, `frames`, weights and mixture say what is drawn.
        seed: the run's.

    Attributes:
        fingerprint: names the latents, their subsets and shares; that of the set where one is taken whole.
        mixture, orders: as in `data.sampling.Sampler`.

    Raises:
        UserError: sets that do not go together, or more subjects asked for than there are.
    """

    def __init__(self, sets: Sequence[LatentSet], config: DataConfig, seed: int) -> None:
        _check_alike(sets)
        subjects = [config.subjects, *(other.subjects for other in config.mixture)]
        weights = [config.train_weight, *(other.weight for other in config.mixture)]
        marks = [one.fingerprint for one in sets]
        whole = len(sets) == 1 and config.subjects is None and config.frames == "all"
        described = repr((list(zip(marks, subjects, weights, strict=True)), config.frames)).encode()
        self.fingerprint = marks[0] if whole else hashlib.sha256(described).hexdigest()
        self.mixture = Mixture(weights, seed)
        self._indexes = [one.index for one in sets]
        keys = ["data.subjects", *(f"data.mixture.{number}.subjects" for number in range(len(config.mixture)))]
        captures = [Captures.of(*part) for part in zip(self._indexes, subjects, keys, strict=True)]
        self.orders = [SampleOrder(*part, seed, config.frames) for part in zip(captures, marks, strict=True)]

    def samples(self, first: int, count: int) -> list[LatentSample]:
        """Samples `first`.. of the sequence, `count` of them."""
        datasets, places = self.mixture.at(np.arange(first, first + count))
        rows = [int(self.orders[d].at(places[n : n + 1])[0]) for n, d in enumerate(datasets.tolist())]
        return [self._sample(first + n, int(d), row) for n, (d, row) in enumerate(zip(datasets, rows, strict=True))]

    def replacement(self, sample: LatentSample, attempt: int) -> LatentSample:
        """What stands in for a sample that cannot be read: those behind it in its epoch, on every rank the same."""
        _, places = self.mixture.at(np.array([sample.position]))
        order = self.orders[sample.dataset]
        row = order.at(np.array([order.after(int(places[0]), attempt)]))[0]
        return self._sample(sample.position, sample.dataset, int(row))

    def _sample(self, position: int, dataset: int, row: int) -> LatentSample:
        return LatentSample(position, dataset, row, int(self._indexes[dataset].neutral_rows[row]))


def _check_alike(sets: Sequence[LatentSet]) -> None:
    """All were made by the same weights, so that one decoder and one whitening serve them all."""
    first = sets[0].info
    seen = {first.fingerprint}
    for other in (one.info for one in sets[1:]):
        for kind in ("shape", "coefficients"):
            if getattr(other, kind) != getattr(first, kind):
                raise UserError(f"its {kind} is not that of {first.url}", where=f"data.mixture: {other.url}")
        if other.base.weights != first.base.weights:
            what = f"its latents were made by other weights than those of {first.url}"
            raise UserError(what, where=f"data.mixture: {other.url}", hint="make all of them with one checkpoint")
        if other.fingerprint in seen:
            hint = "list it once and raise its weight instead"
            raise UserError("holds the same latents as another set", where=f"data.mixture: {other.url}", hint=hint)
        seen.add(other.fingerprint)
