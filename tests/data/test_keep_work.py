"""Jobs in threads and processes: every result, one count, and an end when one fails."""

from __future__ import annotations

import threading
import time

import pytest

from configs import UserError
from data.keep.work import in_threads, spread


def double(item: int, tell) -> int:
    tell(item)
    return 2 * item


def fails(item: int, tell) -> int:
    raise UserError("broken", where=f"item {item}")


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_every_result_and_one_count(workers):
    seen: list[int] = []
    assert sorted(spread(double, range(6), workers, seen.append)) == [0, 2, 4, 6, 8, 10]
    assert seen == sorted(seen)
    assert seen[-1] == 15 or workers > 1
    with pytest.raises(UserError, match=r"item [01]: broken"):
        list(spread(fails, [0, 1], workers, seen.append))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_give_results_in_order(workers):
    seen: list[int] = []
    assert in_threads(double, range(20), workers, seen.append) == list(range(0, 40, 2))
    assert seen[-1] == sum(range(20))
    assert in_threads(double, [], workers, seen.append) == []


def test_one_that_fails_ends_the_others():
    going = threading.Event()

    def work(item: int, tell) -> None:
        if item == 0:
            going.wait(5)
            raise UserError("broken")
        for _ in range(5000):
            going.set()
            tell(1)
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(UserError, match="broken"):
        in_threads(work, range(50), 2, lambda _: None)
    assert time.monotonic() - began < 5
