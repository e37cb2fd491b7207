"""Captures into WebDataset tars, many processes at a time; each shard brings the part of the index that describes it.

A shard is `shards/NNNNNN.tar`, its part `parts/NNNNNN.parquet`. A part is written after its shard, so a part that is
there vouches for a whole shard; `data.manifest.commit` makes a dataset of them. Shards that somebody else wrote keep
their names (`data.keep.reindex`).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from data.capture import Capture
from data.images import read_header
from data.index import PART, PER_VIEW, Shard
from data.store import Store
from data.urls import safe

_BLOCK = 512
_NOTE = b"headway.shard"
_AT_ONCE = 16

Place = Callable[[str, bytes], tuple[int, int, int]]


@dataclass(frozen=True)
class ShardPart:
    """One shard and the rows of the index that describe it; small enough to send between processes.

    Attributes:
        number: its place in the dataset; unique, gaps are allowed.
        shard: path, size and digest of the tar.
        rows: Arrow table, one row per capture.
        note: what the writer wished to remember, to tell on resuming whether the shard is still the wanted one.
    """

    number: int
    shard: Shard
    rows: pa.Table
    note: str = ""

    @property
    def names(self) -> list[str]:
        """Capture names in their order in the shard."""
        return self.rows.column("name").to_pylist()


def write_shard(url: str, number: int, captures: Iterable[Capture], note: str = "") -> ShardPart:
    """Write one shard and its part of the index. Safe from many processes with different numbers.

    Args:
        url: the dataset.
        number: the shard's, below a million; an older shard of this number is replaced.
        captures: validated and written as they come; the same captures give the same bytes.
        note: kept with the part.

    Raises:
        UserError: a capture that does not validate; nothing is left behind then.
    """
    store, name = Store(url), f"{number:06d}"
    if not 0 <= number < 10**6:
        raise UserError(f"shard number {number} is not in 0..999999", where=url)
    path, rows = f"shards/{name}.tar", []
    with store.aside() as aside:
        with aside.open("wb") as file:
            tar = TarWriter(file)
            for capture in captures:
                capture.validate()
                rows.append(capture_row(capture, tar.add))
            tar.finish()
        if not rows:
            raise UserError(f"shard {name} would hold no captures", where=url)
        shard = Shard(path, tar.offset, tar.digest.hexdigest())
        part = ShardPart(number, shard, pa.Table.from_pylist(rows, PART), note)
        store.put(aside, path)
    write_part(store, part)
    store.close()
    return part


def write_part(store: Store, part: ShardPart) -> None:
    """Store what describes a shard; the shard itself is there already."""
    store.write(_part_path(part.number), _dump(part))


def read_part(store: Store, name: str) -> ShardPart:
    """A part by its name in the folder `parts`; whether its shard is there is not looked at.

    Raises:
        UserError: not a part, or one of another number.
    """
    part = _parse(store.read(f"parts/{name}"), f"{store.url}/parts/{name}")
    if _part_path(part.number) != f"parts/{name}":
        hint = "remove it, and write the shard again"
        raise UserError("the part speaks of another shard", where=f"{store.url}/parts/{name}", hint=hint)
    return part


def existing_shards(url: str) -> dict[int, ShardPart]:
    """Shards that were written whole, by number; what an interrupted job need not do again."""
    store = Store(url)
    try:
        names = [name for name in store.names("parts") if name.endswith(".parquet")]
        # A far store takes its time for each of thousands of small files.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(lambda name: read_part(store, name), names))
            sizes = list(pool.map(lambda part: store.size(part.shard.path), parts))
    finally:
        store.close()
    return {part.number: part for part, size in zip(parts, sizes, strict=True) if size == part.shard.bytes}


def sample_json(capture: Capture) -> bytes:
    """The member `{name}.json`: everything about a capture but its pixels."""
    description = {
        "subject": capture.subject,
        "frame": capture.frame,
        "cameras": [
            {
                "name": camera,
                "world_to_camera": capture.world_to_camera[view].tolist(),
                "K": capture.K[view].tolist(),
                "size": list(capture.sizes[view]),
            }
            for view, camera in enumerate(capture.cameras)
        ],
        "expression": {name: float(value) for name, value in capture.expression.items()},
        "meta": capture.meta,
    }
    try:
        return json.dumps(description, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UserError(f"its meta is not plain JSON ({error})", where=f"capture {capture.name}") from None


class TarWriter:
    """Writes a POSIX tar whose bytes depend on the members alone, and knows where each begins."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.offset, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a member; its offset, length and CRC-32."""
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), 0o444, 0
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        start = self.offset
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return start, len(data), zlib.crc32(data)

    def finish(self) -> None:
        """Two empty blocks, filled up to tar's record."""
        end = self.offset + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -end % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.offset += len(data)


