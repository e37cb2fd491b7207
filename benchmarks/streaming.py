"""Samples per second of Headway's stream against webdataset, litdata and bare s3fs, from one S3 server.

    python benchmarks/streaming.py [--json] [--quick] [--repeats 3] [--seconds 4] [--launcher radosgw-up]

Every reader delivers batches of 8 samples, each 8 decoded views of 256x256 (JPEGs of 54 KB), drawn from captures of 16
and of 80 views, on the same cores, over bare loopback and over a link that `tc` shapes in a network namespace (root
only). webdataset is tried with 0, 1 and 2 workers, opened by s3fs and by a pipe from curl, litdata with 0, 1 and 2
workers, ours with its readers; the fastest setting of each competes. Readers take turns, every one in a process of its
own. Bytes asked are the gateway's own count.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _captures import CaptureSet, make_set, optimize_set, upload
from _client import Client, client
from _link import LOOPBACK, Link, cannot_shape, shaped_link
from _report import finish, median_and_spread
from _servers import LAUNCHER, ObjectStore, object_store, presign

CAPTURES = {16: 448, 80: 96}  # of so many views; the larger set is what litdata needs to reach a steady state
READERS = {16: ("headway", "webdataset", "litdata", "s3fs"), 80: ("headway", "webdataset", "s3fs")}
Setting = dict[str, Any]
Figures = dict[str, Any]


def main() -> None:
    """Measure and report."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: Figures = {"links": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-streaming-")))
        os.environ["TMPDIR"] = str(folder)  # clients are killed in the end, their caches go with the folder
        store = stack.enter_context(object_store(folder / "server", arguments.launcher))
        results["server"] = store.kind
        sets = prepare(folder / "sets", store, arguments.quick)
        links = [LOOPBACK]
        if why := cannot_shape():
            print(f"NOTE: no shaped link, its figures are missing: {why}")
        else:
            links.append(stack.enter_context(shaped_link(arguments.rate)))
            store.serve(links[-1].address)
        for link in links:
            results["links"][link.name] = compare(link, store, sets, arguments)
            show(link, results["links"][link.name])
        results["local"] = local(store, sets[16], arguments)
    headlines = summary(results, arguments.rate)
    print("\n" + "\n".join(f"{key}: {value:.3f}" for key, value in headlines.items()))
    finish({**headlines, **results}, arguments.json)


