"""A tiny base whose latents make heads, its captures with expressions, and their latents; made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from configs import Config, load_config
from data.synth import synthesise
from tests.trainer.conftest import TINY
from trainer.latents import encode_dataset
from trainer.loop import train


@dataclass(frozen=True)
class Animated:
    """Places of a base, of captures and of latents; people of `train` and `unseen` differ."""

    base: str
    train: str
    unseen: str
    train_latents: str
    unseen_latents: str

    def config(self, folder: Path, *overrides: str) -> Config:
        """A run that trains a small animator."""
        small = ["model.channels=64", "model.latent_size=8", "model.capacity=1", "model.expression_tokens=2"]
        data = [f"data.train={self.train_latents}", f"data.test={self.unseen_latents}", "data.batch_size=4"]
        place = [f"run.dir={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        rest = ["optimizer.warmup_steps=2", "evaluation.target_views=2", "tracking.system_metrics=false"]
        return load_config("headsup-nano-animation", [*small, *data, *place, *rest, *overrides])


@pytest.fixture(scope="session")
def animated(tmp_path_factory: pytest.TempPathFactory) -> Animated:
    """Three people to train on and two others, three frames each, at 48x48."""
    if not _MADE:
        _MADE.append(_make(tmp_path_factory.mktemp("animated")))
    return _MADE[0]


_MADE: list[Animated] = []  # a fixture that several files import is made for each of them otherwise


def _make(folder: Path) -> Animated:
    for name, first, subjects in (("train", 0, 3), ("unseen", 1_000_000, 2)):
        synthesise(
            str(folder / name), subjects, first=first, frames=3, image_size=(48, 48), workers=2, shard_subjects=2
        )
    places = [f"data.train={folder}/train", f"run.dir={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    base = train(load_config("headsup-nano-latent", [*TINY, *places, "trainer.steps=2"])).checkpoint
    assert base is not None
    for name in ("train", "unseen"):
        encode_dataset(base, str(folder / name), str(folder / f"{name}-latents"))
    parts = ("train", "unseen", "train-latents", "unseen-latents")
    return Animated(base, *(str(folder / name) for name in parts))
