"""Whether the world is the canonical head frame: up, unit, origin and front, measured from what the views show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.capture import camera_centers
from data.ingest.canonical import DIAMETER, PLAUSIBLE, UNITS
from data.ingest.hull import Head, Silhouettes, find_head, meeting_point
from data.inspect.observed import Observed
from data.synth import neutral_head

Floats = NDArray[np.float64]

_UPRIGHT = 35.0  # degrees
_OFFSET = 0.09  # metres
_MARGIN, _LEAST_OVERLAP = 0.01, 0.8
_SHOWN = (0.12, 1.2)  # metres that an image of a head shows across
_AXES = {"+y": (0, 1, 0), "-y": (0, -1, 0), "+z": (0, 0, 1), "-z": (0, 0, -1), "+x": (1, 0, 0), "-x": (-1, 0, 0)}
_TURN_UP = {
    "-y": "180 degrees about x",
    "+z": "-90 degrees about x",
    "-z": "90 degrees about x",
    "+x": "90 degrees about z",
    "-x": "-90 degrees about z",
}
_FRONTS = {0: "+z", 90: "+x", 180: "-z", 270: "-x"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: of what was looked at.
        good: None where it cannot be told.
        text: what was found.
        advice: the likely repair, empty where nothing is wrong.
    """

    name: str
    good: bool | None
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Placement:
    """Where the canonical head lies in the cameras' world: `world = rotation @ canonical / factor + center`."""

    rotation: Floats
    factor: float
    center: Floats

    def __call__(self, points: Floats) -> Floats:
        """Canonical points `[n, 3]` in the world."""
        return points @ self.rotation.T / self.factor + self.center


def check_frame(seen: Observed) -> tuple[list[Check], Placement]:
    """Up, unit, origin and front of cameras whose geometry is right otherwise.

    Returns:
        the findings, and where the head is found to be: where it should be as far as nothing is wrong.
    """
    up, check = _check_up(seen)
    rotation = np.eye(3) if check.good is not False else _upright(up)
    silhouettes = seen.silhouettes()
    head = find_head(silhouettes, up) if silhouettes is not None else None
    if silhouettes is None or head is None:
        checks, factor, center = _check_by_rig(seen)
        return [check, *checks], Placement(rotation, factor, center)
    size, factor = _check_size(head)
    origin = _check_origin(head)
    center = np.zeros(3) if origin.good else head.center
    front, turn = _check_front(silhouettes, head, rotation)
    return [check, size, origin, front], Placement(rotation @ _about_y(turn), factor, center)


def _upright(up: Floats) -> Floats:
    """A rotation that brings +y to the axis nearest to `up`: about x, or about z where that is along x."""
    axis = int(np.argmax(np.abs(up)))
    if axis == 0:
        return np.array([[0.0, np.sign(up[0]), 0.0], [-np.sign(up[0]), 0.0, 0.0], [0.0, 0.0, 1.0]])
    if axis == 1:
        return np.diag([1.0, -1.0, -1.0])
    return np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -np.sign(up[2])], [0.0, np.sign(up[2]), 0.0]])


def _about_y(turn: float) -> Floats:
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _check_up(seen: Observed) -> tuple[Floats, Check]:
    """The cameras' mean up."""
    up = -seen.world_to_camera[:, 1, :3].mean(axis=0)
    if np.linalg.norm(up) < 0.5:
        return np.array([0.0, 1.0, 0.0]), Check("up", None, "the cameras do not share an up direction")
    up /= np.linalg.norm(up)
    angle = float(np.degrees(np.arccos(np.clip(up[1], -1, 1))))
    axis = max(_AXES, key=lambda name: float(np.dot(_AXES[name], up)))
    text = f"the cameras' mean up is {angle:.0f} degrees from +y"
    if angle <= _UPRIGHT:
        return up, Check("up", True, text)
    advice = f"the world's up is {axis}: turn it by {_TURN_UP[axis]}"
    return up, Check("up", False, f"{text}, nearest to {axis}", advice)


def _check_origin(head: Head) -> Check:
    # In head diameters, because the unit may be another.
    offset = float(np.linalg.norm(head.center)) / head.diameter * DIAMETER
    place = ", ".join(f"{value:.3g}" for value in head.center)
    text = f"the head is at ({place}), {offset * 100:.0f} cm from the origin"
    if offset <= _OFFSET:
        return Check("origin", True, text)
    return Check("origin", False, text, f"the origin is not between the ears: move it to ({place})")


