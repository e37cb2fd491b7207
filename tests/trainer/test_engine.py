"""The engine against plain torch, against itself, and across ZeRO stages with real ranks."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import SmallNet, global_batch, make_engine, run_ranks, small_config, train_steps
from torch import nn

from configs import UserError

STEPS = 20
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.01},
    "adam": {"name": "adam", "learning_rate": 1e-3},
}


def plain_losses(optimizer: str) -> list[float]:
    """A loop in plain torch that shares nothing with the engine but the model: the reference for all of them."""
    settings = small_config(optimizer=OPTIMIZERS[optimizer]).optimizer
    torch.manual_seed(0)
    network = SmallNet()
    factors = {"positions": 5.0, "wide.weight": 0.5, "wide.bias": 0.5}
    groups = [
        {"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0.0, "factor": factors.get(name, 1.0)}
        for name, p in network.named_parameters()
        if p.requires_grad
    ]
    rate = settings.learning_rate
    kind: Any = {
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=settings.betas, foreach=False),
    }[optimizer]()
    losses = []
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / 3)
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * max(0, step - 2) / 27))
        for group in kind.param_groups:
            group["lr"] = rate * group["factor"] * (warm if step < 3 else cosine)
        images, targets = global_batch(step)
        loss = F.mse_loss(network(images), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        kind.step()
        kind.zero_grad()
        losses.append(loss.item())
    return losses


def losses_of_every_stage(optimizer: str, stages: list[int]) -> dict[int, list[float]]:
    return {
        stage: train_steps(make_engine(engine={"zero_stage": stage}, optimizer=OPTIMIZERS[optimizer]), STEPS)
        for stage in stages
    }


@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-5), ("adam", 1e-4)])
@pytest.mark.parametrize("world", [1, 2])
def test_every_stage_agrees_with_one_plain_process(world: int, optimizer: str, tolerance: float) -> None:
    expected = plain_losses(optimizer)
    assert expected[-1] < 0.9 * expected[0]
    found = run_ranks(world, losses_of_every_stage, optimizer, [0, 1, 2, 3])
    for losses in found:
        for stage in range(4):
            assert losses[stage] == pytest.approx(expected, rel=tolerance), stage


def test_two_runs_are_bitwise_equal() -> None:
    first = run_ranks(2, losses_of_every_stage, "adam", [0, 2, 3])
    assert run_ranks(2, losses_of_every_stage, "adam", [0, 2, 3]) == first


def losses_with_settings(sections: list[dict[str, Any]]) -> list[list[float]]:
    return [train_steps(make_engine(engine=section), 8) for section in sections]


def test_accumulation_and_offload_change_nothing() -> None:
    stages = [{"zero_stage": stage} for stage in range(4)]
    accumulated = [stage | {"accumulation": 3} for stage in stages]
    offloaded = [stage | {"offload": "cpu"} for stage in stages[1:]]
    expected, *found = run_ranks(1, losses_with_settings, [*stages, *accumulated, *offloaded])[0]
    for losses in found:
        assert losses == pytest.approx(expected, rel=1e-5)
    (losses,) = run_ranks(2, losses_with_settings, [{"zero_stage": 2, "accumulation": 3, "offload": "cpu"}])[0]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_bf16_learns_at_every_stage() -> None:
    settings = [{"zero_stage": stage, "precision": "bf16"} for stage in range(4)]
    settings += [{"zero_stage": 2, "precision": "bf16", "accumulation": 3}]
    plain = plain_losses("adam")[:8]
    for losses in run_ranks(2, losses_with_settings, settings)[0]:
        assert losses == pytest.approx(plain, rel=0.1)


def inspect_bf16() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage, "precision": "bf16"}, trainer={"ema_decay": 0.5})
        fresh = not engine.masters.optimizer.state
        train_steps(engine, 2)
        masters = engine.masters.flats()
        seen[f"{stage}"] = (
            fresh,
            {str(p.dtype) for p in engine.module.parameters()},
            {str(flat.dtype) for flat in [*masters, *(engine.average.flats)]},
            engine.module.forwards.dtype == torch.int64,
        )
    return seen


def test_bf16_keeps_fp32_masters_and_starts_without_state() -> None:
    for seen in run_ranks(2, inspect_bf16)[0].values():
        assert seen == (True, {"torch.bfloat16"}, {"torch.float32"}, True)


def average_by_hand() -> list[float]:
    differences = []
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage}, trainer={"ema_decay": 0.7})
        expected = [flat.clone() for flat in engine.masters.flats()]
        for _ in range(3):
            train_steps(engine, 1)
            for average, flat in zip(expected, engine.masters.flats(), strict=True):
                average.mul_(0.7).add_(flat, alpha=0.3)
        pairs = zip(expected, engine.average.flats, strict=True)
        differences.append(max((a - b).abs().max().item() for a, b in pairs))
        images = global_batch(0)[0]
        engine.module.eval()
        with torch.no_grad():
            own = engine(images)
            with engine.averaged():
                averaged = engine(images)
            again = engine(images)
        engine.module.train()
        assert torch.equal(own, again)
        assert not torch.equal(own, averaged)
        after = train_steps(engine, 3)
        undisturbed = make_engine(engine={"zero_stage": stage}, trainer={"ema_decay": 0.7})
        assert train_steps(undisturbed, 6)[3:] == after
    return differences


def test_the_average_follows_and_leaves_no_trace() -> None:
    for world in (1, 2):
        assert max(run_ranks(world, average_by_hand)[0]) < 1e-6


def reports() -> dict[int, list[tuple[float, float, bool]]]:
    found = {}
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage, "accumulation": 2, "gradient_clip": 0.0})
        rows = []
        for _ in range(6):
            images, targets = global_batch(engine.steps)
            engine.backward(F.mse_loss(engine(images), targets))
            report = engine.step()
            rows.append((report.gradient_norm, report.learning_rate, report.boundary))
        found[stage] = rows
        assert engine.steps == 3
    return found


def test_steps_report_norm_rate_and_boundary() -> None:
    torch.manual_seed(0)
    network = SmallNet()
    images, targets = global_batch(0)
    F.mse_loss(network(images), targets).backward()
    norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]).item()
    for rows in run_ranks(1, reports)[0].values():
        assert [boundary for _, _, boundary in rows] == [False, True] * 3
        assert [rate for _, rate, _ in rows[1::2]] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
        assert math.isnan(rows[0][0])
        assert rows[1][0] == pytest.approx(norm, rel=1e-5)


def clipped_by(limit: float) -> list[float]:
    moved = []
    for stage in range(4):
        settings = {"name": "sgd", "learning_rate": 1.0, "warmup_steps": 0, "weight_decay": 0.0, "multipliers": {}}
        engine = make_engine(
            engine={"zero_stage": stage, "gradient_clip": limit},
            optimizer=settings | {"schedule": "constant"},
            trainer={"ema_decay": 0.0},
        )
        before = [flat.clone() for flat in engine.masters.flats()]
        train_steps(engine, 1)
        squares = sum((a - b).square().sum().item() for a, b in zip(before, engine.masters.flats(), strict=True))
        moved.append(math.sqrt(squares))
    return moved


def test_clipping_bounds_the_update() -> None:
    assert run_ranks(1, clipped_by, 0.01)[0] == pytest.approx([0.01] * 4, rel=1e-3)


def what_is_underneath() -> list[tuple[str, int, bool]]:
    found = []
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage})
        compiled = {"deepspeed_shm_comm_op", "cpu_adam", "fused_adam"} & sys.modules.keys()
        found.append((type(engine.deepspeed).__name__, engine.deepspeed.zero_optimization_stage(), bool(compiled)))
    return found


def test_it_really_is_deepspeed_and_nothing_is_compiled() -> None:
    assert run_ranks(2, what_is_underneath)[0] == [("DeepSpeedEngine", stage, False) for stage in range(4)]


def norms_of_nan() -> list[float]:
    norms = []
    for stage in range(4):
        engine = make_engine(engine={"zero_stage": stage})
        engine.backward(engine(global_batch(0)[0]).sum() * float("nan"))
        norms.append(engine.step().gradient_norm)
    return norms


def test_gradients_that_are_no_numbers_show_in_the_norm() -> None:
    assert not any(math.isfinite(norm) for norm in run_ranks(2, norms_of_nan)[0])


def mistakes() -> list[str]:
    from trainer.engine import Engine

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.0))

    found = []
    for module, sections in [
        (Scalar(), {"optimizer": {"multipliers": {}}}),
        (SmallNet(), {"engine": {"zero_stage": 0, "offload": "cpu"}}),
        (SmallNet(), {"optimizer": {"multipliers": {"nothing_like_this": 2.0}}}),
    ]:
        try:
            Engine(module, small_config(**sections))
        except UserError as error:
            found.append(str(error))
    return found


def test_mistakes_are_readable() -> None:
    scalar, offload, pattern = run_ranks(1, mistakes)[0]
    assert scalar.startswith("gain:")
    assert "engine.offload" in offload
    assert "nothing_like_this" in pattern


def several_engines() -> list[float]:
    first = make_engine(engine={"zero_stage": 3})
    second = make_engine(engine={"zero_stage": 0, "gradient_clip": 0.5}, optimizer=OPTIMIZERS["sgd"])
    together = [loss for _ in range(3) for engine in (first, second) for loss in train_steps(engine, 1)]
    alone = train_steps(make_engine(engine={"zero_stage": 3}), 3)
    assert together[::2] == alone
    return together


def test_engines_of_different_settings_share_a_process() -> None:
    assert all(math.isfinite(loss) for loss in run_ranks(2, several_engines)[0])


def alone_in_the_world() -> tuple[int, int, list[float], list[str]]:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        os.environ.pop(name, None)
    from trainer.distributed import all_reduce_sum, broadcast_object, gather_objects, initialise

    world = initialise()
    return (
        world.rank,
        world.world_size,
        all_reduce_sum([1.0, 2.0]),
        [broadcast_object("a"), *(gather_objects("b") or [])],
    )


def test_a_world_of_one_needs_no_launcher() -> None:
    assert run_ranks(1, alone_in_the_world)[0] == (0, 1, [1.0, 2.0], ["a", "b"])


def half_announced() -> str:
    os.environ.pop("MASTER_ADDR")
    from trainer.distributed import initialise

    try:
        initialise()
    except UserError as error:
        return str(error)
    return ""


def test_an_incomplete_launcher_is_named() -> None:
    assert all("MASTER_ADDR" in text for text in run_ranks(2, half_announced))


def fails_on_one(kind: str) -> str:
    from trainer.distributed import initialise, raise_together

    rank = initialise().rank
    error = {"user": UserError("bad", where="here"), "ours": OSError("gone"), "none": None}[kind] if rank == 1 else None
    try:
        raise_together(error)
    except (UserError, RuntimeError) as caught:
        return f"{type(caught).__name__}: {caught}"
    return "fine"


def test_a_failure_on_one_rank_is_a_failure_on_all() -> None:
    assert run_ranks(2, fails_on_one, "user") == ["UserError: here: bad"] * 2
    assert run_ranks(2, fails_on_one, "ours") == ["RuntimeError: rank 1 failed: OSError: gone"] * 2
    assert run_ranks(2, fails_on_one, "none") == ["fine"] * 2
