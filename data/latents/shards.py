"""Latents into WebDataset tars; each shard brings its part of the index and the moments of its channels.

A sample is two members: `{name}.json` says all about the capture but its pixels, `{name}.npy` holds Z `[c, h, w]` in
float32 (numpy's format, never pickled). As in `data.shards`, a part is written after its shard and vouches for it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import UserError
from data.arkit import coefficients
from data.index import Shard
from data.latents.captions import caption
from data.latents.moments import Moments
from data.shards import TarWriter
from data.store import Buffer, Store
from data.urls import safe

Floats = NDArray[np.float32]
ROWS = pa.schema(
    {
        "name": pa.string(),
        "subject": pa.string(),
        "frame": pa.string(),
        "coefficients": pa.list_(pa.float32()),
        "caption": pa.string(),
        "attributes": pa.string(),  # JSON
        "offset": pa.int64(),
        "length": pa.int32(),
        "crc32": pa.uint32(),
    }
)
_NOTE = b"headway.latents"


@dataclass(frozen=True)
class Latent:
    """What an encoder made of one capture.

    Attributes:
        subject, frame: of the capture.
        latents: Z `[c, h, w]`, not whitened.
        expression: blendshape coefficients by name, 0 where absent.
        attributes: the capture's meta; JSON values.
    """

    subject: str
    frame: str
    latents: Floats = field(repr=False)
    expression: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`{subject}_{frame}`: that of the capture."""
        return f"{self.subject}_{self.frame}"


@dataclass(frozen=True)
class LatentPart:
    """One shard, the rows of the index that describe it, and the moments of its latents.

    Attributes:
        number: its place in the set.
        shard: path, size and digest of the tar.
        rows: Arrow table `ROWS`.
        shape: (c, h, w) of every latent.
        moments: of every channel.
        note: to tell on resuming whether the shard is still the wanted one.
    """

    number: int
    shard: Shard
    rows: pa.Table
    shape: tuple[int, int, int]
    moments: Moments
    note: str = ""


def write_latents(url: str, number: int, latents: Iterable[Latent], note: str = "") -> LatentPart:
    """Write one shard and its part; the same latents give the same bytes.

    Args:
        url: of the set.
        number: the shard's, below a million; an older one of this number is replaced.
        latents: written as they come; all of one shape.
        note: kept with the part.

    Raises:
        UserError: no latents, or one that is not finite or of another shape; nothing is left behind then.
    """
    store, path = Store(url), f"shards/{number:06d}.tar"
    rows, moments, shape = [], None, None
    with store.aside() as aside:
        with aside.open("wb") as file:
            tar = TarWriter(file)
            for latent in latents:
                shape = _check(latent, shape)
                found = Moments.of(latent.latents)
                moments = found if moments is None else moments.merged(found)
                rows.append(_row(latent, tar))
            tar.finish()
        if moments is None or shape is None:
            raise UserError(f"shard {number:06d} would hold no latents", where=url)
        shard = Shard(path, tar.offset, tar.digest.hexdigest())
        part = LatentPart(number, shard, pa.Table.from_pylist(rows, ROWS), shape, moments, note)
        store.put(aside, path)
    store.write(_part_path(number), _dump(part))
    store.close()
    return part


def existing_latents(url: str) -> dict[int, LatentPart]:
    """Shards that were written whole, by number; what an interrupted job need not do again."""
    store = Store(url)
    try:
        names = [name for name in store.names("parts") if name.endswith(".parquet")]
        parts = [_parse(store.read(f"parts/{name}"), f"{store.url}/parts/{name}") for name in names]
        return {part.number: part for part in parts if store.size(part.shard.path) == part.shard.bytes}
    finally:
        store.close()


def encode_npy(latents: Floats) -> bytes:
    """The member's bytes: numpy's format, version 1.0, float32 in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(latents, "<f4"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(data: Buffer, shape: tuple[int, int, int]) -> Floats:
    """A latent `[c, h, w]` of a member's bytes.

    Raises:
        ValueError: no float32 array of this shape, or one with NaN or infinity; nothing is allocated before that is
            known, and nothing is unpickled.
    """
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of numpy's format")
    found, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    if found != shape or fortran or kind != np.dtype("<f4"):
        raise ValueError(f"an array of {list(found)} {kind}, not of {list(shape)} float32")
    if len(data) - stream.tell() != 4 * np.prod(shape, dtype=np.int64):
        raise ValueError("its length is not that of its shape")
    latents = np.frombuffer(data, "<f4", offset=stream.tell()).reshape(shape)
    if not np.isfinite(latents).all():
        raise ValueError("NaN or infinity in it")
    return latents


def npy_length(shape: tuple[int, int, int]) -> int:
    """Bytes of a member that holds a latent of this shape."""
    return len(encode_npy(np.zeros((0, *shape[1:]), np.float32))) + 4 * int(np.prod(shape, dtype=np.int64))


def _check(latent: Latent, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    found = latent.latents.shape
    if len(found) != 3 or (shape is not None and found != shape):
        raise UserError(f"a latent of {list(found)}, not {list(shape or 'chw')}", where=f"capture {latent.name}")
    if not np.isfinite(latent.latents).all():
        raise UserError("its latent holds NaN or infinity", where=f"capture {latent.name}")
    return found


def _row(latent: Latent, tar: TarWriter) -> dict[str, Any]:
    sentence = caption(latent.attributes)
    about = {
        "subject": latent.subject,
        "frame": latent.frame,
        "expression": latent.expression,
        "caption": sentence,
        "attributes": latent.attributes,
    }
    try:
        tar.add(f"{latent.name}.json", json.dumps(about, sort_keys=True, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise UserError(f"its meta is not plain JSON ({error})", where=f"capture {latent.name}") from None
    offset, length, crc = tar.add(f"{latent.name}.npy", encode_npy(latent.latents))
    return {
        "name": latent.name,
        "subject": latent.subject,
        "frame": latent.frame,
        "coefficients": np.clip(coefficients(latent.expression), 0.0, 1.0),
        "caption": sentence,
        "attributes": json.dumps(latent.attributes, sort_keys=True),
        "offset": offset,
        "length": length,
        "crc32": crc,
    }


def _part_path(number: int) -> str:
    return f"parts/{number:06d}.parquet"


def _dump(part: LatentPart) -> bytes:
    about = {
        "number": part.number,
        "path": part.shard.path,
        "bytes": part.shard.bytes,
        "sha256": part.shard.sha256,
        "shape": part.shape,
        "count": part.moments.count,
        "mean": part.moments.mean.tolist(),
        "squares": part.moments.squares.tolist(),
        "note": part.note,
    }
    buffer = io.BytesIO()
    pq.write_table(part.rows.replace_schema_metadata({_NOTE: json.dumps(about)}), buffer, compression="zstd")
    return buffer.getvalue()


def _parse(data: bytes, where: str) -> LatentPart:
    try:
        table = pq.read_table(pa.BufferReader(data))
        about = json.loads((table.schema.metadata or {})[_NOTE])
        shard = Shard(safe(about["path"]), int(about["bytes"]), str(about["sha256"]))
        channels, height, width = (int(side) for side in about["shape"])
        mean, squares = (np.array(about[key], np.float64) for key in ("mean", "squares"))
        rows = table.replace_schema_metadata(None).cast(ROWS)
        moments = Moments(int(about["count"]), mean, squares)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        hint = "remove it and its shard, and run `headway latents` again"
        raise UserError(f"not a part of a set of latents ({error})", where=where, hint=hint) from None
    return LatentPart(int(about["number"]), shard, rows, (channels, height, width), moments, str(about["note"]))
