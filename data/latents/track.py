"""Expressions over time: ARKit coefficients frame by frame, from a JSON or CSV file, from captures, or made up."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError, nearest
from data.arkit import ARKIT, coefficients
from data.dataset import Dataset
from data.locate import open_capture
from data.synth.expressions import FACES

FPS = 30.0
MOST_FRAMES, MOST_BYTES = 100_000, 2**28
# What Live Link Face writes beside the blendshapes; heads and eyeballs that turn are no expression.
_NO_SHAPES = {
    *("timecode", "blendshapecount", "time", "timestamp", "frame", "headyaw", "headpitch", "headroll"),
    *(f"{side}eye{axis}" for side in ("left", "right") for axis in ("yaw", "pitch", "roll")),
}
_BY_LOWER = {name.lower(): name for name in ARKIT}
_DEMO = ("smile", "surprise", "kiss", "sneer", "blink", "open", "aside", "puff", "frown", "grin")


@dataclass(frozen=True)
class Track:
    """Coefficients over time.

    Attributes:
        values: `[n, 52]` in [0, 1], in the order of `data.arkit.ARKIT`.
        fps: frames per second.
        keys: numbers of the frames that show most, for contact sheets.
    """

    values: NDArray[np.float32]
    fps: float = FPS
    keys: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.values) / self.fps


def read_track(path: str | Path) -> Track:
    """Coefficients of a file.

    JSON is a list of `{"jawOpen": 0.4, ...}`, a frame each, or `{"fps": 30, "frames": [...]}`; in CSV the first line
    names the columns (as Live Link Face exports it, whose columns of time, head and eyeballs are passed over). Names
    are ARKit's, upper or lower case; what a frame does not name is 0.

    Raises:
        UserError: no such file, not of these forms, an unknown name (with the nearest), or a value outside of [0, 1].
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError("is too large for a file of coefficients", where=str(path))
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from None
    frames, fps = _read_csv(text, str(path)) if file.suffix.lower() == ".csv" else _read_json(text, str(path))
    if not 0 < len(frames) <= MOST_FRAMES:
        raise UserError(f"has {len(frames)} frames, not 1 to {MOST_FRAMES:,}", where=str(path))
    rows = [coefficients(_checked(frame, f"{path}, frame {number}")) for number, frame in enumerate(frames)]
    return Track(np.stack(rows), fps)


def demo_track() -> Track:
    """One face after the other, each fading in and out, while the eyes look around and blink."""
    faces = [_both_sides(FACES[name]) for name in _DEMO]
    return through([coefficients(face) for face in faces], rest=True)


def driver_track(location: str) -> tuple[Track, list[str]]:
    """Another person's expressions: the captures of a subject in order, each fading into the next.

    Args:
        location: `DATASET_URL#subject` for all its captures, or one capture as `open_capture` takes it.

    Returns:
        the track, and the name of the capture at each of its `keys`.

    Raises:
        UserError: nothing there, or captures that know no expression.
    """
    url, _, name = location.partition("#")
    rows: list[NDArray[np.float32]]
    if "://" not in url and not (Path(url) / "dataset.json").is_file():
        capture = open_capture(location)
        names, rows = [capture.name], [coefficients(capture.expression)]
    else:
        with Dataset.open(url) as dataset:
            names = dataset.captures_of(name) if name in dataset.subjects else [_only(dataset, name)]
            rows = [coefficients(dataset.index.expression(dataset.index.row(one))) for one in names]
    rows = [np.clip(row, 0.0, 1.0) for row in rows]
    if not np.stack(rows).any():
        hint = "its captures hold no ARKit coefficients; drive with a file: --coefficients"
        raise UserError("shows no expression that is known", where=location, hint=hint)
    return through(rows), names


def through(poses: Sequence[NDArray[np.float32]], rest: bool = False, step: int = 14, hold: int = 6) -> Track:
    """A track that goes through poses `[52]`, smoothly.

    Args:
        poses: in order.
        rest: go back to the neutral face between any two.
        step: frames from one pose to the next.
        hold: frames that each pose stays.
    """
    neutral = np.zeros(len(ARKIT), np.float32)
    stops = [(neutral, False)]
    for pose in poses:
        stops += [(pose, True), *([(neutral, False)] if rest else [])]
    stops += [] if rest else [(neutral, False)]
    values, keys = [neutral], []
    for (before, _), (after, shown) in itertools.pairwise(stops):
        ease = (1 - np.cos(np.pi * np.arange(1, step + 1) / step)) / 2
        values += [(before + e * (after - before)).astype(np.float32) for e in ease]
        if shown:
            keys.append(len(values) - 1)
            values += [after] * hold
    return Track(np.stack(values), FPS, tuple(keys))


def _only(dataset: Dataset, name: str) -> str:
    if name:
        return dataset.index.text("name", dataset.index.row(name))
    if len(dataset) > 1:
        hint = f"say whose: {dataset.url}#{dataset.index.text('subject', 0)}"
        raise UserError(f"the dataset has {len(dataset)} captures", where=dataset.url, hint=hint)
    return dataset.index.text("name", 0)


def _both_sides(face: Mapping[str, float]) -> dict[str, float]:
    """Coefficients of a face that is named without sides."""
    names = {base: [n for n in (base, f"{base}Left", f"{base}Right") if n in ARKIT] for base in face}
    return {name: face[base] for base, both in names.items() for name in both}


def _read_json(text: str, where: str) -> tuple[list[Mapping[str, Any]], float]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", where=where, hint="CSV files end in .csv") from None
    fps = content.get("fps", FPS) if isinstance(content, dict) else FPS
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        hint = 'a list of {"jawOpen": 0.4, ...}, a frame each, or {"fps": 30, "frames": [...]}'
        raise UserError("holds no frames", where=where, hint=hint)
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps <= 1000:
        raise UserError(f"fps is {fps!r}, not a number up to 1000", where=where)
    return frames, float(fps)


def _read_csv(text: str, where: str) -> tuple[list[Mapping[str, Any]], float]:
    rows = csv.reader(io.StringIO(text))
    try:
        header = [name.strip() for name in next(rows, [])]
        lines = [row for row in rows if row]
    except csv.Error as error:
        raise UserError(f"not readable as CSV ({error})", where=where) from None
    frames: list[Mapping[str, Any]] = []
    for number, row in enumerate(lines):
        if len(row) != len(header):
            raise UserError(f"{len(row)} values for {len(header)} columns", where=f"{where}, frame {number}")
        shapes = [(name, value) for name, value in zip(header, row, strict=True) if name.lower() not in _NO_SHAPES]
        frames.append({name: _number(value, f"{where}, frame {number}, {name}") for name, value in shapes})
    return frames, FPS


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is no number", where=where) from None


def _checked(frame: Mapping[str, Any], where: str) -> dict[str, float]:
    """Values by ARKit's own spelling."""
    found: dict[str, float] = {}
    for name, value in frame.items():
        known = _BY_LOWER.get(str(name).lower())
        if known is None:
            raise UserError(f"ARKit has no blendshape '{name}'", where=where, hint=nearest(str(name), ARKIT))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{value!r} is no number", where=f"{where}, {name}")
        if not 0 <= value <= 1:
            raise UserError(f"{value:g} is not in [0, 1]", where=f"{where}, {name}", hint="1 is the full expression")
        found[known] = float(value)
    return found
