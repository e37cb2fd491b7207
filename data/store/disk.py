"""What was fetched, kept on a local disk for later epochs: many processes, one byte limit, never the only copy.

Every file of the store has a sparse twin of its own here, and a member lies in it where it lies in the store. Nothing
says which members are there: a member is there if its checksum says so. So no write can be torn, nothing needs a
lock but the count of bytes, and whoever damages the folder costs time only.

Once full, it keeps what it has. An epoch reads every member once in an order that never repeats, so a share c of a
dataset serves a share c of all reads this way, where dropping the least recently used would serve c^2 / 2.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from data.store.ranges import Buffer, Range

_BLOCK = 4096
_HOME = re.compile("[0-9a-f]{24}")
_DIGITS = 20
_LEASE = 16 * 2**20  # bytes that a process may write before it has to look at the common count again


class DiskCache:
    """Members of one dataset on a local disk. Make one per process; threads share it.

    Args:
        folder: for all datasets and processes of a machine; what is kept lies in `headway-cache` beneath it.
        url: the dataset's.
        limit: bytes for everything in it.

    Raises:
        UserError: a folder that cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], url: str, limit: int) -> None:
        self._root = Path(folder).expanduser() / "headway-cache"
        self._home = self._root / hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
        self._limit, self._lease = limit, max(_BLOCK, min(_LEASE, limit // 64))
        self._left, self._full = 0, False
        self._lock = threading.Lock()
        self._users = -1
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            os.utime(self._home)
            self._users = os.open(self._root / "users", os.O_RDWR | os.O_CREAT, 0o644)
            self._settle()
        except OSError as error:
            self.close()
            raise UserError(f"cannot be used ({error.strerror})", where=f"data.store.cache_dir: {folder}") from None

    def get(self, part: Range) -> bytes | None:
        """A member's bytes, if they are here and right."""
        try:
            file = os.open(self._twin(part.path), os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(file, part.length, part.offset)
        except OSError:
            return None
        finally:
            os.close(file)
        return data if len(data) == part.length and zlib.crc32(data) == part.crc32 else None

    def put(self, part: Range, data: Buffer) -> None:
        """Keep a member whose checksum was found right, if there is room."""
        if self._full or not self._take(len(data) + _BLOCK):
            return
        twin = self._twin(part.path)
        try:
            twin.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(twin, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, data, part.offset)
            finally:
                os.close(file)
        except OSError:
            self._full = True  # no room or no right to write: the store still has everything

    def used(self) -> int:
        """Bytes on the disk, counted."""
        return sum(_blocks(path) for path in self._root.rglob("*") if path.is_file())

    def close(self) -> None:
        """Give back what was not written; the cache cannot be used afterwards."""
        with self._lock:
            if self._users >= 0:
                self._count(-self._left)
                self._left, self._full = 0, True
                os.close(self._users)
                self._users = -1

    def _twin(self, path: str) -> Path:
        return self._home / path

    def _take(self, size: int) -> bool:
        """Reserve bytes of the common limit."""
        with self._lock:
            if self._full or self._users < 0:
                return False
            while self._left < size:
                if not self._count(self._lease):
                    self._full = True
                    return False
                self._left += self._lease
            self._left -= size
            return True

    def _count(self, change: int) -> bool:
        """Add to the bytes that all processes have reserved; False where that would pass the limit, or cannot be."""
        try:
            with _locked(self._root / "reserved") as file:
                total = int(os.pread(file, _DIGITS, 0) or 0) + change
                if change > 0 and total > self._limit:
                    return False
                _write_count(file, total)
                return True
        except (OSError, ValueError):
            return False

    def _settle(self) -> None:
        """Whoever is alone in the folder counts what is really there, and makes room from other datasets' oldest."""
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fcntl.flock(self._users, fcntl.LOCK_SH)
            return
        others = [path for path in self._root.iterdir() if _HOME.fullmatch(path.name) and path != self._home]
        others = sorted((path for path in others if path.is_dir()), key=lambda path: path.stat().st_mtime)
        used = self.used()
        while others and used > 0.9 * self._limit:
            shutil.rmtree(others.pop(0), ignore_errors=True)
            used = self.used()
        with _locked(self._root / "reserved") as file:
            _write_count(file, used)
        fcntl.flock(self._users, fcntl.LOCK_SH)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _write_count(file: int, count: int) -> None:
    """A number in a fixed width, so that nothing has to be cut off first."""
    os.pwrite(file, f"{max(0, count):{_DIGITS}d}".encode(), 0)


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
