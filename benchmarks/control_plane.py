"""What does looking after 8, 64, 256 and 1,024 ranks cost, when one process does what all of them do?

    python benchmarks/control_plane.py [--json] [--ranks 8 64 256 1024] [--preset headsup-base] [--windows 300]

The code that a run uses, driven without workers, a network and GPUs: placing a group, heartbeats and their judge, the
order of samples, the ledger from its lines to its sums, a checkpoint from the ranks' records to the plan of a
load on three quarters of the ranks. Times are the processor's (others' load does not count), median of three; memory is
the peak of what Python allocates. `grows as` is the exponent between the two largest numbers of ranks.
"""

from __future__ import annotations

import argparse
import math
import pickle
import shutil
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _report import finish

from cluster.hub import Beat, Hub
from cluster.nodes import Host, lay_out, room
from cluster.watch import Judge, Member
from configs import load_config
from data.plan.regular import Numbers, RegularIndex
from data.sampling import Sampler
from data.shares import Shares
from models.system import build
from trainer.checkpoint.loading import Pieces
from trainer.checkpoint.manifest import MASTER, EngineRecord, Parameter, piece_key, read_manifest
from trainer.checkpoint.saving import _commit
from trainer.checkpoint.shards import write_shard
from trainer.checkpoint.snapshot import Snapshot
from trainer.checkpoint.sources import Sources
from trainer.checkpoint.storage import Folder, Written
from trainer.ledger import Window, summarise
from trainer.ledger.windows import Journal, journal_path
from trainer.tracking.nodes import Layout, arrange

PER_NODE = 8
KINDS = (MASTER, "ema", "exp_avg", "exp_avg_sq")
Figures = dict[str, float]
Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 256, 1024], help="multiples of 8")
    parser.add_argument("--preset", default="headsup-base", help="whose parameters the checkpoint has")
    parser.add_argument("--windows", type=int, default=300, help="lines of each rank in the ledger")
    arguments = parser.parse_args()
    shapes = shapes_of(arguments.preset)
    found = {ranks: measure(ranks, shapes, arguments.windows) for ranks in arguments.ranks}
    first = found[arguments.ranks[0]]
    print(f"{'':<54}" + "".join(f"{ranks:>12,}" for ranks in found) + f"{'grows as':>12}")
    for name in first:
        row = [figures[name] for figures in found.values()]
        print(f"{name:<54}" + "".join(f"{value:>12,.4g}" for value in row) + f"{exponent(found, name):>12}")
    finish({str(ranks): figures for ranks, figures in found.items()}, arguments.json)


