"""Means over a window of steps and over all workers, for the display and for MLflow."""

from __future__ import annotations

import time
from collections import defaultdict

from torch import Tensor

from trainer.distributed import all_reduce_sum


class Meter:
    """Collects what a step did; one small all-reduce a step makes it the same on every rank."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._samples = 0
        self._began = time.perf_counter()

    def add(self, terms: dict[str, Tensor], samples: int, stop: bool) -> tuple[dict[str, float], bool]:
        """Count a step.

        Args:
            terms: this rank's means of the step, `loss` among them.
            samples: captures in the global batch.
            stop: whether this rank was asked to stop.

        Returns:
            the terms' means over all ranks, and whether any rank was asked to stop.
        """
        names = sorted(terms)
        *values, stopping = all_reduce_sum([*(float(terms[name]) for name in names), float(stop)])
        means = {name: value / self._world_size for name, value in zip(names, values, strict=True)}
        for name, value in means.items():
            self._sums[name] += value
        self._steps += 1
        self._samples += samples
        return means, stopping > 0

    def read(self) -> dict[str, float]:
        """Means of the window and `samples_per_second`; starts a new window."""
        seconds = time.perf_counter() - self._began
        window = {name: total / max(1, self._steps) for name, total in self._sums.items()}
        window["samples_per_second"] = self._samples / max(seconds, 1e-9)
        window["step_seconds"] = seconds / max(1, self._steps)
        self._sums.clear()
        self._steps = self._samples = 0
        self._began = time.perf_counter()
        return window
