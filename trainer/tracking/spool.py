"""An append-only file of lines on this machine's disk: what is in it cannot be lost by a server."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20
_KEPT_BYTES = 64 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_LINES, _SENT = "lines.jsonl", "sent.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """One record and where the next one begins.

    Attributes:
        record: what was appended; None if the line is damaged (a process died while writing it).
        end: offset in bytes behind the line.
    """

    record: dict[str, Any] | None
    end: int


class Spool:
    """Lines of JSON in `lines.jsonl`, and in `sent.json` how many bytes of them have been sent, and to which run.

    Several threads of one process may append; one may read and commit.

    Args:
        folder: made where it is missing.
        mend: whether a last line that a kill has cut in half is ended; not by one who only reads.
    """

    def __init__(self, folder: Path, *, mend: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._lines, self._sent = folder / _LINES, folder / _SENT
        self._file = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        if mend:
            self._end_cut_line()

    def hold(self, *, alone: bool) -> bool:
        """Say that this process sends from the spool; the kernel forgets it when the process ends, however it ends.

        Args:
            alone: whether nobody else may. Trackers share it: one that was given up must not keep out the next.

        Returns:
            Whether it was free; True on disks that know no locks.
        """
        try:
            fcntl.flock(self._held, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
        return True

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; it is in the operating system's hands when this returns (some 20 microseconds).

        While the disk takes nothing it is kept in memory, in front of what comes later.

        Raises:
            OSError: the disk has taken nothing for 64 MB.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._kept += line
            self._write()

    def _write(self) -> None:
        try:
            while self._kept:
                del self._kept[: os.write(self._file, self._kept)]
        except OSError as error:
            if error.errno not in _NO_ROOM or len(self._kept) > _KEPT_BYTES:
                raise

    def sent(self) -> int:
        """Offset of the first byte that has not been sent."""
        return int(_noted(self._sent).get("offset", 0))

    def receiver(self) -> str | None:
        """MLflow's id of the run that everything before `sent()` went to, where it was noted."""
        return _noted(self._sent).get("run")

    def commit(self, offset: int, run: str | None = None) -> None:
        """Remember that everything before `offset` has been sent, to `run`."""
        partial = self._sent.with_suffix(".partial")
        partial.write_text(json.dumps({"offset": offset, "run": run}))
        partial.replace(self._sent)

    def unsent(self) -> int:
        """Bytes that wait."""
        return max(0, self._lines.stat().st_size - self.sent())

    def waiting(self) -> int:
        """Lines that wait."""
        return waiting(self.folder)

    def read(self, offset: int) -> Iterator[Line]:
        """Whole lines from `offset` on, about 1 MB of them at most."""
        with open(self._lines, "rb") as file:
            file.seek(offset)
            chunk = file.read(_CHUNK_BYTES)
            if len(chunk) == _CHUNK_BYTES and not chunk.endswith(b"\n"):
                chunk += file.readline()
        for raw in chunk.splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield Line(_parse(raw), offset)

    def close(self) -> None:
        """Let go of the files; what the disk does not take now is lost, and said."""
        with self._lock:
            self._write()
            if self._kept:
                log.warning("the disk is full: %d records for MLflow are lost", self._kept.count(b"\n"))
        os.close(self._file)
        os.close(self._held)
        self._file = self._held = -1

    def _end_cut_line(self) -> None:
        """A process that was killed while writing leaves half a line; the next must not grow onto it."""
        with open(self._lines, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    os.write(self._file, b"\n")


def _noted(path: Path) -> dict[str, Any]:
    """What `sent.json` says; nothing where it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) and isinstance(found.get("offset"), int) else {}
    except (FileNotFoundError, ValueError):
        return {}


def waiting(folder: Path) -> int:
    """Whole lines of a spool that have not been sent, without opening it; 0 where there is none."""
    found = 0
    try:
        with open(folder / _LINES, "rb") as file:
            file.seek(_noted(folder / _SENT).get("offset", 0))
            while chunk := file.read(_CHUNK_BYTES):
                found += chunk.count(b"\n")
    except FileNotFoundError:
        pass
    return found


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
