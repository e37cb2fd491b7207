"""A loop of a few lines that the launcher runs like the real one, and that fails on one rank when it is told to."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from configs import Config, UserError
from trainer.observer import Observer, Progress


@dataclass
class TinySummary:
    steps: int
    finished: bool


def train(config: Config, observer: Observer) -> TinySummary:
    """Sums over the ranks; at step 2, TINY_MISTAKE=user or bug raises on rank 1 while rank 0 waits for it."""
    rank = dist.get_rank()
    print(f"hello from rank {rank}")
    logging.getLogger("tiny").warning("a warning from rank %d", rank)
    mistake = os.environ.get("TINY_MISTAKE")
    for step in range(config.trainer.steps):
        if step == 2 and rank == 1 and mistake == "user":
            raise UserError("is truncated", where="subject 7, camera 3", hint="delete it")
        if step == 2 and rank == 1 and mistake == "bug":
            raise ZeroDivisionError("a bug of ours")
        dist.all_reduce(torch.ones(1))
        if rank == 0:
            observer.report(Progress("training", step + 1, config.trainer.steps))
    return TinySummary(config.trainer.steps, finished=True)
