"""Ranks as processes of their own, for tests: hosts import once and fork a rank for each job; a rank's steps as text.

with hosts(2) as some: ranks = start(some, job, world=3, out=folder)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 120.0  # seconds for anything to happen


class Seen(NamedTuple):
    """A sample as it came out: place in the sequence, name, digest of pixels, masks and cameras."""

    position: int
    name: str
    digest: str


@dataclass
class Rank:
    """A rank's process and what it has written."""

    pid: int
    out: Path

    def micro_batches(self) -> list[list[Seen]]:
        """Those that it has finished."""
        lines = [line for line in self._text().splitlines(keepends=True) if line.endswith("]\n")]
        return [[Seen(*sample) for sample in json.loads(line)] for line in lines]

    def outcome(self) -> dict[str, Any] | None:
        """What it said at its end; None before that."""
        text = self._text()
        return json.loads(text[text.rfind("\n", 0, -1) + 1 :]) if text.endswith("}\n") else None

    def wait(self) -> dict[str, Any]:
        """Its outcome, once it has one."""
        wait_for(lambda: self.outcome() is not None or not alive(self.pid), f"rank {self.out.stem}")
        outcome = self.outcome()
        assert outcome is not None, f"{self.out.stem} died"
        return outcome

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not alive(self.pid), f"the end of {self.out.stem}")

    def _text(self) -> str:
        return self.out.read_text() if self.out.exists() else ""


class Host:
    """A process that has imported the data room and forks ranks; hosts hash strings differently."""

    def __init__(self, number: int) -> None:
        path = str(Path(__file__).parents[2])
        changes = {"PYTHONPATH": path, "PYTHONHASHSEED": str(7 + number), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **changes},
            start_new_session=True,
        )

    def fork(self, job: dict[str, Any]) -> Rank:
        """Start a rank."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Rank(int(self._process.stdout.readline()), Path(job["out"]))

    def close(self) -> None:
        """End it and all its ranks."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, started together."""
    some = [Host(number) for number in range(count)]
    try:
        yield some
    finally:
        for host in some:
            host.close()


def start(some: Sequence[Host], out: Path, world: int, **job: Any) -> list[Rank]:
    """A world of ranks, spread over the hosts.

    Args:
        some: hosts.
        out: folder for what the ranks write.
        world: how many ranks.
        job: `config` and `steps`; `seed`, `accumulation`, `start`, `pause` (seconds per step), `env`, `gloo`.
    """
    out.mkdir(parents=True, exist_ok=True)
    if job.get("gloo"):
        job["gloo"] = free_port()
    places = [{"rank": rank, "world": world, "out": str(out / f"rank{rank}.txt")} for rank in range(world)]
    return [some[place["rank"] % len(some)].fork({**job, **place}) for place in places]


def run(some: Sequence[Host], out: Path, world: int, **job: Any) -> list[list[Seen]]:
    """The global batches that a world of ranks sees; every rank must end well after the same number of steps."""
    ranks = start(some, out, world, **job)
    for rank in ranks:
        outcome = rank.wait()
        assert "error" not in outcome, outcome["error"]
        assert outcome["steps"] == job["steps"]
    return global_batches(ranks, job.get("accumulation", 1))


def global_batches(ranks: Sequence[Rank], accumulation: int = 1) -> list[list[Seen]]:
    """What all ranks together have seen in each step that all of them have finished."""
    made = [rank.micro_batches() for rank in ranks]
    steps = min(len(own) for own in made) // accumulation
    order = [
        [(r, step * accumulation + a) for a in range(accumulation) for r in range(len(made))] for step in range(steps)
    ]
    return [[seen for r, number in step for seen in made[r][number]] for step in order]


def wait_for(condition: Any, what: str, seconds: float = LIMIT) -> None:
    """Until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} takes too long"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve() -> None:
    """A host's life: a job per line, a fork per job."""
    import pyarrow.dataset  # noqa: F401  so that no rank has to
    import torch

    import data.loader  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(work(json.loads(line)))
        print(pid, flush=True)


def work(job: dict[str, Any]) -> int:
    """A rank's life."""
    os.environ.update(job.get("env", {}))
    with open(job["out"], "w", buffering=1) as out:
        try:
            outcome = follow(job, out)
        except Exception as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(outcome) + "\n")
    return 0


def follow(job: dict[str, Any], out: Any) -> dict[str, Any]:
    """Stream and write down; what to say at the end."""
    from configs.schema import DataConfig
    from data.loader import open_datasets, open_stream
    from data.shares import Shares

    config = DataConfig.model_validate(job["config"])
    accumulation, rank, world = job.get("accumulation", 1), job["rank"], job["world"]
    shares = Shares(config.batch_size, world, accumulation, job.get("start", 0))
    place = {"rank": rank, "world_size": world, "accumulation": accumulation, "start": shares.start}
    datasets = open_datasets(config)
    with contextlib.ExitStack() as ending, open_stream(datasets, config, seed=job.get("seed", 0), **place) as stream:
        for dataset in datasets:
            ending.callback(dataset.close)
        agree = ending.enter_context(group(job)) if job.get("gloo") else None
        for number in range(job["steps"] * accumulation):
            batch, part = next(stream), shares.micro_batch(rank, number)
            assert batch.consumed == part.consumed
            if agree:
                agree(batch.consumed)
            out.write(json.dumps(seen(batch, part.first)) + "\n")
            time.sleep(job.get("pause", 0.0))
        return {"steps": (number + 1) // accumulation, "bad": sorted(map(str, stream.quarantine.found))}


def seen(batch: Any, first: int) -> list[Seen]:
    """Every sample of a packed batch by itself."""
    views = batch.views
    parts = (views.images, views.masks, views.cameras.K, views.cameras.world_to_camera)
    found = []
    for place, name in enumerate(batch.names):
        digest = hashlib.blake2b(str(batch.sources).encode(), digest_size=12)
        for part in parts:
            digest.update(part[place].contiguous().numpy().tobytes())
        found.append(Seen(first + place, name, digest.hexdigest()))
    return found


@contextlib.contextmanager
def group(job: dict[str, Any]) -> Iterator[Any]:
    """A gloo group of all ranks; yields what makes sure that all of them have consumed the same."""
    import torch
    import torch.distributed as dist

    address = f"tcp://127.0.0.1:{job['gloo']}"
    dist.init_process_group("gloo", init_method=address, rank=job["rank"], world_size=job["world"])

    def agree(consumed: int) -> None:
        all_of_them = [torch.zeros(1, dtype=torch.int64) for _ in range(job["world"])]
        dist.all_gather(all_of_them, torch.tensor([consumed]))
        assert all(int(other) == consumed for other in all_of_them)

    try:
        yield agree
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    serve()