def parse() -> argparse.Namespace:
    """The command line; `--quick` shows that all works, its figures mean little."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="less of everything, one setting of each reader")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each reader")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured in each turn")
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1), help="cores of every reader")
    parser.add_argument("--rate", default="500mbit", help="of the shaped link, as tc writes it")
    parser.add_argument("--readers", type=int, nargs="+", help="settings of data.readers to try; default: the cores")
    launcher = Path(os.environ.get("RADOSGW_UP", LAUNCHER))
    parser.add_argument("--launcher", type=Path, default=launcher, help="starts Ceph's gateway; else $RADOSGW_UP")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds = 1, 1.5
    return arguments


def prepare(folder: Path, store: ObjectStore, quick: bool) -> dict[int, CaptureSet]:
    """The same captures on disk and in the server, by their number of views."""
    began, bucket = time.monotonic(), store.make_bucket("bench")
    sets = {}
    for views, captures in CAPTURES.items():
        sets[views] = make_set(folder, bucket, captures // (2 if quick else 1), views)
    optimize_set(folder, sets[16])
    upload(folder, "bench", store.environment())
    print(f"{store.kind}: {sum(s.captures for s in sets.values())} captures ready in {time.monotonic() - began:.0f} s")
    return sets


def compare(link: Link, store: ObjectStore, sets: dict[int, CaptureSet], arguments: argparse.Namespace) -> Figures:
    """All readers over one link: their best settings, then turns."""
    found: Figures = {"raw_megabytes_per_second": raw_rate(link, store, sets[16])}
    with clients(link, store, READERS[16], arguments.cores) as running:
        fresh: Figures = {}
        best: dict[str, list[Setting]] = {name: candidates(name, arguments) for name in running}
        for views, capture_set in sets.items():
            measure = Measure(running, capture_set, store, link, arguments.cores)
            trials: dict[str, list[Figures]] = {name: [] for name in READERS[views]}
            for name in [name for name in READERS[views] if len(best[name]) > 1]:
                trials[name] = [measure.one(name, each, arguments.seconds / 2, warm=0.5) for each in best[name]]
                fastest = sorted(trials[name], key=lambda figures: -figures["samples_per_second"])
                best[name] = [figures["setting"] for figures in fastest[:2]]
            turns: dict[str, list[Figures]] = {name: [] for name in READERS[views]}
            for turn in range(arguments.repeats):
                for name in READERS[views][:: -1 if turn % 2 else 1]:
                    turns[name].append(measure.one(name, best[name][0], arguments.seconds, warm=arguments.seconds / 4))
            for name, those in turns.items():
                fresh.setdefault(name, [*trials[name], *those][0]["first_batch_seconds"])
            found[f"8_of_{views}"] = {
                name: {**condense(those), "setting": best[name][0], "trials": trials[name]}
                for name, those in turns.items()
            }
    return {**found, "first_batch_seconds_in_a_fresh_process": fresh}


@contextmanager
def clients(link: Link, store: ObjectStore, names: tuple[str, ...], cores: int) -> Iterator[dict[str, Client]]:
    """A process for each reader."""
    with ExitStack() as stack:
        environment = store.environment(link.address)
        running = {name: stack.enter_context(client(link.prefix, environment, cores)) for name in names}
        for each in running.values():
            each.wait()
        yield running


def candidates(name: str, arguments: argparse.Namespace) -> list[Setting]:
    """Settings of a reader worth trying."""
    if name == "headway":
        return [{"workers": count} for count in arguments.readers or [arguments.cores]]
    if name == "webdataset":
        workers, openers = ((0,), ("curl",)) if arguments.quick else ((0, 1, 2), ("curl", "s3fs"))
        return [{"workers": count, "opener": opener} for count in workers for opener in openers]
    if name == "litdata":
        return [{"workers": count} for count in ((0,) if arguments.quick else (0, 1, 2))]
    return [{}]


class Measure:
    """Asks clients for figures of one set over one link."""

    def __init__(
        self, running: dict[str, Client], captures: CaptureSet, store: ObjectStore, link: Link, cores: int
    ) -> None:
        self.running, self.captures, self.link, self.cores = running, captures, link, cores
        self.counters = store.counters

    def one(self, name: str, setting: Setting, seconds: float, warm: float, local: bool = False) -> Figures:
        """One turn of a reader."""
        got = self.running[name].ask(
            reader=name,
            captures=vars(self.captures),
            local=local,
            cores=self.cores,
            **setting,
            seconds=seconds,
            warm=warm,
            check=not name.startswith("bare"),
            counters=[] if local else self.counters,
            interface=self.link.interface,
        )
        needed = got["samples"] * 8 * self.captures.image_bytes
        figures: Figures = {
            "setting": setting,
            "samples_per_second": got["samples"] / got["seconds"],
            "cpu_ms_per_sample": got["cpu"] / got["samples"] * 1e3,
            "first_batch_seconds": got["first_batch_seconds"],
        }
        if "asked_bytes" in got:
            figures["asked_over_needed"] = got["asked_bytes"] / needed
            figures["requests_per_sample"] = got["asked_requests"] / got["samples"]
        if "link_bytes" in got:
            figures["link_over_needed"] = got["link_bytes"] / needed
            figures["link_megabytes_per_second"] = got["link_bytes"] / got["seconds"] / 1e6
        return figures


def local(store: ObjectStore, captures: CaptureSet, arguments: argparse.Namespace) -> Figures:
    """Ours from disk, and decoding alone by as many threads."""
    names = ("headway", "bare")
    with clients(LOOPBACK, store, names, arguments.cores) as running:
        measure = Measure(running, captures, store, LOOPBACK, arguments.cores)
        settings = candidates("headway", arguments)
        tried = [measure.one("headway", each, arguments.seconds / 2, 0.5, local=True) for each in settings]
        setting = max(tried, key=lambda figures: figures["samples_per_second"])["setting"]
        turns: dict[str, list[Figures]] = {name: [] for name in names}
        for turn in range(arguments.repeats):
            for name in names[:: 1 if turn % 2 else -1]:
                its = setting if name == "headway" else {}
                turns[name].append(measure.one(name, its, arguments.seconds, 0.5, local=True))
    found = {name: condense(those) for name, those in turns.items()}
    print(
        "\nlocal disk: " + ", ".join(f"{name} {f['samples_per_second']['median']:.0f}/s" for name, f in found.items())
    )
    return found


def condense(turns: list[Figures]) -> Figures:
    """Median and spread of every figure, and the rates in turn."""
    keys = [key for key in turns[0] if key != "setting"]
    condensed: Figures = {key: median_and_spread([turn[key] for turn in turns]) for key in keys}
    return {**condensed, "rates": [turn["samples_per_second"] for turn in turns]}


def raw_rate(link: Link, store: ObjectStore, captures: CaptureSet) -> float:
    """MB/s of one shard in one request."""
    url = presign(f"{captures.remote}/shards/000000.tar", store.environment(link.address))
    command = [*link.prefix, "curl", "-s", "-f", "-o", "/dev/null", "-w", "%{speed_download}", url]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e6


def show(link: Link, found: Figures) -> None:
    """A table for each set."""
    print(f"\n{link.name}: {found['raw_megabytes_per_second']:.0f} MB/s in one request")
    for views in READERS:
        titles = f"{'samples/s':>10}{'iqr':>7}{'CPU ms':>8}{'first s':>9}{'asked':>7}{'link':>7}  setting"
        print(f"{f'8 of {views}':<12}{titles}")
        for name, figures in found[f"8_of_{views}"].items():
            cells = [figures[key]["median"] for key in ("cpu_ms_per_sample", "first_batch_seconds")]
            ratios = [figures.get(key, {}).get("median") for key in ("asked_over_needed", "link_over_needed")]
            rate = figures["samples_per_second"]
            line = f"{name:<12}{rate['median']:>10.1f}{rate['iqr']:>7.1f}{cells[0]:>8.1f}{cells[1]:>9.2f}"
            line += "".join(f"{ratio:>7.2f}" if ratio is not None else f"{'-':>7}" for ratio in ratios)
            print(line + "  " + ", ".join(f"{key} {value}" for key, value in figures["setting"].items()))


def summary(results: Figures, rate: str) -> dict[str, float]:
    """The figures that are wanted, those of the shaped link without a prefix."""
    found: dict[str, float] = {}
    for link, prefix in ((rate, ""), (LOOPBACK.name, "loopback_")):
        if link not in results["links"]:
            continue
        sets = results["links"][link]
        for views, peer in ((16, "webdataset"), (80, "webdataset"), (16, "litdata"), (16, "s3fs"), (80, "s3fs")):
            ours, theirs = (sets[f"8_of_{views}"][name]["rates"] for name in ("headway", peer))
            pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
            found[f"{prefix}ratio_vs_{peer}_8_of_{views}"] = statistics.median(pairs)
        for views, suffix in ((16, ""), (80, "_8_of_80")):
            ours = sets[f"8_of_{views}"]["headway"]
            if over := ours.get("asked_over_needed") or ours.get("link_over_needed"):
                found[f"{prefix}bytes_over_needed{suffix}"] = over["median"]
        found[f"{prefix}first_batch_seconds"] = sets["first_batch_seconds_in_a_fresh_process"]["headway"]
    rates = {name: figures["rates"] for name, figures in results["local"].items()}
    pairs = zip(rates["headway"], rates["bare"], strict=True)
    found["local_over_bare_decoding"] = statistics.median(ours / bare for ours, bare in pairs)
    return found


if __name__ == "__main__":
    main()
