"""A job on hosts of its own that trains while things go wrong: Headway's, and Headway's loop under Ray Train alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.runs import resolve
from configs import dump_config, load_config
from data.synth import synthesise
from tests.chaos.hosts import why_not
from tests.chaos.job import Data, Job
from tests.chaos.services import Site, site, why_no_store

WORKERS = 3
SETTINGS = [
    f"cluster.workers={WORKERS}",
    "cluster.min_workers=1",
    "cluster.grow_seconds=3",
    "cluster.max_failures=-1",
    "trainer.steps=1000000",
    "checkpoint.url=s3://out/runs",
]
"""Of a job that goes on with the hosts there are, until it is killed."""
MISSING = why_not() or why_no_store()
_TROUBLE = ("no sign of life", "no step for", "restarting the workers")
Mend = Callable[[], None]
SubjectT = TypeVar("SubjectT", bound=Job)


class Ours(Job):
    """`headway train`."""

    def marks(self) -> dict[str, Any]:
        """What changes after a fault, in order: trouble told of, headings of attempts in rank 0's log, reports."""
        log = self.folder / "logs" / "rank-0.log"
        return {
            "named": sum(self.output.count(words) for words in _TROUBLE),
            "started": log.read_bytes().count(b"--- rank 0") if log.exists() else 0,
            "trained": self.steps_reported,
        }


class Defaults(Job):
    """The same run under Ray Train's defaults."""

    def __init__(self, place: Site, name: str, data: Data, overrides: Sequence[str]) -> None:
        super().__init__(place, name, data, [*overrides, f"cluster.address={json.dumps(place.head.address)}"])
        path = place.folder / f"{name}.yaml"
        path.write_text(dump_config(resolve(load_config("headsup-nano", self.settings))))
        script = Path(__file__).parent / "_default_train.py"
        self._command = [sys.executable, script, place.head.address, path]

    def marks(self) -> dict[str, Any]:
        """What changes after a fault, in order: attempts that have opened their ledger, reports of steps."""
        attempts = list((self.folder / "ledger").glob("rank-0.attempt-*"))
        return {"started": len(attempts), "trained": self.steps_reported}

    def workers(self) -> dict[int, tuple[int, str]]:
        """Numbered in no order."""
        found = []
        for name, node in self.site.nodes.items():
            for pid in node.host.pids():
                with contextlib.suppress(OSError):
                    if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append((pid, name))
        return dict(enumerate(found))


Subject = Ours | Defaults


def is_whole(subject: Subject) -> bool:
    """Whether every node has a worker."""
    return {host for _, host in subject.workers().values()} == set(subject.site.nodes)


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Site, Data]]:
    """Hosts with their services, and captures in the store."""
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder) / "train"
        synthesise(str(people), 12, frames=4, image_size=(48, 48), workers=1)
        with site(WORKERS) as place:
            place.store.upload(people, "people")
            place.store.make_bucket("out")
            yield place, Data(people, "people")


@contextlib.contextmanager
def running(subject: SubjectT) -> Iterator[SubjectT]:
    """From its start to its end."""
    subject.start()
    try:
        yield subject
    finally:
        subject.kill()


def worker_killed(subject: Subject, turn: int) -> Mend:
    """SIGKILL to a worker; nothing to mend."""
    pid, _ = subject.workers()[turn % WORKERS]
    os.kill(pid, signal.SIGKILL)
    return lambda: None


def worker_stopped(subject: Subject, turn: int) -> Mend:
    """SIGSTOP to a worker; one that nobody has ended by then is ended to mend it."""
    pid, name = subject.workers()[turn % WORKERS]
    os.kill(pid, signal.SIGSTOP)

    def mend() -> None:
        if pid in subject.site.hosts[name].pids():
            os.kill(pid, signal.SIGKILL)

    return mend


def node_killed(subject: Subject, turn: int) -> Mend:
    """A host without power; it boots again afterwards."""
    node = list(subject.site.nodes.values())[turn % WORKERS]
    node.kill()
    return node.start


def link_cut(subject: Subject, turn: int) -> Mend:
    """A host without its cable; afterwards it is plugged in, and the host started anew."""
    node = list(subject.site.nodes.values())[turn % WORKERS]
    node.host.cut()

    def mend() -> None:
        node.host.restore()
        node.kill()
        node.start()

    return mend


STRIKES: dict[str, Callable[[Subject, int], Mend]] = {
    strike.__name__: strike for strike in (worker_killed, node_killed, link_cut, worker_stopped)
}
