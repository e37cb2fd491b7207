"""What a system is trained on. `trainer/objectives/<name>.py` holds one class called `Objective`."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from configs.schema import ObjectiveConfig
from models.system import System


def build_objective(config: ObjectiveConfig, system: System, device: torch.device) -> Any:
    """The objective that `config.objective` names."""
    return importlib.import_module(f"trainer.objectives.{config.objective}").Objective(config, system, device)
