"""What every stream of batches is: an endless iterator that knows how long it was waited for, and closes on failure."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self, TypeVar

from data.quarantine import Quarantine

BatchT = TypeVar("BatchT")


class BatchStream(Iterator[BatchT], ABC):
    """Micro-batches of one rank.

    Attributes:
        quarantine: bad members that this process met.
        waited: seconds that the consumer has waited for batches.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine, self.waited, self._closed = quarantine, 0.0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> BatchT:
        if self._closed:
            raise StopIteration
        began = time.perf_counter()
        try:
            return self._take()
        except BaseException:
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - began

    def close(self) -> None:
        """Stop reading ahead and leave nothing running; a closed stream is at its end."""
        if not self._closed:
            self._closed = True
            self._end()

    @abstractmethod
    def _take(self) -> BatchT:
        """The next batch; may wait for it."""

    @abstractmethod
    def _end(self) -> None:
        """Stop whatever runs; called once."""
