"""How long after a fault does a job on three hosts train again, and what does the time go into?

    python benchmarks/recovery.py [--json] [--repeats 5] [--plain 2] [--only worker_killed,node_killed]

Hosts in network namespaces, a real S3 server and a real MLflow, as `make chaos` has them (tests/chaos); root on Linux.
Four faults take turns on one job that trains: a worker is killed, a node is killed, a node's link is cut, a worker is
stopped. Watched from outside, twenty times a second: until the job says what is wrong, until the new workers run our
code (Ray has placed them and they have imported it), and until a step is reported. After each the world is mended, and
the job has all its workers again before the next.

Then the same with Ray Train as its documentation has it (benchmarks/_plain_train.py), whose model is nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _report import finish, median_and_spread

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.synth import synthesise
from tests.chaos.hosts import why_not
from tests.chaos.job import Data, Job
from tests.chaos.services import Site, site, why_no_store

WORKERS = 3
TARGETS = {"worker_killed": 15.0, "node_killed": 45.0, "link_cut": 60.0, "worker_stopped": 30.0}
"""Seconds: until it trains again; for a stopped worker, until it is named."""
PHASES = ("named", "started", "trained")
TROUBLE = ("no sign of life", "no step for", "restarting the workers")
_LOOK_EVERY_SECONDS = 0.05
Times = dict[str, float | None]


class Subject(ABC):
    """A job under test."""

    def __init__(self, place: Site) -> None:
        self.place = place

    @abstractmethod
    def workers(self) -> dict[int, tuple[int, str]]:
        """Process and host of each that lives, by rank or any number."""

    @abstractmethod
    def marks(self) -> dict[str, Any]:
        """For each of `PHASES` that can be seen, in order, something that changes when it is reached."""

    @abstractmethod
    def end(self) -> None:
        """Kill it."""

    def whole(self) -> bool:
        """Whether every node has a worker."""
        return {host for _, host in self.workers().values()} == set(self.place.nodes)


class Ours(Subject):
    """`headway train`."""

    def __init__(self, place: Site, data: Data, checkpoints: str) -> None:
        super().__init__(place)
        settings = [f"cluster.workers={WORKERS}", "cluster.min_workers=1", "cluster.grow_seconds=3"]
        settings += ["cluster.max_failures=-1", "trainer.steps=1000000", f"checkpoint.url={checkpoints}"]
        self.job = Job(place, "recovery", data, settings).start()

    def workers(self) -> dict[int, tuple[int, str]]:
        """See `Subject`."""
        return self.job.workers()

    def marks(self) -> dict[str, Any]:
        """What the command says of trouble, the heading of every attempt in rank 0's log, and reports of steps."""
        log = self.job.folder / "logs" / "rank-0.log"
        return {
            "named": sum(self.job.output.count(words) for words in TROUBLE),
            "started": log.read_bytes().count(b"--- rank 0") if log.exists() else 0,
            "trained": self.job.steps_reported,
        }

    def end(self) -> None:
        """See `Subject`."""
        self.job.kill()


