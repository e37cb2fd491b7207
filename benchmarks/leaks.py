"""What a long run leaves behind: memory, descriptors, threads, processes and tasks over 100,000 samples.

    python benchmarks/leaks.py [--json] [--quick] [--only NAME] [--samples 100000] [--seconds 120]

Tiny captures (6 views of 24x20 pixels), so that what counts is how often things are opened, asked for and handed over,
not how large they are. Each way of reading is watched in a process of its own; slopes are least squares after the
first fifth. Requests to the server go through a proxy where faults are injected: 2 % answers 503, 2 % truncated
bodies, 1 % flipped bytes, 2 % stalls of 2 s (hedged, so that requests are cancelled by the thousand).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))

import numpy as np
from _captures import upload
from _report import finish
from _servers import LAUNCHER, ObjectStore, object_store
from _watched import watch
from faulty import Faults, FaultyProxy  # type: ignore[import-not-found]

from data.capture import Capture
from data.images import encode_jpeg, encode_png
from data.manifest import commit
from data.shards import write_shard

FAULTS = Faults(error_503=0.02, truncated=0.02, flipped=0.01, stalled=0.02, stall_seconds=2.0)
CAPTURES, PER_SHARD, VIEWS, SIZE = 2048, 256, 6, (24, 20)
FLAT = ("rss_mb", "children_rss_mb", "descriptors", "children_descriptors", "os_threads", "children", "tasks")


def main() -> None:
    """Measure and report."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="headway-leaks-") as name:
        os.environ["TMPDIR"] = name
        local = make_set(Path(name) / "sets")
        for leg, job in local_legs(local, arguments).items():
            results[leg] = told(leg, watch({}, **job))
        legs = remote_legs(f"{name}/cache", arguments)
        if legs:
            with object_store(Path(name) / "server", arguments.launcher) as store:
                bucket = store.make_bucket("leaks")
                upload(Path(name) / "sets", "leaks", store.environment())
                print(f"server: {store.kind}")
                for leg, job in legs.items():
                    results[leg] = told(leg, remote(store, leg, f"{bucket}/tiny", job))
    finish(results, arguments.json)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything")
    parser.add_argument("--only", default="", help="ways of reading whose name holds this")
    parser.add_argument("--samples", type=int, default=100_000, help="of every way of reading, at most")
    parser.add_argument("--seconds", type=float, default=120.0, help="of every way of reading from the server, at most")
    parser.add_argument("--opened", type=int, default=200, help="datasets and streams opened and closed")
    launcher = Path(os.environ.get("RADOSGW_UP", LAUNCHER))
    parser.add_argument("--launcher", type=Path, default=launcher, help="starts Ceph's gateway; else $RADOSGW_UP")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.seconds, arguments.opened = 20_480, 15.0, 20
    return arguments


