"""What samples ask of the store: which members, in how many requests, of how many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import DataConfig
from data.plan.holding import Holding, Layout
from data.sampling import Sample, Sampler
from data.store import Cost, Range, coalesce


@dataclass(frozen=True)
class Asked:
    """What one sample asks.

    Attributes:
        sample: which.
        views: images it reads.
        needed: bytes of their members.
        asked: bytes of the requests; more where a gap is cheaper read through than skipped.
        shards: number of the dataset and path of the shard that each request goes to.
    """

    sample: Sample
    views: int
    needed: int
    asked: int
    shards: tuple[tuple[int, str], ...]


class Demand:
    """Computes what any sample of a run asks, exactly as the stream asks it.

    Args:
        holdings: of `data.train`, then of each dataset of `data.mixture`.
        config: the section `data`.
        seed: the run's.
        cost: of the store's requests and bytes; decides which gaps are read through.

    Raises:
        UserError: as `Sampler`.
    """

    def __init__(self, holdings: Sequence[Holding], config: DataConfig, seed: int, cost: Cost) -> None:
        self.holdings, self.cost = list(holdings), cost
        known = [holding.captures for holding in holdings if holding.captures is not None]
        self.sampler = Sampler(
            [(holding.layout, holding.fingerprint) for holding in holdings],
            config,
            seed,
            known if len(known) == len(self.holdings) else None,
        )

    def of(self, batch_start: int, first: int, count: int) -> list[Asked]:
        """What samples `first`.. of the global batch that begins at `batch_start` ask."""
        return [self._asked(sample) for sample in self.sampler.samples(batch_start, first, count)]

    def layout_of(self, sample: Sample) -> Layout:
        """Of the dataset that a sample comes from."""
        return self.holdings[sample.dataset].layout

    def _asked(self, sample: Sample) -> Asked:
        layout = self.layout_of(sample)
        wanted: dict[int, set[int]] = {}
        for row, views in ((sample.source_row, sample.source), (sample.target_row, sample.target)):
            wanted.setdefault(row, set()).update(views)
        ranges: list[Range] = []
        for row, views in wanted.items():
            cameras = layout.rig(row).cameras
            ranges += layout.image_ranges(row, sorted(views), cameras)
            ranges += [mask for mask in layout.mask_ranges(row, sorted(views), cameras) if mask is not None]
        spans = coalesce(ranges, self.cost)
        return Asked(
            sample,
            views=sum(len(views) for views in wanted.values()),
            needed=sum(item.length for item in ranges),
            asked=sum(span.stop - span.start for span in spans),
            shards=tuple((sample.dataset, span.path) for span in spans),
        )
