"""The ledger's files: what a rank wrote of its seconds, and when somebody ran the job.

`RUN/ledger/rank-R.attempt-A.jsonl` has a line for every window of a rank; no two processes ever write to one file.
`RUN/ledger/sessions.jsonl` has when a launcher began and ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEDGER = "ledger"
CATEGORIES = {
    "compute": "forward, render, loss, backward and optimiser of steps that counted",
    "data_wait": "waiting for the next batch",
    "communication": "blocked in a collective of a step: the message itself, and ranks that are late for it",
    "checkpoint_stall": "training stands still for a save",
    "evaluation": "held-out subjects",
    "start_up": "from the launch to the first batch",
    "restart": "from an attempt's last sign of life to the next one's first batch; going back to a checkpoint",
    "lost_work": "steps after the checkpoint that was gone on from, and the step that a crash cut off",
    "idle": "what remains: reports, the end of a session, a rank that has no worker",
}
"""What a second can be; each is exactly one of them."""
_SESSIONS = "sessions.jsonl"
_FILE = re.compile(r"^rank-(\d+)\.attempt-(\d+)\.jsonl$")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """A piece of one rank's wall time.

    Attributes:
        attempt: counts the starts of the run, from 1; the same on every rank.
        began, ended: seconds since the epoch.
        first, last: optimiser steps done at its beginning and at its end.
        seconds: by category; they sum to its length.
        resumed: the step of the checkpoint that the rank went on from as it began (0 without one).
        end: how the attempt ended with it: `FINISHED`, `KILLED` (asked to stop, and saved) or `FAILED`.
    """

    attempt: int
    began: float
    ended: float
    first: int
    last: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    resumed: int | None = None
    end: str | None = None

    def line(self) -> bytes:
        """As JSON, without what is not set."""
        known = {key: value for key, value in vars(self).items() if value is not None}
        known["seconds"] = {name: round(value, 6) for name, value in self.seconds.items() if value}
        return json.dumps(known, separators=(",", ":")).encode()


class Journal:
    """A file of lines whose last one may be rewritten while it grows.

    A reader sees whole lines; a process that is killed leaves what it wrote last.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._offset = self._width = 0

    def write(self, line: bytes, *, final: bool) -> None:
        """Put `line` in the place of the last one; a `final` one stays.

        Raises:
            OSError: the disk is full or away; the next line takes its place.
        """
        self._width = max(self._width, len(line))
        padded = line.ljust(self._width) + b"\n"
        os.pwrite(self._file, padded, self._offset)
        if final:
            self._offset, self._width = self._offset + len(padded), 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def journal_path(run: Path, rank: int, attempt: int) -> Path:
    """Where a rank writes its windows."""
    return run / LEDGER / f"rank-{rank}.attempt-{attempt}.jsonl"


def attempts(run: Path) -> int:
    """How often the run was started, as far as this machine's files know."""
    return max((int(found[2]) for path in _files(run) if (found := _FILE.match(path.name))), default=0)


class Journals(Mapping[int, list[Window]]):
    """What ranks wrote: windows by rank, in order; damaged lines are left out.

    Read anew each time a rank is asked for, so that a thousand ranks never lie in memory together.
    """

    def __init__(self, run: Path) -> None:
        self._paths: dict[int, list[Path]] = {}
        for path in _files(run):
            if found := _FILE.match(path.name):
                self._paths.setdefault(int(found[1]), []).append(path)

    def __getitem__(self, rank: int) -> list[Window]:
        found = (window for path in self._paths[rank] for window in _parsed(path))
        return sorted(found, key=lambda window: (window.attempt, window.began))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._paths))

    def __len__(self) -> int:
        return len(self._paths)


def read_sessions(run: Path) -> list[tuple[float, float | None]]:
    """Beginnings and ends, in seconds since the epoch; one without an end was killed, or goes on."""
    found: list[tuple[float, float | None]] = []
    for record in _records(run / LEDGER / _SESSIONS):
        if "began" in record:
            found.append((float(record["began"]), None))
        elif "ended" in record and found:
            found[-1] = (found[-1][0], float(record["ended"]))
    return found


def note_session(run: Path, event: str) -> None:
    """A launcher has just `began` or `ended`."""
    try:
        (run / LEDGER).mkdir(parents=True, exist_ok=True)
        with open(run / LEDGER / _SESSIONS, "a") as file:
            file.write(json.dumps({event: time.time()}) + "\n")
    except OSError as error:
        log.warning("the ledger misses that a session %s now: %s", event, error)


def _files(run: Path) -> list[Path]:
    folder = run / LEDGER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _parsed(path: Path) -> Iterator[Window]:
    for record in _records(path):
        with contextlib.suppress(TypeError, KeyError, ValueError):
            yield Window(**record)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for raw in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(raw)
            if isinstance(record, dict):
                yield record
