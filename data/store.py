"""Bytes beneath one URL (file, s3 or memory): verified ranged reads that retry, writes that appear whole or not."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from configs.errors import UserError
from data.urls import check_url, safe

GAP = 8192  # bytes between two members that are cheaper to read through than to ask for separately
REREADS = 3  # attempts for a member whose checksum is wrong before it counts as bad
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_FATAL = ("FileNotFoundError", "PermissionError", "IsADirectoryError", "NoCredentialsError", "ParamValidationError")


@dataclass(frozen=True)
class Range:
    """One member's bytes: `length` from `offset` in the file `path`; `member` names it in messages."""

    path: str
    offset: int
    length: int
    crc32: int
    member: str


@dataclass(frozen=True)
class Span:
    """One request: bytes `start` to `stop` of `path`, which holds the ranges numbered `ranges`."""

    path: str
    start: int
    stop: int
    ranges: tuple[int, ...]


class BadMember(UserError):
    """A member whose bytes are not those that were written, after every attempt to read them."""


class StoreError(UserError):
    """The store did not answer within the deadline, or refused."""


class Store:
    """Files beneath a URL.

    Clients are made in the process that uses them, so a store may be pickled, forked and shared by threads.
    Credentials come from the environment (`AWS_*`, `AWS_ENDPOINT_URL`) or the usual chain, never from the URL.

    Args:
        url: `file:///folder`, a plain path, `s3://bucket/prefix` or `memory://name`.
        deadline: seconds within which a read must succeed, retries included.
    """

    def __init__(self, url: str | os.PathLike[str], deadline: float = 60.0) -> None:
        self.url = check_url(str(url))
        self.deadline = deadline
        scheme, _, rest = self.url.partition("://")
        self.local = Path(rest) if scheme == "file" else None
        self._scheme, self._root = scheme, rest.rstrip("/")
        self._client: Any = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "deadline": self.deadline}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def read(self, path: str) -> bytes:
        """A whole small file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the store does not answer.
        """
        if self.local is not None:
            return (self.local / safe(path)).read_bytes()
        patience = _Patience(self.deadline)
        while True:
            try:
                return bytes(self._fs().cat_file(self._full(path)))
            except FileNotFoundError:
                raise
            except Exception as error:
                patience.wait(error, f"{self.url}/{path}")

    def read_ranges(self, ranges: Sequence[Range], verify: bool = True) -> list[bytes]:
        """Members' bytes, near ones in one request, in the order asked.

        Args:
            ranges: what to read.
            verify: compare every member with its checksum.

        Raises:
            BadMember: a member stays wrong after `REREADS` attempts.
            StoreError: the store refused, or did not answer before the deadline.
        """
        if not ranges:
            return []
        found: list[bytes] = [b""] * len(ranges)
        missing = list(range(len(ranges)))
        patience = _Patience(self.deadline)
        while True:
            wanted = [ranges[index] for index in missing]
            spans = coalesce(wanted, GAP)
            errors: dict[int, Exception] = {}
            for span, blob in zip(spans, self._fetch(spans), strict=True):
                for place in span.ranges:
                    index, part = missing[place], wanted[place]
                    try:
                        found[index] = _cut(blob, span, part, verify)
                    except Exception as error:
                        errors[index] = error
            if not errors:
                return found
            missing = sorted(errors)
            first = errors[missing[0]]
            patience.wait(first, f"{self.url}/{ranges[missing[0]].path}, member {ranges[missing[0]].member}")

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file; readers see all of it or nothing."""
        with self.aside() as aside:
            aside.write_bytes(data)
            self.put(aside, path)

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """A temporary local file, in the store itself where that is local; gone afterwards unless `put`."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".aside-", dir=self.local)
        os.close(handle)
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise StoreError(f"cannot write: {error.strerror}", where=self.url, hint="nothing was changed") from None
        finally:
            Path(name).unlink(missing_ok=True)

    def put(self, aside: Path, path: str) -> None:
        """Commit a local file to `path`: a rename, or an upload that is not visible before it is whole."""
        if self.local is not None:
            target = self.local / safe(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.chmod(0o644)
            os.replace(aside, target)
            return
        patience = _Patience(self.deadline)
        while True:
            try:
                return self._fs().put_file(str(aside), self._full(path))
            except Exception as error:
                patience.wait(error, f"{self.url}/{path}")

    def size(self, path: str) -> int | None:
        """Bytes in a file, or None where there is none."""
        if self.local is not None:
            target = self.local / safe(path)
            return target.stat().st_size if target.is_file() else None
        try:
            return int(self._fs().info(self._full(path))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names of the files right beneath a folder, sorted; empty where there is none."""
        if self.local is not None:
            target = self.local / safe(folder)
            return sorted(item.name for item in target.iterdir() if item.is_file()) if target.is_dir() else []
        try:
            found = self._fs().ls(self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(item["name"].rsplit("/", 1)[-1] for item in found if item["type"] == "file")

    def close(self) -> None:
        """Drop this process's client and its connections."""
        client, self._client = self._client, None
        if client is not None and self._owner == os.getpid() and hasattr(client, "close_session"):
            client.close_session(client.loop, client._s3)

    def _full(self, path: str) -> str:
        return f"{self._root}/{safe(path)}" if self._root else safe(path)

    def _fs(self) -> Any:
        """The client of this process."""
        if self._client is None or self._owner != os.getpid():
            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            if self._scheme == "s3":
                # One policy of retries, ours: it knows the deadline and the checksums.
                options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}
            self._client, self._owner = fsspec.filesystem(self._scheme, **options), os.getpid()
            if self._scheme == "s3":
                self._client.retries = 1
        return self._client

    def _fetch(self, spans: Sequence[Span]) -> list[bytes | Exception]:
        """Every span's bytes, or why not. Whatever serves ranges faster slots in here."""
        if self.local is not None:
            return [_pread(self.local / safe(span.path), span) for span in spans]
        paths, starts, stops = zip(*((self._full(s.path), s.start, s.stop) for s in spans), strict=True)
        return self._fs().cat_ranges(list(paths), list(starts), list(stops), on_error="return")


def coalesce(ranges: Sequence[Range], gap: int) -> list[Span]:
    """Merge ranges of one file that lie within `gap` bytes of each other; sorted by file and offset."""
    spans: list[Span] = []
    for index in sorted(range(len(ranges)), key=lambda i: (ranges[i].path, ranges[i].offset)):
        item = ranges[index]
        last = spans[-1] if spans else None
        if last and last.path == item.path and item.offset - last.stop <= gap:
            stop = max(last.stop, item.offset + item.length)
            spans[-1] = Span(last.path, last.start, stop, (*last.ranges, index))
        else:
            spans.append(Span(item.path, item.offset, item.offset + item.length, (index,)))
    return spans


class _Patience:
    """Counts attempts and sleeps between them: exponential, jittered, bounded by a deadline."""

    def __init__(self, deadline: float) -> None:
        self.end, self.attempts, self.bad = time.monotonic() + deadline, 0, 0

    def wait(self, error: Exception, where: str) -> None:
        self.attempts += 1
        if isinstance(error, BadMember):
            self.bad += 1
            if self.bad >= REREADS:
                raise error
        elif isinstance(error, UserError):
            raise error
        elif type(error).__name__ in _FATAL:
            raise StoreError(f"cannot be read or written ({_describe(error)})", where=where) from None
        pause = min(5.0, 0.05 * 2**self.attempts) * random.uniform(0.5, 1.5)
        if time.monotonic() + pause > self.end:
            raise StoreError(
                f"the store did not answer in {self.attempts} attempts; last: {_describe(error)}", where=where
            ) from None
        time.sleep(pause)


def _cut(blob: bytes | Exception, span: Span, part: Range, verify: bool) -> bytes:
    if isinstance(blob, Exception):
        raise blob
    data = blob[part.offset - span.start : part.offset - span.start + part.length]
    where = f"shard {part.path}, member {part.member}"
    if len(data) != part.length:
        raise BadMember(f"only {len(data)} of {part.length} bytes are there", where=where, hint=_BAD_HINT)
    if verify and zlib.crc32(data) != part.crc32:
        raise BadMember("its checksum is wrong: the bytes were changed", where=where, hint=_BAD_HINT)
    return data


_BAD_HINT = "copy the shard again, or write the dataset again"


def _pread(path: Path, span: Span) -> bytes | Exception:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), span.stop - span.start, span.start)
    except OSError as error:
        return error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
