"""A dataset of which only the numbers are known, of any size, in no memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.index import Rig
from data.order import Captures
from data.store import Range

_BLOCK = 512  # of a tar: each member has a header of one and is padded to whole ones


@dataclass(frozen=True)
class Numbers:
    """What one knows of a dataset before it exists.

    Attributes:
        captures: how many.
        frames: of each subject.
        views: of each capture.
        image_bytes, mask_bytes: of a member; no masks where 0.
        shard_bytes: about how large shards are.
    """

    captures: int
    frames: int = 1
    views: int = 16
    image_bytes: int = 50_000
    mask_bytes: int = 4_000
    shard_bytes: int = 256_000_000


class RegularIndex:
    """Stands in for an index (`data.sampling.Catalogue`): all captures alike, on one ring of cameras.

    Attributes:
        where: names it in messages.
        capture_bytes: of a capture in its shard.
        per_shard: captures of a shard.
        rig_numbers: of each row, the number of its rig: one for all.
    """

    def __init__(self, numbers: Numbers) -> None:
        self.where = "the dataset as described"
        self.numbers = numbers
        self._view_bytes = _padded(numbers.image_bytes) + (_padded(numbers.mask_bytes) if numbers.mask_bytes else 0)
        self.capture_bytes = 4 * _BLOCK + numbers.views * self._view_bytes
        self.per_shard = max(1, numbers.shard_bytes // self.capture_bytes)
        self.rig_numbers: NDArray[np.int32] = np.broadcast_to(np.int32(0), numbers.captures)
        angle = 2 * np.pi * np.arange(numbers.views) / numbers.views
        centers = np.stack([np.sin(angle), 0.2 * np.cos(3 * angle), np.cos(angle)], axis=1)
        self._rig = Rig(
            tuple(f"cam_{view:02}" for view in range(numbers.views)),
            np.stack([_translated(center) for center in centers]),
            np.broadcast_to(np.eye(3), (numbers.views, 3, 3)),
            ((512, 512),) * numbers.views,
        )

    def __len__(self) -> int:
        return self.numbers.captures

    @property
    def captures(self) -> Captures:
        """All of them, as a sampler wants to know them."""
        count, frames = self.numbers.captures, self.numbers.frames
        return Captures(np.array([0]), np.array([count]), range(0, count + frames, frames))

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self) // self.per_shard)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody's names."""
        return tuple(f"s{number}" for number in range(-(-len(self) // self.numbers.frames)))

    @property
    def subject_numbers(self) -> NDArray[np.int32]:
        """Of each row, the number of its subject."""
        return np.arange(len(self), dtype=np.int32) // self.numbers.frames

    def rig(self, row: int) -> Rig:
        """The cameras of a row."""
        return self._rig

    def view_counts(self) -> NDArray[np.int32]:
        """How many cameras saw each capture."""
        return np.broadcast_to(np.int32(self.numbers.views), len(self))

    def siblings(self, row: int) -> NDArray[np.int64]:
        """Rows of all captures of the subject of a row."""
        first = row // self.numbers.frames * self.numbers.frames
        return np.arange(first, min(first + self.numbers.frames, len(self)))

    def text(self, column: str, row: int) -> str:
        """`name`, `subject` or `frame` of a row."""
        subject, frame = f"s{row // self.numbers.frames}", str(row % self.numbers.frames)
        return {"name": f"{subject}_{frame}", "subject": subject, "frame": frame}[column]

    def image_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> list[Range]:
        """Where the images of some views lie."""
        return [self._range(row, view, 0, self.numbers.image_bytes) for view in views]

    def mask_ranges(self, row: int, views: list[int], cameras: tuple[str, ...]) -> list[Range | None]:
        """Where the masks of some views lie."""
        if not self.numbers.mask_bytes:
            return [None] * len(views)
        behind = _padded(self.numbers.image_bytes)
        return [self._range(row, view, behind, self.numbers.mask_bytes) for view in views]

    def _range(self, row: int, view: int, behind: int, length: int) -> Range:
        shard, place = divmod(row, self.per_shard)
        offset = place * self.capture_bytes + 4 * _BLOCK + view * self._view_bytes + behind + _BLOCK
        return Range(f"shards/{shard:06}.tar", offset, length, 0, "")


def _padded(length: int) -> int:
    return _BLOCK + -(-length // _BLOCK) * _BLOCK


def _translated(center: NDArray[np.float64]) -> NDArray[np.float64]:
    """A world-to-camera whose camera stands at `center`; which way it looks does not matter here."""
    matrix = np.eye(4)
    matrix[:3, 3] = -center
    return matrix
