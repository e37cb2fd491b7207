"""What importers read: files beneath one URL (file, s3 or memory), in place and in parts."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from configs.errors import UserError
from data.store import StoreError
from data.urls import check_url

MAX_FILE = 256 * 2**20  # bytes; a larger image, table or JSON is a mistake or an attack
MAX_COPY = 16 * 2**30  # bytes; a longer video is not copied
BLOCK, BLOCKS = 64 * 1024, 128  # small reads of a remote file go through so many blocks of such a size


@dataclass(frozen=True)
class Entry:
    """A file: its path beneath the source, its size in bytes, and a word that changes when its content does."""

    path: str
    size: int
    version: str


class Source:
    """Files beneath a URL, read only.

    Paths are relative, with `/`; one that would leave the source is refused. Clients are made in the process that uses
    them, so a source may be sent to other processes. Credentials come from the environment or the usual chain.

    Args:
        url: `file:///folder`, a plain path, `s3://bucket/prefix` or `memory://name`.

    Raises:
        UserError: a URL that `data.urls.check_url` refuses.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = check_url(str(url))
        self._scheme, _, rest = self.url.partition("://")
        self._root = rest.rstrip("/")
        self.local_root = Path(rest) if self._scheme == "file" else None
        self._client: Any = None
        self._owner = 0

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["url"])

    def where(self, path: str = "") -> str:
        """How messages name a file."""
        shown = f"{self.local_root}" if self.local_root is not None else self.url
        return f"{shown}/{path}" if path else shown

    def files(self, folder: str = "") -> list[Entry]:
        """Every file beneath a folder, sorted by path; hidden ones and those in hidden folders left out.

        Raises:
            UserError: there is no such folder.
        """
        with self._named(folder, "there is no such folder"):
            found = self._fs().find(self._full(folder), detail=True)
            entries = [self._entry(info) for info in found.values()]
            if not entries:
                self._fs().info(self._full(folder))
        shown = (entry for entry in entries if not any(part.startswith(".") for part in entry.path.split("/")))
        return sorted(shown, key=lambda entry: entry.path)

    def list(self, folder: str = "") -> tuple[list[str], list[Entry]]:
        """Names of the folders and the files right beneath a folder, sorted; hidden ones left out.

        Raises:
            UserError: there is no such folder.
        """
        with self._named(folder, "there is no such folder"):
            found = self._fs().ls(self._full(folder), detail=True)
        folders = sorted(posixpath.basename(info["name"].rstrip("/")) for info in found if info["type"] == "directory")
        entries = sorted((self._entry(info) for info in found if info["type"] == "file"), key=lambda entry: entry.path)
        # An object store may list the folder itself as an empty object.
        files = [entry for entry in entries if entry.path != folder and not _hidden(entry.path)]
        return [name for name in folders if name and not _hidden(name)], files

    def is_file(self, path: str) -> bool:
        """Whether a file is there."""
        with self._named(path):
            return bool(self._fs().isfile(self._full(path)))

    def entry(self, path: str) -> Entry:
        """A file's size and version.

        Raises:
            UserError: it is not there.
        """
        with self._named(path):
            info = self._fs().info(self._full(path))
        if info["type"] != "file":
            raise UserError("is a folder, not a file", where=self.where(path))
        return self._entry(info)

    def read(self, path: str, limit: int = MAX_FILE) -> bytes:
        """A whole file.

        Raises:
            UserError: it is not there, or larger than `limit` bytes.
        """
        with self._named(path):
            if self.local_root is not None:
                with open(self._full(path), "rb") as file:
                    data = file.read(limit + 1)
            else:
                size = int(self._fs().info(self._full(path))["size"])
                data = bytes(limit + 1) if size > limit else bytes(self._fs().cat_file(self._full(path)))
        if len(data) > limit:
            raise UserError(f"is larger than {limit} bytes", where=self.where(path))
        return data

    def open(self, path: str) -> BinaryIO:
        """A seekable file that fetches what is read of it, for zip and HDF5; to be closed.

        Raises:
            UserError: it is not there; later, that it cannot be read.
        """
        full = self._full(path)
        with self._named(path):
            if self.local_root is not None:
                return open(full, "rb")
            size = int(self._fs().info(full)["size"])

        def fetch(start: int, stop: int) -> bytes:
            with self._named(path):
                data = bytes(self._fs().cat_file(full, start=start, end=stop))
            if len(data) != stop - start:
                raise UserError(f"only {len(data)} of {stop - start} bytes came", where=self.where(path))
            return data

        return cast(BinaryIO, _Ranged(fetch, size))

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A local file with this content, for libraries that want one: itself, or a copy that is removed afterwards.

        Raises:
            UserError: it is not there, or a copy would be larger than `MAX_COPY` bytes.
        """
        entry = self.entry(path)
        if self.local_root is not None:
            yield Path(self._full(path))
            return
        if entry.size > MAX_COPY:
            raise UserError(f"is larger than {MAX_COPY} bytes", where=self.where(path))
        with tempfile.TemporaryDirectory(prefix="headway-ingest-") as folder:
            copy = Path(folder) / posixpath.basename(path)
            with self._named(path):
                self._fs().get_file(self._full(path), str(copy))
            yield copy

    def close(self) -> None:
        """Drop this process's client and its connections."""
        client, self._client = self._client, None
        if client is not None and self._owner == os.getpid() and hasattr(client, "close_session"):
            client.close_session(client.loop, client._s3)

    def _full(self, path: str) -> str:
        clean = posixpath.normpath(path) if path else ""
        if clean.startswith(("/", "..")) or "\\" in path or "\0" in path:
            raise UserError(f"{path!r} leads out of the folder", where=self.where())
        return f"{self._root}/{clean}" if clean not in ("", ".") else self._root

    def _entry(self, info: dict[str, Any]) -> Entry:
        path = str(info["name"]).lstrip("/")[len(self._root.lstrip("/")) :].lstrip("/")
        version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created") or ""
        return Entry(path, int(info.get("size") or 0), str(version).strip('"'))

    def _fs(self) -> Any:
        """The client of this process."""
        if self._client is None or self._owner != os.getpid():
            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            self._client, self._owner = fsspec.filesystem(self._scheme, **options), os.getpid()
        return self._client

    @contextlib.contextmanager
    def _named(self, path: str, missing: str = "there is no such file") -> Iterator[None]:
        """Whatever goes wrong inside names the file; a store that fails is not the file's fault."""
        try:
            yield
        except UserError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(missing, where=self.where(path)) from None
        except IsADirectoryError:
            raise UserError("is a folder, not a file", where=self.where(path)) from None
        except Exception as error:
            what = f"cannot be read ({type(error).__name__}: {str(error)[:200]})"
            raise StoreError(what, where=self.where(path)) from None


class _Ranged(io.RawIOBase):
    """A remote file read by ranges: small reads through a few cached blocks, large ones as they are asked."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise ValueError("before the start of the file")
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer but at the end of the file: zipfile does not ask twice."""
        view = memoryview(buffer).cast("B")
        stop = min(self._size, self._at + len(view))
        start, wanted = self._at, max(0, stop - self._at)
        if wanted >= BLOCK:
            view[:wanted] = self._fetch(start, stop)
        else:
            while self._at < stop:
                number, skip = divmod(self._at, BLOCK)
                piece = self._block(number)[skip : skip + stop - self._at]
                view[self._at - start : self._at - start + len(piece)] = piece
                self._at += len(piece)
        self._at = start + wanted
        return wanted

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK
            self._blocks[number] = self._fetch(start, min(start + BLOCK, self._size))
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


def _hidden(path: str) -> bool:
    return posixpath.basename(path).startswith(".")