def measure(ranks: int, shapes: Shapes, windows: int) -> Figures:
    """All figures of so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        found = placing(ranks) | heartbeats(ranks) | order(ranks)
        found |= ledger(ranks, windows, Path(folder) / "run")
        return found | checkpoint(ranks, shapes, Path(folder) / "checkpoint")


def placing(ranks: int) -> Figures:
    """A group of workers: which nodes, which rank where, and what they are called."""
    each = {"CPU": 1.0, "GPU": 1.0}
    full = {"CPU": 64.0, "GPU": float(PER_NODE)}
    hosts = [Host(f"{number:056x}", f"10.0.0.{number}", 1, full, full) for number in range(ranks // PER_NODE)]

    def decide() -> list[str]:
        return lay_out({host.id: room(host, each) for host in hosts}, [PER_NODE, ranks], PER_NODE)

    def name() -> str:
        numbers = {node: number for number, node in enumerate(dict.fromkeys(placed))}
        places = arrange((f"gpu-{numbers[node]}", numbers[node], rank % PER_NODE) for rank, node in enumerate(placed))
        return str(Layout(places))

    placed = decide()
    return {
        "start: controller decides who works where, ms": 1e3 * seconds(decide),
        "start: a rank learns all names, ms": 1e3 * seconds(name),
    }


def heartbeats(ranks: int) -> Figures:
    """One round: every rank beats once, the controller looks once."""
    hub = Hub()
    members = {rank: Member(f"node{rank // 8}", f"10.0.0.{rank // 8}", rank) for rank in range(ranks)}
    judge = Judge(members, silent_seconds=10.0, hang_seconds=300.0)
    rounds = [[Beat(rank, rank, step, "compute", 0.1, 0.9 * step) for rank in range(ranks)] for step in (1, 40)]

    def beat() -> None:
        for each in rounds[1]:
            hub.beat(each)

    for each in rounds[0]:
        hub.beat(each)
    judge.stragglers(hub.beats(), 100.0)
    beat()
    beats = hub.beats()
    assert judge.find(beats, 100.0) is None
    return {
        "heartbeats: the hub takes one of every rank, ms": 1e3 * seconds(beat),
        "heartbeats: the controller's look, ms a second": 1e3 * seconds(lambda: judge.find(hub.beats(), 100.0)),
        "heartbeats: what the hub answers it, kB a second": len(pickle.dumps(beats)) / 1e3,
        "heartbeats: search for stragglers, ms in 30 s": 1e3 * seconds(lambda: straggling(members, rounds)),
    }


def straggling(members: dict[int, Member], rounds: list[list[Beat]]) -> None:
    """One search, by a judge that has a round to compare with."""
    judge = Judge(members, silent_seconds=10.0, hang_seconds=300.0)
    for age, beats in zip((100.0, 200.0), rounds, strict=True):
        judge.stragglers({beat.rank: (beat, 0.0) for beat in beats}, age)


def order(ranks: int) -> Figures:
    """The samples of one step, of a million captures of ten thousand people; a batch has two for every rank."""
    batch = 2 * ranks
    config = load_config("headsup-nano", [f"data.batch_size={batch}", f"cluster.workers={ranks}"]).data
    index = RegularIndex(Numbers(1_024_000, frames=100, views=16))

    def sampler() -> Sampler:
        return Sampler([(index, "0" * 16)], config, 0, [index.captures])

    made, shares = sampler(), Shares(batch, ranks, start=batch * 12_345)
    parts = [shares.micro_batch(rank, 7) for rank in range(ranks)]
    drawn = {sample.position for part in parts for sample in made.samples(*part[:3])}
    assert len(drawn) == batch, "every position once"
    part = shares.micro_batch(ranks - 1, 7)
    return {
        "order: a rank's samples of a step, anywhere, ms": 1e3 * seconds(lambda: made.samples(*part[:3])),
        "order: memory of a rank, kB": peak(sampler) / 1e3,
    }


def ledger(ranks: int, windows: int, run: Path) -> Figures:
    """Three attempts of every rank, written line by line; then what the job sums up."""
    parts = {"compute": 7.123456, "data_wait": 0.312345, "communication": 2.123456, "idle": 0.440743}
    journal_path(run, 0, 1).parent.mkdir(parents=True)
    began = time.process_time()
    for rank in range(ranks):
        for attempt in range(1, 4):
            journal, base = Journal(journal_path(run, rank, attempt)), (attempt - 1) * (windows // 3)
            for line in range(base, base + windows // 3):
                at, step = 10.0 * line, 10 * line
                resumed = step if line == base else None
                window = Window(attempt, at, at + 10.0, step, step + 10, parts, resumed)
                journal.write(window.line(), final=True)
            journal.close()
    written = (time.process_time() - began) / (ranks * (windows // 3) * 3)
    summed = summarise(run)
    assert math.isclose(math.fsum(summed.seconds.values()), summed.wall, rel_tol=1e-9)
    return {
        "ledger: a rank writes a line, us a second": 1e6 * written,
        "ledger: files of the run": float(len(list(journal_path(run, 0, 1).parent.iterdir()))),
        "ledger: its lines, MB": sum(path.stat().st_size for path in run.rglob("*.jsonl")) / 1e6,
        "ledger: summed at the end, s": seconds(lambda: summarise(run), repeats=1),
        "ledger: memory for it, MB": peak(lambda: summarise(run)) / 1e6,
    }


def checkpoint(ranks: int, shapes: Shapes, place: Path) -> Figures:
    """Saved at ZeRO 3 by all ranks, and opened by one of three quarters as many."""
    folder, fewer = Counting(str(place)), ranks * 3 // 4
    told = [(_write(folder, ranks, rank, shapes), records(ranks, rank, shapes)) for rank in range(ranks)]
    payloads = [pickle.dumps(each) for each in told]
    del told
    snapshot = Snapshot({}, {"model": EngineRecord.model_construct()}, 100, load_config("headsup-nano"), "0" * 12, {})

    def gather() -> Any:
        return [pickle.loads(payload) for payload in payloads]

    def commit() -> None:
        failure = _commit(folder, snapshot, gather(), 0)
        assert failure is None, failure

    committing, memory = seconds(commit, repeats=1), peak(commit)
    manifest = read_manifest(folder)
    plans = [_plan(folder, manifest, fewer, rank, shapes) for rank in {0, fewer // 2, fewer - 1}]
    found = {
        "checkpoint: a rank tells rank 0, kB": len(payloads[-1]) / 1e3,
        "checkpoint: rank 0 unpacks what all tell, s": seconds(gather, repeats=1),
        "checkpoint: rank 0 unpacks, checks and commits, s": committing,
        "checkpoint: memory for it, MB": memory / 1e6,
        "checkpoint: manifest, MB": folder.sizes()["manifest.json"] / 1e6,
        "load: a rank reads and checks the manifest, s": seconds(lambda: read_manifest(folder), repeats=1),
        "load: memory for it, MB": peak(lambda: read_manifest(folder)) / 1e6,
        "load: shards that a rank opens, at most": max(plan["shards"] for plan in plans),
        "load: slices that it reads, at most": max(plan["slices"] for plan in plans),
        "load: shards whose digest it checks": float(-(-ranks // fewer)),
    }
    shutil.rmtree(place)
    return found


class Counting(Folder):
    """Counts the files that are opened."""

    opened = 0

    def open(self, name: str, mode: str = "rb") -> Any:
        """The file, opened."""
        self.opened += 1
        return super().open(name, mode)


def slices(world: int, rank: int, shapes: Shapes) -> Iterator[tuple[str, int, int]]:
    """Name, start and length of what a rank has at ZeRO 3: DeepSpeed cuts every parameter into equal slices."""
    for name, shape in shapes.items():
        total = math.prod(shape)
        size = -(-total // world)
        yield name, min(rank * size, total), max(0, min(size, total - rank * size))


def records(world: int, rank: int, shapes: Shapes) -> dict[str, EngineRecord]:
    """What a rank tells of its slices."""
    parameters = {
        name: Parameter(
            shape=shapes[name], trains=True, step=1.0, kinds=KINDS, pieces=[(start, length, rank)] if length else []
        )
        for name, start, length in slices(world, rank, shapes)
    }
    rest: dict[str, Any] = {"steps": 100, "zero_stage": 3, "precision": "bf16", "optimizer": "AdamW", "groups": []}
    return {"model": EngineRecord(**rest, parameters=parameters)}


def _write(folder: Folder, world: int, rank: int, shapes: Shapes) -> Written:
    """A rank's shard, with the masters alone."""
    tensors = {
        piece_key("model", name, MASTER, start): torch.zeros(length)
        for name, start, length in slices(world, rank, shapes)
        if length
    }
    return write_shard(folder, f"shard-{rank:05d}-of-{world:05d}-00000000.safetensors", tensors)


