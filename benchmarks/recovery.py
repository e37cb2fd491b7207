"""How long after a fault does a job on three hosts train again, and what does the time go into?

    python benchmarks/recovery.py [--json] [--repeats 5] [--defaults 2] [--only worker_killed,node_killed]

Hosts in network namespaces, a real S3 server and a real MLflow, as `make chaos` has them (tests/chaos); root on Linux.
Four faults take turns on one job that trains: a worker is killed, a node is killed, a node's link is cut, a worker is
stopped. Watched from outside, twenty times a second: until the job says what is wrong, until the new workers run our
code (Ray has placed them and they have imported it), and until a step is reported. After each the world is mended, and
the job has all its workers again before the next.

Then the same with Ray Train as its documentation has it (benchmarks/_default_train.py), around the same loop.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from _jobs import MISSING, SETTINGS, STRIKES, Defaults, Ours, Subject, is_whole, prepared, running
from _report import finish, median_and_spread

TARGETS = {"worker_killed": 15.0, "node_killed": 45.0, "link_cut": 60.0, "worker_stopped": 30.0}
"""Seconds: until it trains again; for a stopped worker, until it is named."""
PHASES = ("named", "started", "trained")
_LOOK_EVERY_SECONDS = 0.05
Times = dict[str, float | None]


def recover(subject: Subject, name: str, turn: int, limit: float) -> Times:
    """Strike, watch, mend.

    Returns:
        Seconds from the fault until each of `PHASES`; None where it was not seen within `limit`.
    """
    if wait(lambda: subject.ended or (is_whole(subject) and moves(subject)), 600) is None or subject.ended:
        raise RuntimeError(f"the job has not got all its workers:\n{subject.tail()}")
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


def shown(value: float | None) -> str:
    """Or that there is none."""
    return "never" if value is None else f"{value:.1f} s"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeats", type=int, default=5, help="of every fault; 0 leaves Headway out")
    parser.add_argument("--defaults", type=int, default=2, help="repeats with Ray Train by itself; 0 leaves it out")
    parser.add_argument("--only", default=",".join(STRIKES), help="faults, with commas between")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a fault was not got over")
    arguments = parser.parse_args()
    if MISSING:
        print(f"NOTE: nothing measured: {MISSING}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = arguments.only.split(",")
    figures: dict[str, dict[str, Any]] = {}
    if arguments.repeats:
        figures["ours"] = summary(of_ours(names, arguments))
    if arguments.defaults:
        figures["defaults"] = summary(of_defaults(names, arguments))
    report(figures)
    finish(figures, arguments.json)


def of_ours(names: list[str], arguments: argparse.Namespace) -> dict[str, list[Times]]:
    """Headway's job: one, for all faults in turns."""
    with prepared() as (place, data), running(Ours(place, "ours", data, SETTINGS)) as subject:
        turns = [(name, turn) for turn in range(arguments.repeats) for name in names]
        return gathered((name, recover(subject, name, turn, arguments.limit)) for name, turn in turns)


def of_defaults(names: list[str], arguments: argparse.Namespace) -> dict[str, list[Times]]:
    """Ray Train's: a job and hosts of its own for every fault, for it may never come back from one."""

    def one(name: str, turn: int) -> Times:
        with prepared() as (place, data), running(Defaults(place, "defaults", data, SETTINGS)) as subject:
            return recover(subject, name, turn, arguments.limit)

    turns = [(name, turn) for turn in range(arguments.defaults) for name in names]
    return gathered((name, one(name, turn)) for name, turn in turns)


def gathered(found: Iterable[tuple[str, Times]]) -> dict[str, list[Times]]:
    """By name, told as they come."""
    by_name: dict[str, list[Times]] = {}
    for name, times in found:
        print(f"{name}: {', '.join(f'{phase} {shown(value)}' for phase, value in times.items())}", flush=True)
        by_name.setdefault(name, []).append(times)
    return by_name


def report(figures: dict[str, Any]) -> None:
    """A table."""
    print(f"\n{'seconds after the fault':<36}{'median':>9}{'iqr':>9}{'seen':>8}{'wanted':>9}")
    for who, rows in figures.items():
        for row, found in rows.items():
            name, phase = row.split(": ")
            counts = "named" if name == "worker_stopped" else "trained"
            wanted = f"{TARGETS[name]:.0f}" if phase == counts and who == "ours" else ""
            median, spread = (shown(found[key]) for key in ("median", "iqr"))
            print(f"{f'{who} {row}':<36}{median:>9}{spread:>9}{found['repeats']:>6}/{found['of']}{wanted:>9}")


if __name__ == "__main__":
    main()
