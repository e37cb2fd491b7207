"""What can go wrong with a job that runs, one function for each kind; each strikes, mends what a person or a supervisor
would mend, and returns what it hit.

None measures by the clock: a fault is over when the job trains again. How long an outage lasts is its only duration.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
from numpy.random import Generator

from tests.chaos.job import Job
from tests.chaos.poison import poison
from tests.chaos.services import wait_until

Fault = Callable[[Job, Generator], str]
_OUTAGE_SECONDS = 6.0
_ON_FEWER_STEPS = 3
_MEMORY = Path("/sys/fs/cgroup/memory")


def worker_killed(job: Job, draw: Generator) -> str:
    """SIGKILL to one worker."""
    rank, pid, name = _a_worker(job, draw)
    os.kill(pid, signal.SIGKILL)
    return f"rank {rank} on {name}"


def worker_stopped(job: Job, draw: Generator) -> str:
    """SIGSTOP to one worker, which never goes on by itself."""
    rank, pid, name = _a_worker(job, draw)
    os.kill(pid, signal.SIGSTOP)
    job.wait_for_more()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it was not evicted"
    return f"rank {rank} on {name}"


def worker_out_of_memory(job: Job, draw: Generator) -> str:
    """The kernel kills one worker, whose memory may grow no further."""
    rank, pid, name = _a_worker(job, draw)
    with _no_more_memory(pid):
        wait_until(lambda: pid not in job.site.hosts[name].pids(), f"the kernel to kill rank {rank}")
    return f"rank {rank} on {name}"


def worker_terminated(job: Job, draw: Generator) -> str:
    """SIGTERM to one worker: the notice of a preemption."""
    rank, pid, name = _a_worker(job, draw)
    os.kill(pid, signal.SIGTERM)
    return f"rank {rank} on {name}"


def node_killed(job: Job, draw: Generator) -> str:
    """A host loses its power; when the job has noticed, it boots and joins again."""
    node = job.site.nodes[_a_node(job, draw)]
    with _noticed(job):
        node.kill()
    node.start()
    _whole_again(job)
    return node.host.name


def node_terminated(job: Job, draw: Generator) -> str:
    """SIGTERM to a node's Ray, as a deleted pod gets it: it drains the node, the job leaves, a new one is started."""
    node = job.site.nodes[_a_node(job, draw)]
    with _noticed(job):
        os.kill(_ray_start(node.host.pids()), signal.SIGTERM)
    _whole_again(job)
    return node.host.name


def node_stopped(job: Job, draw: Generator) -> str:
    """A host hangs; when the job has noticed, it wakes up."""
    host = job.site.hosts[_a_node(job, draw)]
    with _noticed(job):
        host.stop()
    host.resume()
    _whole_again(job)
    return host.name


def link_cut(job: Job, draw: Generator) -> str:
    """A host's cable is pulled; when the job has noticed, it is plugged in again."""
    host = job.site.hosts[_a_node(job, draw)]
    with _noticed(job):
        host.cut()
    host.restore()
    _whole_again(job)
    return host.name


def store_killed(job: Job, draw: Generator) -> str:
    """The S3 server ends; connections are refused until it runs again."""
    job.site.store.kill()
    time.sleep(_OUTAGE_SECONDS)
    job.site.store.restart()
    return f"{_OUTAGE_SECONDS:g} s"


def store_cut(job: Job, draw: Generator) -> str:
    """The cable of the S3 server is pulled; packets are lost until it is plugged in again."""
    host = job.site.store.host
    host.cut()
    time.sleep(_OUTAGE_SECONDS)
    host.restore()
    return f"{_OUTAGE_SECONDS:g} s"


def tracking_killed(job: Job, draw: Generator) -> str:
    """MLflow ends, the job trains on without it, and it runs again."""
    job.site.tracking.kill()
    job.wait_for_more(8)
    job.site.tracking.start()
    return "8 steps"


def sample_poisoned(job: Job, draw: Generator) -> str:
    """Bytes of an image in the store change, before the job has read it."""
    return poison(job, draw)


def disk_full(job: Job, draw: Generator) -> str:
    """The disk of the run's folder is full, and has room again later."""
    ballast = job.site.disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    time.sleep(_OUTAGE_SECONDS)
    ballast.unlink()
    return f"{_OUTAGE_SECONDS:g} s"


FAULTS: dict[str, Fault] = {
    function.__name__.replace("_", " "): function
    for function in (
        worker_killed,
        worker_stopped,
        worker_out_of_memory,
        worker_terminated,
        node_killed,
        node_terminated,
        node_stopped,
        link_cut,
        store_killed,
        store_cut,
        tracking_killed,
        sample_poisoned,
        disk_full,
    )
}


def _a_worker(job: Job, draw: Generator) -> tuple[int, int, str]:
    """Rank, process and host; all workers are there, so that the draw is the same in every run."""
    _whole_again(job)
    workers = job.workers()
    rank = int(draw.integers(len(workers)))
    return rank, *workers[rank]


def _a_node(job: Job, draw: Generator) -> str:
    _whole_again(job)
    return sorted(job.site.nodes)[int(draw.integers(len(job.site.nodes)))]


def _ray_start(pids: Iterable[int]) -> int:
    """The process of `ray start --block`; its supervisor's command line begins with `sh`."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            line = psutil.Process(pid).cmdline()
            if "--block" in line and "python" in line[0]:
                return pid
    raise LookupError("no Ray is started there")


@contextlib.contextmanager
def _noticed(job: Job) -> Iterator[None]:
    """Until the job has given up its workers; one that may go on with fewer makes some steps so."""
    before = job.restarts
    yield
    wait_until(lambda: job.restarts > before or job.ended, "the job to notice")
    if job.config.cluster.fewest < job.config.cluster.workers:
        job.wait_for_more(_ON_FEWER_STEPS)


def _whole_again(job: Job) -> None:
    """Until every node has a worker, and they train."""
    wait_until(lambda: len(job.workers()) == len(job.site.nodes) or job.ended, "a worker on every node")
    job.wait_for_more()


@contextlib.contextmanager
def _no_more_memory(pid: int) -> Iterator[None]:
    """In a control group of its own, a process may take one megabyte beside what it has already."""
    group = _MEMORY / f"headway-{pid}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(1 << 20))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the control group to be empty")
        group.rmdir()


def why_no_memory_limit() -> str | None:
    """Why the kernel cannot be made to kill a worker for its memory; None if it can."""
    writable = os.access(_MEMORY / "cgroup.procs", os.W_OK)
    return None if writable else "needs the memory controller of control groups (version 1), writable"
