"""Decoded views in memory up to a byte limit, so that small datasets are decoded once."""

from __future__ import annotations

import threading
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class PixelCache:
    """Images with their masks, shared by threads. Once full it keeps what it has: see `data.store.disk` for why.

    Args:
        limit: bytes of pixels; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._pairs: dict[Hashable, Pair] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many views are kept."""
        return len(self._pairs)

    def get(self, key: Hashable) -> Pair | None:
        """The view, or None; the arrays are shared, so they must not be written to."""
        return self._pairs.get(key)

    def put(self, key: Hashable, pixels: NDArray[np.uint8], coverage: NDArray[np.uint8]) -> None:
        """Keep a copy of a view, if there is room for it."""
        size = pixels.nbytes + coverage.nbytes
        with self._lock:
            if key in self._pairs or self.bytes + size > self.limit:
                return
            self.bytes += size
        self._pairs[key] = pixels.copy(), coverage.copy()
