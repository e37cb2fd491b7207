"""What a bad day of the object store costs: errors, truncated and flipped bytes, stalls, a server that is down.

    python benchmarks/faults.py [--json] [--quick] [--batches 250] [--samples 600] [--down 60] [--launcher radosgw-up]

Our reader reads from an S3 server through a proxy (tests/data/faulty.py) that injects 1 % answers 503, 1 % truncated
bodies, 0.5 % flipped bytes and 0.5 % ten-second stalls. Every batch is compared bit for bit with the one that local
disk gives. Rates with and without faults take turns through the same proxy.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

import _trace
from _captures import CaptureSet, make_set, upload
from _report import finish, median_and_spread
from _servers import LAUNCHER, ObjectStore, object_store
from faulty import Faults, FaultyProxy  # type: ignore[import-not-found]

FAULTS = Faults(error_503=0.01, truncated=0.01, flipped=0.005, stalled=0.005, stall_seconds=10.0)
SKIPPED = 3  # batches at the beginning that are no part of a rate


def main() -> None:
    """Measure and report."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        tempfile.TemporaryDirectory(prefix="headway-faults-") as name,
        object_store(Path(name) / "server", arguments.launcher) as store,
    ):
        os.environ["TMPDIR"] = name
        captures = make_set(Path(name) / "sets", store.make_bucket("faults"), 192, 16)
        upload(Path(name) / "sets", "faults", store.environment())
        results = {"server": store.kind, **measure(store, captures, arguments)}
    report(results)
    finish(results, arguments.json)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="less of everything, stalls of 3 s, down for 5 s")
    parser.add_argument("--repeats", type=int, default=3, help="turns with and without faults")
    parser.add_argument("--batches", type=int, default=250, help="of 8 samples in each turn")
    parser.add_argument("--samples", type=int, default=600, help="whose latency is measured")
    parser.add_argument("--down", type=float, default=60.0, help="seconds for which the server is stopped")
    launcher = Path(os.environ.get("RADOSGW_UP", LAUNCHER))
    parser.add_argument("--launcher", type=Path, default=launcher, help="starts Ceph's gateway; else $RADOSGW_UP")
    arguments = parser.parse_args()
    arguments.faults = FAULTS
    if arguments.quick:
        arguments.repeats, arguments.batches, arguments.samples, arguments.down = 1, 30, 200, 5.0
        arguments.faults = replace(FAULTS, stall_seconds=3.0)
    return arguments


def measure(store: ObjectStore, captures: CaptureSet, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything through one proxy."""
    clean = from_disk(captures, arguments.batches)
    with FaultyProxy("127.0.0.1", store.port) as proxy:
        environment = {**store.environment(), "AWS_ENDPOINT_URL": proxy.url}
        runs = rates(proxy, environment, captures, arguments, clean)
        latencies = sample_latencies(proxy, environment, captures, arguments)
        outage = down(proxy, environment, captures, arguments)
    pairs = zip(runs["faulty"], runs["clean"], strict=True)
    return {
        "rate_with_faults_over_without": statistics.median(faulty / clean for faulty, clean in pairs),
        "wrong_batches": runs["wrong"] + outage.pop("wrong_batches"),
        "p99_hedged_over_unhedged": latencies["hedged"]["p99"] / latencies["unhedged"]["p99"],
        **outage,
        "samples_per_second": {name: median_and_spread(runs[name]) for name in ("clean", "faulty", "faulty_unhedged")},
        "injected": runs["injected"],
        "sample_seconds": latencies,
    }


def from_disk(captures: CaptureSet, batches: int) -> list[str]:
    """What the batches should be."""
    return _trace.result(_trace.start({}, kind="stream", url=captures.local, hedge=False, batches=batches))["digests"]


def rates(
    proxy: FaultyProxy,
    environment: dict[str, str],
    captures: CaptureSet,
    arguments: argparse.Namespace,
    expected: list[str],
) -> dict[str, Any]:
    """Samples per second without faults, with them, and with them but without hedging; wrong batches of all."""
    found: dict[str, Any] = {"clean": [], "faulty": [], "faulty_unhedged": [], "wrong": 0}
    before = asdict(proxy.counts)
    for _ in range(arguments.repeats):
        for name in ("clean", "faulty", "faulty_unhedged"):
            proxy.faults = Faults() if name == "clean" else arguments.faults
            job = {"kind": "stream", "url": captures.remote, "hedge": name != "faulty_unhedged"}
            got = _trace.result(_trace.start(environment, **job, batches=arguments.batches))
            seconds = got["times"][-1] - got["times"][SKIPPED - 1]
            found[name].append(8 * (arguments.batches - SKIPPED) / seconds)
            found["wrong"] += sum(a != b for a, b in zip(got["digests"], expected, strict=True))
    proxy.faults = Faults()
    found["injected"] = {key: value - before[key] for key, value in asdict(proxy.counts).items()}
    return found


def sample_latencies(
    proxy: FaultyProxy, environment: dict[str, str], captures: CaptureSet, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Seconds per sample under faults, with and without hedging."""
    found = {}
    for name in ("hedged", "unhedged"):
        proxy.faults = arguments.faults
        job = {"kind": "samples", "url": captures.remote, "hedge": name == "hedged", "count": arguments.samples}
        seconds = sorted(_trace.result(_trace.start(environment, **job))["seconds"])
        quantiles = [seconds[min(len(seconds) - 1, len(seconds) * share // 200)] for share in range(201)]
        found[name] = {"p50": quantiles[100], "p99": quantiles[198], "quantiles": quantiles}
    proxy.faults = Faults()
    return found


def down(
    proxy: FaultyProxy, environment: dict[str, str], captures: CaptureSet, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The server is stopped in the middle of a run."""
    lasts = arguments.down + 25.0
    running = _trace.start(environment, kind="stream", url=captures.remote, hedge=True, seconds=lasts)
    try:
        time.sleep(8.0)
        proxy.stop()
        stopped = time.time()
        time.sleep(arguments.down)
        proxy.start()
        back = time.time()
        got = _trace.result(running, lasts + 120)
    finally:
        running.kill()
        running.wait()
    times, expected = got["times"], from_disk(captures, len(got["times"]))
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    after = [moment for moment in times if moment > back]
    return {
        "outage_seconds": back - stopped,
        "outage_gap_seconds": gap,
        "outage_recovery_seconds": after[0] - back if after else float("inf"),
        "outage_batches_before_and_after": [sum(moment < stopped for moment in times), len(after)],
        "wrong_batches": sum(a != b for a, b in zip(got["digests"], expected, strict=True)),
    }


def report(results: dict[str, Any]) -> None:
    """The figures in words."""
    for name, figures in results["samples_per_second"].items():
        print(f"{name:<18}{figures['median']:>8.1f} samples/s (iqr {figures['iqr']:.1f}, {figures['repeats']} turns)")
    for name, figures in results["sample_seconds"].items():
        print(f"{name:<18}p50 {figures['p50']:.3f} s, p99 {figures['p99']:.3f} s")
    print("injected: " + ", ".join(f"{key} {value}" for key, value in results["injected"].items()))
    for key in ("rate_with_faults_over_without", "wrong_batches", "p99_hedged_over_unhedged"):
        print(f"{key}: {results[key]:.3f}")
    for key in ("outage_seconds", "outage_gap_seconds", "outage_recovery_seconds"):
        print(f"{key}: {results[key]:.1f}")


if __name__ == "__main__":
    main()
