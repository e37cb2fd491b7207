"""Shards become a dataset: the parts merge into one index, and one small file makes it visible at once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from data.index import CAPTURE_COLUMNS, CAPTURES, RIGS, Index, Shard
from data.shards import ShardPart, existing_shards
from data.store import Store, StoreError
from data.urls import check_url, safe

T = TypeVar("T")
FORMAT, VERSION, MANIFEST = "headway-captures", 1, "dataset.json"
_REREADS = 5  # of what arrives garbled from a remote store
_TABLES = {"captures": CAPTURES, "rigs": RIGS}
_MOST_MANIFEST, _MOST_INDEX = 2**28, 2**33  # bytes; a million shards, some hundred million views


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset holds, in numbers.

    Attributes:
        url: where it lies.
        fingerprint: SHA-256 over the shards' digests; names the content whatever the place.
        subjects, captures, views, shards: how many.
        cameras: fewest and most per capture.
        bytes: of all shards together.
        licence: SPDX name or sentence.
        provenance: where it comes from, as its maker put it.
    """

    url: str
    fingerprint: str
    subjects: int
    captures: int
    views: int
    shards: int
    cameras: tuple[int, int]
    bytes: int
    licence: str
    provenance: dict[str, Any]


def commit(
    url: str,
    parts: Iterable[ShardPart] | None = None,
    licence: str = "unknown",
    provenance: dict[str, Any] | None = None,
) -> DatasetInfo:
    """Make a dataset of shards; the last step of every writer.

    Args:
        url: the dataset.
        parts: the shards that belong to it, in any order; all that `existing_shards` finds when None.
        licence: SPDX name or sentence that travels with the data.
        provenance: JSON values that say where the data come from.

    Raises:
        UserError: no shards, or a capture that is in two of them.
    """
    store = Store(url)
    chosen = sorted(existing_shards(url).values() if parts is None else parts, key=lambda part: part.number)
    if not chosen:
        raise UserError("there are no shards to commit", where=store.url)
    shards = tuple(part.shard for part in chosen)
    captures, rigs = _merge(chosen)
    index = Index(captures, rigs, shards, store.url)
    files = {"captures": captures, "rigs": rigs}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint(shards),
        "licence": licence,
        "provenance": provenance or {},
        "index": {name: write_table(store, name, table) for name, table in files.items()},
        "shards": [asdict(shard) for shard in shards],
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode())
    store.close()
    return describe(index, manifest, store.url)


class NoDataset(UserError):
    """Nothing was committed here; asking again will not change that."""


def open_index(store: Store) -> tuple[Index, dict[str, Any]]:
    """The index of a committed dataset and its manifest, verified.

    Raises:
        UserError: no dataset, an unknown format or version, or an index that is not what was committed.
    """
    return read_again(store, lambda: _open_index(store))


def read_again(store: Store, read: Callable[[], T]) -> T:
    """What `read` gives; asked for again while it makes no sense, for a store far away may have garbled it."""
    for left in reversed(range(1 + _REREADS if store.local is None else 1)):
        try:
            return read()
        except (StoreError, NoDataset):
            raise
        except UserError:
            if not left:
                raise
    raise AssertionError


def _open_index(store: Store) -> tuple[Index, dict[str, Any]]:
    manifest = _read_manifest(store)
    try:
        shards = tuple(
            Shard(safe(item["path"]), int(item["bytes"]), str(item["sha256"])) for item in manifest["shards"]
        )
        entries = {name: (manifest["index"][name], schema) for name, schema in _TABLES.items()}
        tables = {name: read_again(store, partial(read_table, store, *entry)) for name, entry in entries.items()}
        if not isinstance(manifest["provenance"], dict) or not isinstance(manifest["licence"], str):
            raise TypeError("provenance is a mapping, licence a text")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the manifest is incomplete ({error!r})", where=f"{store.url}/{MANIFEST}") from None
    if manifest.get("fingerprint") != fingerprint(shards):
        raise UserError("the fingerprint is not that of the shards", where=f"{store.url}/{MANIFEST}")
    pa.default_memory_pool().release_unused()
    return Index(tables["captures"], tables["rigs"], shards, store.url), manifest


