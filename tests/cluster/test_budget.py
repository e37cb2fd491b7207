"""What is tried again and what is not; the hub is the real one, without Ray around it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from direct import Direct
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from cluster.budget import Budget, Evicted
from cluster.hub import Failure
from cluster.pulse import Paused
from configs import UserError
from configs.schema import ClusterConfig
from trainer.observer import Diverged, Progress

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE


def failed(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("failed", dict(enumerate(errors)))


def decisions(budget: Budget, error: Any, times: int) -> list[FailureDecision]:
    return [budget.make_decision(error) for _ in range(times)]


def test_failures_are_counted_until_there_is_a_newer_checkpoint(direct: Direct) -> None:
    budget, dead = Budget(ClusterConfig(max_failures=2), direct), failed(RayActorError())
    assert decisions(budget, dead, 2) == [RETRY, RETRY]
    direct.hub.report(Progress("training", 12, 20, began=10))
    assert decisions(budget, dead, 3) == [RETRY, RETRY, RAISE]


@pytest.mark.parametrize("mistake", [UserError("a broken shard"), Diverged("for good")])
def test_what_no_restart_can_mend_ends_the_run_whichever_rank_it_comes_from(direct: Direct, mistake: Exception) -> None:
    budget = Budget(ClusterConfig(max_failures=-1), direct)
    assert budget.make_decision(failed(RuntimeError("connection closed"), mistake)) == RAISE
    assert budget.make_decision(ControllerError(mistake)) == RAISE


def test_preemptions_have_a_budget_of_their_own(direct: Direct) -> None:
    budget = Budget(ClusterConfig(max_failures=0), direct)
    assert decisions(budget, failed(Paused("node a is taken away")), 50) == [RETRY] * 50
    assert budget.make_decision(failed(RayActorError())) == RAISE
    budget = Budget(ClusterConfig(max_preemptions=1), direct)
    assert decisions(budget, failed(Paused("node a is taken away"), RuntimeError()), 2) == [RETRY, RAISE]


def test_the_same_crash_after_the_same_step_is_not_tried_a_third_time(direct: Direct) -> None:
    budget = Budget(ClusterConfig(max_failures=-1), direct)

    def crash(step: int, words: str) -> FailureDecision:
        direct.hub.started()
        direct.hub.report(Progress("training", step, 20))
        direct.hub.fail(Failure(1, "a", time.time(), f"Traceback:\n{words}"))
        return budget.make_decision(failed(RuntimeError(words)))

    assert [crash(3, "x"), crash(4, "x"), crash(4, "y"), crash(4, "y")] == [RETRY, RETRY, RETRY, RAISE]


def test_killed_workers_raise_nothing_and_may_die_at_the_same_step(direct: Direct) -> None:
    budget = Budget(ClusterConfig(max_failures=-1), direct)
    direct.hub.report(Progress("training", 4, 20))
    assert decisions(budget, failed(RayActorError()), 9) == [RETRY] * 9


def test_a_group_that_does_not_start_is_placed_again_but_not_for_ever(direct: Direct) -> None:
    budget = Budget(ClusterConfig(max_failures=0), direct)
    late = ControllerError(WorkerGroupStartupTimeoutError(2))
    assert decisions(budget, late, 21) == [RETRY] * 20 + [RAISE]
    assert budget.make_decision(ControllerError(ValueError("a bug"))) == RAISE


def test_the_user_reads_who_was_evicted_rather_than_who_fell_with_it(direct: Direct) -> None:
    budget = Budget(ClusterConfig(), direct)
    budget.make_decision(failed(RuntimeError("connection closed by peer"), Evicted("rank 1 on a gives no sign")))
    budget.make_decision(failed(RuntimeError("connection closed by peer\nand more")))
    budget.make_decision(failed(RayActorError()))
    assert direct.hub.news().lost == [
        "rank 1 on a gives no sign",
        "rank 0: RuntimeError: connection closed by peer",
        "rank 0: its process is gone (killed, out of memory, or its node died)",
    ]
