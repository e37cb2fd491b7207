"""Captures that chaos streams."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve made-up people with four faces each, small."""
    from data.synth import synthesise

    folder = tmp_path_factory.mktemp("people") / "train"
    synthesise(str(folder), 12, frames=4, image_size=(48, 48), workers=1)
    return folder
