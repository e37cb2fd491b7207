"""What else a checkpoint must carry: optimiser state on the host, fused optimisers, buffers of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import global_batch, make_engine, run_ranks, small_config, train_steps
from torch import Tensor, nn

from trainer import checkpoint
from trainer.checkpoint import Saver

SHARDED = (1, 2, 3)


def save_offloaded(root: str) -> dict[int, list[float]]:
    """Saved with optimiser state on the host, at every stage that can; the losses that follow."""
    losses = {}
    for stage in SHARDED:
        engine = make_engine(engine={"zero_stage": stage, "offload": "cpu"})
        saver = Saver(f"{root}/{stage}")
        train_steps(engine, 2)
        saver.save(engine, {})
        losses[stage] = train_steps(engine, 3)
        saver.wait()
    return losses


def load_offloaded(root: str, pairs: list[tuple[int, dict[str, Any]]]) -> list[list[float]]:
    losses = []
    for stage, layout in pairs:
        engine = make_engine(engine=layout)
        assert checkpoint.load_newest(engine, f"{root}/{stage}") is not None
        losses.append(train_steps(engine, 3))
    return losses


def test_state_on_the_host_goes_on_there_and_elsewhere(tmp_path: Path) -> None:
    expected = run_ranks(2, save_offloaded, str(tmp_path))[0]
    same = [(stage, {"zero_stage": stage, "offload": "cpu"}) for stage in SHARDED]
    assert run_ranks(2, load_offloaded, str(tmp_path), same)[0] == [expected[stage] for stage, _ in same]
    others = [(1, {"zero_stage": 3, "offload": "cpu"}), (2, {"zero_stage": 0}), (3, {"zero_stage": 2})]
    for (stage, _), losses in zip(others, run_ranks(1, load_offloaded, str(tmp_path), others)[0], strict=True):
        assert losses == pytest.approx(expected[stage], rel=1e-6)


OPTIMIZERS = [{"name": "adamw"}, {"name": "sgd", "momentum": 0.9}]  # Adam is every other test's


def go_on_with_each(root: str) -> list[bool]:
    found = []
    for number, optimizer in enumerate(OPTIMIZERS):
        for stage in (0, 1, 3):
            engine = make_engine(optimizer=optimizer, engine={"zero_stage": stage})
            assert engine.masters.optimizer.defaults["fused"]
            train_steps(engine, 2)
            checkpoint.save(engine, f"{root}/{number}-{stage}", {})
            expected = train_steps(engine, 3)
            again = make_engine(optimizer=optimizer, engine={"zero_stage": stage})
            checkpoint.load(again, f"{root}/{number}-{stage}")
            found.append(train_steps(again, 3) == expected)
    return found


def test_fused_optimisers_go_on_bitwise(tmp_path: Path) -> None:
    assert run_ranks(2, go_on_with_each, str(tmp_path)) == [[True] * 6] * 2


class Buffered(nn.Module):
    """Running statistics, a count without dimensions, and kinds of numbers that no parameter has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 3)
        self.register_buffer("seen", torch.zeros(2, 3, dtype=torch.bool))
        self.register_buffer("total", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen |= True
            self.total += images.double().sum()
            self.passing += 1
        return self.head(self.norm(self.convolution(images)).flatten(1))


def buffered_engine(stage: int) -> Any:
    from trainer.distributed import initialise
    from trainer.engine import Engine

    initialise(1, seed=0)
    return Engine(Buffered(), small_config(engine={"zero_stage": stage}, optimizer={"multipliers": {}}))


def pass_over(engine: Any) -> None:
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    images, targets = (part.chunk(world)[rank] for part in global_batch(engine.steps))
    engine.backward(F.mse_loss(engine(images), targets))


def save_buffers(root: str) -> list[dict[str, Tensor]]:
    """What the buffers held at each save, which the passes that follow it change."""
    kept = []
    for stage in (1, 3):
        engine, saver = buffered_engine(stage), Saver(f"{root}/{stage}")
        pass_over(engine)
        engine.step()
        kept.append({name: buffer.clone() for name, buffer in engine.module.named_buffers()})
        saver.save(engine, {})
        pass_over(engine)
        engine.step()
        saver.wait()
        assert not torch.equal(kept[-1]["total"], engine.module.total)
    return kept


def load_buffers(root: str) -> list[dict[str, Tensor]]:
    found = []
    for stage in (1, 3):
        engine = buffered_engine(0)
        checkpoint.load_newest(engine, f"{root}/{stage}")
        found.append({name: buffer.clone() for name, buffer in engine.module.named_buffers()})
    return found


def test_buffers_of_every_kind_are_those_of_rank_0_at_the_save(tmp_path: Path) -> None:
    saved = run_ranks(2, save_buffers, str(tmp_path))
    assert not torch.equal(saved[0][0]["norm.running_mean"], saved[1][0]["norm.running_mean"])
    for loaded in run_ranks(2, load_buffers, str(tmp_path)):
        for before, after in zip(saved[0], loaded, strict=True):
            assert after.pop("passing").eq(0).all()
            assert {name: (b.dtype, b.shape) for name, b in after.items()} == {
                name: (b.dtype, b.shape) for name, b in before.items() if name != "passing"
            }
            assert all(torch.equal(after[name], before[name]) for name in after)
