"""Checkpoints that any world size and ZeRO stage can load: the format is docs/checkpoints.md."""

from trainer.checkpoint.background import Saver
from trainer.checkpoint.loading import load, load_newest, start_from
from trainer.checkpoint.manifest import Damaged, Manifest
from trainer.checkpoint.retention import METRICS, Retention, step_directory
from trainer.checkpoint.saving import save
from trainer.checkpoint.weights import describe, latest, load_weights

__all__ = [
    "METRICS",
    "Damaged",
    "Manifest",
    "Retention",
    "Saver",
    "describe",
    "latest",
    "load",
    "load_newest",
    "load_weights",
    "save",
    "start_from",
    "step_directory",
]
