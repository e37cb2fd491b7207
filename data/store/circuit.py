"""A store that is down: everybody waits, one asks now and then, the user is told, and work goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from data.store.errors import StoreError, describe

Tell = Callable[[str], object]

_FAILURES, _SILENCE = 8, 2.0  # failures in a row, and seconds without any answer, that open the circuit
_PAUSES = (0.5, 5.0)  # seconds between two attempts of an open circuit, first and longest
_TELL_EVERY = 30.0


class Circuit:
    """Open while a store answers nobody. Lives in one event loop.

    Args:
        url: names the store in messages.
        patience: seconds that it may stay open before reads fail.
        first: the same for a store that never answered; its URL may be wrong.
        tell: is given one line when the circuit opens, every half minute, and when it closes.
    """

    def __init__(self, url: str, patience: float, first: float, tell: Tell) -> None:
        self._url, self._tell = url, tell
        self._patience, self._later = first, patience
        self._in_a_row, self._failing, self._answered = 0, 0.0, 0.0
        self._opened, self._told, self._pause = 0.0, 0.0, _PAUSES[0]
        self._last: BaseException | None = None
        self._probing = False
        self._closed = asyncio.Event()
        self._closed.set()

    @property
    def is_open(self) -> bool:
        """Whether the store counts as down."""
        return not self._closed.is_set()

    @property
    def ever_answered(self) -> bool:
        """Whether there was an answer at all."""
        return self._answered > 0

    def answered_since(self, moment: float) -> bool:
        """Whether anybody got an answer after a moment of `time.monotonic`."""
        return self._answered > moment

    async def ready(self) -> None:
        """Return when a request may be made: at once, or for one caller at a time as long as the store is down.

        Raises:
            StoreError: the store was down for longer than the patience.
        """
        while self.is_open:
            self._check_patience()
            if self._probing:
                await self._wait(_PAUSES[0])
                continue
            self._probing = True
            try:
                await self._wait(self._pause)
            except BaseException:
                self._probing = False
                raise
            self._pause = min(_PAUSES[1], 2 * self._pause)
            return

    def succeeded(self) -> None:
        """An answer came."""
        self._in_a_row, self._answered = 0, time.monotonic()
        self._patience = self._later
        if self.is_open:
            self._tell(f"{self._url} answers again after {time.monotonic() - self._opened:.0f} s")
            self._closed.set()
        self._probing = False

    def failed(self, error: BaseException) -> None:
        """A request came to nothing."""
        now = time.monotonic()
        if self._in_a_row == 0:
            self._failing = now
        self._in_a_row += 1
        self._last, self._probing = error, False
        if not self.is_open and self._in_a_row >= _FAILURES and now - self._failing >= _SILENCE:
            self.open(error)
        elif self.is_open and now - self._told >= _TELL_EVERY:
            self._told = now
            self._tell(
                f"{self._url} has not answered for {now - self._opened:.0f} s ({describe(error)}); still waiting"
            )

    def open(self, error: BaseException) -> None:
        """From now on the store counts as down."""
        self._closed.clear()
        self._opened, self._told, self._pause = self._failing, time.monotonic(), _PAUSES[0]
        self._tell(f"{self._url} does not answer ({describe(error)}); waiting for it up to {self._patience:.0f} s")

    def let_go(self) -> None:
        """A request was given up before there was an answer."""
        self._probing = False

    async def _wait(self, seconds: float) -> None:
        """Sleep, or wake when the store is back."""
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return

    def _check_patience(self) -> None:
        silent = time.monotonic() - self._opened
        if silent > self._patience:
            what = f"the store has not answered for {silent:.0f} s"
            last = f"last: {describe(self._last)}" if self._last else None
            raise StoreError(what, where=self._url, hint=last)
