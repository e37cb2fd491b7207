"""Decoded views in memory up to a byte limit, so that small datasets are decoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class PixelCache:
    """Images with their masks, least recently used out first; shared by threads.

    Args:
        limit: bytes of pixels; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._pairs: OrderedDict[Hashable, Pair] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many views are kept."""
        return len(self._pairs)

    def get(self, key: Hashable) -> Pair | None:
        """The view, or None; the arrays are shared, so they must not be written to."""
        with self._lock:
            if key in self._pairs:
                self._pairs.move_to_end(key)
            return self._pairs.get(key)

    def put(self, key: Hashable, pair: Pair) -> None:
        """Keep a view, and drop the oldest ones that no longer fit."""
        size = _size(pair)
        if size > self.limit:
            return
        with self._lock:
            if key in self._pairs:
                self.bytes -= _size(self._pairs.pop(key))
            self._pairs[key] = pair
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= _size(self._pairs.popitem(last=False)[1])


def _size(pair: Pair) -> int:
    return pair[0].nbytes + pair[1].nbytes
