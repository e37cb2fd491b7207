"""A store that is down: everybody waits, one asks now and then, the user is told, and work goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from data.store.errors import StoreError, describe

Tell = Callable[[str], object]

_FAILURES, _SILENCE = 8, 2.0  # failures in a row, and seconds without any answer, that raise a doubt
_PAUSES = (0.5, 5.0)  # seconds between two questions to a store that is down, first and longest
_QUESTIONS = 10  # at least so many are asked before patience ends, however short it is
_TELL_EVERY = 30.0


class Circuit:
    """Open while a store answers nobody. Lives in one event loop.

    Reads that fail raise a doubt, not more: the fault may be theirs alone. Then something is asked for that the store
    has served before; only if that fails too the circuit opens, and the same question, repeated, closes it.

    Args:
        url: names the store in messages.
        patience: seconds that it may stay open before reads fail.
        ping: asks for what was served before; raises what goes wrong.
        tell: is given one line when the circuit opens, every half minute, and when it closes.
    """

    def __init__(self, url: str, patience: float, ping: Callable[[], Awaitable[object]], tell: Tell) -> None:
        self._url, self._patience, self._ping, self._tell = url, patience, ping, tell
        self._in_a_row, self._failing, self._opened = 0, 0.0, 0.0
        self._last: BaseException | None = None
        self._asking = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._closed.set()
        self.ever_answered = False

    @property
    def is_open(self) -> bool:
        """Whether the store counts as down."""
        return not self._closed.is_set()

    async def ready(self) -> None:
        """Return when requests may be made.

        Raises:
            StoreError: the store was down for longer than the patience.
        """
        while self.is_open:
            left = self._opened + self._patience - time.monotonic()
            if left <= 0:
                what = f"the store has not answered for {time.monotonic() - self._opened:.0f} s"
                last = f"last: {describe(self._last)}" if self._last else None
                raise StoreError(what, where=self._url, hint=last)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), left)

    def succeeded(self) -> None:
        """An answer came."""
        self._in_a_row, self.ever_answered = 0, True
        if self.is_open:
            self._tell(f"{self._url} answers again after {time.monotonic() - self._opened:.0f} s")
            self._closed.set()

    async def failed(self, error: BaseException, late: bool) -> bool:
        """A request came to nothing; `late` if its reader is about to give up. Returns whether the store is down."""
        now = time.monotonic()
        if self._in_a_row == 0:
            self._failing = now
        self._in_a_row += 1
        self._last = error
        doubtful = late or (self._in_a_row >= _FAILURES and now - self._failing >= _SILENCE)
        if doubtful and self.ever_answered:
            async with self._asking:
                if not self.is_open and self._in_a_row and not await self._answers():
                    self._open()
        return self.is_open

    async def _answers(self) -> bool:
        """Whether the store serves what it served before."""
        try:
            await self._ping()
        except Exception as error:
            self._last = error
            return False
        self.succeeded()
        return True

    def _open(self) -> None:
        self._closed.clear()
        self._opened = self._failing
        self._watching = asyncio.ensure_future(self._watch())
        self._tell(f"{self._url} does not answer ({self._why()}); waiting for it up to {self._patience:.0f} s")

    async def _watch(self) -> None:
        longest, told = min(_PAUSES[1], self._patience / _QUESTIONS), time.monotonic()
        pause = min(_PAUSES[0], longest)
        while self.is_open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause * random.uniform(0.5, 1.5))
            pause = min(longest, 2 * pause)
            if self.is_open and not await self._answers() and time.monotonic() - told >= _TELL_EVERY:
                told = time.monotonic()
                self._tell(f"{self._url} has not answered for {told - self._opened:.0f} s ({self._why()}); waiting")

    def _why(self) -> str:
        return describe(self._last) if self._last else "no answer"
