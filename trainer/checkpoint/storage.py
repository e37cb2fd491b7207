"""A folder at any fsspec URL, with what a checkpoint asks of it: hashed streams, and one file that commits."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from configs import UserError
from data.urls import check_url

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError)
CHUNK = 16 * 2**20
REQUEST, AT_ONCE = 8 * 2**20, 8  # bytes of one, and how many


@dataclass(frozen=True)
class Written:
    """A file that was written: its name, length in bytes and SHA-256."""

    file: str
    bytes: int
    sha256: str


class Folder:
    """Files in one folder of a local disk or an object store.

    Args:
        url: a plain path, `file://`, `s3://` or `memory://`.

    Raises:
        UserError: another scheme, or credentials in the URL.
    """

    def __init__(self, url: str) -> None:
        fs, path = fsspec.core.url_to_fs(check_url(url))
        self.url, self.fs, self.path = url, fs, str(path).rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def write(self, name: str, parts: Iterable[memoryview | bytes]) -> Written:
        """Stream a new file to stable storage, hashing on the way."""
        if self.is_local:
            os.makedirs(self.path, exist_ok=True)
        digest, length = hashlib.sha256(), 0
        with self.open(name, "wb") as file:
            for part in parts:
                for chunk in _chunks(memoryview(part)):
                    digest.update(chunk)
                    file.write(chunk)
                    length += len(chunk)
            self._settle(file)
        return Written(name, length, digest.hexdigest())

    def commit(self, name: str, content: bytes) -> None:
        """Make `name` hold `content`, whole or not at all."""
        if not self.is_local:
            self.fs.pipe_file(self._at(name), content)  # object stores show an object only when it is complete
            return
        aside = f"{name}.part"
        with self.open(aside, "wb") as file:
            file.write(content)
            self._settle(file)
        os.replace(self._at(aside), self._at(name))
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def open(self, name: str, mode: str = "rb") -> Any:
        """The file, opened."""
        return self.fs.open(self._at(name), mode)

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.fs.cat_file(self._at(name))

    def sizes(self) -> dict[str, int]:
        """Length in bytes of every file here; empty where there is no such folder."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {str(e["name"]).rsplit("/", 1)[-1]: int(e["size"] or 0) for e in entries if e["type"] == "file"}

    def folders(self) -> list[str]:
        """Names of the folders here; empty where there is no such folder."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"]

    def digest(self, name: str) -> str:
        """SHA-256 of a file."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, name: str, size: int) -> tuple[bytearray, str]:
        """All of a file, by several requests at a time, and its SHA-256.

        Args:
            name: of the file.
            size: its length in bytes.
        """
        content, digest = bytearray(size), hashlib.sha256()
        for first in range(0, size, AT_ONCE * REQUEST):
            starts = list(range(first, min(size, first + AT_ONCE * REQUEST), REQUEST))
            stops = [min(size, start + REQUEST) for start in starts]
            for start, part in zip(
                starts, self.fs.cat_ranges([self._at(name)] * len(starts), starts, stops, on_error="raise"), strict=True
            ):
                content[start : start + len(part)] = part
                digest.update(part)
        return content, digest.hexdigest()

    def remove(self, names: Iterable[str]) -> None:
        """Remove what is there of these, and the folder if that leaves it empty."""
        for name in names:
            if self.fs.exists(self._at(name)):
                self.fs.rm_file(self._at(name))
        if self.is_local:
            with suppress(OSError):  # not empty, or another rank was quicker
                os.rmdir(self.path)

    def explain(self, error: OSError, needed: int) -> Exception:
        """A full disk, and a folder or bucket that refuses, are the user's to mend; the rest stays what it is."""
        if error.errno in FULL:
            return UserError(
                f"no room for the checkpoint: it needs {megabytes(needed)}{self._free()}",
                where=self.url,
                hint="make room, or set run.dir to a larger disk; nothing was left behind",
            )
        if isinstance(error, NOT_WRITABLE) or error.errno == errno.EROFS:
            return UserError(f"not writable: {error.strerror or error}", where=self.url)
        return error

    def _free(self) -> str:
        if not self.is_local:
            return ""
        existing = self.path
        while not os.path.isdir(existing):
            existing = os.path.dirname(existing) or "/"
        return f", {megabytes(shutil.disk_usage(existing).free)} are free"

    def _settle(self, file: Any) -> None:
        if self.is_local:
            file.flush()
            os.fsync(file.fileno())

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}"


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def _chunks(view: memoryview) -> Iterable[memoryview]:
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


def read_exactly(file: Any, offset: int, out: memoryview) -> None:
    """Fill `out` from `offset` of an open file.

    Raises:
        EOFError: the file ends before.
    """
    file.seek(offset, io.SEEK_SET)
    got = 0
    while got < len(out):
        count = file.readinto(out[got:])
        if not count:
            raise EOFError(f"ends {len(out) - got} bytes early")
        got += count
