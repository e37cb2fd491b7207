"""What grows with the number of ranks, counted: nothing of a rank's own, nothing faster than the ranks themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FEW, MANY = 16, 128
RATIO = MANY / FEW


@pytest.fixture(scope="module")
def plane() -> ModuleType:
    """`benchmarks/control_plane.py`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import control_plane
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return control_plane


@pytest.fixture(scope="module")
def grown(plane: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By figure: how many times as large it is for eight times the ranks."""
    shapes = {"decoder.weight": (512, 64), "decoder.bias": (512,), "norm": (3,)}
    found: list[dict[str, Any]] = []
    for ranks in (FEW, MANY):
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        figures = plane.order(ranks) | plane.heartbeats(ranks)
        figures |= plane.ledger(ranks, 6, folder / "run") | plane.checkpoint(ranks, shapes, folder / "checkpoint")
        found.append(figures)
    return {name: found[1][name] / max(found[0][name], 1e-12) for name in found[0]}


def test_what_a_rank_holds_and_tells_does_not_grow(grown: dict[str, float]) -> None:
    assert grown["order: memory of a rank, kB"] < 1.2
    assert grown["checkpoint: a rank tells rank 0, kB"] < 1.2
    assert grown["load: shards whose digest it checks"] == 1


def test_a_rank_that_loads_opens_the_shards_that_its_slices_overlap(
    plane: ModuleType, tmp_path: Path, grown: dict[str, float]
) -> None:
    """Slices of one long parameter on three quarters of the ranks overlap three of those saved, however many."""
    for ranks in (FEW, MANY):
        figures = plane.checkpoint(ranks, {"weight": (1024, 96)}, tmp_path / str(ranks))
        assert figures["load: shards that a rank opens, at most"] <= 3
        assert figures["load: slices that it reads, at most"] == 1
    assert grown["load: slices that it reads, at most"] <= 1


def test_what_the_job_keeps_grows_as_its_ranks_and_no_faster(grown: dict[str, float]) -> None:
    assert grown["ledger: files of the run"] == RATIO
    assert grown["ledger: its lines, MB"] == pytest.approx(RATIO, rel=0.05)
    assert grown["ledger: memory for it, MB"] < RATIO
    assert grown["heartbeats: what the hub answers it, kB a second"] <= RATIO * 1.1
    assert grown["checkpoint: manifest, MB"] <= RATIO
    assert grown["checkpoint: memory for it, MB"] <= RATIO * 1.1


def test_the_table_of_two_sizes_says_how_figures_grow(plane: ModuleType) -> None:
    assert plane.exponent({8: {"x": 1.0}, 64: {"x": 8.0}}, "x") == "N^1.0"
    assert plane.exponent({8: {"x": 1.0}}, "x") == "-"
    assert plane.exponent({8: {"x": 0.0}, 64: {"x": 8.0}}, "x") == "-"
