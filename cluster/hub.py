"""The small actor between the workers and the terminal: progress goes up, the wish to stop comes down."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from trainer.observer import Progress

_ASK_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Failure:
    """What ended a worker's attempt, as the worker itself saw it.

    Attributes:
        rank, host: who.
        at: seconds since the epoch; of several, the earliest is the likely cause of the others.
        traceback: full text.
    """

    rank: int
    host: str
    at: float
    traceback: str


@dataclass
class News:
    """What happened since the driver last asked.

    Attributes:
        progress: the latest line, if any.
        attempt: how often the group of workers was started.
        failures: of the current attempt.
        lost: what Ray said of the attempts that ended, in order.
    """

    progress: Progress | None = None
    attempt: int = 0
    failures: list[Failure] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Hub:
    """Runs as a Ray actor; every method returns at once."""

    def __init__(self) -> None:
        self._news = News()
        self._stop = False

    def started(self) -> None:
        """Rank 0 began an attempt."""
        self._news.attempt += 1
        self._news.failures = []

    def report(self, progress: Progress) -> None:
        """Rank 0 has a new line."""
        self._news.progress = progress

    def fail(self, failure: Failure) -> None:
        """A worker's attempt ended with an exception."""
        self._news.failures.append(failure)

    def lose(self, reason: str) -> None:
        """The controller saw the group of workers fail."""
        self._news.lost.append(reason)

    def stop(self) -> None:
        """The user asks the run to save and end."""
        self._stop = True

    def should_stop(self) -> bool:
        """Whether the user asked."""
        return self._stop

    def news(self) -> News:
        """For the driver."""
        return self._news


class HubObserver:
    """Rank 0's end of the hub: no call waits, whatever has become of the hub."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._answer: Any = None
        self._stop = False
        self._asked = 0.0

    def report(self, progress: Progress) -> None:
        """Send a line and forget it."""
        with contextlib.suppress(Exception):
            self._hub.report.remote(progress)

    def should_stop(self) -> bool:
        """The latest answer that has come; a new question goes out five times a second at most."""
        import ray

        with contextlib.suppress(Exception):
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                self._stop, self._answer = bool(ray.get(self._answer)), None
            if self._answer is None and not self._stop and time.monotonic() - self._asked > _ASK_EVERY_SECONDS:
                self._answer, self._asked = self._hub.should_stop.remote(), time.monotonic()
        return self._stop
