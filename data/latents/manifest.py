"""Shards of latents become a set: one index, what whitens them, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import pyarrow as pa

from configs.errors import UserError
from data.arkit import ARKIT
from data.index import Shard
from data.latents.index import LATENTS, LatentIndex
from data.latents.moments import Moments
from data.latents.shards import LatentPart, existing_latents
from data.manifest import MANIFEST, NoDataset, fingerprint, read_again, read_table, write_table
from data.store import Store
from data.urls import safe

FORMAT, VERSION = "headway-latents", 1
_MOST_MANIFEST = 2**28  # bytes


@dataclass(frozen=True)
class Base:
    """The frozen model that made the latents.

    Attributes:
        checkpoint: URL.
        weights: SHA-256 of its weights; names them wherever the checkpoint lies.
    """

    checkpoint: str
    weights: str


@dataclass(frozen=True)
class Origin:
    """The captures that were encoded.

    Attributes:
        url, fingerprint: of the dataset.
        views: source views of each capture.
        image_size: (height, width) that they were resized to.
    """

    url: str
    fingerprint: str
    views: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class LatentInfo:
    """What a set of latents is.

    Attributes:
        url: where it lies.
        fingerprint: SHA-256 over the shards' digests.
        base: what made it.
        origin: of what.
        shape: (c, h, w) of every latent.
        mean, std: of every channel over all latents: what whitens.
        coefficients: names of the k expression coefficients, in order.
        licence: of the captures.
    """

    url: str
    fingerprint: str
    base: Base
    origin: Origin
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    coefficients: tuple[str, ...]
    licence: str


def commit_latents(
    url: str, base: Base, origin: Origin, parts: Iterable[LatentPart] | None = None, licence: str = "unknown"
) -> LatentInfo:
    """Make a set of its shards; the last step of a writer.

    Args:
        url: of the set.
        base, origin: where the latents come from.
        parts: in any order; all that `existing_latents` finds when None.
        licence: of the captures.

    Raises:
        UserError: no shards, or latents of different shapes.
    """
    chosen = sorted(existing_latents(url).values() if parts is None else parts, key=lambda part: part.number)
    if not chosen:
        raise UserError("there are no latents to commit", where=url)
    if len({part.shape for part in chosen}) > 1:
        raise UserError("latents of different shapes", where=url, hint="write the set to an empty folder")
    moments = reduce(Moments.merged, (part.moments for part in chosen))
    store, shards = Store(url), tuple(part.shard for part in chosen)
    info = LatentInfo(
        url=store.url,
        fingerprint=fingerprint(shards),
        base=base,
        origin=origin,
        shape=chosen[0].shape,
        mean=tuple(moments.mean.tolist()),
        std=tuple(moments.std.tolist()),
        coefficients=ARKIT,
        licence=licence,
    )
    table = _merge(chosen)
    LatentIndex(table, shards, info.shape, info.coefficients, store.url)
    described = {key: value for key, value in asdict(info).items() if key != "url"}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **described,
        "index": {"latents": write_table(store, "latents", table)},
        "shards": [asdict(shard) for shard in shards],
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode())
    store.close()
    return info


def manifest_format(store: Store) -> str | None:
    """`format` of whatever dataset lies there; None where there is none, or none that is readable."""
    try:
        return json.loads(store.read(MANIFEST, _MOST_MANIFEST)).get("format")
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return None


def open_latents(store: Store) -> tuple[LatentIndex, LatentInfo]:
    """The index of a committed set and what the manifest says of it, verified.

    Raises:
        UserError: no set of latents, an unknown version, or an index that is not what was committed.
    """
    return read_again(store, lambda: _open(store))


def _open(store: Store) -> tuple[LatentIndex, LatentInfo]:
    manifest, where = _read_manifest(store), f"{store.url}/{MANIFEST}"
    try:
        shards = tuple(Shard(safe(one["path"]), int(one["bytes"]), str(one["sha256"])) for one in manifest["shards"])
        info = _info(manifest, store.url)
        table = read_again(store, partial(read_table, store, manifest["index"]["latents"], LATENTS))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the manifest is incomplete ({error!r})", where=where) from None
    if info.fingerprint != fingerprint(shards):
        raise UserError("the fingerprint is not that of the shards", where=where)
    return LatentIndex(table, shards, info.shape, info.coefficients, store.url), info


def _info(manifest: dict[str, Any], url: str) -> LatentInfo:
    channels, height, width = (int(side) for side in manifest["shape"])
    mean, std = (tuple(float(value) for value in manifest[key]) for key in ("mean", "std"))
    if len(mean) != channels or len(std) != channels or not np.isfinite(mean).all() or not min(std) > 0:
        raise ValueError("mean and std must be finite, std positive, one of each per channel")
    origin = manifest["origin"]
    size = int(origin["image_size"][0]), int(origin["image_size"][1])
    return LatentInfo(
        url=url,
        fingerprint=str(manifest["fingerprint"]),
        base=Base(str(manifest["base"]["checkpoint"]), str(manifest["base"]["weights"])),
        origin=Origin(str(origin["url"]), str(origin["fingerprint"]), int(origin["views"]), size),
        shape=(channels, height, width),
        mean=mean,
        std=std,
        coefficients=tuple(str(name) for name in manifest["coefficients"]),
        licence=str(manifest["licence"]),
    )


def _read_manifest(store: Store) -> dict[str, Any]:
    where = f"{store.url}/{MANIFEST}"
    try:
        manifest = json.loads(store.read(MANIFEST, _MOST_MANIFEST))
    except FileNotFoundError:
        hint = "`headway latents CHECKPOINT DATA` makes one"
        raise NoDataset("there is no set of latents here", where=store.url, hint=hint) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", where=where) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        hint = "`headway latents CHECKPOINT DATA` makes latents of captures"
        raise UserError("not a set of latents", where=where, hint=hint)
    if manifest.get("version") != VERSION:
        hint = f"this Headway reads version {VERSION}"
        raise UserError(f"format version {manifest.get('version')!r} is unknown", where=where, hint=hint)
    return manifest


def _merge(parts: list[LatentPart]) -> pa.Table:
    rows = pa.concat_tables([part.rows for part in parts]).combine_chunks()
    shard = np.repeat(np.arange(len(parts), dtype=np.int32), [part.rows.num_rows for part in parts])
    return pa.table([pa.array(shard), *rows.columns], LATENTS)
