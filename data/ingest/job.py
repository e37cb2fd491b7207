"""The one way in: units of a data set become shards, many processes at a time, resumable, the same bytes every time.

A format lists its units and converts one unit; everything else (shards, processes, going on, broken units, progress)
is here. Which units share a shard is known before the first is converted, so nothing depends on the workers.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from configs.errors import UserError, nearest
from data.capture import Capture
from data.ingest.source import Source
from data.manifest import DatasetInfo, commit
from data.pool import spawn_pool
from data.shards import ShardPart, existing_shards, write_shard
from data.store import StoreError
from data.urls import check_url

Item = TypeVar("Item")
Report = Callable[[str], object]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Unit:
    """The smallest part of a data set that is converted on its own, such as one sequence of one person.

    Attributes:
        name: names it in messages; different from every other unit's.
        subject: the person, as captures will have it.
        captures: how many captures it is expected to give; steers what shares a shard, and the progress.
        stamp: changes when the files do that it is made of; a shard of other stamps is written again.
        details: plain JSON values that the format needs to find it again.
    """

    name: str
    subject: str
    captures: int = 1
    stamp: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The part of a data set that is wanted; all of it by default.

    Attributes:
        subjects: names or patterns with `*`; empty for all.
        most_subjects: at most so many of them, the first by name.
        every: every n-th frame of a sequence.
        most_frames: at most so many frames of a sequence, after `every`.
        cameras: names or patterns with `*`; empty for all.
    """

    subjects: tuple[str, ...] = ()
    most_subjects: int | None = None
    every: int = 1
    most_frames: int | None = None
    cameras: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("most_subjects", "every", "most_frames"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{value} is not 1 or more", where=key)

    def choose_subjects(self, names: Iterable[str], where: str) -> list[str]:
        """Those of `names` that are wanted, sorted.

        Raises:
            UserError: a wanted one that is not there.
        """
        return choose(sorted(set(names)), self.subjects, "subject", where)[: self.most_subjects]

    def choose_cameras(self, names: Iterable[str], where: str) -> list[str]:
        """Those of `names` that are wanted, in their order.

        Raises:
            UserError: a wanted one that is not there.
        """
        return choose(list(names), self.cameras, "camera", where)

    def choose_frames(self, frames: Sequence[Item]) -> list[Item]:
        """Every n-th of a sequence's frames, the first few of those."""
        return list(frames[:: self.every])[: self.most_frames]


class Format(Protocol):
    """A data set's layout on disk: a frozen dataclass whose fields are its options, plain JSON values.

    Attributes:
        name: as the command line calls it.
        version: of the conversion; shards of another version are written again.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def units(self, source: Source, select: Selection) -> Iterable[Unit]:
        """What there is to convert, wanted subjects only; cheap: lists and reads small files.

        Raises:
            UserError: the source is no data set of this format.
        """
        ...

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """Convert one unit, in a process of its own perhaps; `meta["ingest"]` says in sentences what was done.

        Raises:
            UserError: the unit is broken, naming the place.
        """
        ...


@dataclass(frozen=True)
class Job:
    """What a worker needs to write any shard."""

    format: Format
    source: str
    out: str
    select: Selection
    keep_going: bool


@dataclass
class Outcome:
    """A shard, or none where all of its units are broken; what was done, and the broken units with their errors."""

    number: int
    captures: int = 0
    part: ShardPart | None = None
    said: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def ingest(
    format: Format,
    source: str,
    out: str,
    *,
    select: Selection | None = None,
    workers: int = 1,
    per_shard: int = 64,
    licence: str = "unknown",
    keep_going: bool = False,
    progress: Progress | None = None,
    report: Report = print,
) -> DatasetInfo:
    """Convert a data set; goes on where an interrupted call stopped.

    The shards' bytes are a function of the source, the format's options, `select` and `per_shard`.

    Args:
        format: reads the data set.
        source: URL that holds it; read in place, never copied whole.
        out: URL of the dataset to write.
        select: the part that is wanted.
        workers: processes; one where a URL is `memory://`, which no other process sees.
        per_shard: captures after which a shard is full. Units are never divided.
        licence: SPDX name or sentence that travels with the dataset.
        keep_going: leave broken units out and name them in the manifest's provenance.
        progress: told (captures done, captures expected).
        report: is told, line by line, what was found and done.

    Raises:
        UserError: nothing to convert, or the first broken unit; shards that were written before stay for the next call.
    """
    job = Job(format, check_url(source), check_url(out), select or Selection(), keep_going)
    groups, notes = _plan(job, per_shard)
    expected = [sum(unit.captures for unit in group) for group in groups]
    total, tell = sum(expected), progress or (lambda done, total: None)
    found = _already(job, len(groups), notes)
    for number in sorted(found):
        report(f"shard {number}: {len(groups[number])} units are there already")
    kept = sum(expected[number] for number in found)
    tell(kept, total)
    missing = {n: (group, notes[n]) for n, group in enumerate(groups) if n not in found}
    for outcome in _convert_all(job, missing, workers, lambda done: tell(min(kept + done, total), total)):
        found[outcome.number] = outcome
        for line in outcome.said:
            report(line)
    tell(total, total)
    return _commit(job, [found[number] for number in sorted(found)], licence)


def _commit(job: Job, outcomes: list[Outcome], licence: str) -> DatasetInfo:
    skipped = {name: error for outcome in outcomes for name, error in outcome.skipped.items()}
    parts = [outcome.part for outcome in outcomes if outcome.part is not None]
    if not parts:
        name, error = next(iter(skipped.items()))
        raise UserError(f"not one of {len(skipped)} units could be converted; the first: {error}", where=name)
    return commit(job.out, parts, licence, _provenance(job, skipped))


def _plan(job: Job, per_shard: int) -> tuple[list[list[Unit]], list[str]]:
    """Which units share a shard, and for each shard the note that tells it from any other."""
    if per_shard < 1:
        raise UserError(f"{per_shard} is not 1 or more", where="per_shard")
    source = Source(job.source)
    units = list(job.format.units(source, job.select))
    source.close()
    if not units:
        raise UserError("there is nothing to convert", where=source.where())
    groups: list[list[Unit]] = []
    names: set[str] = set()
    room = 0
    for unit in units:
        if unit.name in names:
            raise UserError("two units have this name", where=f"{source.where()}, {unit.name}")
        names.add(unit.name)
        if room < unit.captures or not groups:
            groups.append([])
            room = per_shard
        groups[-1].append(unit)
        room -= unit.captures
    about = json.dumps([_describe(job), dataclasses.asdict(job.select)], sort_keys=True)
    notes = [_digest(about, *(json.dumps(dataclasses.asdict(unit), sort_keys=True) for unit in g)) for g in groups]
    return groups, notes


def _describe(job: Job) -> dict[str, Any]:
    options = dataclasses.asdict(job.format)
    return {"format": job.format.name, "version": job.format.version, "options": options}


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _provenance(job: Job, skipped: dict[str, str]) -> dict[str, Any]:
    select = {key: value for key, value in dataclasses.asdict(job.select).items() if value != getattr(_ALL, key)}
    about = {"made by": f"headway data ingest {job.format.name}", "source": job.source, **_describe(job)}
    return {**about, **({"selected": select} if select else {}), **({"skipped": skipped} if skipped else {})}


_ALL = Selection()


def _already(job: Job, count: int, notes: list[str]) -> dict[int, Outcome]:
    """Shards that are there and are the wanted ones; ones with gaps only if gaps are allowed."""
    found = {}
    for number, part in existing_shards(job.out).items():
        digest, _, gaps = part.note.partition(" ")
        if number < count and digest == notes[number] and (job.keep_going or not gaps):
            found[number] = Outcome(number, 0, part, [], json.loads(gaps or "{}"))
    return found


Missing = dict[int, tuple[list[Unit], str]]


def _convert_all(job: Job, missing: Missing, workers: int, tell: Callable[[int], object]) -> Iterator[Outcome]:
    """Outcomes as they come, in any order."""
    alone = "memory" in (job.source.partition("://")[0], job.out.partition("://")[0])
    if alone or min(workers, len(missing)) <= 1:
        before = 0
        for number, (units, note) in missing.items():
            outcome = _convert(job, number, units, note, lambda done, before=before: tell(before + done))
            before += outcome.captures
            yield outcome
        return
    count = multiprocessing.get_context("spawn").Value("q", 0)
    with spawn_pool(min(workers, len(missing)), _share, count) as pool:
        waiting = {pool.submit(_convert_counted, job, n, *what): n for n, what in missing.items()}
        while waiting:
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            tell(count.value)
            for future in sorted(done, key=waiting.__getitem__):
                del waiting[future]
                try:
                    yield future.result()
                except BrokenExecutor:
                    hint = "out of memory? Fewer workers need less; the same command goes on"
                    raise UserError("a process that converts was killed", where=job.out, hint=hint) from None


_count: Any = None


def _share(count: Any) -> None:
    global _count
    _count = count


def _convert_counted(job: Job, number: int, units: list[Unit], note: str) -> Outcome:
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        with _count.get_lock():
            _count.value += done - told
        told = done

    return _convert(job, number, units, note, tell)


def _convert(job: Job, number: int, units: list[Unit], note: str, tell: Callable[[int], object]) -> Outcome:
    """Write one shard. A broken unit takes back what it gave: the shard is written again without it."""
    source = Source(job.source)
    skipped: dict[str, str] = {}
    try:
        while left := [unit for unit in units if unit.name not in skipped]:
            reading = _Reading(job, source, left, tell)
            gaps = f" {json.dumps(skipped, sort_keys=True)}" if skipped else ""
            try:
                part = write_shard(job.out, number, reading.captures(), note + gaps)
                return Outcome(number, reading.count, part, reading.said, skipped)
            except StoreError:
                raise
            except UserError as error:
                if reading.unit is None or not job.keep_going:
                    raise
                skipped[reading.unit.name] = str(error)
                tell(0)
    finally:
        source.close()
    return Outcome(number, 0, None, [], skipped)


class _Reading:
    """Captures of some units in order; knows which unit it is at, and what was said."""

    def __init__(self, job: Job, source: Source, units: list[Unit], tell: Callable[[int], object]) -> None:
        self._job, self._source, self._units, self._tell = job, source, units, tell
        self.unit: Unit | None = None
        self.said: list[str] = []
        self.count = 0

    def captures(self) -> Iterator[Capture]:
        for unit in self._units:
            self.unit, before = unit, self.count
            lines: dict[str, None] = {}
            for capture in self._job.format.captures(self._source, unit, self._job.select):
                yield capture
                self.count += 1
                self._tell(self.count)
                lines.update(dict.fromkeys(capture.meta.get("ingest", ())))
            if self.count == before:
                raise UserError("holds no captures", where=unit.name)
            self.said += [f"{unit.name}: {self.count - before} captures", *_few(list(lines))]
        self.unit = None


def _few(lines: list[str], most: int = 12) -> list[str]:
    """The first lines, indented, and how many more there are."""
    more = [f"  and {len(lines) - most} more"] if len(lines) > most else []
    return [f"  {line}" for line in lines[:most]] + more


def choose(names: list[str], patterns: Sequence[str], kind: str, where: str) -> list[str]:
    """Those of `names` that one of the patterns fits, in their order; all without patterns.

    Raises:
        UserError: a pattern that fits none.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no {kind} is called {pattern!r}", where=where, hint=nearest(pattern, names))
    return [name for name in names if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def split(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Runs of at most `size` items: a long sequence as several units."""
    return [items[start : start + size] for start in range(0, len(items), size)]