def capture_row(capture: Capture, place: Place) -> dict[str, Any]:
    """A capture's row of the index.

    Args:
        capture: validated.
        place: told the name and bytes of each member, a view's mask right behind its image, it says where the member
            lies: offset, length and CRC-32.
    """
    name = capture.name
    offset, length, crc = place(f"{name}.json", sample_json(capture))
    row: dict[str, Any] = {
        "name": name,
        "subject": capture.subject,
        "frame": capture.frame,
        "expression_names": list(capture.expression),
        "expression_values": list(capture.expression.values()),
        "sample_offset": offset,
        "sample_length": length,
        "sample_crc32": crc,
        **{column: [] for column in PER_VIEW},
        **_rig_columns(capture),
    }
    for camera, image, mask in zip(capture.cameras, capture.images, capture.masks, strict=True):
        suffix = read_header(image).suffix
        row["image_format"].append(suffix)
        for key, value in zip(_PLACE, place(f"{name}.{camera}.{suffix}", image), strict=True):
            row[f"image_{key}"].append(value)
        found = (-1, 0, 0) if mask is None else place(f"{name}.{camera}.mask.png", mask)
        for key, value in zip(_PLACE, found, strict=True):
            row[f"mask_{key}"].append(value)
    return row


_PLACE = ("offset", "length", "crc32")


def _rig_columns(capture: Capture) -> dict[str, Any]:
    sizes = np.asarray(capture.sizes, np.int32)
    world_to_camera, K = (np.asarray(m, np.float64) for m in (capture.world_to_camera, capture.K))
    content = json.dumps(capture.cameras).encode() + world_to_camera.tobytes() + K.tobytes() + sizes.tobytes()
    return {
        "rig": hashlib.blake2b(content, digest_size=16).digest(),
        "cameras": list(capture.cameras),
        "world_to_camera": world_to_camera.ravel(),
        "K": K.ravel(),
        "sizes": sizes.ravel(),
    }


def _part_path(number: int) -> str:
    return f"parts/{number:06d}.parquet"


def _dump(part: ShardPart) -> bytes:
    shard = part.shard
    about = {"number": part.number, "path": shard.path, "bytes": shard.bytes, "sha256": shard.sha256, "note": part.note}
    buffer = io.BytesIO()
    pq.write_table(part.rows.replace_schema_metadata({_NOTE: json.dumps(about)}), buffer, compression="zstd")
    return buffer.getvalue()


def _parse(data: bytes, where: str) -> ShardPart:
    try:
        table = pq.read_table(pa.BufferReader(data))
        about = json.loads((table.schema.metadata or {})[_NOTE])
        shard = Shard(safe(about["path"]), int(about["bytes"]), str(about["sha256"]))
        number, note = int(about["number"]), str(about["note"])
        rows = table.replace_schema_metadata(None).cast(PART)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        hint = "remove it and its shard, and write the shard again"
        raise UserError(f"not a part of an index ({error})", where=where, hint=hint) from None
    return ShardPart(number, shard, rows, note)
