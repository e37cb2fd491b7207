"""What runs in Ray Train's controller: who is told of a failure, and what is not retried."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from configs import UserError
from trainer.observer import Diverged

FINAL = (UserError, Diverged)
"""A user's mistake, and a training that has gone back to its checkpoints as often as it may."""


class Verdict(UserCallback):
    """Ends the run on what no restart can mend, from any rank; everything else is left to Ray's restarts."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called in the controller; what it raises is not retried and reaches the driver as it is."""
        for error in worker_exceptions.values():
            if isinstance(error, FINAL):
                raise error
        rank, error = min(worker_exceptions.items())
        with contextlib.suppress(Exception):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._hub.lose.remote(f"rank {rank}: {type(error).__name__}: {lines[0]}")


class LeanTrainer(TorchTrainer):
    """Ray's trainer without two actors, and with our handling of Ctrl-C.

    The actors hand out Ray datasets and sweep up after a lost controller; we stream data ourselves, and placement
    groups end with the job. Each costs seconds of a processor, as it imports Ray Train, torch and pandas.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in unused]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ray's own would abort the run at the first Ctrl-C, without a checkpoint."""
