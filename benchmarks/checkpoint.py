"""What does a save cost the training, written beside it, against one that it waits for? And how long does loading take?

    python benchmarks/checkpoint.py [--json] [--megabytes 400] [--turns 7] [--where FOLDER]

One process, a network of the size asked for with Adam's moments. Both ways take turns in one run: seconds that the
training stands still for a save, and seconds until the checkpoint is committed. A step of training lies between a save
in the background and its end, as in a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from _report import finish, median_and_spread
from torch import nn

from configs import Config, load_config
from trainer import checkpoint
from trainer.checkpoint import Retention, Saver
from trainer.distributed import initialise
from trainer.engine import Engine

WIDTH = 1024
WAYS = ("waits", "beside")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--megabytes", type=int, default=400, help="of masters and moments")
    parser.add_argument("--turns", type=int, default=7, help="saves of each kind")
    parser.add_argument("--where", type=Path, default=None, help="folder to write in; none is the temporary one")
    arguments = parser.parse_args()
    initialise(1, 0)
    with tempfile.TemporaryDirectory(dir=arguments.where) as folder:
        engine = Engine(network(arguments.megabytes), settings())
        step(engine)
        figures = measure(engine, folder, arguments.turns)
    stall = figures["beside stall"]["median"] / figures["waits stall"]["median"]
    print(f"{'seconds':<18}{'median':>9}{'iqr':>9}")
    for name, found in figures.items():
        print(f"{name:<18}{found['median']:>9.3f}{found['iqr']:>9.3f}")
    print(f"stall beside / stall waiting {stall:.3f}; wanted: at most 0.05")
    finish({"stall_ratio": stall, **figures}, arguments.json)


def measure(engine: Engine, folder: str, turns: int) -> dict[str, dict[str, float]]:
    """Stall, time to commit and time to load, in seconds."""
    savers = {
        "waits": Saver(f"{folder}/waits", Retention(last=2), background=False),
        "beside": Saver(f"{folder}/beside", Retention(last=2)),
    }
    found: dict[str, list[float]] = {}
    for turn in range(turns + 1):  # the first of each makes the memory that the others use again
        for way in WAYS if turn % 2 else WAYS[::-1]:
            began = time.perf_counter()
            savers[way].save(engine, {})
            stalled = time.perf_counter() - began
            step(engine)
            savers[way].wait()
            if turn:
                found.setdefault(f"{way} stall", []).append(stalled)
                found.setdefault(f"{way} committed", []).append(savers[way].seconds)
    for _ in range(turns):
        began = time.perf_counter()
        checkpoint.load(engine, savers["beside"].newest)
        found.setdefault("load", []).append(time.perf_counter() - began)
    return {name: median_and_spread(values) for name, values in sorted(found.items())}


def network(megabytes: int) -> nn.Module:
    """Layers whose masters and two moments take so much."""
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, round(megabytes * 1e6 / (12 * WIDTH**2))))))


def step(engine: Engine) -> None:
    """One of training."""
    engine.backward(engine(torch.rand(4, WIDTH)).square().mean())
    engine.step()


def settings() -> Config:
    """One process, whole state."""
    return load_config("headsup-nano", ["cluster.workers=1", "engine.zero_stage=0", "optimizer.multipliers={}"])


if __name__ == "__main__":
    main()
