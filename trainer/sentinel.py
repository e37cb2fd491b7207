"""Losses that must not be learned from: no numbers, or far above what they were. The same verdict on every rank."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

from torch import Tensor

from configs.schema import GuardConfig
from trainer.distributed import all_reduce_sum
from trainer.engine import MODEL

_QUIET = 0.01  # of the mean: a loss that hardly varies is not refused for varying a little


class Refused(Exception):
    """A step that must not be.

    Args:
        reason: what is wrong with it.
        clean: whether nothing of it has reached a gradient yet, so that it can be left out as if it had never been.
    """

    def __init__(self, reason: str, clean: bool) -> None:
        super().__init__(reason)
        self.reason, self.clean = reason, clean


class Sentinel:
    """Knows the losses of late, and how often it has refused one.

    Attributes:
        skipped: steps that were left out, over the whole run.
        rollbacks: how often the run went back to a checkpoint.
    """

    def __init__(self, config: GuardConfig, world_size: int) -> None:
        self._config, self._world_size = config, world_size
        self._recent: deque[float] = deque(maxlen=config.window)
        self._refused_in_a_row = 0
        self.skipped = self.rollbacks = 0

    def examine(self, engine: str, loss: Tensor, clean: bool) -> None:
        """Judge the mean of a loss over all ranks, before its backward pass. Collective.

        Only the system's losses are compared with earlier ones: a critic's leap when its opponent does.

        Args:
            engine: whose loss.
            loss: this rank's.
            clean: as in `Refused`.

        Raises:
            Refused: on every rank.
        """
        mean = all_reduce_sum([float(loss.detach())])[0] / self._world_size
        if not math.isfinite(mean):
            raise Refused(f"the loss of {engine} is {mean}", clean)
        if engine == MODEL:
            self._compare(mean, clean)
            self._recent.append(mean)

    def _compare(self, mean: float, clean: bool) -> None:
        config, recent = self._config, self._recent
        if not config.sigmas or len(recent) < config.after:
            return
        center = statistics.fmean(recent)
        deviation = max(statistics.pstdev(recent, center), _QUIET * abs(center))
        if mean > center + config.sigmas * deviation:
            above = (mean - center) / deviation
            raise Refused(f"the loss is {mean:.4g}, {above:.1f} standard deviations above {center:.4g}", clean)

    def accept(self) -> None:
        """A step was taken."""
        self._refused_in_a_row = 0

    def may_skip(self, refusal: Refused) -> bool:
        """Whether leaving the step out will do; counts it."""
        self._refused_in_a_row += 1
        if not refusal.clean or self._refused_in_a_row > self._config.skips:
            return False
        self.skipped += 1
        return True

    def may_roll_back(self) -> bool:
        """Whether the run may go back once more; counts it."""
        self._refused_in_a_row = 0
        self.rollbacks += 1
        return self.rollbacks <= self._config.rollbacks

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON."""
        return {"recent": list(self._recent), "skipped": self.skipped, "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` stood; what was counted since is not forgotten."""
        self._recent.clear()
        self._recent.extend(state.get("recent", []))
        self.skipped = max(self.skipped, state.get("skipped", 0))
        self.rollbacks = max(self.rollbacks, state.get("rollbacks", 0))
