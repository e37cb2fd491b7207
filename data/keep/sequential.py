"""A whole file of a store from end to end: large pieces, a few of them ahead, digested on the way."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from data.store import Buffer, Range, Store

PIECE = 8 * 2**20  # bytes of one request
_AHEAD = 4  # requests in flight where the store is not a local folder


class Sequential:
    """Reads a file forward, once, in memory that does not grow with it.

    Args:
        store: that holds the file.
        path: in the store.
        size: bytes in it.
        tell: is given the size of each piece once it was read.

    Attributes:
        offset: bytes taken so far.

    Raises:
        StoreError: while reading, a store that does not answer; BadMember, a file that has become shorter.
    """

    def __init__(self, store: Store, path: str, size: int, tell: Callable[[int], object] = lambda _: None) -> None:
        self.size, self.offset = size, 0
        self._store, self._path, self._tell = store, path, tell
        self._asked = 0
        self._ahead: deque[Future[list[Buffer]]] = deque()
        self._piece = memoryview(b"")
        self._digest = hashlib.sha256()
        self._most = 1 if store.local is not None else _AHEAD

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes, fewer at the end of the file, in parts that are valid until the next is taken."""
        while count > 0 and (self._piece or self._fetch()):
            part, self._piece = self._piece[:count], self._piece[count:]
            count -= len(part)
            self.offset += len(part)
            yield part

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end of the file."""
        return b"".join(self.pieces(count))

    def skip(self, count: int) -> None:
        """Leave out the next `count` bytes, which are read and digested all the same."""
        for _ in self.pieces(count):
            pass

    def digest(self) -> str:
        """SHA-256 of the whole file; reads to its end."""
        self.skip(self.size - self.offset)
        return self._digest.hexdigest()

    def _fetch(self) -> bool:
        """Take the next piece and ask for those behind it; whether there was one."""
        while self._asked < self.size and len(self._ahead) < self._most:
            length = min(PIECE, self.size - self._asked)
            member = f"bytes {self._asked} to {self._asked + length}"
            part = Range(self._path, self._asked, length, 0, member)
            self._ahead.append(self._store.fetch([part], verify=False))
            self._asked += length
        if not self._ahead:
            return False
        self._piece = memoryview(self._ahead.popleft().result()[0])
        self._digest.update(self._piece)
        self._tell(len(self._piece))
        return True
