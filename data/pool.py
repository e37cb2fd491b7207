"""Work spread over processes that end with their parent and keep to one core each."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def spawn_pool(workers: int, initialise: Callable[..., object], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Processes by spawn, one numerical thread each, that end with this process even if it is killed.

    Args:
        workers: how many.
        initialise: called in each with `arguments`, which travel by inheritance and may be shared values.

    On leaving, jobs that have not begun are dropped and those under way are finished.
    """
    with _one_thread_each():
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(initialise, *arguments))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _start(initialise: Callable[..., object], *arguments: Any) -> None:
    # Ctrl-C is the parent's, so that what is under way is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    initialise(*arguments)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside keep numerical libraries to one thread; they read it when they are loaded."""
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
