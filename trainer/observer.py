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
    """

    phase: str
    step: int
    steps: int
    loss: float = float("nan")
    psnr: float = float("nan")
    samples_per_second: float = float("nan")
    eta_seconds: float = float("nan")


class Diverged(RuntimeError):
    """The losses are not numbers any more, or too large, and going back has not helped; names the samples."""


class Observer(Protocol):
    """Watches a run from rank 0; must never block the step."""

    def report(self, progress: Progress) -> None:
        """Show or forward `progress`."""
        ...

    def should_stop(self) -> bool:
        """Whether the loop should save and end after this step."""
        ...


class Silent:
    """Watches nothing and never stops the run."""

    def report(self, progress: Progress) -> None:
        """Ignore it."""

    def should_stop(self) -> bool:
        """Never."""
        return False
