"""What ought to be in each shard, by the index of a dataset or by the parts of shards that never were committed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from configs.errors import UserError
from data.index import CAPTURE_COLUMNS, CAPTURES, RIGS, Index, Shard
from data.manifest import MANIFEST, open_index
from data.shards import ShardPart, read_part
from data.store import Range, Store


@dataclass(frozen=True)
class Member:
    """One member that ought to be there.

    Attributes:
        place: its bytes.
        kind: `sample`, `image` or `mask`.
        row: of the index.
        size: (height, width) in pixels; None for a sample.
    """

    place: Range
    kind: str
    row: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Contents:
    """A shard and the rows of an index that speak of it."""

    shard: Shard
    index: Index
    rows: tuple[int, ...]

    def members(self) -> list[Member]:
        """Every member in the order in which they lie."""
        found = [member for row in self.rows for member in members_of(self.index, row)]
        return sorted(found, key=lambda member: member.place.offset)


@dataclass(frozen=True)
class Inventory:
    """Everything that ought to be at a URL.

    Attributes:
        fingerprint: of the dataset; empty where it never was committed.
        shards: what is in each.
        complaints: parts that cannot be read, and tars that nothing describes: (name, what is wrong).
        strays: tars beside those of the manifest, which are no part of the dataset.
    """

    fingerprint: str
    shards: tuple[Contents, ...]
    complaints: tuple[tuple[str, str], ...] = ()
    strays: tuple[str, ...] = ()


def members_of(index: Index, row: int) -> Iterator[Member]:
    """The members of one capture: its description, then image and mask of each camera."""
    rig = index.rig(row)
    every = list(range(len(rig.cameras)))
    yield Member(index.sample_range(row), "sample", row)
    masks = index.mask_ranges(row, every, rig.cameras)
    for size, image, mask in zip(rig.sizes, index.image_ranges(row, every, rig.cameras), masks, strict=True):
        yield Member(image, "image", row, size)
        if mask is not None:
            yield Member(mask, "mask", row, size)


def take_stock(store: Store) -> Inventory:
    """What ought to be at a URL.

    Raises:
        UserError: neither a dataset nor shards with parts, or an index that cannot be read.
    """
    tars = [f"shards/{name}" for name in store.names("shards") if name.endswith(".tar")]
    if store.size(MANIFEST) is None and (tars or store.names("parts")):
        return _uncommitted(store, tars)
    index, manifest = open_index(store)
    order = np.argsort(index.shard_numbers, kind="stable")
    bounds = np.searchsorted(index.shard_numbers[order], np.arange(len(index.shards) + 1))
    shards = tuple(
        Contents(shard, index, tuple(order[bounds[number] : bounds[number + 1]].tolist()))
        for number, shard in enumerate(index.shards)
    )
    known = {shard.path for shard in index.shards}
    return Inventory(manifest["fingerprint"], shards, strays=tuple(path for path in tars if path not in known))


def _uncommitted(store: Store, tars: list[str]) -> Inventory:
    shards, complaints = [], []
    for name in store.names("parts"):
        try:
            part = read_part(store, name)
            index = _index_of(part, f"{store.url}/parts/{name}")
            shards.append(Contents(part.shard, index, tuple(range(len(index)))))
        except UserError as error:
            complaints.append((f"part parts/{name}", error.what))
    known = {contents.shard.path for contents in shards}
    for path in tars:
        if path not in known:
            complaints.append((f"shard {path}", "no part describes it: it was never finished, or never indexed"))
    return Inventory("", tuple(shards), tuple(complaints))


def _index_of(part: ShardPart, where: str) -> Index:
    """An index of one shard alone."""
    count = part.rows.num_rows
    numbers = [pa.array(np.zeros(count, np.int32)), pa.array(np.arange(count, dtype=np.int32))]
    captures = pa.table([*numbers, *part.rows.select(list(CAPTURE_COLUMNS)).columns], CAPTURES)
    return Index(captures, part.rows.select(RIGS.names), (part.shard,), where)
