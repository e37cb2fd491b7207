"""A dataset and a config small enough to train in seconds, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs import Config, load_config
from data.synth import synthesise

TINY = [
    "model.capacity=1",
    "model.base_capacity=null",
    "model.heads=2",
    "model.encoder_channels=[16, 32]",
    "model.decoder_channels=[32, 16, 16]",
    "model.latent_size=8",
    "model.uv_size=32",
    "model.pixel_grid=16",
    "model.background.height=8",
    "model.background.width=16",
    "data.image_size=[48, 48]",
    "data.batch_size=2",
    "data.source_views=[1, 3]",
    "data.target_views=2",
    "evaluation.source_views=2",
    "evaluation.target_views=2",
    "optimizer.warmup_steps=2",
    "trainer.log_every=1",
    "cluster.workers=1",
    "tracking.system_metrics=false",
]


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` (4 people) and `unseen` (2 people) at 48x48."""
    folder = tmp_path_factory.mktemp("people")
    synthesise(str(folder / "train"), 4, image_size=(48, 48), workers=2, shard_subjects=2)
    synthesise(str(folder / "unseen"), 2, first=1_000_000, image_size=(48, 48), workers=2, shard_subjects=2)
    return folder


@pytest.fixture
def tiny(people: Path, tmp_path: Path) -> Callable[..., Config]:
    """`tiny("trainer.steps=5", ...)`: the nano model made smaller still, in a folder of its own."""

    def make(*overrides: str) -> Config:
        places = [
            f"data.train={people}/train",
            f"data.test={people}/unseen",
            f"run.dir={tmp_path}/runs",
            f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        ]
        return load_config("headsup-nano", [*TINY, *places, *overrides])

    return make
