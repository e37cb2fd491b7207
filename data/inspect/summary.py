"""What a dataset holds, in numbers: people, frames, views, sizes, formats, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.dataset import Dataset
from data.index import Rig
from data.manifest import DatasetInfo

MOST = 2000
"""Captures whose members are looked at one by one; of a larger dataset so many, spread over it."""


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers.

    Attributes:
        info: the manifest's.
        frames: captures per subject, how many subjects have so many.
        views: views per capture, how many captures have so many.
        rigs: how many different rigs there are.
        rig: the most common one (the first of equals), and of how many captures it is.
        looked_at: captures behind the following; all, or `MOST` of them.
        sizes: (height, width) of images, how many views have it.
        formats: suffix of images, how many views have it.
        image_bytes, mask_bytes: of one image, one mask, on average.
        masked: share of views with a mask.
        expressions: share of captures with expression coefficients.
    """

    info: DatasetInfo
    frames: Counter[int]
    views: Counter[int]
    rigs: int
    rig: tuple[Rig, int]
    looked_at: int
    sizes: Counter[tuple[int, int]]
    formats: Counter[str]
    image_bytes: float
    mask_bytes: float
    masked: float
    expressions: float

    def lines(self) -> Iterator[str]:
        """As a table for people."""
        info, share = self.info, 100 * self.rig[1] / max(1, self.info.captures)
        rows: dict[str, object] = {
            "url": info.url,
            "fingerprint": info.fingerprint,
            "licence": info.licence,
            "provenance": ", ".join(f"{key} {value}" for key, value in info.provenance.items()) or "unknown",
            "subjects": f"{info.subjects:,}",
            "captures": f"{info.captures:,}",
            "frames per subject": _counts(self.frames, "subjects"),
            "views": f"{info.views:,}",
            "views per capture": _counts(self.views, "captures"),
            "rigs": f"{self.rigs:,}, the most common one in {share:.0f} % of the captures",
            "shards": f"{info.shards:,}",
            "bytes": f"{size(info.bytes)}, {size(info.bytes / max(1, info.captures))} per capture",
            "images": f"{_shares(self.formats)}; {size(self.image_bytes)} each",
            "image sizes": _shares(Counter({f"{w} x {h}": n for (h, w), n in self.sizes.items()}))
            + " (width x height)",
            "masks": f"{100 * self.masked:.0f} % of the views"
            + (f"; {size(self.mask_bytes)} each" if self.masked else ""),
            "expressions": f"{100 * self.expressions:.0f} % of the captures",
        }
        width = max(map(len, rows))
        for name, value in rows.items():
            yield f"{name:<{width}}  {value}"
        if self.looked_at < info.captures:
            yield f"(images, sizes, masks and expressions: of {self.looked_at:,} captures spread over the dataset)"


def summarise(dataset: Dataset) -> Summary:
    """Reads the index only, no shard."""
    index = dataset.index
    looked_at = np.unique(np.linspace(0, len(index) - 1, min(len(index), MOST)).round().astype(int)).tolist()
    sizes: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    image_bytes, mask_bytes, expressive = [], [], 0
    for row in looked_at:
        rig = index.rig(row)
        every = list(range(len(rig.cameras)))
        images = index.image_ranges(row, every, rig.cameras)
        masks = [mask for mask in index.mask_ranges(row, every, rig.cameras) if mask is not None]
        sizes.update(rig.sizes)
        formats.update(image.member.rsplit(".", 1)[-1] for image in images)
        image_bytes += [image.length for image in images]
        mask_bytes += [mask.length for mask in masks]
        expressive += bool(index.expression(row))
    numbers, counts = np.unique(index.rig_numbers, return_counts=True)
    common = int(np.argmax(counts))
    row = int(np.argmax(index.rig_numbers == numbers[common]))
    return Summary(
        info=dataset.info,
        frames=Counter(np.bincount(index.subject_numbers).tolist()),
        views=Counter(index.view_counts().tolist()),
        rigs=len(numbers),
        rig=(index.rig(row), int(counts[common])),
        looked_at=len(looked_at),
        sizes=sizes,
        formats=formats,
        image_bytes=float(np.mean(image_bytes)),
        mask_bytes=float(np.mean(mask_bytes)) if mask_bytes else 0.0,
        masked=len(mask_bytes) / len(image_bytes),
        expressions=expressive / len(looked_at),
    )


def size(count: float) -> str:
    """Bytes for people: `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _counts(counter: Counter[int], of: str) -> str:
    """`16 in all` or `3 to 16: 16 (120 captures), 15 (2), ...`."""
    if len(counter) == 1:
        return f"{next(iter(counter))} in all"
    listed = ", ".join(f"{value} ({times:,})" for value, times in counter.most_common(5))
    more = ", ..." if len(counter) > 5 else ""
    return f"{min(counter)} to {max(counter)}; {listed}{more} {of}"


def _shares(counter: Counter[str]) -> str:
    total = sum(counter.values())
    listed = [f"{100 * times / total:.0f} % {value}" for value, times in counter.most_common(4)]
    return ", ".join(listed) + (f" and {len(counter) - 4} more" if len(counter) > 4 else "")
