"""A process whose resources are watched while it streams: one job in JSON as argument, its states in JSON on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

BATCH, EVERY = 64, 32  # samples of a batch; batches between two looks
CLOSING = 12.0  # seconds; idle threads of the Rust runtime end after ten
CONFIG = {"batch_size": BATCH, "image_size": (24, 20), "source_views": (2, 2), "target_views": 2, "readers": 2}


def watch(environment: dict[str, str], **job: Any) -> dict[str, Any]:
    """Run a job in a process of its own; what it saw."""
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(job)], env=everything, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the watched process ended with {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


def stream(url: str, samples: int, seconds: float, data: dict[str, Any]) -> dict[str, Any]:
    """A look at every so many batches of one stream, until so many samples or seconds, and one after closing all.

    The tasks of the last look are those that a closed stream has left in the reader of its open dataset.
    """
    from configs.schema import DataConfig
    from data.loader import open_datasets, open_stream

    config = DataConfig.model_validate({"train": url, **CONFIG, **data})
    opened = open_datasets(config)
    before = look(opened, 0)
    states, end = [], time.monotonic() + seconds
    began = time.perf_counter()
    with open_stream(opened, config, seed=0, rank=0, world_size=1) as batches:
        for number in itertools.count(1):
            next(batches)
            if number % EVERY == 0:
                states.append(look(opened, number * BATCH))
            if number * BATCH >= samples or time.monotonic() > end:
                break
        took = time.perf_counter() - began
    settle(opened)
    tasks, traffic = look(opened, 0)["tasks"], vars(opened[0].traffic)
    opened[0].close()
    time.sleep(CLOSING)
    after = {**look([], number * BATCH), "tasks": tasks}
    return {"states": states, "before": before, "after": after, "seconds": took, "traffic": traffic}


def reopen(url: str, samples: int, seconds: float, data: dict[str, Any]) -> dict[str, Any]:
    """A look after each dataset and stream that was opened, read and closed; `samples` of them."""
    from configs.schema import DataConfig
    from data.loader import open_datasets, open_stream

    config = DataConfig.model_validate({"train": url, **CONFIG, **data})
    states: list[dict[str, float]] = []
    before, began = look([], 0), time.monotonic()
    for number in range(1, samples + 1):
        opened = open_datasets(config)
        with open_stream(opened, config, seed=0, rank=0, world_size=1) as batches:
            next(batches)
        opened[0].close()
        states.append(look([], number))
        if time.monotonic() - began > seconds:
            break
    took = time.monotonic() - began
    time.sleep(CLOSING)
    return {"states": states, "before": before, "after": look([], number), "seconds": took, "traffic": {}}


def look(opened: list[Any], samples: int) -> dict[str, float]:
    """What this process and its children hold now."""
    me = psutil.Process()
    children = me.children(recursive=True)
    return {
        "samples": samples,
        "rss_mb": me.memory_info().rss / 2**20,
        "children_rss_mb": sum(of_child(child, lambda one: one.memory_info().rss / 2**20) for child in children),
        "descriptors": me.num_fds(),
        "children_descriptors": sum(of_child(child, psutil.Process.num_fds) for child in children),
        "threads": threading.active_count(),
        "os_threads": me.num_threads(),
        "children": len(children),
        "tasks": sum(len(asyncio.all_tasks(loop)) for loop in loops(opened)),
        "shared_memory_files": len(os.listdir("/dev/shm")),
    }


def loops(opened: list[Any]) -> Iterator[asyncio.AbstractEventLoop]:
    """Of the readers of remote stores."""
    for dataset in opened:
        if reader := dataset._store._reader:
            yield reader._loop


def settle(opened: list[Any]) -> None:
    """Give what was cancelled a moment to end."""
    gc.collect()
    until = time.monotonic() + 10
    while any(asyncio.all_tasks(loop) for loop in loops(opened)) and time.monotonic() < until:
        time.sleep(0.05)


def of_child(child: psutil.Process, ask: Any) -> float:
    """A figure of a process that may be gone."""
    with contextlib.suppress(psutil.Error):
        return ask(child)
    return 0.0


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"stream": stream, "reopen": reopen}[asked.pop("kind")](**asked)))
