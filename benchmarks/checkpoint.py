"""What does a save cost the training, beside it and waited for? How long does it take to go on from one?

    python benchmarks/checkpoint.py [--json] [--megabytes 400] [--turns 7] [--where FOLDER] [--launcher radosgw-up]

One process, a network of the size asked for with Adam's moments and a moving average. Both ways to save take turns in
one run: seconds that the training stands still for a save (in `save`, and where the next update waits for the copy),
until it is committed, and of a training step alone and beside a save. Then loading takes turns: ours, with all digests
verified, and peers that verify nothing: torch.load of one plain file, torch.distributed.checkpoint, and DeepSpeed's
own; ours and torch.load from an S3 server too, ours also with a copy on the node (checkpoint.local). Files were read
before, so they come from memory.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import torch
from _report import finish, median_and_spread
from _servers import LAUNCHER, object_store
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load as load_dcp
from torch.distributed.checkpoint.state_dict_saver import save as save_dcp

from configs import Config, load_config
from trainer import checkpoint
from trainer.checkpoint import Retention, Saver
from trainer.distributed import initialise
from trainer.engine import Engine

WIDTH = 1024
WAYS = ("waits", "beside")
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--megabytes", type=int, default=400, help="of masters, moments and average")
    parser.add_argument("--turns", type=int, default=7, help="saves and loads of each kind")
    parser.add_argument("--batch", type=int, default=64, help="rows of a training step")
    parser.add_argument("--where", type=Path, default=None, help="folder to write in; none is the temporary one")
    launcher = Path(os.environ.get("RADOSGW_UP", LAUNCHER))
    parser.add_argument("--launcher", type=Path, default=launcher, help="starts Ceph's gateway; else $RADOSGW_UP")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    initialise(1, 0)
    with tempfile.TemporaryDirectory(dir=arguments.where) as folder:
        engine = Engine(network(arguments.megabytes), settings())
        step(engine, arguments.batch)
        figures, newest = saves(engine, folder, arguments)
        with object_store(Path(folder) / "server", arguments.launcher) as store:
            os.environ.update(store.environment())
            figures |= loads(engine, newest, folder, store.make_bucket("checkpoints"), arguments.turns)
    stall = figures["beside: stall"]["median"] / figures["waits: stall"]["median"]
    print(f"{'seconds':<40}{'median':>9}{'iqr':>9}")
    for name, found in figures.items():
        print(f"{name:<40}{found['median']:>9.4f}{found['iqr']:>9.4f}")
    print(f"stall beside / stall waiting {stall:.4f}; wanted: at most 0.05; S3 server: {store.kind}")
    finish({"stall_ratio": stall, "server": store.kind, **figures}, arguments.json)


def saves(engine: Engine, folder: str, arguments: argparse.Namespace) -> tuple[Figures, str]:
    """Stall, time to commit, and steps beside it, in seconds; and the last checkpoint."""
    waited = [0.0]

    @contextmanager
    def stalled() -> Iterator[None]:
        began = time.perf_counter()
        yield
        waited[0] += time.perf_counter() - began

    savers = {
        "waits": Saver(f"{folder}/waits", Retention(last=2), background=False),
        "beside": Saver(f"{folder}/beside", Retention(last=2), stalled=stalled),
    }
    found: dict[str, list[float]] = {}
    for turn in range(arguments.turns + 1):  # the first of each makes the memory that the others use again
        for way in WAYS if turn % 2 else WAYS[::-1]:
            waited[0] = 0.0
            seconds = {"training step alone": timed(lambda: step(engine, arguments.batch))}
            seconds[f"{way}: save()"] = timed(lambda saver=savers[way]: saver.save(engine, {}))
            beside = timed(lambda: step(engine, arguments.batch))
            savers[way].wait()
            seconds[f"{way}: stall"] = seconds[f"{way}: save()"] + waited[0]
            seconds[f"{way}: committed after"] = savers[way].seconds
            if way == "beside":
                seconds["beside: update waits for the copy"] = waited[0]
                seconds["training step beside a save"] = beside
            for name, value in seconds.items() if turn else ():
                found.setdefault(name, []).append(value)
    return {name: median_and_spread(values) for name, values in sorted(found.items())}, savers["beside"].newest


def loads(engine: Engine, newest: str, folder: str, bucket: str, turns: int) -> Figures:
    """Seconds until the engine stands where it was saved, from each kind of checkpoint of the same state."""
    saver = Saver(bucket, background=False, local=f"{folder}/near")
    saver.save(engine, {})
    plain, far = f"{folder}/plain.pt", f"{bucket}/plain.pt"
    torch.save(everything(engine), plain)
    fsspec.filesystem("s3").put_file(plain, far)
    save_dcp(everything(engine), checkpoint_id=f"{folder}/dcp")
    engine.deepspeed.save_checkpoint(f"{folder}/deepspeed", tag="one")
    ways: dict[str, Callable[[], Any]] = {
        "load from a folder: ours, verified": lambda: checkpoint.load(engine, newest),
        "load from a folder: torch.load": lambda: put(engine, torch.load(plain, weights_only=True)),
        "load from a folder: DCP": lambda: load_dcp(everything(engine), checkpoint_id=f"{folder}/dcp"),
        "load from a folder: DeepSpeed": lambda: engine.deepspeed.load_checkpoint(f"{folder}/deepspeed", tag="one"),
        "load from S3: ours, verified": lambda: checkpoint.load(engine, saver.newest),
        "load from S3: ours, copy on the node": lambda: checkpoint.load(engine, saver.newest, saver.local),
        "load from S3: torch.load": lambda: put(engine, from_store(far)),
    }
    found: dict[str, list[float]] = {}
    names = list(ways)
    for turn in range(turns + 1):
        for name in names if turn % 2 else names[::-1]:
            seconds = timed(ways[name])
            if turn:
                found.setdefault(name, []).append(seconds)
    return {name: median_and_spread(found[name]) for name in names}


def from_store(url: str) -> Any:
    """What torch.save wrote, read from an object store as a file."""
    with fsspec.filesystem("s3").open(url, "rb") as file:
        return torch.load(file, weights_only=True)


def everything(engine: Engine) -> dict[str, Any]:
    """Weights, moments and average, as a script without Headway would save them."""
    assert engine.average is not None
    return {
        "model": engine.module.state_dict(),
        "optimizer": {
            str(number): value
            for number, owner in enumerate(engine.masters.owners)
            for value in [dict(engine.masters.optimizer.state[owner])]
        },
        "average": {str(number): flat for number, flat in enumerate(engine.average.flats)},
    }


def put(engine: Engine, saved: dict[str, Any]) -> None:
    """Copy it all back."""
    engine.module.load_state_dict(saved["model"])
    mine = everything(engine)
    for part in ("optimizer", "average"):
        for number, value in saved[part].items():
            pairs = [(mine[part][number][k], v) for k, v in value.items()] if isinstance(value, dict) else []
            for target, source in pairs or [(mine[part][number], value)]:
                target.copy_(source)


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def network(megabytes: int) -> nn.Module:
    """Layers whose masters, two moments and average take so much."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, round(megabytes * 1e6 / (16 * WIDTH**2))))))


def step(engine: Engine, batch: int) -> None:
    """One of training."""
    engine.backward(engine(torch.rand(batch, WIDTH)).square().mean())
    engine.step()


def settings() -> Config:
    """One process, whole state."""
    changes = ["cluster.workers=1", "engine.zero_stage=0", "optimizer.multipliers={}", "trainer.ema_decay=0.999"]
    return load_config("headsup-nano", changes)


if __name__ == "__main__":
    main()
