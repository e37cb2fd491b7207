"""Trains what a config file says and appends every step's loss to a file: `CONFIG RECORD`. Run as a process."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from configs import load_config
from trainer.loop import train
from trainer.observer import Progress, Silent


class Recorder(Silent):
    """Writes `step loss` in hexadecimal, so that equal text is equal bits."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def report(self, progress: Progress) -> None:
        """Only steps that were just made; a resumed run also announces where it begins."""
        if progress.phase == "training" and math.isfinite(progress.loss):
            self._file.write(f"{progress.step} {progress.loss.hex()}\n")


if __name__ == "__main__":
    train(load_config(sys.argv[1]), Recorder(Path(sys.argv[2])))
