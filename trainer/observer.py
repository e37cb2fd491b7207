"""What the loop tells whoever watches it, how it gives up, and the one thing it asks back: whether to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """One line of a live display.

    Attributes:
        phase: `starting`, `training`, `evaluating`, `saving` or `done`.
        step, steps: optimiser steps done and wanted.
        loss, psnr: means since the last report; PSNR in dB over target views.
        samples_per_second: captures per second, over all workers.
        eta_seconds: estimated seconds to the last step.
        began: step of the checkpoint that this process went on from, 0 without one.
    """

    phase: str
    step: int
    steps: int
    loss: float = float("nan")
    psnr: float = float("nan")
    samples_per_second: float = float("nan")
    eta_seconds: float = float("nan")
    began: int = 0


class Vitals(Protocol):
    """What a run's clock can be asked from any thread, at any moment."""

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        ...

    @property
    def category(self) -> str:
        """What the main thread is at: one of the ledger's categories."""
        ...

    @property
    def worked(self) -> float:
        """Seconds of computing and waiting for data; waiting for other ranks is left out."""
        ...


class Diverged(RuntimeError):
    """The losses are not numbers any more, or too large, and going back has not helped; names the samples."""


class Observer(Protocol):
    """Watches a run, one on every rank; must never block the step."""

    def attend(self, vitals: Vitals) -> None:
        """The run's clock, as soon as there is one."""
        ...

    def report(self, progress: Progress) -> None:
        """Show or forward `progress`; rank 0's only."""
        ...

    def should_stop(self) -> bool:
        """Whether the loop should save and end after this step; asked on every rank, one yes is enough."""
        ...


class Silent:
    """Watches nothing and never stops the run."""

    def attend(self, vitals: Vitals) -> None:
        """Ignore it."""

    def report(self, progress: Progress) -> None:
        """Ignore it."""

    def should_stop(self) -> bool:
        """Never."""
        return False
