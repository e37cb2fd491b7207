"""A worker's side of the hub: a sign of life every second, and whether to save and end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Any, Self, cast

from cluster.hub import Beat, Wish
from trainer.observer import Progress, Vitals

DUMP = signal.SIGUSR2
"""Makes a worker write the stacks of all its threads to its log, whatever it is at."""

_ASK_EVERY_SECONDS = 0.2
_ANSWER_SECONDS = 5
_BEAT_SECONDS = 1.0
_BEATS_A_SECOND = 500  # of all ranks together; the hub takes several thousand
_WITHOUT_STEPS = {"start_up", "restart", "checkpoint_stall", "evaluation"}
_notice = threading.Event()


class Paused(RuntimeError):
    """A worker saved and ended because its node goes, or because there are more nodes; it should be started again."""


def heed_signals() -> None:
    """SIGTERM becomes the wish to save and end; a segmentation fault leaves a stack. From the main thread only.

    A node that is taken away sends it to its processes and kills them after a grace time. Ray's own handler would end
    the worker at once.
    """
    _notice.clear()
    signal.signal(signal.SIGTERM, lambda number, frame: _notice.set())


class Pulse(threading.Thread):
    """Beats until it is stopped, and watches the run for the hub: an `Observer`. No call in a step waits for the hub.

    Args:
        hub: handle of the run's `Hub`.
        rank, world_size: of this worker.
    """

    def __init__(self, hub: Any, rank: int, world_size: int) -> None:
        super().__init__(name="pulse", daemon=True)
        self._hub, self._rank = hub, rank
        self._every = max(_BEAT_SECONDS, world_size / _BEATS_A_SECOND)
        self._vitals: Vitals | None = None
        self._done = threading.Event()
        self._at: tuple[int, str] = (0, "")
        self._since = time.monotonic()
        self._question = _Question(hub)

    def __enter__(self) -> Self:
        faulthandler.register(DUMP, file=sys.stderr, all_threads=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def attend(self, vitals: Vitals) -> None:
        """What the beats tell from here on."""
        self._vitals = vitals

    def report(self, progress: Progress) -> None:
        """Send a line and forget it."""
        with contextlib.suppress(Exception):
            self._hub.report.remote(progress)

    def should_stop(self) -> bool:
        """Whether this node goes, or, as far as rank 0 has heard, anybody wishes it."""
        return _notice.is_set() or (self._rank == 0 and self._question.answer() != Wish())

    def paused(self) -> Paused | None:
        """Why the run that ended early should be started again; None if the user ended it."""
        import ray

        wish = self._question.known
        with contextlib.suppress(Exception):
            wish = cast(Wish, ray.get(self._hub.wish.remote(), timeout=_ANSWER_SECONDS))
        if wish.stop or not (wish.pause or _notice.is_set()):
            return None
        return Paused(wish.pause or f"rank {self._rank} was told to end (SIGTERM)")

    def run(self) -> None:
        """Until the attempt is over."""
        waiting: Any = None
        while not self._done.wait(self._every):
            with contextlib.suppress(Exception):
                if waiting is None or _there(waiting):
                    waiting = self._hub.beat.remote(self.beat())

    def beat(self) -> Beat:
        """A sign of life."""
        step, operation, worked = 0, "starting", 0.0
        if self._vitals is not None:
            step, operation, worked = self._vitals.steps, self._vitals.category, self._vitals.worked
        at = step, operation if operation in _WITHOUT_STEPS else ""
        if at != self._at:
            self._at, self._since = at, time.monotonic()
        return Beat(self._rank, os.getpid(), step, operation, time.monotonic() - self._since, worked)


class _Question:
    """Asks the hub for its wish, five times a second at most, and never waits for the answer."""

    def __init__(self, hub: Any) -> None:
        self._hub, self._asked, self._waiting = hub, 0.0, None
        self.known = Wish()

    def answer(self) -> Wish:
        """The latest that has come."""
        import ray

        with contextlib.suppress(Exception):
            if self._waiting is not None and _there(self._waiting):
                self.known, self._waiting = cast(Wish, ray.get(self._waiting)), None
            if self._waiting is None and time.monotonic() - self._asked > _ASK_EVERY_SECONDS:
                self._waiting, self._asked = self._hub.wish.remote(), time.monotonic()
        return self.known


def _there(reference: Any) -> bool:
    import ray

    return bool(ray.wait([reference], timeout=0)[0])