class Plain(Subject):
    """Ray Train by itself."""

    def __init__(self, place: Site, name: str) -> None:
        super().__init__(place)
        self.folder = place.folder / name
        self.folder.mkdir()
        with (self.folder / "log").open("wb") as log:
            script = Path(__file__).parent / "_plain_train.py"
            command = [sys.executable, script, place.head.address, self.folder]
            self.process = place.head.host.start(command, place.env, log)

    def workers(self) -> dict[int, tuple[int, str]]:
        """Numbered in no order."""
        found = []
        for name, node in self.place.nodes.items():
            for pid in node.host.pids():
                with contextlib.suppress(OSError):
                    if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append((pid, name))
        return dict(enumerate(found))

    def marks(self) -> dict[str, Any]:
        """Only that another process than before has made a step."""
        steps = self.folder / "steps"
        lines = steps.read_text().splitlines() if steps.exists() else []
        return {"trained": lines[-1].split()[0] if lines else None}

    def end(self) -> None:
        """See `Subject`."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def worker_killed(subject: Subject, turn: int) -> Callable[[], None]:
    """SIGKILL to a worker; nothing to mend."""
    pid, _ = subject.workers()[turn % WORKERS]
    os.kill(pid, signal.SIGKILL)
    return lambda: None


def worker_stopped(subject: Subject, turn: int) -> Callable[[], None]:
    """SIGSTOP to a worker; who has not ended it by then is ended to mend it."""
    pid, name = subject.workers()[turn % WORKERS]
    os.kill(pid, signal.SIGSTOP)

    def mend() -> None:
        if pid in subject.place.hosts[name].pids():
            os.kill(pid, signal.SIGKILL)

    return mend


def node_killed(subject: Subject, turn: int) -> Callable[[], None]:
    """A host without power; it boots again afterwards."""
    node = list(subject.place.nodes.values())[turn % WORKERS]
    node.kill()
    return node.start


def link_cut(subject: Subject, turn: int) -> Callable[[], None]:
    """A host without its cable; it is plugged in again afterwards, and the host started anew."""
    node = list(subject.place.nodes.values())[turn % WORKERS]
    node.host.cut()

    def mend() -> None:
        node.host.restore()
        node.kill()
        node.start()

    return mend


STRIKES = {strike.__name__: strike for strike in (worker_killed, node_killed, link_cut, worker_stopped)}


def recover(subject: Subject, name: str, turn: int, limit: float) -> Times:
    """Strike, watch, mend.

    Returns:
        Seconds from the fault until each of `PHASES`; None where it was not seen within `limit`.
    """
    if wait(lambda: subject.whole() and moves(subject), 600) is None:
        raise TimeoutError("the job has not got all its workers again")
    marks, began = subject.marks(), time.monotonic()
    times: Times = dict.fromkeys(PHASES)
    mend = STRIKES[name](subject, turn)
    for phase in marks:
        times[phase] = wait(partial(changed, subject, phase, marks[phase]), limit, began)
        if times[phase] is None:
            break
        if phase == "started":
            marks["trained"] = subject.marks()["trained"]  # a step of the old workers does not count
    mend()
    return times


def changed(subject: Subject, phase: str, before: Any) -> bool:
    """Whether a phase was reached."""
    return subject.marks()[phase] != before


def moves(subject: Subject) -> bool:
    """Whether steps are made."""
    before = subject.marks()["trained"], subject.workers()
    time.sleep(5)
    return subject.marks()["trained"] != before[0] and subject.workers() == before[1]


def wait(true: Callable[[], object], limit: float, began: float | None = None) -> float | None:
    """Seconds since `began`, or None at the limit."""
    began = time.monotonic() if began is None else began
    while not true():
        if time.monotonic() - began > limit:
            return None
        time.sleep(_LOOK_EVERY_SECONDS)
    return time.monotonic() - began


def measure(subject: Subject, names: list[str], repeats: int, limit: float) -> dict[str, list[Times]]:
    """Every fault, in turns."""
    found: dict[str, list[Times]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            found[name].append(recover(subject, name, turn, limit))
            shown = ", ".join(f"{phase} {format_seconds(value)}" for phase, value in found[name][-1].items())
            print(f"{type(subject).__name__.lower()} {name}: {shown}", flush=True)
    return found


def summary(found: dict[str, list[Times]]) -> dict[str, Any]:
    """Median and spread of every phase; where a fault was not got over each time, how often."""
    figures: dict[str, Any] = {}
    for name, turns in found.items():
        for phase in PHASES:
            seen = [value for times in turns if (value := times[phase]) is not None]
            if seen:
                figures[f"{name}: {phase}"] = {**median_and_spread(seen), "of": len(turns)}
        figures.setdefault(f"{name}: trained", {"median": None, "iqr": None, "repeats": 0, "of": len(turns)})
    return figures


def format_seconds(value: float | None) -> str:
    """Or that there is none."""
    return "never" if value is None else f"{value:.1f} s"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeats", type=int, default=5, help="of every fault")
    parser.add_argument("--plain", type=int, default=2, help="repeats with Ray Train by itself; 0 leaves it out")
    parser.add_argument("--only", default=",".join(STRIKES), help="faults, with commas between")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a fault was not got over")
    arguments = parser.parse_args()
    missing = why_not() or why_no_store()
    if missing:
        print(f"NOTE: nothing measured: {missing}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = arguments.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder) / "train"
        synthesise(str(people), 12, frames=4, image_size=(48, 48), workers=1)
        with site(WORKERS) as place:
            figures = {"ours": summary(of_ours(place, people, names, arguments))}
        if arguments.plain:
            with site(WORKERS) as place:
                figures["plain"] = summary(of_plain(place, names, arguments))
    report(figures)
    finish(figures, arguments.json)


def of_ours(place: Site, people: Path, names: list[str], arguments: argparse.Namespace) -> dict[str, list[Times]]:
    """Headway's job."""
    place.store.upload(people, "people")
    with ended(Ours(place, Data(people, "people"), f"{place.store.make_bucket('out')}/runs")) as subject:
        return measure(subject, names, arguments.repeats, arguments.limit)


def of_plain(place: Site, names: list[str], arguments: argparse.Namespace) -> dict[str, list[Times]]:
    """Ray Train's; a job of its own for every fault, for it may never come back from one."""
    found: dict[str, list[Times]] = {name: [] for name in names}
    for turn in range(arguments.plain):
        for name in names:
            with ended(Plain(place, f"{name}-{turn}")) as subject:
                found[name] += measure(subject, [name], 1, arguments.limit)[name]
    return found


@contextlib.contextmanager
def ended(subject: Subject) -> Iterator[Subject]:
    """Its end at the end."""
    try:
        yield subject
    finally:
        subject.end()


def report(figures: dict[str, Any]) -> None:
    """A table."""
    print(f"\n{'seconds after the fault':<36}{'median':>9}{'iqr':>9}{'seen':>8}{'wanted':>9}")
    for who, rows in figures.items():
        for row, found in rows.items():
            name, phase = row.split(": ")
            counts = "named" if name == "worker_stopped" else "trained"
            wanted = f"{TARGETS[name]:.0f}" if phase == counts and who == "ours" else ""
            shown = ["never" if found[key] is None else f"{found[key]:.1f}" for key in ("median", "iqr")]
            print(f"{f'{who} {row}':<36}{shown[0]:>9}{shown[1]:>9}{found['repeats']:>6}/{found['of']}{wanted:>9}")


if __name__ == "__main__":
    main()
