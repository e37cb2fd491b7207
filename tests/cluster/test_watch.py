"""Silent, hanging and slow workers, told apart from their signs of life."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from cluster.hub import Beat
from cluster.watch import Finding, Judge, Member

MEMBERS = {rank: Member(f"node{rank}", f"10.0.0.{rank}", 100 + rank) for rank in range(4)}
SILENT, HANG = 15.0, 600.0


def beat(rank: int, step: int = 5, operation: str = "compute", still: float = 0.0, worked: float = 0.0) -> Beat:
    return Beat(rank, 100 + rank, step, operation, still, worked)


def judge() -> Judge:
    return Judge(MEMBERS, SILENT, HANG)


def look(beats: Callable[[], dict[int, tuple[Beat, float]]], age: float = 100.0, times: int = 3) -> Finding | None:
    """What the same sight, several looks in a row, makes of it."""
    judging = judge()
    return [judging.find(beats(), age) for _ in range(times)][-1]


@given(
    st.lists(st.tuples(st.floats(0, SILENT), st.floats(0, 1e4)), min_size=4, max_size=4),
    st.sampled_from(["compute", "communication", "data_wait", "evaluation"]),
)
def test_who_gives_signs_and_gets_on_stays(seen: list[tuple[float, float]], operation: str) -> None:
    """Whatever the others do, as long as one of them made a step lately."""
    beats = {rank: (beat(rank, operation=operation, still=still), since) for rank, (since, still) in enumerate(seen)}
    beats[2] = (beat(2, operation=operation), 1.0)
    assert look(lambda: beats) is None


def test_a_silent_rank_is_named_with_host_process_and_operation() -> None:
    finding = look(lambda: {r: (beat(r, operation="communication"), 20.0 if r == 2 else 0.5) for r in MEMBERS})
    assert finding is not None
    assert (finding.ranks, finding.silent) == ((2,), True)
    assert finding.reason == (
        "rank 2 on 10.0.0.2 (process 102) gives no sign of life, since 20 s; it was in communication at step 5"
    )


def test_one_look_is_not_enough_as_the_whole_machine_may_have_paused() -> None:
    judging, late, fresh = judge(), {r: (beat(r), 60.0) for r in MEMBERS}, {r: (beat(r), 0.1) for r in MEMBERS}
    assert [judging.find(sight, 100) for sight in (late, late, fresh, late, late, fresh)] == [None] * 6


def test_a_worker_that_starts_has_four_times_as_long() -> None:
    others = {r: (beat(r), 0.5) for r in MEMBERS if r != 1}
    assert look(lambda: others, age=59) is None
    assert look(lambda: others | {1: (beat(1, operation="starting"), 59.0)}) is None
    finding = look(lambda: others, age=61)
    assert finding is not None
    assert finding.reason.endswith("since it was started")


def test_beats_of_a_process_of_an_earlier_group_do_not_count() -> None:
    zombie = Beat(1, 999, 5, "compute", 0.0, 0.0)
    beats = {r: (beat(r), 0.5) for r in MEMBERS} | {1: (zombie, 0.1)}
    finding = look(lambda: beats, age=61)
    assert finding is not None
    assert finding.ranks == (1,)


def test_who_hangs_is_who_does_not_wait_for_the_others() -> None:
    stuck = {r: (beat(r, operation="communication", still=HANG + 1), 0.5) for r in MEMBERS}
    stuck[3] = (beat(3, operation="data_wait", still=HANG + 1), 0.5)
    finding = look(lambda: stuck, times=1)
    assert finding is not None
    assert (finding.ranks, finding.silent) == ((3,), False)
    assert finding.reason == "no step for 602 s: rank 3 on 10.0.0.3 (process 103) in data_wait at step 5"


def test_if_all_wait_the_one_a_step_behind_hangs_and_if_none_is_all_do() -> None:
    def stuck(steps: list[int]) -> dict[int, tuple[Beat, float]]:
        return {r: (beat(r, step, "communication", HANG + 1), 0.5) for r, step in enumerate(steps)}

    assert getattr(look(lambda: stuck([5, 4, 5, 5]), times=1), "ranks", None) == (1,)
    assert getattr(look(lambda: stuck([5, 5, 5, 5]), times=1), "ranks", None) == (0, 1, 2, 3)


@given(st.integers(0, 3), st.floats(1.6, 20), st.floats(0.01, 10))
def test_a_straggler_is_named_once(slow: int, factor: float, step: float) -> None:
    judging = judge()

    def at(steps: int) -> dict[int, tuple[Beat, float]]:
        return {r: (beat(r, steps, worked=steps * step * (factor if r == slow else 1.0)), 0.5) for r in MEMBERS}

    told = [judging.stragglers(at(n), n * 31.0) for n in range(1, 6)]
    assert sum(map(len, told)) == 1
    assert told[1][0].startswith(f"rank {slow} on 10.0.0.{slow}")


@given(st.lists(st.floats(1.0, 1.4), min_size=4, max_size=4))
def test_workers_that_are_nearly_alike_are_no_stragglers(costs: list[float]) -> None:
    judging = judge()
    for n in range(1, 5):
        beats = {r: (beat(r, n, worked=n * cost), 0.5) for r, cost in enumerate(costs)}
        assert judging.stragglers(beats, n * 31.0) == []
