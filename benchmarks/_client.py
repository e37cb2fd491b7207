"""A process that reads for a benchmark: jobs in JSON on stdin, figures in JSON on stdout, until stdin ends.

It imports once, may live in a network namespace, and counts the processor time of its whole tree of processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

HELLO = "ready"


@dataclass
class Client:
    """The other end of the pipe, for the benchmark."""

    process: subprocess.Popen[str]

    def ask(self, **job: Any) -> dict[str, Any]:
        """Run a job; what it measured."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def wait(self) -> None:
        """Until everything is imported."""
        assert self._line() == HELLO

    def _line(self) -> str:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return line.strip()
        raise SystemExit(f"a client ended with {self.process.wait()}; its messages are above")


@contextlib.contextmanager
def client(prefix: tuple[str, ...], environment: dict[str, str], cores: int) -> Iterator[Client]:
    """Start a client; it ends with all its children."""
    command = [*prefix, sys.executable, __file__, str(cores)]
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, os.path.dirname(here)])  # the fork server takes no other note of where modules lie
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=everything, start_new_session=True
    )
    try:
        yield Client(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: it, its workers and their pipes
        process.wait()


def main() -> None:
    """Serve jobs."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    cores = sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]
    os.sched_setaffinity(0, cores)

    import torch
    from _captures import CaptureSet
    from _readers import READERS, Job

    import data.stream  # noqa: F401  imports are no part of the time to the first batch

    torch.set_num_threads(1)
    # Workers start from a clean process: the clients of the object store do not survive a fork.
    torch.multiprocessing.set_forkserver_preload(["_readers"])
    print(HELLO, file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        options = {key: asked.pop(key) for key in ("seconds", "warm", "check", "counters", "interface")}
        job = Job(**{**asked, "captures": CaptureSet(**asked["captures"])})
        began = time.perf_counter()
        with READERS[job.reader](job) as batches:
            result = measure(batches, began, job.captures.views, job.limit, **options)
        print(json.dumps(result), file=answers, flush=True)


def measure(
    batches: Iterator[Any],
    began: float,
    views: int,
    limit: int | None,
    seconds: float,
    warm: float,
    check: bool,
    counters: list[str],
    interface: str | None,
) -> dict[str, Any]:
    """Time to the first batch, then, after warming up, samples, seconds, processor seconds and bytes of a while.

    Args:
        batches: without end.
        began: when the reader was opened.
        views: of every capture.
        limit: samples within which to stay.
        seconds: how long to measure, at least two batches.
        warm: seconds to let pass first, at least two batches.
        check: compare the first batch with what was written.
        counters: of the server (`_servers.asked`).
        interface: whose bytes to count.
    """
    from _captures import check_sample
    from _readers import BATCH, samples_of

    first = next(batches)
    result: dict[str, Any] = {"first_batch_seconds": time.perf_counter() - began}
    if check:
        for name, images in zip(*samples_of(first), strict=True):
            check_sample(name, images, views)
    warmed, count = time.perf_counter() + warm, 0
    while count < 2 or time.perf_counter() < warmed:
        next(batches)
        count += 1
    before = state(counters, interface)
    end, count, most = before["seconds"] + seconds, 0, (limit or 10**9) // BATCH - count - 1
    while count < 2 or (time.perf_counter() < end and count < most):
        next(batches)
        count += 1
    after = state(counters, interface)
    result |= {key: after[key] - before[key] for key in before}
    return {**result, "samples": count * BATCH}


def state(counters: list[str], interface: str | None) -> dict[str, float]:
    """Clocks and counters now."""
    from _servers import asked

    found: dict[str, float] = {"seconds": time.perf_counter(), "cpu": processor_seconds()}
    found |= {f"asked_{key}": value for key, value in asked(counters).items()}
    if interface:
        found["link_bytes"] = psutil.net_io_counters(pernic=True)[interface].bytes_recv
    return found


def processor_seconds() -> float:
    """Of this process and all beneath it, those that have ended included."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
