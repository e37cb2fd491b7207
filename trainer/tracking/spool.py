"""An append-only file of lines on this machine's disk: what is in it cannot be lost by a server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


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
    """Lines of JSON in `lines.jsonl`, and in `sent.json` how many bytes of them have been sent.

    Several threads of one process may append; one may read and commit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._lines, self._sent = folder / "lines.jsonl", folder / "sent.json"
        self._file = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_cut_line()

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; it is in the operating system's hands when this returns (some 20 microseconds)."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            os.write(self._file, line)

    def sent(self) -> int:
        """Offset of the first byte that has not been sent."""
        try:
            return int(json.loads(self._sent.read_text())["offset"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0

    def commit(self, offset: int) -> None:
        """Remember that everything before `offset` has been sent."""
        partial = self._sent.with_suffix(".partial")
        partial.write_text(json.dumps({"offset": offset}))
        partial.replace(self._sent)

    def unsent(self) -> int:
        """Bytes that wait."""
        return max(0, self._lines.stat().st_size - self.sent())

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
        """Let go of the file."""
        os.close(self._file)

    def _end_cut_line(self) -> None:
        """A process that was killed while writing leaves half a line; the next must not grow onto it."""
        with open(self._lines, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    os.write(self._file, b"\n")


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None
