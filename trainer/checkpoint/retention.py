"""Which checkpoints of a run stay: the last ones, the best one, and every n-th step for good."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from configs import UserError
from trainer.checkpoint.manifest import MANIFEST, read_manifest
from trainer.checkpoint.storage import Folder

STEP = re.compile(r"^step-(\d{8,})$")
METRICS = "metrics"
"""Key of a checkpoint's `state`: what was measured at its step, by name; empty where nothing was."""


@dataclass(frozen=True)
class Retention:
    """What stays.

    Attributes:
        last: so many of the newest; 0 keeps all.
        every: and every one whose step is a multiple; 0 is none.
        best: and the one with the largest value of this metric; None is none.
    """

    last: int = 0
    every: int = 0
    best: str | None = None


def step_directory(folder: str, step: int) -> str:
    """Where the checkpoint of a step lives among those of its run."""
    return f"{folder.rstrip('/')}/step-{step:08d}"


def steps_in(folder: str) -> list[int]:
    """Steps of which there is a folder, whole or not, in ascending order."""
    return sorted(int(match[1]) for name in Folder(folder).folders() if (match := STEP.match(name)))


def committed(folder: str) -> list[int]:
    """Steps whose folders hold a manifest, in ascending order; it may be damaged."""
    return [step for step in steps_in(folder) if MANIFEST in Folder(step_directory(folder, step)).sizes()]


def kept(found: dict[int, dict[str, float]], retention: Retention) -> set[int]:
    """Steps that stay, of those whose metrics are given."""
    steps = sorted(found)
    if not retention.last:
        return set(steps)
    stay = set(steps[-retention.last :])
    if retention.every:
        stay |= {step for step in steps if step % retention.every == 0}
    measured = [step for step in steps if retention.best in found[step]]
    if retention.best and measured:
        stay.add(max(measured, key=lambda step: found[step][retention.best or ""]))
    return stay


def prune(folder: str, retention: Retention) -> list[int]:
    """Remove what does not stay, and what saves that never ended left before the newest whole one.

    A checkpoint loses its manifest first: one that is removed by half counts as none.

    Returns:
        the steps whose folders are gone.
    """
    whole = committed(folder)
    remains = set(steps_in(folder)).difference(whole)
    found: dict[int, dict[str, float]] = {}
    for step in whole:
        with suppress(UserError):  # a damaged one, or of another version: not ours to remove
            found[step] = read_manifest(Folder(step_directory(folder, step))).state.get(METRICS, {})
    gone = sorted({*found} - kept(found, retention) | {step for step in remains if found and step < max(found)})
    for step in gone:
        _remove(Folder(step_directory(folder, step)))
    return gone


def _remove(folder: Folder) -> None:
    names: Iterable[str] = folder.sizes()
    folder.remove([MANIFEST])
    with suppress(OSError):
        folder.remove([name for name in names if name != MANIFEST])
