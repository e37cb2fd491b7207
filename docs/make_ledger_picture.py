"""Makes the picture of docs/ledger.md: `python docs/make_ledger_picture.py`, two minutes on two cores.

A small model on two workers under Ray; one of them is killed between two checkpoints.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

from cluster.launch import launch
from configs import Config, load_config
from data.synth import synthesise
from trainer.ledger import LEDGER, PICTURE

SAVED, LATER_SECONDS = 80, 4.0


def main() -> None:
    """Train, kill, go on, and keep the picture."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        synthesise(str(place / "train"), 8, image_size=(64, 64), workers=1)
        synthesise(str(place / "test"), 4, first=1_000_000, image_size=(64, 64), workers=1)
        settings = config(place)
        threading.Thread(target=kill_second_worker, args=(settings.run.path,), daemon=True).start()
        launch(settings)
        picture = Path(__file__).parent / "images" / PICTURE
        shutil.copy(settings.run.path / LEDGER / PICTURE, picture)


def config(place: Path) -> Config:
    """A run of seconds a phase."""
    return load_config(
        "headsup-nano",
        [
            "run.name=killed-once",
            f"run.dir={place}/runs",
            f"data.train={place}/train",
            f"data.test={place}/test",
            "data.image_size=[64, 64]",
            "data.batch_size=2",
            "data.target_views=2",
            "trainer.steps=200",
            "trainer.evaluate_every=100",
            "checkpoint.every=40",
            "cluster.workers=2",
            f"tracking.uri=sqlite:///{place}/mlflow.db",
        ],
    )


def kill_second_worker(run: Path) -> None:
    """Some seconds after a checkpoint is there, without a word of warning."""
    while not (run / f"checkpoints/step-{SAVED:08d}/manifest.json").exists():
        time.sleep(0.05)
    time.sleep(LATER_SECONDS)
    found = re.findall(r"rank 1, process (\d+) on", (run / "logs/rank-1.log").read_text())
    os.kill(int(found[-1]), signal.SIGKILL)


if __name__ == "__main__":
    main()
