"""After a failure: start again, or give up? Preemptions, failures and mistakes are told apart."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.exceptions import ControllerError

from cluster.hub import News
from cluster.pulse import Paused
from configs import UserError
from configs.schema import ClusterConfig
from trainer.observer import Diverged

FINAL = (UserError, Diverged)
"""A user's mistake, and a training that has gone back to its checkpoints as often as it may."""

_ANSWER_SECONDS = 10
_STARTS = 20  # of a group, in a row; nodes come and go while one is placed


class Evicted(RuntimeError):
    """A worker was ended because it gave no sign of life or did not get on; the message names it."""


class Budget(FailurePolicy):
    """Ray asks it after every failure.

    - What no restart can mend ends the run, from any rank: a user's mistake, a training that diverges for good, and
      what a worker raised after the same step as in the attempt before, in the same words. A worker that was killed
      raises nothing, so a node that dies twice does not count.
    - Workers that saved and ended because their node goes cost a preemption.
    - Everything else costs a failure; a checkpoint that is newer than the one before restores the budget.

    Args:
        limits: of the run.
        hub: handle of the run's `Hub`.
    """

    def __init__(self, limits: ClusterConfig, hub: Any) -> None:
        self._hub = hub
        self._failures, self._preemptions = _Count(limits.max_failures), _Count(limits.max_preemptions)
        self._starts = _Count(_STARTS)
        self._began = -1
        self._before: tuple[int, str] | None = None

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        """Whether to try again."""
        news = self._news()
        if isinstance(training_failed_error, ControllerError):
            return self._of_controller(training_failed_error.controller_failure)
        errors: Mapping[int, Exception] = getattr(training_failed_error, "worker_failures", {})
        if any(isinstance(error, FINAL) for error in errors.values()):
            return FailureDecision.RAISE
        self._starts.none()
        decision = self._of_workers(errors, news)
        if decision == FailureDecision.RETRY:
            self._tell(errors, training_failed_error)
        return decision

    def _of_workers(self, errors: Mapping[int, Exception], news: News) -> FailureDecision:
        if any(isinstance(error, Paused) for error in errors.values()):
            return self._preemptions.one()
        if news.began > self._began:
            self._began = news.began
            self._failures.none()
        crash, before = _crash(news), self._before
        self._before = crash
        if crash is not None and crash == before:
            return FailureDecision.RAISE
        return self._failures.one()

    def _of_controller(self, error: Exception) -> FailureDecision:
        """A group that did not start is tried again: the next one is placed where there is room then."""
        if not isinstance(error, (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError, RayError)):
            return FailureDecision.RAISE
        with contextlib.suppress(Exception):
            self._hub.note.remote(f"the workers did not start: {_first_line(error)}")
        return self._starts.one()

    def _news(self) -> News:
        with contextlib.suppress(Exception):  # a hub that is gone takes nothing from the restart
            return ray.get(self._hub.news.remote(), timeout=_ANSWER_SECONDS)
        return News()

    def _tell(self, errors: Mapping[int, Exception], whole: Exception) -> None:
        causes = sorted(errors.items(), key=lambda pair: not isinstance(pair[1], (Evicted, Paused)))
        reason = _first_line(whole)
        for rank, error in causes[:1]:
            reason = _words(rank, error)
        with contextlib.suppress(Exception):
            self._hub.lose.remote(reason)


class _Count:
    """How often something may happen."""

    def __init__(self, limit: int) -> None:
        self._limit, self._count = (math.inf if limit < 0 else limit), 0

    def one(self) -> FailureDecision:
        """It happened."""
        self._count += 1
        return FailureDecision.RETRY if self._count <= self._limit else FailureDecision.RAISE

    def none(self) -> None:
        """Count anew."""
        self._count = 0


def _crash(news: News) -> tuple[int, str] | None:
    """The step that was reached and what the first worker raised after it, if one did."""
    if not news.failures:
        return None
    first = min(news.failures, key=lambda failure: failure.at)
    return news.progress.step if news.progress else 0, first.traceback.strip().splitlines()[-1]


def _words(rank: int, error: Exception) -> str:
    if isinstance(error, (Evicted, Paused)):
        return _first_line(error)
    if isinstance(error, (WorkerHealthCheckFailedError, RayActorError)):
        return f"rank {rank}: its process is gone (killed, out of memory, or its node died)"
    return f"rank {rank}: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
