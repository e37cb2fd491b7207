"""Runs on a real Ray: the result, a killed worker, mistakes and bugs of workers, and that nothing stays behind."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path

import pytest
import tiny
from launched import Notes, config, same_weights, workers_of
from ray import cloudpickle

from cluster.launch import Result, WorkerFailure, launch
from cluster.runs import resolve
from configs import UserError, load_config
from trainer.ledger import summarise
from trainer.tracking import read_run_id

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.usefixtures("no_orphans")]
cloudpickle.register_pickle_by_value(tiny)


@pytest.mark.slow
def test_two_workers_train_and_leave_a_checkpoint_logs_and_a_tracked_run(
    undisturbed: tuple[Result, Notes, Path],
) -> None:
    from mlflow import MlflowClient

    result, notes, folder = undisturbed
    assert (result.summary.steps, result.summary.finished) == (40, True)
    assert (result.restarts, result.stopped) == (0, None)
    assert math.isfinite(result.summary.loss)
    assert notes.lines[:2] == ["starting Ray", "starting workers"]
    assert notes.steps[-1] == 40
    assert {log.name for log in (folder / "r/logs").iterdir()} >= {"rank-0.log", "rank-1.log"}
    run_id = read_run_id(folder / "r")
    assert run_id is not None
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run_id, "train/loss")] == list(range(2, 41, 2))


@pytest.mark.slow
def test_a_killed_worker_costs_a_restart_and_nothing_else(
    undisturbed: tuple[Result, Notes, Path], small: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "r"

    def kill_when_under_way() -> None:
        while not list(run.glob("checkpoints/step-*/manifest.json")):
            time.sleep(0.02)
        time.sleep(0.3)
        workers_of(run)[1].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_when_under_way, daemon=True)
    killer.start()
    notes = Notes()
    result = launch(config(tmp_path, *small), notes)
    assert result.summary.steps == 40
    assert result.restarts == notes.restarts == 1
    assert same_weights(result, undisturbed[0])
    ledger = summarise(run)
    assert (len(ledger.ranks), ledger.attempts, len(ledger.sessions)) == (2, 2, 1)
    for rank in ledger.ranks:
        assert sum(rank.seconds.values()) == pytest.approx(ledger.wall)
        assert min(rank.seconds[name] for name in ("compute", "start_up", "restart")) > 0
    assert summarise(undisturbed[2] / "r").seconds["restart"] == 0


@pytest.mark.slow
def test_a_mistake_of_the_user_comes_out_as_it_was_raised_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one rank only, while the other waits for it in a collective."""
    monkeypatch.setenv("TINY_MISTAKE", "user")
    notes = Notes()
    with pytest.raises(UserError) as caught:
        launch(config(tmp_path, "trainer.steps=30"), notes, train=tiny.train)
    assert str(caught.value) == "subject 7, camera 3: is truncated\n  delete it"
    assert notes.restarts == 0
    logs = tmp_path / "r/logs"
    assert (logs / "rank-1.log").read_text().count("hello from rank 1") == 1
    assert "a warning from rank 0" in (logs / "warnings.log").read_text()
    assert load_config(tmp_path / "r/config.yaml") == resolve(config(tmp_path, "trainer.steps=30"))


@pytest.mark.slow
def test_a_bug_comes_out_with_its_traceback_and_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_MISTAKE", "bug")
    notes = Notes()
    with pytest.raises(WorkerFailure, match=r"(?s)rank 1 .*in train.*ZeroDivisionError: a bug of ours.*logs: "):
        launch(config(tmp_path, "trainer.steps=30", "cluster.max_failures=9"), notes, train=tiny.train)
    assert notes.restarts == 1  # the second time in the same words is enough
    assert list((tmp_path / "r/logs/ray").iterdir())


def test_more_than_the_machine_has_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 workers of 1 GPU need 2, the cluster has 0"):
        launch(config(tmp_path, "cluster.gpus_per_worker=1"), Notes(), train=tiny.train)
