"""Captures and a small config that real runs share."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from direct import Direct
from launched import Notes, config

from cluster.launch import Result, launch

SMALL = [
    "data.image_size=[64,64]",
    "data.batch_size=2",
    "data.target_views=2",
    "trainer.steps=40",
    "trainer.log_every=2",
    "checkpoint.every=8",
    "tracking.system_metrics=false",
]


@pytest.fixture(scope="session")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight made-up people, small."""
    from data.synth import synthesise

    folder = tmp_path_factory.mktemp("captures") / "train"
    synthesise(str(folder), 8, image_size=(64, 64), workers=1)
    return folder


@pytest.fixture(scope="session")
def small(captures: Path) -> list[str]:
    """Overrides of `headsup-nano` that train in seconds."""
    return [*SMALL, f"data.train={captures}"]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> tuple[Result, Notes, Path]:
    folder, notes = tmp_path_factory.mktemp("undisturbed"), Notes()
    return launch(config(folder, *small), notes), notes, folder


@pytest.fixture
def no_orphans():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    time.sleep(0.5)
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert [child.name() for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Direct:
    monkeypatch.setattr("ray.get", lambda answer, timeout=None: answer)
    return Direct()