def local_legs(url: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Ways to read from a folder, by name."""
    common = {"url": url, "samples": arguments.samples, "seconds": 1e9}
    legs = {
        "folder, threads": {**common, "kind": "stream", "data": {"cache_mb": 4}},
        "folder, 2 loaders": {**common, "kind": "stream", "data": {"cache_mb": 0, "loaders": 2, "prefetch": 4}},
        "folder, reopened": {**common, "kind": "reopen", "samples": arguments.opened, "data": {}},
    }
    return {leg: job for leg, job in legs.items() if arguments.only in leg}


def remote_legs(cache: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Ways to read from a server, by name; `url` is not known yet."""
    common = {"samples": arguments.samples, "seconds": arguments.seconds}
    kept = {"cache_mb": 0, "store": {"cache_dir": cache, "cache_gb": 0.02}}
    faulty = {"cache_mb": 0, "bad_share": 1.0, "store": {"timeout": 1.0}}
    legs = {
        "S3, threads": {**common, "kind": "stream", "data": {"cache_mb": 0}},
        "S3, disk cache": {**common, "kind": "stream", "data": kept},
        "S3, faults and hedges": {**common, "kind": "stream", "data": faulty},
        "S3, reopened": {**common, "kind": "reopen", "samples": arguments.opened, "seconds": 1e9, "data": {}},
    }
    return {leg: job for leg, job in legs.items() if arguments.only in leg}


def remote(store: ObjectStore, leg: str, url: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job against the server, through the proxy where its name says so."""
    if "faults" not in leg:
        return watch(store.environment(), url=url, **job)
    with FaultyProxy("127.0.0.1", store.port, FAULTS) as proxy:
        found = watch({**store.environment(), "AWS_ENDPOINT_URL": proxy.url}, url=url, **job)
        return {**found, "injected": vars(proxy.counts)}


def told(leg: str, found: dict[str, Any]) -> dict[str, Any]:
    """Say and keep what a way of reading left behind."""
    states, before, after = found["states"], found["before"], found["after"]
    steady = states[len(states) // 5 :]
    unit = 10_000 if after["samples"] > 1000 else 1  # per 10,000 samples, or for each that was opened
    figures: dict[str, Any] = {"samples": after["samples"], "seconds": found["seconds"]}
    for key in FLAT:
        values = [state[key] for state in steady]
        slope = np.polyfit([state["samples"] for state in steady], values, 1)[0] * unit
        figures[key] = {"slope": slope, "median": statistics.median(values), "least": min(values), "most": max(values)}
        figures[key] |= {"before": before[key], "closed": after[key]}
    tenths = np.array_split([state["rss_mb"] + state["children_rss_mb"] for state in states], 10)
    figures["rss_by_tenth"] = [round(float(np.median(tenth)), 1) for tenth in tenths if len(tenth)]
    print(f"\n{leg}: {after['samples']} in {found['seconds']:.0f} s; slopes per {unit}")
    print(f"  {'':<22}{'slope':>10}{'median':>10}{'least':>10}{'most':>10}{'before':>10}{'closed':>10}")
    for key in FLAT:
        row = (figures[key][part] for part in ("slope", "median", "least", "most", "before", "closed"))
        print(f"  {key:<22}" + "".join(f"{value:>10.3f}" for value in row), flush=True)
    print(f"  memory by tenth of the run, MB: {figures['rss_by_tenth']}")
    figures["traffic"], figures["injected"] = found["traffic"], found.get("injected", {})
    print(f"  {figures['traffic']} {figures['injected']}")
    return figures


def make_set(folder: Path) -> str:
    """Tiny captures as shards below `folder`; their URL."""
    url = str(folder / "tiny")
    for shard, first in enumerate(range(0, CAPTURES, PER_SHARD)):
        write_shard(url, shard, tiny_captures(range(first, first + PER_SHARD)))
    commit(url, licence="CC0-1.0", provenance={"made by": "a benchmark"})
    return url


def tiny_captures(numbers: range) -> Iterator[Capture]:
    """Noise seen by cameras on a ring; every other capture with masks."""
    rng = np.random.default_rng(numbers.start)
    angles = 2 * np.pi * np.arange(VIEWS) / VIEWS
    world_to_camera = np.tile(np.eye(4), (VIEWS, 1, 1))
    world_to_camera[:, 0, 0], world_to_camera[:, 0, 2] = np.cos(angles), -np.sin(angles)
    world_to_camera[:, 2, 0], world_to_camera[:, 2, 2] = np.sin(angles), np.cos(angles)
    world_to_camera[:, 2, 3] = 1.0
    K = np.tile(np.array([[50.0, 0, SIZE[1] / 2], [0, 50, SIZE[0] / 2], [0, 0, 1]]), (VIEWS, 1, 1))
    for number in numbers:
        pixels = rng.integers(0, 255, (VIEWS, *SIZE, 3)).astype(np.uint8)
        mask = encode_png(np.full(SIZE, 255, np.uint8)) if number % 2 else None
        yield Capture(
            subject=f"person{number:05d}",
            frame="0",
            cameras=tuple(f"cam_{view}" for view in range(VIEWS)),
            world_to_camera=world_to_camera,
            K=K,
            sizes=(SIZE,) * VIEWS,
            images=tuple(encode_jpeg(image) for image in pixels),
            masks=(mask,) * VIEWS,
        )


if __name__ == "__main__":
    main()
