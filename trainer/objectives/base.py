"""What the loop knows of an objective."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from data.views import Batch
from models.system import Composite, Forward

Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Losses:
    """One micro-batch.

    Attributes:
        total: scalar to differentiate.
        terms: unweighted detached scalars by name, `psnr` (dB) among them.
        rendered: what the prediction looks like from the target cameras.
    """

    total: Tensor
    terms: dict[str, Tensor]
    rendered: Composite


class Objective(Protocol):
    """Turns a batch into losses."""

    def __call__(self, forward: Forward, batch: Batch, step: int, clock: Clock) -> Losses:
        """Predict, render, compare.

        Args:
            forward: the system or the engine around it.
            batch: source and target views.
            step: optimiser steps done.
            clock: times `model` and `render` apart.
        """
        ...
