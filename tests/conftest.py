"""What every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import models  # noqa: F401  declares what torchvision misses on a CPU before anything imports it

os.environ.setdefault("DS_ACCELERATOR", "cpu")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Optional files beside the checkout that developers and CI have; skips where they are absent."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the optional folder shared/ beside the checkout")
    return folder
