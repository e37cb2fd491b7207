"""A loop of a few lines that is run by the same launcher as the real one: a counter summed over the ranks."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from configs import Config, UserError
from trainer.observer import Observer, Progress


@dataclass
class TinySummary:
    steps: int
    finished: bool
    total: float
    pids: list[int]


def train(config: Config, observer: Observer) -> TinySummary:
    rank, world = dist.get_rank(), dist.get_world_size()
    folder = config.run.path / "tiny"
    folder.mkdir(exist_ok=True)
    (folder / f"rank-{rank}.pid").write_text(str(os.getpid()))
    saved = folder / "saved.json"
    step, total = json.loads(saved.read_text()) if saved.exists() else (0, 0.0)
    pause = float(os.environ.get("TINY_PAUSE", "0"))
    print(f"hello from rank {rank}")
    logging.getLogger("tiny").warning("a warning from rank %d", rank)
    mistake = os.environ.get("TINY_MISTAKE")
    stopped = False
    while step < config.trainer.steps and not stopped:
        if mistake and step == 2 and rank == 1:
            if mistake == "user":
                raise UserError("is truncated", where="subject 7, camera 3", hint="delete it")
            raise ZeroDivisionError("a bug of ours")
        value = torch.tensor([float(step + rank), float(rank == 0 and observer.should_stop())])
        dist.all_reduce(value)
        total, stopped, step = total + value[0].item(), bool(value[1]), step + 1
        if rank == 0:
            partial = Path(f"{saved}.partial")
            partial.write_text(json.dumps([step, total]))
            partial.replace(saved)
            observer.report(Progress("training", step, config.trainer.steps, loss=1 / step, samples_per_second=world))
        time.sleep(pause)
    return TinySummary(step, step == config.trainer.steps, total, [os.getpid()])
