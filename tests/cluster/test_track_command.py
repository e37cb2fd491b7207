"""`headway track sync`: says what it did, teaches, and is one message where it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from test_cli import existing_run, here, run

from cluster.commands.track import waiting_line
from configs import load_config
from trainer.tracking import Tracker, read_run_id
from trainer.tracking.syncing import waiting

__all__ = ["here"]


@pytest.fixture
def nowhere() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def off_line(folder: Path, uri: str, name: str) -> Path:
    """A run that has ended, with records that wait."""
    overrides = [f"tracking.uri={uri}", "tracking.system_metrics=false"]
    made = existing_run(folder, name, *overrides, f"run.dir={folder}/out/runs")
    tracker = Tracker(load_config("headsup-nano", [*overrides, f"run.name={name}"]), made)
    tracker.metrics({"loss": 0.5}, 1)
    tracker.close("FINISHED", patience_seconds=0.1)
    return made


def test_all_runs_to_another_server_then_nothing_waits(
    here: Path, nowhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (off_line(here, nowhere, name) for name in ("first", "second"))
    assert waiting_line(first) == f"{waiting(first)} records wait for MLflow; send them: headway track sync first"
    count = waiting(first)
    code, out, _ = run(capsys, "track", "sync", "--all", "--to", f"sqlite:///{here}/mlflow.db")
    assert code == 0
    assert f"first: {count} records sent to MLflow run {read_run_id(first)}" in out
    assert f"second: {count} records sent to MLflow run {read_run_id(second)}" in out
    assert waiting(first) == waiting(second) == 0
    assert waiting_line(first) is None
    assert run(capsys, "track", "sync", "--all")[:2] == (0, "nothing waits\n")
    assert run(capsys, "track", "sync", "first")[:2] == (0, "first: nothing waits\n")


def test_where_nothing_answers_it_is_one_message(here: Path, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = off_line(here, nowhere, "first")
    code, _, err = run(capsys, "track", "sync", "first")
    assert code == 2
    assert err.startswith(f"headway: {nowhere}: no MLflow server answers\n")
    assert f"{waiting(first)} records go on waiting" in err
    assert "--to URI" in err


def test_without_a_name_it_says_which_runs_wait(here: Path, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "track", "sync")
    assert (code, err) == (2, "headway: which runs?\n  nothing waits\n")
    off_line(here, nowhere, "first")
    code, _, err = run(capsys, "track", "sync")
    assert code == 2
    assert "records wait in first: name some, or --all" in err


def test_an_unknown_run_is_one_message(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "track", "sync", "frist")
    assert code == 2
    assert "no run is called 'frist'" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "track", "sync", "--help")
    assert code == 0
    assert "headway track sync first --to http://mlflow:5000" in out.split("Example:")[1]
    assert "--all" in out
