"""Runs on a real Ray: the result, a killed worker, mistakes and bugs of workers, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import tiny
from ray import cloudpickle

from cluster.launch import Result, WorkerFailure, launch
from cluster.runs import resolve
from configs import Config, UserError, load_config

pytestmark = pytest.mark.cluster
cloudpickle.register_pickle_by_value(tiny)


@pytest.fixture(autouse=True)
def no_orphans():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    time.sleep(0.5)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [child.name() for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


class Notes:
    """A display that remembers."""

    def __init__(self) -> None:
        self.restarts = 0
        self.lines: list[str] = []
        self.steps: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.lines.append("end")

    def phase(self, name: str) -> None:
        self.lines.append(name)

    def progress(self, progress) -> None:
        self.steps.append(progress.step)

    def restarting(self, reason: str) -> None:
        self.restarts += 1
        self.lines.append(reason)

    def note(self, message: str) -> None:
        self.lines.append(message)


def config(folder: Path, *overrides: str) -> Config:
    return load_config("headsup-nano", [f"run.dir={folder}", "run.name=r", "trainer.steps=30", *overrides])


def expected(steps: int) -> float:
    return float(sum(2 * step + 1 for step in range(steps)))


def test_two_workers_give_one_result_and_leave_their_logs(tmp_path: Path) -> None:
    notes = Notes()
    result: Result = launch(config(tmp_path), notes, train=tiny.train)
    assert (result.summary.steps, result.summary.total) == (30, expected(30))
    assert (result.restarts, result.stopped) == (0, None)
    assert notes.lines[:2] == ["starting Ray", "starting workers"]
    assert notes.steps[-1] == 30
    logs = tmp_path / "r/logs"
    assert "hello from rank 1" in (logs / "rank-1.log").read_text()
    assert "a warning from rank 0" in (logs / "warnings.log").read_text()
    assert load_config(tmp_path / "r/config.yaml") == resolve(config(tmp_path))


def test_a_killed_worker_costs_a_restart_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_PAUSE", "0.05")
    pid_file, saved = tmp_path / "r/tiny/rank-1.pid", tmp_path / "r/tiny/saved.json"

    def kill_when_under_way() -> None:
        while not saved.exists() or json.loads(saved.read_text())[0] < 10:
            time.sleep(0.05)
        os.kill(int(pid_file.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill_when_under_way, daemon=True)
    killer.start()
    notes = Notes()
    result = launch(config(tmp_path, "trainer.steps=60"), notes, train=tiny.train)
    assert (result.summary.steps, result.summary.total) == (60, expected(60))
    assert result.restarts == notes.restarts == 1


def test_a_mistake_of_the_user_comes_out_as_it_was_raised_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_MISTAKE", "user")
    notes = Notes()
    with pytest.raises(UserError) as caught:
        launch(config(tmp_path), notes, train=tiny.train)
    assert str(caught.value) == "subject 7, camera 3: is truncated\n  delete it"
    assert notes.restarts == 0
    assert (tmp_path / "r/logs/rank-1.log").read_text().count("---") == 2


def test_a_bug_comes_out_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_MISTAKE", "bug")
    with pytest.raises(WorkerFailure, match=r"(?s)rank 1 .*in train.*ZeroDivisionError: a bug of ours.*logs: "):
        launch(config(tmp_path, "cluster.max_failures=0"), Notes(), train=tiny.train)
    assert list((tmp_path / "r/logs/ray").iterdir())


def test_more_than_the_machine_has_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 workers of 1 GPU need 2, the cluster has 0"):
        launch(config(tmp_path, "cluster.gpus_per_worker=1"), Notes(), train=tiny.train)
