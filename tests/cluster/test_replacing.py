"""A worker that is stopped, and one that is told to end, on a real Ray."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny
from launched import Notes, config, same_weights, workers_of
from ray import cloudpickle

from cluster.launch import Result, launch
from trainer.ledger import summarise

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("no_orphans"),
]

cloudpickle.register_pickle_by_value(tiny)


def disturbed(folder: Path, settings: list[str], fault: Callable[[psutil.Process], None]) -> tuple[Result, Notes]:
    """A run to whose rank 1 something happens after its first checkpoint."""

    def wait_and_strike() -> None:
        while not list(folder.glob("r/checkpoints/step-*/manifest.json")):
            time.sleep(0.02)
        fault(workers_of(folder / "r")[1])

    threading.Thread(target=wait_and_strike, daemon=True).start()
    notes = Notes()
    return launch(config(folder, *settings), notes), notes


def test_a_stopped_worker_is_named_and_replaced(
    undisturbed: tuple[Result, Notes, Path], small: list[str], tmp_path: Path
) -> None:
    pids: list[int] = []

    def stop(worker: psutil.Process) -> None:
        pids.append(worker.pid)
        worker.send_signal(signal.SIGSTOP)

    result, notes = disturbed(tmp_path, [*small, "cluster.silent_seconds=6"], stop)
    named = [line for line in notes.lines if line.startswith("rank 1 on") and "gives no sign of life" in line]
    assert named
    assert f"process {pids[0]}" in named[0]
    assert result.restarts == 1
    assert not psutil.pid_exists(pids[0])
    assert same_weights(result, undisturbed[0])
    evicted = (tmp_path / "r/logs/evicted.log").read_text()
    assert named[0] in evicted
    assert f"process {pids[0]}: stopped" in evicted


def test_a_worker_that_hangs_is_told_from_those_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_MISTAKE", "hang")
    notes = Notes()
    settings = config(tmp_path, "trainer.steps=30", "cluster.hang_seconds=5")
    result = launch(settings, notes, train=tiny.train)
    assert (result.summary.steps, result.restarts) == (30, 1)
    (named,) = [line for line in notes.lines if line.startswith("no step for")]
    assert "rank 1 on" in named
    assert "rank 0" not in named
    assert "in compute at step 2" in named
    assert "in hang_once" in (tmp_path / "r/logs/rank-1.log").read_text(), "its stack"


def test_a_worker_that_is_told_to_end_saves_first_and_no_step_is_lost(
    undisturbed: tuple[Result, Notes, Path], small: list[str], tmp_path: Path
) -> None:
    settings = [*small, "cluster.max_failures=0"]
    result, notes = disturbed(tmp_path, settings, lambda worker: worker.send_signal(signal.SIGTERM))
    assert result.restarts == 1
    assert any("rank 1 was told to end (SIGTERM)" in line for line in notes.lines)
    assert same_weights(result, undisturbed[0])
    assert summarise(tmp_path / "r").lost_steps == 0
