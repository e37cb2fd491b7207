"""Files beneath one URL (file, s3 or memory): verified ranged reads, writes that appear whole or not."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UserError
from configs.store import StoreConfig
from data.store.circuit import Tell
from data.store.errors import BadMember, StoreError, describe, pause, too_large
from data.store.ranges import Buffer, Range, Span, cut
from data.store.reader import Reader, Traffic
from data.store.transport import close_filesystem, filesystem, refused
from data.urls import check_url, safe

T = TypeVar("T")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_LOCAL_ATTEMPTS = 3
_log = logging.getLogger("headway.store")


class Store:
    """Files beneath a URL.

    Clients are made in the process that uses them, so a store may be pickled, forked and shared by threads.
    Credentials come from the environment (`AWS_*`, `AWS_ENDPOINT_URL`) or the usual chain, never from the URL.

    Args:
        url: `file:///folder`, a plain path, `s3://bucket/prefix` or `memory://name`.
        settings: patience and speed; changes nothing that comes out.
        tell: is given one line when the store goes away and when it comes back; a log's warning by default.
    """

    def __init__(
        self, url: str | os.PathLike[str], settings: StoreConfig | None = None, tell: Tell = _log.warning
    ) -> None:
        self.url = check_url(str(url))
        self.settings = settings or StoreConfig()
        scheme, _, rest = self.url.partition("://")
        self.local = Path(rest) if scheme == "file" else None
        self._scheme, self._root, self._tell = scheme, rest.rstrip("/"), tell
        self._reader: Reader | None = None
        self._client: Any = None
        self._owner = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def traffic(self) -> Traffic:
        """What this process has asked of the store; nothing for a local folder."""
        return self._reader.traffic if self._reader else Traffic()

    def read(self, path: str, limit: int = 2**30) -> bytes:
        """A whole file of at most `limit` bytes.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it is larger, or the store does not answer.
        """
        if self.local is None:
            return self._remote().read(safe(path), limit)
        file = self.local / safe(path)
        if file.stat().st_size > limit:
            raise too_large(f"{self.url}/{path}", limit)
        return file.read_bytes()

    def read_ranges(self, ranges: Sequence[Range], verify: bool = True) -> list[bytes]:
        """Members' bytes, near ones in one request, in the order asked.

        Args:
            ranges: what to read.
            verify: compare every member with its checksum.

        Raises:
            BadMember: a member stays wrong after several attempts.
            StoreError: the store refused, or did not answer before the deadline.
        """
        try:
            return [bytes(data) for data in self.fetch(ranges, verify).result()]
        except CancelledError:
            raise StoreError("was closed while it was read from", where=self.url) from None

    def fetch(self, ranges: Sequence[Range], verify: bool = True) -> Future[list[Buffer]]:
        """Like `read_ranges` without waiting, except for a local folder, and without copying."""
        if self.local is None and ranges:
            return self._remote().fetch(ranges, verify)
        done: Future[list[Buffer]] = Future()
        try:
            done.set_result([self._read_local(part, verify) for part in ranges])
        except Exception as error:
            done.set_exception(error)
        return done

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
        try:
            self._patiently(path, lambda fs, name: fs.put_file(str(aside), name))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise StoreError(f"cannot be written ({describe(error)})", where=f"{self.url}/{path}") from None

    def size(self, path: str) -> int | None:
        """Bytes in a file, or None where there is none."""
        if self.local is not None:
            target = self.local / safe(path)
            return target.stat().st_size if target.is_file() else None
        try:
            return int(self._patiently(path, lambda fs, name: fs.info(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names of the files right beneath a folder, sorted; empty where there is none."""
        if self.local is not None:
            target = self.local / safe(folder)
            return sorted(item.name for item in target.iterdir() if item.is_file()) if target.is_dir() else []
        try:
            found = self._patiently(folder, lambda fs, name: fs.ls(name, detail=True))
        except FileNotFoundError:
            return []
        return sorted(item["name"].rsplit("/", 1)[-1] for item in found if item["type"] == "file")

    def close(self) -> None:
        """Drop this process's clients and their connections; the store may be used again."""
        with self._lock:
            reader, self._reader, client, self._client = self._reader, None, self._client, None
        if self._owner == os.getpid():
            if reader is not None:
                reader.close()
            if client is not None:
                close_filesystem(client)

    def _full(self, path: str) -> str:
        return f"{self._root}/{safe(path)}" if self._root else safe(path)

    def _remote(self) -> Reader:
        """The reader of this process."""
        with self._lock:
            self._adopt()
            if self._reader is None:
                self._reader = Reader(self.url, self.settings, self._tell)
            return self._reader

    def _fs(self) -> Any:
        """The client of this process for everything but reading."""
        with self._lock:
            self._adopt()
            if self._client is None:
                self._client = filesystem(self._scheme, self.settings.timeout)
            return self._client

    def _patiently(self, path: str, ask: Callable[[Any, str], T]) -> T:
        """What the client answers for `path`: jittered, exponential pauses between attempts, under the deadline."""
        end, where = time.monotonic() + self.settings.deadline, f"{self.url}/{path}"
        for attempts in itertools.count(1):
            try:
                return ask(self._fs(), self._full(path))
            except (UserError, FileNotFoundError, IsADirectoryError):
                raise
            except Exception as error:
                if refused(error):
                    raise StoreError(f"the store refused ({describe(error)})", where=where) from None
                seconds = pause(attempts)
                if time.monotonic() + seconds > end:
                    what = f"the store did not answer in {attempts} attempts; last: {describe(error)}"
                    raise StoreError(what, where=where) from None
                time.sleep(seconds)
        raise AssertionError

    def _adopt(self) -> None:
        """Leave the parent's clients alone after a fork."""
        if self._owner != os.getpid():
            self._reader, self._client, self._owner = None, None, os.getpid()

    def _read_local(self, part: Range, verify: bool) -> Buffer:
        """One member of a folder; asked for again where a network file system may have coughed."""
        for attempt in itertools.count(1):
            try:
                return cut(self._pread(part), Span(part.path, part.offset, 0, ()), part, verify)
            except (FileNotFoundError, PermissionError) as error:
                raise StoreError(f"cannot be read ({describe(error)})", where=f"{self.url}/{part.path}") from None
            except (OSError, BadMember) as error:
                if attempt == _LOCAL_ATTEMPTS:
                    if isinstance(error, BadMember):
                        raise
                    raise StoreError(f"cannot be read ({describe(error)})", where=f"{self.url}/{part.path}") from None
                time.sleep(0.01 * 4**attempt)
        raise AssertionError

    def _pread(self, part: Range) -> bytes:
        file = os.open(f"{self.local}/{part.path}", os.O_RDONLY)  # the manifest's paths were checked when it was read
        try:
            return os.pread(file, part.length, part.offset)
        finally:
            os.close(file)
