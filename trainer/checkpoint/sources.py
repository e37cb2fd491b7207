"""Where the bytes of a checkpoint's shards are read from: copies on this node, memory, or the checkpoint's folder."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.checkpoint.manifest import Damaged, Shard
from trainer.checkpoint.shards import ShardReader
from trainer.checkpoint.storage import Folder

log = logging.getLogger(__name__)


class Sources:
    """The shards of one checkpoint, opened where they are nearest; nothing that was not verified is read.

    A copy on this node counts only with the digest that the manifest names, so it makes no difference which one is
    read, and nobody has to agree on it.

    Args:
        folder: of the checkpoint.
        shards: as its manifest lists them.
        near: folder of this node's copies.
        hold: whether to keep in memory what verifying fetches from an object store, instead of fetching it again.
    """

    def __init__(self, folder: Folder, shards: Sequence[Shard], near: Folder | None = None, hold: bool = False) -> None:
        self._folder, self._shards, self._near = folder, shards, near
        self._hold = hold and not folder.is_local
        self._sizes = near.sizes() if near is not None else {}
        self._held: dict[int, bytearray] = {}
        self.copies: set[int] = set()
        """Shards read from this node's copies."""
        self.trusted: set[int] = set()
        """Shards that were verified in the checkpoint's folder, by this rank or another."""

    def find_near(self, indices: Iterable[int]) -> None:
        """Which of these shards this node has a whole copy of."""
        self.copies.update(index for index in indices if self._is_near(self._shards[index]))

    def verify(self, index: int) -> None:
        """Read a whole shard in the checkpoint's folder and compare its digest.

        Raises:
            Damaged: it is not what was written.
        """
        shard = self._shards[index]
        if self._hold:
            content, found = self._folder.fetch(shard.file, shard.bytes)
            self._held[index] = content
        else:
            found = self._folder.digest(shard.file)
        if found != shard.sha256:
            where = f"{self._folder.url}/{shard.file}"
            raise Damaged("damaged: its content is not what was written (SHA-256 differs)", where=where)
        self.trusted.add(index)

    def trust(self, indices: Iterable[int]) -> None:
        """Others have verified these in the checkpoint's folder."""
        self.trusted.update(indices)

    def open(self, index: int) -> ShardReader:
        """A shard, verified now if nobody has."""
        if index not in self.copies | self.trusted:
            self.verify(index)
        name = self._shards[index].file
        if index in self.copies and self._near is not None:
            return ShardReader(self._near, name)
        held = self._held.get(index)
        return ShardReader(self._folder, name, None if held is None else _Held(held))

    def place(self, index: int) -> str:
        """Which file is read, for messages."""
        folder = self._near if index in self.copies and self._near is not None else self._folder
        return f"{folder.url}/{self._shards[index].file}"

    def _is_near(self, shard: Shard) -> bool:
        if self._near is None or self._sizes.get(shard.file) != shard.bytes:
            return False
        try:
            whole = self._near.digest(shard.file) == shard.sha256
        except OSError as error:
            log.warning("%s/%s cannot be read: %s", self._near.url, shard.file, error)
            return False
        if not whole:
            log.warning("%s/%s is damaged; it is read from %s", self._near.url, shard.file, self._folder.url)
        return whole


class _Held(io.RawIOBase):
    """A file in memory that is read without a copy of the whole."""

    def __init__(self, content: bytearray) -> None:
        self._view, self._at = memoryview(content), 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """To a place from the beginning."""
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        """As much as there is."""
        part = self._view[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
