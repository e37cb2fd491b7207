"""Captures that chaos streams."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve made-up people, small."""
    return made(tmp_path_factory, frames=1)


@pytest.fixture(scope="session")
def many_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same people with six faces each: for a while there are views that a job has not seen."""
    return made(tmp_path_factory, frames=6)


def made(factory: pytest.TempPathFactory, frames: int) -> Path:
    from data.synth import synthesise

    folder = factory.mktemp("people") / "train"
    synthesise(str(folder), 12, frames=frames, image_size=(48, 48), workers=1)
    return folder
