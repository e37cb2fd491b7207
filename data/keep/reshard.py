"""A dataset written anew: other shards, fewer captures or views, smaller images; streamed, never whole anywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.index import Index
from data.keep.choose import Choice
from data.keep.recode import Recoding
from data.keep.work import spread
from data.manifest import MANIFEST, DatasetInfo, commit, stats
from data.order import Permutation, digest
from data.shards import ShardPart, existing_shards, write_shard
from data.store import BadMember, Buffer, Range, Store
from data.urls import check_url

Progress = Callable[[int, int], object]
_VERSION = 1  # of what is written; shards of another version are written again
_AHEAD = 64 * 2**20  # bytes of captures asked for before they are needed
_HEADERS = 768  # bytes of tar around a member: its header and, on average, its padding


@dataclass(frozen=True)
class Job:
    """One shard to write: these rows of that source, of so many bytes each."""

    source: str
    fingerprint: str
    out: str
    number: int
    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    recoding: Recoding
    note: str


def reshard(
    source: str,
    out: str,
    *,
    choice: Choice | None = None,
    recoding: Recoding | None = None,
    shard_mb: float = 256.0,
    per_shard: int | None = None,
    shuffle: int | None = None,
    workers: int = 1,
    made_by: str = "headway data reshard",
    progress: Progress = lambda done, total: None,
    report: Callable[[str], object] = lambda _: None,
) -> DatasetInfo:
    """Write a dataset anew; goes on where an interrupted call stopped.

    The shards' bytes are a function of the source's content and the arguments, whatever the number of workers. Licence
    and provenance travel along.

    Args:
        source: URL of a dataset.
        out: URL of the dataset to write.
        choice: captures that are wanted.
        recoding: what is done to them; images keep their bytes by default.
        shard_mb: megabytes after which a shard is full; what is encoded anew is estimated by its pixels.
        per_shard: captures after which a shard is full, instead of `shard_mb`.
        shuffle: seed of another order; None keeps that of the source.
        workers: processes; one where a URL is `memory://`, which no other process sees.
        made_by: names the command in the provenance.
        progress: told (bytes read, bytes to read).
        report: told what is there already.

    Raises:
        UserError: another dataset at `out`, a missing camera, a member that cannot be read, by name; shards that were
            written before stay for the next call.
    """
    choice, recoding = choice or Choice(), recoding or Recoding()
    source, out = check_url(source), check_url(out)
    with Dataset.open(source) as dataset:
        rows = choice.rows(dataset.index)
        if shuffle is not None:
            key = digest("reshard", dataset.fingerprint, shuffle)
            rows = rows[Permutation(len(rows), key)(np.arange(len(rows)))]
        groups = _groups(dataset.index, rows, recoding, shard_mb, per_shard)
        done = {**choice.describe(), **_changes(recoding), **({} if shuffle is None else {"shuffle": shuffle})}
        about = _provenance(dataset.info, made_by, done)
        _check_out(source, out, about)
        sizes = dataset.index.capture_bytes()
        jobs = [_job(dataset, sizes, out, number, group, recoding) for number, group in enumerate(groups)]
        parts = _write_all(jobs, workers, progress, report)
    return commit(out, parts, dataset.info.licence, about)


def read_captures(dataset: Dataset, rows: Sequence[int], recoding: Recoding) -> Iterator[Capture]:
    """Whole captures with the views that are kept, a few of them asked for ahead.

    Raises:
        UserError: a member that cannot be read, or a description that is none, by name.
    """
    waiting = deque(rows)
    ahead: deque[tuple[int, list[int], int, Future[list[Buffer]]]] = deque()
    while waiting or ahead:
        while waiting and (not ahead or sum(size for _, _, size, _ in ahead) < _AHEAD):
            row = waiting.popleft()
            where = f"{dataset.url}, capture {dataset.index.text('name', row)}"
            views = recoding.views(dataset.index.rig(row), where)
            ranges = [dataset.index.sample_range(row), *_ranges(dataset, row, views)]
            ahead.append((row, views, sum(part.length for part in ranges), dataset.fetch(ranges)))
        row, views, _, read = ahead.popleft()
        try:
            data = read.result()
        except BadMember as error:
            hint = "`headway data verify --out bad.txt` lists all of them; --exclude bad.txt leaves their captures out"
            raise UserError(error.what, where=f"{dataset.url}, {error.where}", hint=hint) from None
        yield recoding.apply(_capture(dataset, row, views, data))


def _capture(dataset: Dataset, row: int, views: list[int], data: Sequence[Buffer]) -> Capture:
    index, rig = dataset.index, dataset.index.rig(row)
    members = iter(data)
    try:
        described = json.loads(bytes(next(members)))
        expression, meta = dict(described["expression"]), dict(described["meta"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        where = f"{dataset.url}, capture {index.text('name', row)}"
        raise UserError(f"its json describes no capture ({error!r})", where=where) from None
    pairs = []
    for one in dataset.members(row, views):
        pairs.append((bytes(next(members)), None if one.mask is None else bytes(next(members))))
    return Capture(
        subject=index.text("subject", row),
        frame=index.text("frame", row),
        cameras=tuple(rig.cameras[view] for view in views),
        world_to_camera=rig.world_to_camera[views],
        K=rig.K[views],
        sizes=tuple(rig.sizes[view] for view in views),
        images=tuple(image for image, _ in pairs),
        masks=tuple(mask for _, mask in pairs),
        expression=expression,
        meta=meta,
    )


def _ranges(dataset: Dataset, row: int, views: list[int]) -> list[Range]:
    return [part for one in dataset.members(row, views) for part in one.ranges]


def _groups(
    index: Index, rows: NDArray[np.int64], recoding: Recoding, shard_mb: float, per_shard: int | None
) -> list[tuple[int, ...]]:
    """Rows of each shard, known before the first is written."""
    if shard_mb <= 0:
        raise UserError(f"{shard_mb:g} is not positive", where="shard_mb")
    if per_shard is not None and per_shard < 1:
        raise UserError(f"{per_shard} is not 1 or more", where="per_shard")
    if per_shard is not None:
        return [tuple(rows[start : start + per_shard].tolist()) for start in range(0, len(rows), per_shard)]
    sizes = _sizes(index, rows, recoding)
    groups: list[list[int]] = []
    room = 0.0
    for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
        if not groups or room < size:
            groups.append([])
            room = shard_mb * 1e6
        groups[-1].append(row)
        room -= size
    return [tuple(group) for group in groups]


def _sizes(index: Index, rows: NDArray[np.int64], recoding: Recoding) -> NDArray[np.float64]:
    """About how many bytes each row will take."""
    numbers, first, which = np.unique(index.rig_numbers[rows], return_index=True, return_inverse=True)
    shares, members = np.empty(len(numbers)), np.empty(len(numbers))
    for place, one in enumerate(rows[first].tolist()):
        rig = index.rig(one)
        views = recoding.views(rig, f"{index.where}, capture {index.text('name', one)}")
        pixels = np.prod(np.asarray(rig.sizes, np.float64), axis=1)
        kept = pixels[views] if recoding.image_size is None else np.full(len(views), np.prod(recoding.image_size))
        shares[place], members[place] = kept.sum() / pixels.sum(), 1 + 2 * len(views)
    return index.capture_bytes()[rows] * shares[which] + _HEADERS * members[which]


def _job(
    dataset: Dataset, sizes: NDArray[np.int64], out: str, number: int, rows: tuple[int, ...], recoding: Recoding
) -> Job:
    names = [dataset.index.text("name", row) for row in rows]
    about = [_VERSION, dataset.fingerprint, dataclasses.asdict(recoding), names]
    note = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    bytes_each = tuple(sizes[list(rows)].tolist())
    return Job(dataset.url, dataset.fingerprint, out, number, rows, bytes_each, recoding, note)


def _write_all(jobs: list[Job], workers: int, progress: Progress, report: Callable[[str], object]) -> list[ShardPart]:
    notes = {job.number: job.note for job in jobs}
    found = {n: part for n, part in existing_shards(jobs[0].out).items() if part.note == notes.get(n)}
    if found:
        report(f"{len(found)} of {len(jobs)} shards are there already")
    missing = [job for job in jobs if job.number not in found]
    total = sum(sum(job.sizes) for job in jobs)
    before = total - sum(sum(job.sizes) for job in missing)
    progress(before, total)
    alone = any(url.startswith("memory://") for url in (jobs[0].source, jobs[0].out))
    try:
        for part in spread(_write, missing, 1 if alone else workers, lambda done: progress(before + done, total)):
            found[part.number] = part
    finally:
        _leave()
    progress(total, total)
    return list(found.values())


def _write(job: Job, tell: Callable[[int], object]) -> ShardPart:
    """Write one shard, in a process of its own perhaps."""
    dataset = _enter(job.source, job.fingerprint)

    def captures() -> Iterator[Capture]:
        for size, capture in zip(job.sizes, read_captures(dataset, job.rows, job.recoding), strict=True):
            yield capture
            tell(size)

    return write_shard(job.out, job.number, captures(), job.note)


_open: Dataset | None = None


def _enter(url: str, fingerprint: str) -> Dataset:
    """The source, opened once per process."""
    global _open
    if _open is None or (_open.url, _open.fingerprint) != (url, fingerprint):
        _leave()
        _open = Dataset.open(url, fingerprint=fingerprint)
    return _open


def _leave() -> None:
    global _open
    if _open is not None:
        _open.close()
    _open = None


def _changes(recoding: Recoding) -> dict[str, Any]:
    default = Recoding()
    return {name: value for name, value in vars(recoding).items() if value != getattr(default, name)}


def _provenance(info: DatasetInfo, made_by: str, done: dict[str, Any]) -> dict[str, Any]:
    origin = {"url": info.url, "fingerprint": info.fingerprint, "provenance": info.provenance}
    return json.loads(json.dumps({"made by": made_by, "from": origin, "done": done}))


def _check_out(source: str, out: str, about: dict[str, Any]) -> None:
    """Refuse to write over the source or over another dataset."""
    paths = [
        os.path.realpath(url.removeprefix("file://")) if url.startswith("file://") else url for url in (source, out)
    ]
    if paths[0] == paths[1]:
        raise UserError("a dataset cannot be written over itself", where=out, hint="choose another place")
    store = Store(out)
    try:
        there = store.size(MANIFEST) is not None
    finally:
        store.close()
    if there and stats(out).provenance != about:
        hint = "choose another place, or remove it"
        raise UserError("there is another dataset here already", where=out, hint=hint)


def _real(url: str) -> str:
    return os.path.realpath(url.removeprefix("file://")) if url.startswith("file://") else url
