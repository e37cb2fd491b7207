"""What runs in Ray Train's controller: who is told of a failure, and what is not retried."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.torch import TorchTrainer

from cluster.hub import News
from configs import UserError
from trainer.observer import Diverged

FINAL = (UserError, Diverged)
"""A user's mistake, and a training that has gone back to its checkpoints as often as it may."""


_ANSWER_SECONDS = 10


class SameAgain(RuntimeError):
    """A crash that comes again at the same step, in the same words."""


class Verdict(UserCallback):
    """Ends the run on what no restart can mend, from any rank; everything else is left to Ray's restarts.

    What a worker raised at the same step as in the attempt before, in the same words, it would raise for ever. A worker
    that was killed raises nothing, so a node that dies twice does not count.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._before: tuple[int, str] | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called in the controller; what it raises is not retried and reaches the driver as it is."""
        for error in worker_exceptions.values():
            if isinstance(error, FINAL):
                raise error
        crash = self._crash()
        if crash is not None and crash == self._before:
            raise SameAgain(f"failed twice in the same way after step {crash[0]}: {crash[1]}")
        self._before = crash
        rank, error = min(worker_exceptions.items())
        with contextlib.suppress(Exception):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._hub.lose.remote(f"rank {rank}: {type(error).__name__}: {lines[0]}")

    def _crash(self) -> tuple[int, str] | None:
        """The step that was reached and what the first worker raised after it, if one did."""
        try:
            news: News = ray.get(self._hub.news.remote(), timeout=_ANSWER_SECONDS)
        except Exception:  # a hub that is gone takes nothing from the restart
            return None
        if not news.failures:
            return None
        first = min(news.failures, key=lambda failure: failure.at)
        step = news.progress.step if news.progress else 0
        return step, first.traceback.strip().splitlines()[-1]


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
