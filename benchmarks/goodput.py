"""How much of the wall time of a job is training, with a fault every two minutes?

    python benchmarks/goodput.py [--json] [--minutes 8] [--every 120] [--turns 1]

Three hosts in network namespaces, a real S3 server and a real MLflow (tests/chaos); root on Linux. The same loop, data
and checkpoints under two hands, in turns: Headway's, and Ray Train with its defaults (benchmarks/_default_train.py).
Faults take turns: a worker is killed; a node is killed and boots again half a minute later. Ray's defaults get over
both; a worker that is stopped or cut off they wait for, which is not measured here (benchmarks/recovery.py).

Goodput is the ledger's: computing of steps that counted, of the time from the command's start to the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any

from _jobs import MISSING, SETTINGS, STRIKES, Defaults, Ours, prepared, running
from _report import finish, median_and_spread

_BOOTS_AFTER_SECONDS = 30.0
_FAULTS = {"worker_killed": 0.0, "node_killed": _BOOTS_AFTER_SECONDS}
"""And after how many seconds each is mended."""
_MORE = ["cluster.grow_seconds=10", "checkpoint.every=25"]


def endure(subject: Ours | Defaults, seconds: float, every: float) -> int:
    """A fault at regular times; how many."""
    began, struck = time.monotonic(), 0
    names = list(_FAULTS)
    while (struck + 1.5) * every < seconds:
        time.sleep(max(0.0, began + (struck + 1) * every - time.monotonic()))
        if subject.workers():
            name = names[struck % len(names)]
            mend = STRIKES[name](subject, struck)
            time.sleep(_FAULTS[name])
            mend()
        struck += 1
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return struck


def measure(hand: type[Ours] | type[Defaults], name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One job from its start on."""
    with prepared() as (place, data), running(hand(place, name, data, [*SETTINGS, *_MORE])) as job:
        faults = endure(job, arguments.minutes * 60, arguments.every)
        found = {"faults": faults, "steps": job.step, **job.ledger()}
    print(f"{name}: goodput {found['goodput']:.1%}, {found['steps']} steps, {faults} faults", flush=True)
    return {key: found[key] for key in ("goodput", "steps", "faults", "wall_seconds", "lost_steps", "seconds")}


def report(figures: dict[str, Any]) -> None:
    """A table."""
    print(f"\n{'':<12}{'goodput':>10}{'steps':>8}{'faults':>8}   seconds of a rank")
    for hand, found in figures.items():
        for turn in found["turns"]:
            spent = [f"{name.replace('_', ' ')} {value:.0f}" for name, value in turn["seconds"].items() if value > 0.5]
            print(f"{hand:<12}{turn['goodput']:>10.1%}{turn['steps']:>8}{turn['faults']:>8}   {', '.join(spent)}")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each job")
    parser.add_argument("--every", type=float, default=120.0, help="seconds between faults")
    parser.add_argument("--turns", type=int, default=1, help="jobs under each hand")
    arguments = parser.parse_args()
    if MISSING:
        print(f"NOTE: nothing measured: {MISSING}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hands = {"headway": Ours, "defaults": Defaults}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in hands}
    for turn in range(arguments.turns):
        for name, hand in hands.items():
            turns[name].append(measure(hand, f"{name}-{turn}", arguments))
    figures = {
        name: {"turns": found, "goodput": median_and_spread([each["goodput"] for each in found])}
        for name, found in turns.items()
    }
    report(figures)
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
