"""What a person sees of a run: a live line on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cluster.text import duration
from trainer.observer import Progress


class Display(Protocol):
    """Shows a run; entered before it starts and left when it has ended."""

    restarts: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def phase(self, name: str) -> None:
        """What happens before the loop speaks."""
        ...

    def progress(self, progress: Progress) -> None:
        """The loop's latest line; may be the same as before."""
        ...

    def restarting(self, reason: str) -> None:
        """The workers failed and are started again."""
        ...

    def note(self, message: str) -> None:
        """One line for the user."""
        ...


def display(console: Console) -> Display:
    """Live where there is a terminal, plain where there is none."""
    return Live(console) if console.is_terminal else Plain(console)


def figures(progress: Progress) -> str:
    """`loss 0.0123 · 27.4 dB · 8.1 samples/s · 1:23 left`; what is not known is left out."""
    parts = []
    if math.isfinite(progress.loss):
        parts.append(f"loss {progress.loss:.4f}")
    if math.isfinite(progress.psnr):
        parts.append(f"{progress.psnr:.2f} dB")
    if math.isfinite(progress.samples_per_second):
        parts.append(f"{progress.samples_per_second:.3g} samples/s")
    if math.isfinite(progress.eta_seconds):
        parts.append(f"{duration(progress.eta_seconds)} left")
    return " · ".join(parts)


class Plain:
    """One line per change of phase and every few seconds in between."""

    def __init__(self, console: Console | None = None, every_seconds: float = 5.0) -> None:
        self.restarts = 0
        self._console = console or Console(file=sys.stdout)
        self._every = every_seconds
        self._phase = ""
        self._shown: Progress | None = None
        self._at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

    def phase(self, name: str) -> None:
        """Print it."""
        self._phase = name
        self.note(name)

    def progress(self, progress: Progress) -> None:
        """Print it when the phase is new or enough time has passed."""
        new_phase = progress.phase != self._phase
        # Compared as text: what is not known yet is NaN, which equals nothing.
        if repr(progress) == repr(self._shown) or not (new_phase or time.monotonic() - self._at >= self._every):
            return
        self._shown, self._phase, self._at = progress, progress.phase, time.monotonic()
        self.note(f"{progress.phase} {progress.step}/{progress.steps}  {figures(progress)}".rstrip())

    def restarting(self, reason: str) -> None:
        """Print it."""
        self.restarts += 1
        self.note(f"restarting the workers ({self.restarts}): {reason}")

    def note(self, message: str) -> None:
        """Print it."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


class Live:
    """A bar with step, loss, PSNR, samples per second and time left, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.restarts = 0
        self._bar = Bar(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            refresh_per_second=5,
        )
        self._task: TaskID = self._bar.add_task("", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.stop()

    def phase(self, name: str) -> None:
        """Name it before the bar."""
        self._bar.update(self._task, description=name)

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.step,
            total=progress.steps,
            figures=figures(progress),
        )

    def restarting(self, reason: str) -> None:
        """A line above the bar."""
        self.restarts += 1
        self.note(f"restarting the workers ({self.restarts}): {reason}")

    def note(self, message: str) -> None:
        """A line above the bar."""
        self._bar.console.print(message, markup=False, highlight=False)


@contextlib.contextmanager
def counter(what: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted, or a line every few seconds where there is no terminal.

    Yields:
        To be called with how many are done and how many there are.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield _Lines(what, console)
        return
    columns = (TextColumn(what), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, refresh_per_second=5) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Prints the count at most every few seconds, and at the end."""

    def __init__(self, what: str, console: Console, every_seconds: float = 5.0) -> None:
        self._what, self._console, self._every = what, console, every_seconds
        self._at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._at >= self._every:
            self._at = time.monotonic()
            self._console.print(f"{self._what} {done}/{total}", markup=False)
