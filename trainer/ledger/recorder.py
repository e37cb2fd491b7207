"""One rank's clock: every second belongs to one category, and is on disk about a second after it has passed."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch.distributed as dist

from trainer.ledger.windows import Journal, Window, journal_path

_BEAT_SECONDS = 1.0
_SHORTEST_WINDOW_SECONDS = 5.0
_WINDOW_SHARE = 0.01  # of the attempt's age: a long one has as many lines as a picture can show
_APART = {"start_up", "restart", "checkpoint_stall", "evaluation"}  # have windows of their own
_OWN_WORK = {"compute", "data_wait"}
log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="_Accounted")


class Recorder:
    """Shares out the main thread's wall time among categories; the innermost counts.

    A change of category reads a clock and touches no file: a thread writes, once a second, the window that goes on.
    Nothing is written, and no collective is timed, before `open`.

    Attributes:
        steps: optimiser steps done; the loop sets it.
        worked: seconds so far in which this rank computed or waited for data, not for other ranks.
    """

    def __init__(self) -> None:
        self.steps, self.worked = 0, 0.0
        self._lock = threading.Lock()
        self._category, self._seconds = "start_up", dict[str, float]()
        self._mark = time.perf_counter()
        self._epoch = time.time() - self._mark  # one look at the wall clock: it may be set while we run
        self._opened_at = self._began = self._mark
        self._attempt = self._first = 0
        self._resumed: int | None = None
        self._closed: list[Window] = []
        self._waits = _Waits(self)
        self._writer: _Writer | None = None

    def open(self, run: Path, rank: int, attempt: int, step: int) -> None:
        """Begin to write; what has passed since the recorder was made counts as start-up.

        Args:
            run: the run's folder.
            rank: of this process.
            attempt: one more than `attempts(run)` says, the same on every rank.
            step: of the checkpoint that the run goes on from, or 0.
        """
        self._attempt = attempt
        self.steps = self._first = self._resumed = step
        try:
            path = journal_path(run, rank, self._attempt)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _Writer(self, Journal(path))
        except OSError as error:
            log.warning("this run has no ledger: %s", error)
            return
        self._waits.install()
        self._writer.start()

    @contextmanager
    def __call__(self, category: str) -> Iterator[None]:
        """The body's time belongs to `category`."""
        before = self.enter(category)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, category: str) -> str:
        """Time belongs to `category` from here on; what it belonged to before."""
        with self._lock:
            before = self._category
            self._charge()
            if category in _APART or before in _APART:
                self._cut()
            self._category = category
        return before

    @property
    def category(self) -> str:
        """Whose the present second is."""
        return self._category

    def resumed(self, step: int) -> None:
        """The run goes on from the checkpoint of `step`; later ones are forgotten."""
        with self._lock:
            self._charge()
            self._cut(always=True)
            self.steps = self._first = step
            self._resumed = step

    def close(self, end: str) -> None:
        """Write the rest, and how the attempt ended; without `open` nothing happens."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._waits.remove()
            with self._lock:
                self._charge()
                self._cut(always=True, end=end)
            writer.finish()

    def written(self) -> tuple[list[Window], Window]:
        """Windows closed since this was last asked, and the one that goes on; one that is old enough is closed."""
        with self._lock:
            self._charge()
            age = self._mark - self._began
            if age > max(_SHORTEST_WINDOW_SECONDS, _WINDOW_SHARE * (self._mark - self._opened_at)):
                self._cut()
            closed, self._closed = self._closed, []
            return closed, self._window()

    def _charge(self) -> None:
        now = time.perf_counter()
        passed = now - self._mark
        self._seconds[self._category] = self._seconds.get(self._category, 0.0) + passed
        if self._category in _OWN_WORK:
            self.worked += passed
        self._mark = now

    def _cut(self, *, always: bool = False, end: str | None = None) -> None:
        """Close the window, unless nothing was in it."""
        empty = self._mark - self._began < 1e-3 and self.steps == self._first and self._resumed is None
        if empty and not always:
            return
        self._closed.append(self._window(end))
        self._seconds, self._began, self._first, self._resumed = {}, self._mark, self.steps, None

    def _window(self, end: str | None = None) -> Window:
        times = self._epoch + self._began, self._epoch + self._mark
        return Window(self._attempt, *times, self._first, self.steps, dict(self._seconds), self._resumed, end)


class _Waits:
    """Counts what the main thread spends in `Work.wait` while it computes.

    That is where torch.distributed blocks the host, for whoever called it: gloo's collectives of DeepSpeed's and our
    own. NCCL's only queue up on the GPU; the host meets their time where it next waits for a number.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._thread = recorder, threading.get_ident()
        self._plain: Any = None

    def install(self) -> None:
        """Take the place of `Work.wait`."""
        plain = self._plain = dist.Work.wait
        recorder, thread = self._recorder, self._thread

        def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
            if recorder.category != "compute" or threading.get_ident() != thread:
                return plain(work, *args, **kwargs)
            with recorder("communication"):
                return plain(work, *args, **kwargs)

        dist.Work.wait = wait  # pyright: ignore[reportAttributeAccessIssue]

    def remove(self) -> None:
        """Put it back."""
        dist.Work.wait = self._plain


class _Writer(threading.Thread):
    """Writes a recorder's windows; a disk that is full or slow is this thread's trouble alone."""

    def __init__(self, recorder: Recorder, journal: Journal) -> None:
        super().__init__(name="ledger", daemon=True)
        self._recorder, self._journal = recorder, journal
        self._done = threading.Event()
        self._waiting: list[Window] = []
        self._failed = False

    def run(self) -> None:
        """Until the recorder is closed."""
        while not self._done.wait(_BEAT_SECONDS):
            self._write()
        self._write(last=True)
        self._journal.close()

    def finish(self) -> None:
        """Write the rest."""
        self._done.set()
        self.join(timeout=5)

    def _write(self, *, last: bool = False) -> None:
        closed, current = self._recorder.written()
        self._waiting += closed
        try:
            while self._waiting:
                self._journal.write(self._waiting[0].line(), final=True)
                del self._waiting[0]
            if not last:
                self._journal.write(current.line(), final=False)
        except OSError as error:
            if not self._failed:
                log.warning("the ledger cannot be written, it is tried again: %s", error)
            self._failed = True


class _Accounted(Protocol):
    ledger: Recorder


def accounted(category: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """For methods of what has a `ledger`: their time belongs to `category`."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def timed(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
            with self.ledger(category):
                return method(self, *args, **kwargs)

        return timed

    return decorate
