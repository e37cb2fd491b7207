"""Joining the group of workers, and the few small messages that a run sends through it."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.deterministic as determinism
from torch._C._distributed_c10d import HashStore

from configs import UserError

Thing = TypeVar("Thing")
Group = dist.ProcessGroup | None  # none: all workers
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SECOND_TIMEOUT = timedelta(hours=2)  # a rank may be that much longer at its store than another


@dataclass(frozen=True)
class Distributed:
    """This process among the workers of a run.

    Attributes:
        rank, world_size: position among all workers, and their number.
        local_rank: position among the workers of this node.
        device: where this worker computes.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that speaks for all."""
        return self.rank == 0


def initialise(threads: int = 1, seed: int = 0) -> Distributed:
    """Join the workers of this run and make this process repeatable.

    Uses the process group that exists (Ray Train makes one), or joins the one that a launcher announces in RANK,
    WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or makes a group of one that needs no port.

    Args:
        threads: torch threads; part of bitwise equality on CPU.
        seed: the same on every rank, so that every rank builds the same weights.

    Raises:
        UserError: a launcher's variables are incomplete.
    """
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would search for a GPU, and say so at length
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _join("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _make_repeatable(threads, device)
    seed_everything(seed)
    return Distributed(dist.get_rank(), dist.get_world_size(), local_rank, device)


def shut_down() -> None:
    """Leave the group; nothing happens where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def seed_everything(seed: int) -> None:
    """Seed torch, numpy's global state and `random`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - seeds whatever a dependency draws from the global state
    random.seed(seed)


def second_group() -> dist.ProcessGroup:
    """All workers once more, for messages of another thread: those of one group must not cross. Collective."""
    group = dist.new_group(backend="gloo", timeout=_SECOND_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group


def all_reduce_sum(values: list[float], group: Group = None) -> list[float]:
    """Sums over all workers, in float64, by one small collective."""
    if dist.get_world_size() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=_message_device(group))
    dist.all_reduce(total, group=group)
    return total.tolist()


def broadcast_object(thing: Thing, source: int = 0, group: Group = None) -> Thing:
    """What rank `source` holds, on every rank."""
    if dist.get_world_size() == 1:
        return thing
    box: list[Any] = [thing]
    dist.broadcast_object_list(box, src=source, group=group, device=_message_device(group))
    return box[0]


def gather_objects(thing: Thing, group: Group = None) -> list[Thing] | None:
    """Everybody's, in rank order, on rank 0; None elsewhere."""
    if dist.get_world_size() == 1:
        return [thing]
    boxes: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(thing, boxes, group=group)
    return boxes


def raise_together(error: Exception | None, group: Group = None) -> None:
    """Raise on every rank if it failed on any, so that nobody waits for a rank that gave up."""
    verdict = agree_on_failure(error, group)
    if verdict is not None:
        raise verdict from error


def agree_on_failure(error: Exception | None, group: Group = None) -> Exception | None:
    """The failure of the lowest rank that has one, on every rank.

    A user's mistake stays one; anything else names the rank.
    """
    mine = error if error is None or isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    found = gather_objects(mine, group)
    first = next(((rank, cause) for rank, cause in enumerate(found) if cause is not None), None) if found else None
    verdict = broadcast_object(first, group=group)
    if verdict is None:
        return None
    rank, cause = verdict
    return cause if isinstance(cause, UserError) else RuntimeError(f"rank {rank} failed: {cause}")


def _join(backend: str) -> None:
    announced = [name for name in LAUNCHER if name in os.environ]
    if len(announced) == len(LAUNCHER):
        dist.init_process_group(backend)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        missing = ", ".join(sorted(set(LAUNCHER) - set(announced)))
        raise UserError(
            f"WORLD_SIZE announces several workers, but {missing} is not set", hint="start with torchrun or Ray"
        )
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a group of one needs no other interface
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _make_repeatable(threads: int, device: torch.device) -> None:
    torch.set_num_threads(threads)
    if device.type == "cpu":
        # Sums into shared indices otherwise depend on which thread comes first.
        # `torch.use_deterministic_algorithms` would import the compiler for it, which takes seconds.
        torch.set_deterministic_debug_mode("warn")
        determinism.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def _message_device(group: Group = None) -> torch.device:
    cpu = "gloo" in dist.get_backend(group) or dist.get_backend(group) == "undefined"
    return torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())
