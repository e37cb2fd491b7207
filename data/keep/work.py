"""Jobs spread over processes or threads, with one count of what they have done."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, ThreadPoolExecutor, as_completed, wait
from typing import Any, TypeVar

from configs.errors import UserError
from data.pool import spawn_pool

Item = TypeVar("Item")
Result = TypeVar("Result")
Tell = Callable[[int], object]

_count: Any = None


def spread(
    function: Callable[[Item, Tell], Result], items: Sequence[Item], workers: int, tell: Tell
) -> Iterator[Result]:
    """Results of a function of this code base for each item, as they come.

    Args:
        function: is given an item, and something to call with what it has done since it last called.
        items: may travel to other processes.
        workers: processes; 1 works in this one.
        tell: is given what was done in all.

    Raises:
        UserError: a process was killed; or whatever the function raises.
    """
    if min(workers, len(items)) <= 1:
        total = 0

        def add(count: int) -> None:
            nonlocal total
            total += count
            tell(total)

        for item in items:
            yield function(item, add)
        return
    count = multiprocessing.get_context("spawn").Value("q", 0)
    with spawn_pool(min(workers, len(items)), _share, count) as pool:
        waiting = {pool.submit(_call, function, item) for item in items}
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            tell(count.value)
            for future in done:
                try:
                    yield future.result()
                except BrokenExecutor:
                    hint = "out of memory? Fewer workers need less; the same command goes on"
                    raise UserError("a process was killed", where="--workers", hint=hint) from None


def in_threads(
    function: Callable[[Item, Tell], Result], items: Sequence[Item], workers: int, tell: Tell
) -> list[Result]:
    """Results of a function for each item, in their order, by threads: for work that is mostly done outside Python.

    Args:
        function: as for `spread`; once another item has failed it is stopped where it tells what it has done.
        items: of any kind.
        workers: threads.
        tell: is given what was done in all; never by two threads at once.

    Raises:
        BaseException: the first that the function raises.
    """
    lock, over, done = threading.Lock(), threading.Event(), 0

    def add(count: int) -> None:
        nonlocal done
        if over.is_set():
            raise CancelledError
        with lock:
            done += count
            tell(done)

    with ThreadPoolExecutor(max(1, workers), "headway-keep") as pool:
        jobs = [pool.submit(function, item, add) for item in items]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            over.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [job.result() for job in jobs]


def _share(count: Any) -> None:
    global _count
    _count = count


def _call(function: Callable[[Item, Tell], Result], item: Item) -> Result:
    return function(item, _add)


def _add(count: int) -> None:
    with _count.get_lock():
        _count.value += count
