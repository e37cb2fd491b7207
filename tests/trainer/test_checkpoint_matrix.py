"""A checkpoint of any layout goes on in any other: world sizes 1 to 4, ZeRO 0 to 3."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import global_batch, make_engine, run_ranks
from safetensors.torch import load_file
from torch import Tensor

Layout = tuple[int, int]  # world size, ZeRO stage
BEFORE, AFTER = 4, 5
WORLDS = (1, 2, 3, 4)
EVERY = [(world, stage) for world in WORLDS for stage in range(4)]
SUBSET: dict[Layout, list[Layout]] = {
    (1, 0): [(2, 3), (4, 1)],
    (1, 2): [(1, 2), (2, 1)],
    (2, 0): [(1, 1), (3, 2)],
    (2, 3): [(2, 3), (3, 0), (1, 0)],
    (3, 1): [(2, 0), (4, 3)],
    (3, 3): [(2, 2), (3, 3)],
    (4, 0): [(3, 1), (4, 0)],
    (4, 2): [(1, 3), (4, 2)],
    (4, 3): [(2, 2), (3, 0)],
}


def losses_of(engine: Any, steps: int) -> list[float]:
    """The next losses over a batch of 12, which as many as four ranks share evenly."""
    from trainer.distributed import all_reduce_sum

    rank, world = dist.get_rank(), dist.get_world_size()
    losses = []
    for _ in range(steps):
        halves = [global_batch(2 * engine.steps + half) for half in (0, 1)]
        images, targets = (torch.cat(parts).chunk(world)[rank] for parts in zip(*halves, strict=True))
        loss = F.mse_loss(engine(images).float(), targets)
        engine.backward(loss)
        engine.step()
        losses.append(all_reduce_sum([loss.item()])[0] / world)
    return losses


def folder(root: str, layout: Layout) -> str:
    return f"{root}/saved-{layout[0]}-{layout[1]}"


def everything(directory: str) -> dict[str, Tensor]:
    """All that a checkpoint holds, by parameter and kind, with nothing of Headway."""
    manifest = json.loads(Path(directory, "manifest.json").read_text())
    files = [load_file(Path(directory, shard["file"])) for shard in manifest["shards"]]
    found = {key: value for key, value in files[0].items() if key.endswith("/buffer")}
    for name, parameter in manifest["engines"]["model"]["parameters"].items():
        for kind in parameter["kinds"]:
            flat = torch.full((math.prod(parameter["shape"]),), torch.nan)
            for start, numel, shard in parameter["pieces"]:
                flat[start : start + numel] = files[shard][f"model/{name}/{kind}/{start}"]
            found[f"{name}/{kind}"] = flat.view(parameter["shape"])
    return found


def save_all(root: str, stages: list[int], sections: dict[str, Any]) -> dict[int, list[float]]:
    """Train, save, and go on without interruption: the losses that the others must meet."""
    from trainer import checkpoint

    losses = {}
    for stage in stages:
        engine = make_engine(engine={"zero_stage": stage, **sections})
        losses_of(engine, BEFORE)
        checkpoint.save(engine, folder(root, (dist.get_world_size(), stage)), {"consumed": 48})
        losses[stage] = losses_of(engine, AFTER)
    return losses


def load_all(root: str, pairs: list[tuple[Layout, int]], sections: dict[str, Any]) -> list[list[float]]:
    """Load each checkpoint, save what was loaded beside it, and go on."""
    from trainer import checkpoint

    losses = []
    for source, stage in pairs:
        engine = make_engine(engine={"zero_stage": stage, **sections})
        assert checkpoint.load(engine, folder(root, source)) == {"consumed": 48}
        assert engine.steps == BEFORE
        copy = f"{folder(root, source)}-in-{dist.get_world_size()}-{stage}"
        checkpoint.save(engine, copy, {"consumed": 48})
        losses.append(losses_of(engine, AFTER))
    return losses


def check(tmp_path: Path, targets: dict[Layout, list[Layout]], tolerance: float, sections: dict[str, Any]) -> float:
    """Save in every layout, load in its targets; the largest relative difference of a loss."""
    root, worst = str(tmp_path), 0.0
    expected: dict[Layout, list[float]] = {}
    for world in sorted({world for world, _ in targets}):
        stages = [stage for w, stage in targets if w == world]
        found = run_ranks(world, save_all, root, stages, sections)[0]
        expected.update({(world, stage): losses for stage, losses in found.items()})
    for world in WORLDS:
        pairs = [(source, stage) for source, loads in targets.items() for w, stage in loads if w == world]
        results = run_ranks(world, load_all, root, pairs, sections, timeout=1200)[0] if pairs else []
        for (source, stage), losses in zip(pairs, results, strict=True):
            label = f"saved at {source}, loaded at {(world, stage)}"
            before = everything(folder(root, source))
            after = everything(f"{folder(root, source)}-in-{world}-{stage}")
            assert before.keys() == after.keys(), label
            assert all(torch.equal(before[key], after[key]) for key in before), label
            if source == (world, stage):
                assert losses == expected[source], label
            else:
                assert losses == pytest.approx(expected[source], rel=tolerance), label
            worst = max(worst, *(abs(a / b - 1) for a, b in zip(losses, expected[source], strict=True)))
    return worst


def test_layouts_that_cover_every_pair_of_neighbours(tmp_path: Path) -> None:
    check(tmp_path, SUBSET, 1e-6, {})


@pytest.mark.slow
def test_every_layout_loads_in_every_other(tmp_path: Path) -> None:
    worst = check(tmp_path, dict.fromkeys(EVERY, EVERY), 1e-6, {})
    print(f"{len(EVERY) ** 2} pairs; largest relative difference of a loss {worst:.1e}")


def test_bf16_state_is_exact_in_other_layouts(tmp_path: Path) -> None:
    targets = {(2, 0): [(2, 0), (1, 2)], (2, 1): [(2, 1), (2, 3)], (2, 3): [(2, 3), (2, 0), (1, 1)]}
    check(tmp_path, targets, 5e-3, {"precision": "bf16"})
