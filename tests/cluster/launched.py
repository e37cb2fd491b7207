"""Runs on a Ray of their own: a display that remembers, the workers' processes, what came out."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

from cluster.launch import Result
from configs import Config, load_config
from trainer.checkpoint import load_weights


class Notes:
    """A display that remembers."""

    def __init__(self) -> None:
        self.restarts = 0
        self.lines: list[str] = []
        self.steps: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.lines.append("end")

    def phase(self, name: str) -> None:
        self.lines.append(name)

    def progress(self, progress) -> None:
        self.steps.append(progress.step)

    def restarting(self, reason: str) -> None:
        self.restarts += 1
        self.lines.append(reason)

    def note(self, message: str) -> None:
        self.lines.append(message)


def config(folder: Path, *overrides: str) -> Config:
    place = [f"run.dir={folder}", "run.name=r", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    return load_config("headsup-nano", [*place, *overrides])


def workers_of(run: Path) -> dict[int, psutil.Process]:
    """The processes that write a run's logs, by rank."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            target = os.readlink(f"/proc/{process.pid}/fd/1")
        except OSError:
            continue
        if target.startswith(str(run / "logs/rank-")):
            found[int(Path(target).stem.removeprefix("rank-"))] = process
    return found


def same_weights(left: Result, right: Result) -> bool:
    """Bitwise."""
    first, second = load_weights(left.summary.checkpoint), load_weights(right.summary.checkpoint)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