def _plan(folder: Counting, manifest: Any, world: int, rank: int, shapes: Shapes) -> Figures:
    """Read a rank's slices on another number of ranks."""
    before, count = folder.opened, 0
    sources = Sources(folder, manifest.shards)
    sources.trust(range(len(manifest.shards)))
    with Pieces(sources, manifest, "model") as pieces:
        for name, start, length in slices(world, rank, shapes):
            if length:
                pieces.read(name, MASTER, start, torch.empty(length))
                count += 1
    return {"shards": float(folder.opened - before), "slices": float(count)}


def shapes_of(preset: str) -> Shapes:
    """Of all parameters of a preset's system."""
    with torch.device("meta"):
        system = build(load_config(preset).model)
    return {name: tuple(parameter.shape) for name, parameter in system.named_parameters()}


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median of the processor's time."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def peak(work: Callable[[], Any]) -> float:
    """Bytes that Python allocates at most while it works."""
    with _traced():
        work()
        return float(tracemalloc.get_traced_memory()[1])


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def exponent(found: dict[int, Figures], name: str) -> str:
    """`N^1.0`; a dash where there is one number of ranks, or nothing to compare."""
    sizes = list(found)[-2:]
    values = [found[size][name] for size in sizes]
    if len(sizes) < 2 or min(values) <= 0:
        return "-"
    return f"N^{math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0]):.1f}"


if __name__ == "__main__":
    main()
