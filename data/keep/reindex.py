"""A dataset out of WebDataset tars that somebody else wrote, in place: only the index is added."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from configs.errors import UserError
from data.index import MAX_MEMBER, PART, Shard
from data.ingest.source import Entry as File
from data.ingest.source import Source
from data.keep.sequential import Sequential
from data.keep.tar import Entry, TarError, next_entry
from data.keep.work import Tell, in_threads
from data.manifest import MANIFEST, DatasetInfo, commit
from data.sequential import capture_of
from data.shards import ShardPart, capture_row, read_part, write_part
from data.store import Store
from data.urls import safe

Progress = Callable[[int, int], object]
MAX_SAMPLE = 2**30  # bytes of a whole capture, which is held in memory
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LAYOUT = "members are {subject}_{frame}.json, .{camera}.jpg (png, webp, avif) and .{camera}.mask.png"


def reindex(
    url: str,
    *,
    licence: str | None = None,
    workers: int = 1,
    again: bool = False,
    progress: Progress = lambda done, total: None,
    report: Callable[[str], object] = lambda _: None,
) -> DatasetInfo:
    """Read each tar once from end to end and write what Headway needs beside: `parts/`, `index/`, `dataset.json`.

    An interrupted call goes on: a tar whose part is there and that has not changed since is not read again. Shards
    are numbered in the order of their sorted names.

    Args:
        url: holds tars right beneath it or in `shards/`; members as `data.shards.write_shard` calls them.
        licence: SPDX name or sentence that travels with the dataset; None for that of the dataset that is there.
        workers: tars that are read at a time.
        again: replace the index of a dataset that is there.
        progress: told (bytes read, bytes of all tars).
        report: told, a line each, what was left out.

    Raises:
        UserError: no tars; a tar that is compressed or cut off, has odd members or samples that are no captures, by
            name. What was read before stays for the next call.
    """
    store, source = Store(url), Source(url)
    try:
        about = {"made by": "headway data index", "source": store.url}
        there = store.size(MANIFEST) is not None
        if there and not again:
            hint = "`headway data verify` checks it; --again makes its index anew"
            raise UserError("there is a dataset here already", where=store.url, hint=hint)
        tars = list_tars(source)
        found = _already(store, tars, again)
        if found:
            report(f"{len(found)} of {len(tars)} tars were read before")
        parts = [*found.values(), *_read_all(store, tars, found, workers, progress)]
        before = _manifest(store) if there else {}
        if isinstance(before.get("provenance"), dict):
            about = {**before["provenance"], "indexed by": about["made by"]}
        return commit(store.url, parts, licence or str(before.get("licence", "unknown")), about)
    finally:
        source.close()
        store.close()


def list_tars(source: Source) -> list[File]:
    """The tars of a folder and of its folder `shards`, sorted by path.

    Raises:
        UserError: there are none, compressed ones, or ones with odd names.
    """
    folders, files = source.list()
    if "shards" in folders:
        files += source.list("shards")[1]
    for file in files:
        if file.path.endswith(_PACKED):
            hint = "decompress it: members of compressed tars cannot be fetched alone"
            raise UserError("the tar is compressed", where=source.where(file.path), hint=hint)
    tars = sorted((file for file in files if file.path.endswith(".tar")), key=lambda file: file.path)
    if not tars:
        raise UserError("there are no tars here", where=source.where(), hint="*.tar, or shards/*.tar")
    for tar in tars:
        safe(tar.path)
    return tars


def read_tar(store: Store, path: str, size: int, tell: Callable[[int], object] = lambda _: None) -> tuple[Any, str]:
    """Rows of the index (table `PART`) of one tar, and its SHA-256.

    Raises:
        UserError: what is wrong with it, naming the member.
    """
    where = f"shard {path}"
    stream, samples = Sequential(store, path, size, tell), _Samples(where)
    try:
        while (entry := next_entry(stream)) is not None:
            samples.add(entry, stream)
    except TarError as error:
        raise UserError(f"not a whole tar: {error}", where=f"{store.url}, {where}") from None
    samples.finish()
    if not samples.rows:
        raise UserError("the tar is empty", where=f"{store.url}, {where}", hint=_LAYOUT)
    return pa.Table.from_pylist(samples.rows, PART), stream.digest()


@dataclass
class _Samples:
    """Members of one tar gathered into captures, one capture in memory at a time."""

    where: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    _key: str = ""
    _data: dict[str, bytes] = field(default_factory=dict)
    _places: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def add(self, entry: Entry, stream: Sequential) -> None:
        """One more member; the stream stands before its data."""
        where = f"{self.where}, member {entry.name}"
        if entry.odd:
            raise UserError(f"a {entry.odd} is refused", where=where, hint=_LAYOUT)
        key, _, suffix = entry.name.partition(".")
        if entry.name.startswith("/") or ".." in entry.name.split("/"):
            raise UserError("a member that leads out of its folder is refused", where=where)
        if not key or not suffix or "/" in entry.name:
            raise UserError("an odd member is refused", where=where, hint=_LAYOUT)
        if key != self._key:
            self.finish()
            self._key = key
        suffix = suffix.lower()  # as webdataset does
        if suffix in self._data:
            raise UserError("the member is there twice", where=where)
        if entry.size > MAX_MEMBER:
            raise UserError(f"a member of {entry.size} bytes is refused", where=where, hint=f"at most {MAX_MEMBER}")
        if sum(map(len, self._data.values())) + entry.size > MAX_SAMPLE:
            raise UserError("the sample is too large", where=where, hint=f"at most {MAX_SAMPLE} bytes for a capture")
        data = stream.read(entry.size)
        stream.skip(entry.padding)
        self._data[suffix], self._places[suffix] = data, (entry.offset, entry.size, zlib.crc32(data))

    def finish(self) -> None:
        """The sample that was begun is whole."""
        if not self._key:
            return
        key, data, places = self._key, self._data, self._places
        self._key, self._data, self._places = "", {}, {}
        capture = capture_of({"__key__": key, **data}, self.where)
        where = f"{self.where}, sample {key}"
        if capture.name != key:
            hint = "a sample is called {subject}_{frame}, as its json has them"
            raise UserError(f"the sample is called {key}, its json makes it {capture.name}", where=where, hint=hint)
        if key in self._seen:
            raise UserError("the sample is there twice, or its members do not follow each other", where=where)
        self._seen.add(key)
        try:
            capture.validate()
        except UserError as error:
            raise UserError(error.what, where=f"{self.where}, {error.where}", hint=error.hint) from None

        def place(name: str, _: bytes) -> tuple[int, int, int]:
            suffix = name[len(key) + 1 :].lower()
            if suffix not in places:
                raise UserError(f"its ending is not that of its content: {suffix} is meant", where=where)
            return places[suffix]

        self.rows.append(capture_row(capture, place))


def _already(store: Store, tars: list[File], again: bool) -> dict[int, ShardPart]:
    """Parts of tars that have not changed since they were read, by number."""
    found: dict[int, ShardPart] = {}
    known = set() if again else set(store.names("parts"))
    for number, tar in enumerate(tars):
        name = f"{number:06d}.parquet"
        if name in known:
            part = read_part(store, name)
            if part.shard.path == tar.path and part.shard.bytes == tar.size and part.note == _note(tar):
                found[number] = part
    return found


def _manifest(store: Store) -> dict[str, Any]:
    """What the manifest says, if it says anything; it may be why the index is made anew."""
    try:
        found = json.loads(store.read(MANIFEST))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(tar: File) -> str:
    return f"indexed {tar.version}"


def _read_all(
    store: Store, tars: list[File], found: Collection[int], workers: int, progress: Progress
) -> list[ShardPart]:
    missing = [(number, tar) for number, tar in enumerate(tars) if number not in found]
    total = sum(tar.size for tar in tars)
    before = total - sum(tar.size for _, tar in missing)
    progress(before, total)

    def read(job: tuple[int, File], tell: Tell) -> ShardPart:
        number, tar = job
        rows, digest = read_tar(store, tar.path, tar.size, tell)
        part = ShardPart(number, Shard(tar.path, tar.size, digest), rows, _note(tar))
        write_part(store, part)
        return part

    return in_threads(read, missing, workers, lambda done: progress(min(before + done, total), total))
