"""The small actor between the workers, the controller and the terminal: signs of life go up, wishes come down."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trainer.observer import Progress


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


@dataclass(frozen=True)
class Beat:
    """A worker's sign of life, once a second or so.

    Attributes:
        rank, pid: who.
        step: optimiser steps done.
        operation: the ledger's category at this moment, or `starting`.
        still: seconds since the last step, or since something longer began that has no steps.
        worked: seconds of computing and waiting for data so far.
    """

    rank: int
    pid: int
    step: int
    operation: str
    still: float
    worked: float


@dataclass
class News:
    """What the driver shows and the controller judges by.

    Attributes:
        progress: the latest line, if any.
        attempt: how often the group of workers was started.
        began: step of the newest checkpoint that an attempt went on from.
        failures: of the current attempt.
        lost: why attempts ended, in order.
        notes: what else was seen of the cluster, in order.
    """

    progress: Progress | None = None
    attempt: int = 0
    began: int = 0
    failures: list[Failure] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wish:
    """What the workers are asked.

    Attributes:
        stop: to save and end, as the user wants it.
        pause: to save and end, and be started again; why.
    """

    stop: bool = False
    pause: str | None = None


class Hub:
    """Runs as a Ray actor; every method returns at once."""

    def __init__(self) -> None:
        self._news, self._wish = News(), Wish()
        self._beats: dict[int, tuple[Beat, float]] = {}

    def started(self) -> None:
        """Rank 0 began an attempt."""
        self._news.attempt += 1
        self._news.failures = []
        self._wish = Wish(stop=self._wish.stop)

    def report(self, progress: Progress) -> None:
        """Rank 0 has a new line."""
        self._news.progress = progress
        self._news.began = max(self._news.began, progress.began)

    def beat(self, beat: Beat) -> None:
        """A worker lives."""
        self._beats[beat.rank] = (beat, time.monotonic())

    def beats(self) -> dict[int, tuple[Beat, float]]:
        """By rank, the last sign of life and how many seconds ago it came, by this process's clock."""
        now = time.monotonic()
        return {rank: (beat, now - at) for rank, (beat, at) in self._beats.items()}

    def fail(self, failure: Failure) -> None:
        """A worker's attempt ended with an exception."""
        self._news.failures.append(failure)

    def lose(self, reason: str) -> None:
        """The attempt is over."""
        self._news.lost.append(reason)

    def note(self, line: str) -> None:
        """Something that the user should read."""
        self._news.notes.append(line)

    def stop(self) -> None:
        """The user asks the run to save and end."""
        self._wish = Wish(stop=True, pause=self._wish.pause)

    def pause(self, reason: str) -> None:
        """The controller asks the run to save and end, to start it again on other workers."""
        self._wish = Wish(self._wish.stop, reason)

    def wish(self) -> Wish:
        """What the workers are asked at the moment."""
        return self._wish

    def news(self) -> News:
        """Everything so far."""
        return self._news