def _check_size(head: Head) -> tuple[Check, float]:
    """And the factor that brings the head to metres."""
    for unit, factor in UNITS.items():
        if PLAUSIBLE[0] <= head.diameter * factor <= PLAUSIBLE[1]:
            text = f"the head is {head.diameter * factor:.3f} m across if the unit is {unit}"
            advice = f"the unit is {unit}: multiply the translations by {factor:g}"
            return Check("unit", unit == "metres", text, "" if unit == "metres" else advice), factor
    factor = DIAMETER / head.diameter
    advice = f"the unit is none of {', '.join(UNITS)}: multiply the translations by about {factor:.3g}"
    return Check("unit", False, f"the head is {head.diameter:.4g} units across", advice), factor


def _check_front(views: Silhouettes, head: Head, rotation: Floats) -> tuple[Check, float]:
    """Which way the face looks: the template's outline at four turns, against the masks; and the turn in radians."""
    scores = {turn: _template_overlap(views, head, rotation @ _about_y(np.radians(turn))) for turn in _FRONTS}
    best = max(scores, key=lambda turn: scores[turn])
    listed = ", ".join(f"{_FRONTS[turn]} {score:.2f}" for turn, score in scores.items())
    text = f"masks and the template's outline overlap best with the face along {_FRONTS[best]} ({listed})"
    if scores[best] < _LEAST_OVERLAP:
        return Check("front", None, f"cannot be told: {text}"), 0.0
    if best == 0 or scores[best] - scores[0] < _MARGIN:
        return Check("front", True, text), 0.0
    advice = f"the face looks along {_FRONTS[best]}: turn the world by {-best % 360} degrees about y"
    return Check("front", False, text, advice), float(np.radians(best))


def _template_overlap(views: Silhouettes, head: Head, rotation: Floats) -> float:
    """Mean intersection over union of masks and the turned template near the head."""
    scale = head.diameter / DIAMETER
    points = head.center + scale * neutral_head().vertices[::2].astype(np.float64) @ rotation.T
    scores = []
    for view, mask in enumerate(views.masks):
        pixels, seen = views.project(points, view)
        drawn = np.zeros_like(mask)
        drawn[tuple(pixels[seen].T)] = True
        drawn = np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(drawn, iterations=2)), bool)
        center = views.K[view] @ (
            views.world_to_camera[view, :3, :3] @ head.center + views.world_to_camera[view, :3, 3]
        )
        if center[2] <= 0:
            continue
        rows, columns = np.indices(mask.shape)
        away = np.hypot(columns + 0.5 - center[0] / center[2], rows + 0.5 - center[1] / center[2])
        near = away <= 0.14 * scale * views.K[view, 0, 0] / center[2]
        scores.append((drawn & mask & near).sum() / max(1, ((drawn | mask) & near).sum()))
    return float(np.mean(scores)) if scores else 0.0


def _check_by_rig(seen: Observed) -> tuple[list[Check], float, Floats]:
    """Without masks, what the cameras look at and from how far; factor to metres and place of the head."""
    axes, centers = seen.world_to_camera[:, 2, :3], camera_centers(seen.world_to_camera)
    middle = meeting_point(centers, axes) if len(axes) > 1 else np.zeros(3)
    distance = float(np.median(np.linalg.norm(centers - middle, axis=1)))
    shown = distance * float(np.median(np.array([min(size) for size in seen.sizes]) / seen.K[:, 0, 0]))
    text = f"from {distance:.4g} units away the images show {shown:.4g} units"
    unit = next((unit for unit, factor in UNITS.items() if _SHOWN[0] <= shown * factor <= _SHOWN[1]), None)
    factor = 0.4 / shown if unit is None else UNITS[unit]
    advice = f"the unit is {unit or 'unknown'}: multiply the translations by {factor:.3g}"
    good = unit == "metres"
    checks = [Check("unit", good, text, "" if good else advice)]
    away = float(np.linalg.norm(middle)) * factor
    place = ", ".join(f"{value:.3g}" for value in middle)
    good, text = away <= 0.25, f"the optical axes meet at ({place}), {away * 100:.0f} cm from the origin"
    if len(axes) > 1:
        advice = "" if good else f"the head is not at the origin: move it to ({place})"
        checks.append(Check("origin", good, text, advice))
    checks.append(Check("front", None, "cannot be told without masks"))
    return checks, factor, np.zeros(3) if good else middle
