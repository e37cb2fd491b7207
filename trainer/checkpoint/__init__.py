"""Checkpoints that any world size and ZeRO stage can load: the format is docs/checkpoints.md."""

from trainer.checkpoint.loading import load, start_from
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.saving import save
from trainer.checkpoint.weights import describe, latest, load_weights, step_directory

__all__ = ["Manifest", "describe", "latest", "load", "load_weights", "save", "start_from", "step_directory"]
