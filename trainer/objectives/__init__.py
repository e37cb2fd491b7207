"""What a system is trained on. `trainer/objectives/<name>.py` holds one class called `Objective`."""

from __future__ import annotations

import importlib

import torch

from configs.schema import ObjectiveConfig
from models.system import System
from trainer.objectives.base import Objective


def build_objective(config: ObjectiveConfig, system: System, device: torch.device) -> Objective:
    """The objective that `config.objective` names."""
    return importlib.import_module(f"trainer.objectives.{config.objective}").Objective(config, system, device)