def describe(index: Index, manifest: dict[str, Any], url: str) -> DatasetInfo:
    """The numbers of an open index."""
    counts = index.view_counts()
    return DatasetInfo(
        url=url,
        fingerprint=manifest["fingerprint"],
        subjects=len(index.subjects),
        captures=len(index),
        views=index.views,
        shards=len(index.shards),
        cameras=(int(counts.min()), int(counts.max())),
        bytes=sum(shard.bytes for shard in index.shards),
        licence=manifest["licence"],
        provenance=manifest["provenance"],
    )


def stats(url: str) -> DatasetInfo:
    """What the dataset at `url` holds."""
    store = Store(url)
    index, manifest = open_index(store)
    store.close()
    return describe(index, manifest, store.url)


def fingerprint(shards: Iterable[Shard]) -> str:
    """SHA-256 over the shards' digests in order; the same data elsewhere have the same fingerprint."""
    return hashlib.sha256("\n".join(shard.sha256 for shard in shards).encode()).hexdigest()


def _merge(parts: list[ShardPart]) -> tuple[pa.Table, pa.Table]:
    """Rows of all parts in the order of the shards, and every distinct rig once, in order of appearance."""
    if len({part.number for part in parts}) != len(parts):
        raise UserError("two parts have the same shard number")
    rows = pa.concat_tables([part.rows for part in parts]).combine_chunks()
    rig = rows.column("rig").combine_chunks().dictionary_encode()
    rig = rig.combine_chunks() if isinstance(rig, pa.ChunkedArray) else rig
    codes = rig.indices.to_numpy()
    firsts = np.unique(codes, return_index=True)[1]
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [part.rows.num_rows for part in parts])
    numbers = [pa.array(shard), pa.array(codes.astype(np.int32))]
    captures = pa.table([*numbers, *rows.select(list(CAPTURE_COLUMNS)).columns], CAPTURES)
    _no_twins(captures)
    return captures, rows.select(RIGS.names).take(firsts).combine_chunks()


def _no_twins(captures: pa.Table) -> None:
    counts = captures.column("name").value_counts()
    most = int(np.argmax(counts.field("counts").to_numpy()))
    if counts[most]["counts"].as_py() > 1:
        raise UserError("the capture was written twice", where=f"capture {counts[most]['values'].as_py()}")


def write_table(store: Store, name: str, table: pa.Table) -> dict[str, Any]:
    """Store a table under the name of its content, so that an older manifest keeps its own until it is replaced."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=6)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    path = f"index/{name}-{digest[:12]}.parquet"
    store.write(path, data)
    return {"path": path, "bytes": len(data), "sha256": digest}


def read_table(store: Store, entry: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of the index, bounded and compared with its digest; columns that `schema` does not name are left out.

    Raises:
        UserError: missing, too large, or not what was committed.
    """
    path, size = safe(entry["path"]), int(entry["bytes"])
    where = f"{store.url}/{path}"
    try:
        data = store.read(path, min(size, _MOST_INDEX))
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise UserError("the index is not the one that was committed", where=where, hint="write it again")
        file = pq.ParquetFile(pa.BufferReader(data))
        _refuse_bombs(file.metadata, size, where)
        return file.read([name for name in file.schema_arrow.names if name in schema.names], use_threads=False)
    except FileNotFoundError:
        raise UserError("the index is missing", where=where, hint="commit the dataset again") from None
    except pa.ArrowException as error:
        raise UserError(f"the index cannot be read ({error})", where=where) from None


def _refuse_bombs(metadata: pq.FileMetaData, size: int, where: str) -> None:
    """A few bytes can state any number of equal values; an honest index does not shrink like that."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
    if values > 64 * size + 2**20:
        raise UserError(f"{values:,} values in {size:,} bytes: this is no index of captures", where=where)


def _read_manifest(store: Store) -> dict[str, Any]:
    where = f"{store.url}/{MANIFEST}"
    try:
        manifest = json.loads(store.read(MANIFEST, _MOST_MANIFEST))
    except FileNotFoundError:
        hint = "`headway data synth` makes one, `headway data ingest` converts captures"
        if store.names("parts"):
            hint = "its shards were never committed: run the command that writes it again, it goes on where it stopped"
        raise NoDataset("there is no dataset here", where=check_url(store.url), hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", where=where) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError("not a manifest of captures", where=where, hint=f"'format' must be '{FORMAT}'")
    if manifest.get("version") != VERSION:
        hint = f"this Headway reads version {VERSION}"
        raise UserError(f"format version {manifest.get('version')!r} is unknown", where=where, hint=hint)
    return manifest
