"""A loop of a few lines that the launcher runs like the real one; on one rank it fails or hangs when it is told to."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from configs import Config, UserError
from trainer.observer import Observer, Progress


@dataclass
class TinySummary:
    steps: int
    finished: bool


@dataclass
class Clock:
    """What the observer may ask, as the ledger's recorder would answer."""

    steps: int = 0
    category: str = "compute"
    worked: float = 0.0


def train(config: Config, observer: Observer) -> TinySummary:
    """Sums over the ranks.

    At step 2, TINY_MISTAKE=user or bug raises on rank 1 while rank 0 waits for it; hang holds it up for ever, once.
    """
    rank = dist.get_rank()
    print(f"hello from rank {rank}")
    logging.getLogger("tiny").warning("a warning from rank %d", rank)
    mistake, clock = os.environ.get("TINY_MISTAKE"), Clock()
    observer.attend(clock)
    for step in range(config.trainer.steps):
        if step == 2 and rank == 1 and mistake == "user":
            raise UserError("is truncated", where="subject 7, camera 3", hint="delete it")
        if step == 2 and rank == 1 and mistake == "bug":
            raise ZeroDivisionError("a bug of ours")
        if step == 2 and rank == 1 and mistake == "hang":
            hang_once(config)
        clock.category = "communication"
        dist.all_reduce(torch.ones(1))
        clock.category, clock.steps = "compute", step + 1
        if rank == 0:
            observer.report(Progress("training", step + 1, config.trainer.steps))
    return TinySummary(config.trainer.steps, finished=True)


def hang_once(config: Config) -> None:
    """Never returns in the first attempt."""
    mark = config.run.path / "hung"
    if mark.exists():
        return
    mark.touch()
    while True:
        time.sleep(1)
