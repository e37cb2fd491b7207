"""Real ranks for tests: processes forked from one that has imported everything, joined by gloo on loopback."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import Config, parse_config

PRELOAD = [
    "deepspeed",
    "accelerate",
    "torch._dynamo",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "trainer.checkpoint",
]
BATCH = 6  # shared evenly by 1, 2 and 3 ranks


def run_ranks(world: int, work: Callable[..., Any], *args: Any, timeout: float = 240) -> list[Any]:
    """`work(*args)` on every rank of a fresh world; what each returned, or the first failure with its traceback."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    port = free_port()
    ends, processes = [], []
    for rank in range(world):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, rank, world, port, work, args), daemon=True)
        process.start()
        theirs.close()
        ends.append(mine)
        processes.append(process)
    try:
        results = [_receive(end, rank, timeout) for rank, end in enumerate(ends)]
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
    failures = [text for ok, text in results if not ok]
    assert not failures, failures[0]
    return [value for _, value in results]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _receive(end: Connection, rank: int, timeout: float) -> tuple[bool, Any]:
    if not end.poll(timeout):
        return False, f"rank {rank} gave no answer in {timeout} s"
    try:
        return pickle.loads(end.recv_bytes())
    except EOFError:
        return False, f"rank {rank} died"


def _rank(end: Connection, rank: int, world: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    announced = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in announced.items()})
    from trainer.distributed import shut_down

    try:
        answer = (True, work(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    end.send_bytes(pickle.dumps(answer))  # by value: torch's own way of sending tensors needs the sender alive
    shut_down()


def small_config(**sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "model": {"system": "headsup"},
        "objective": {"objective": "reconstruction"},
        "data": {"batch_size": BATCH},
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup_steps": 3,
            "weight_decay": 0.01,
            "multipliers": {"positions": 5.0, r"^wide\.": 0.5},
        },
        "trainer": {"steps": 30, "ema_decay": 0.9},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return parse_config(tree)


class SmallNet(nn.Module):
    """Convolution, attention, norm, a scalar, buffers, a frozen layer, a tied one, and a matrix that ZeRO 3 cuts."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 13, 3, padding=1)
        self.norm = nn.GroupNorm(1, 13)
        self.frozen = nn.Linear(13, 32)
        self.frozen.requires_grad_(False)
        self.positions = nn.Parameter(torch.randn(16, 32) * 0.02)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.wide = nn.Linear(512, 257)
        self.head = nn.Linear(257, 3)
        self.gain = nn.Parameter(torch.ones(1))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("forwards", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(5), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.forwards += 1
        x = F.silu(self.norm(self.encoder(images)))
        tokens = self.frozen(x.flatten(2).transpose(1, 2)) + self.positions
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        x = self.head(F.silu(self.wide(self.dropout(tokens.flatten(1)))))
        return self.second(torch.tanh(self.first(x))) * self.gain


def global_batch(step: int) -> tuple[Tensor, Tensor]:
    """Inputs [6, 3, 4, 4] and targets [6, 3] of a step, the same whatever the world size."""
    generator = torch.Generator().manual_seed(1000 + step)
    images = torch.rand(BATCH, 3, 4, 4, generator=generator)
    return images, torch.stack([images[:, 0].mean((1, 2)), images[:, 1].amax((1, 2)), images[:, 2].std((1, 2))], 1)


def train_steps(engine: Any, steps: int) -> list[float]:
    """The global losses of the next `steps` optimiser steps."""
    from trainer.distributed import all_reduce_sum

    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    accumulation = engine.config.engine.accumulation
    losses = []
    for _ in range(steps):
        images, targets = (part.chunk(world * accumulation) for part in global_batch(engine.steps))
        total = 0.0
        for micro in range(accumulation):
            index = micro * world + rank
            loss = F.mse_loss(engine(images[index]).float(), targets[index])
            engine.backward(loss)
            engine.step()
            total += loss.item()
        losses.append(all_reduce_sum([total])[0] / (world * accumulation))
    return losses


def make_engine(dropout: float = 0.0, **sections: dict[str, Any]) -> Any:
    from trainer.distributed import initialise
    from trainer.engine import Engine

    initialise(1, seed=0)
    return Engine(SmallNet(dropout), small_config(**sections))
