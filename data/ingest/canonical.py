"""Into the canonical head frame: metres, origin between the ears, +y up, +z out of the face; and proof by reprojection.

What already agrees is left alone to the last bit. What was changed, and why, comes back as sentences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import Capture
from data.images import Fit, decode, resample
from data.ingest.hull import Head, Silhouettes, agreement, find_head, mask_center, meeting_point

Floats = NDArray[np.float64]

DIAMETER = 0.18  # metres; an adult head with some hair, see `data.ingest.hull.Head`
PLAUSIBLE = (0.12, 0.27)
UNITS = {"metres": 1.0, "decimetres": 0.1, "centimetres": 0.01, "millimetres": 0.001}
_KEEP_ANGLE, _KEEP_OFFSET = 20.0, 0.06  # degrees, metres
_LEAST_COVERED, _LEAST_INSIDE, _DOUBTFUL = 0.75, 0.85, 0.97
_LONGEST = 256


@dataclass(frozen=True)
class Similarity:
    """A change of world frame: x' = scale * (rotation x - center); `rotation` `[3, 3]`, `center` `[3]`."""

    rotation: Floats
    center: Floats
    scale: float = 1.0

    def apply(self, capture: Capture) -> Capture:
        """The same pictures in the new frame; untouched where nothing changes."""
        return _moved(_moved(capture, self.rotation, np.zeros(3), 1.0), np.eye(3), self.center, self.scale)

    def points(self, points: Floats) -> Floats:
        """Points `[..., 3]` in the new frame."""
        return self.scale * (points @ self.rotation.T - self.center)


def canonical(capture: Capture, front: str | None = None) -> tuple[Capture, list[str]]:
    """Move a capture into the canonical head frame: `find_canonical`, applied.

    Raises:
        UserError: cameras and masks that do not fit together, naming the camera.
    """
    similarity, said = find_canonical(capture, front)
    return similarity.apply(capture), said


def find_canonical(capture: Capture, front: str | None = None) -> tuple[Similarity, list[str]]:
    """The way into the canonical head frame, to be shared by all moments of a sequence.

    Up is the cameras' mean up; scale and origin come from the visual hull of the masks; the facing direction is the
    camera `front` where it is given, else the middle of a rig that covers less than a full circle, else what the
    file says.

    Args:
        capture: OpenCV cameras in any frame and unit.
        front: a camera that looks straight at the face.

    Returns:
        the similarity, and what was found and is to be done in sentences.

    Raises:
        UserError: cameras and masks that do not fit together, naming the camera.
    """
    said: list[str] = []
    views = silhouettes(capture)
    rotation = _upright(capture, said)
    rotation = _facing(capture, rotation, views, front, said) @ rotation
    capture = _moved(capture, rotation, np.zeros(3), 1.0)
    views = silhouettes(capture)
    if views is None:
        return Similarity(rotation, *_by_rig(capture, said)), said
    head = find_head(views, np.array([0.0, 1.0, 0.0]))
    if head is None:
        raise UserError("no volume lies inside the masks of all views", where=f"capture {capture.name}", hint=_HINT)
    said.append(check_agreement(capture, views, head))
    scale, center = _scale(head, said), _origin(head, said)
    return Similarity(rotation, center, scale), said


def silhouettes(capture: Capture) -> Silhouettes | None:
    """The masks of those views that have one, at most 256 pixels long; None for fewer than three."""
    chosen = [view for view, mask in enumerate(capture.masks) if mask is not None]
    if len(chosen) < 3:
        return None
    masks, K = [], []
    for view in chosen:
        height, width = capture.sizes[view]
        shrink = min(1.0, _LONGEST / max(height, width))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        whole = Fit(0.0, 0.0, float(width), float(height))
        masks.append(resample(decode(capture.masks[view] or b"", 1), whole, size) >= 128)
        K.append(whole.intrinsics(capture.K[view], size))
    return Silhouettes(capture.world_to_camera[chosen], np.stack(K), masks)


def check_agreement(capture: Capture, views: Silhouettes, head: Head) -> str:
    """Project the hull back into every view; a sentence on the worst camera, or an error naming it.

    Silhouettes cannot tell a camera from the one opposite to it.
    """
    names = [camera for camera, mask in zip(capture.cameras, capture.masks, strict=True) if mask is not None]
    covered, inside = agreement(views, head)
    for shares, least in ((covered, _LEAST_COVERED), (inside, _LEAST_INSIDE)):
        worst = int(np.nanargmin(shares))
        if shares[worst] < least:
            what = f"the camera does not fit the others: its mask and theirs agree by {shares[worst]:.0%} only"
            raise UserError(what, where=f"capture {capture.name}, camera {names[worst]}", hint=_HINT)
    worst = int(np.nanargmin(inside))
    share, camera = f"{inside[worst]:.1%}", names[worst]
    if inside[worst] < _DOUBTFUL:
        return f"reprojection: DOUBTFUL, only {share} of the head lies on the mask of camera {camera}; look at it"
    return f"reprojection: {share} or more of the head lies on the mask of every camera"


_HINT = "transforms are OpenGL camera-to-world (x right, y up, z backwards); inverted, transposed or mixed up?"


def _upright(capture: Capture, said: list[str]) -> Floats:
    """Rotation that brings the cameras' mean up to +y, unless it is there."""
    up = -capture.world_to_camera[:, 1, :3].mean(axis=0)
    if np.linalg.norm(up) < 0.5:
        said.append("up: the cameras do not share an up direction, +y was kept")
        return np.eye(3)
    up /= np.linalg.norm(up)
    angle = np.degrees(np.arccos(np.clip(up[1], -1, 1)))
    if angle <= _KEEP_ANGLE:
        said.append(f"up: the cameras' mean up is {angle:.1f} degrees from +y, kept")
        return np.eye(3)
    said.append(f"up: turned by {angle:.1f} degrees, so that the cameras' mean up is +y")
    return _between(up, np.array([0.0, 1.0, 0.0]))


def _facing(
    capture: Capture, rotation: Floats, views: Silhouettes | None, front: str | None, said: list[str]
) -> Floats:
    """Rotation about +y that brings the front to +z."""
    middle = _looked_at(capture) if views is None else mask_center(views)
    around = (capture.centers - middle) @ rotation.T
    azimuth = np.arctan2(around[:, 0], around[:, 2])
    if front is not None:
        if front not in capture.cameras:
            raise UserError(f"no camera is called {front!r}", where=f"capture {capture.name}")
        turn = float(azimuth[capture.cameras.index(front)])
        said.append(f"front: turned by {np.degrees(-turn):.1f} degrees, so that camera {front} is in front")
        return _about_y(-turn)
    ring = np.sort(azimuth)
    gaps = np.diff(ring, append=ring[0] + 2 * np.pi)
    widest = int(np.argmax(gaps))
    back = ring[widest] + gaps[widest] / 2
    turn = (back + 2 * np.pi) % (2 * np.pi) - np.pi
    if gaps[widest] > np.radians(100) and abs(turn) > np.radians(45):
        said.append(f"front: turned by {np.degrees(-turn):.1f} degrees, so that the middle of the rig is in front")
        return _about_y(-turn)
    nearest = int(np.argmin(np.abs(azimuth)))
    said.append(f"front: +z was kept; camera {capture.cameras[nearest]} is nearest to it")
    return np.eye(3)


def _scale(head: Head, said: list[str]) -> float:
    """Factor to metres from the head's diameter."""
    for unit, factor in UNITS.items():
        if PLAUSIBLE[0] <= head.diameter * factor <= PLAUSIBLE[1]:
            done = "kept" if factor == 1.0 else f"scaled by {factor:g}"
            said.append(f"scale: in {unit} the head is {head.diameter * factor:.3f} m across, {done}")
            return factor
    factor = DIAMETER / head.diameter
    said.append(f"scale: the head is {head.diameter:.4g} units across; scaled by {factor:.4g} to {DIAMETER} m")
    return factor


def _origin(head: Head, said: list[str]) -> Floats:
    """What becomes the origin, in the capture's units."""
    # In head diameters, because the units are not yet metres.
    offset = float(np.linalg.norm(head.center)) / head.diameter * DIAMETER
    place = ", ".join(f"{value:.3f}" for value in head.center)
    if offset <= _KEEP_OFFSET:
        said.append(f"origin: the masks put the head at ({place}), {offset * 100:.1f} cm from the origin, kept")
        return np.zeros(3)
    said.append(f"origin: moved to the head, which the masks put at ({place})")
    return head.center


def _by_rig(capture: Capture, said: list[str]) -> tuple[Floats, float]:
    """Centre and scale without masks, when the rig is all there is: look-at point and distances."""
    middle = _looked_at(capture)
    local = capture.world_to_camera[:, :3, :3] @ middle + capture.world_to_camera[:, :3, 3]
    if (local[:, 2] <= 0).any():
        camera = capture.cameras[int(np.argmin(local[:, 2]))]
        what = "the camera looks away from where the others look"
        raise UserError(what, where=f"capture {capture.name}, camera {camera}", hint=_HINT)
    distance = float(np.median(np.linalg.norm(capture.centers - middle, axis=1)))
    factor = 1.0 if 0.2 <= distance <= 5.0 else 1.0 / distance
    done = "taken as metres" if factor == 1.0 else "scaled to 1 m"
    said.append(f"scale: there are too few masks; the cameras' median distance of {distance:.4g} was {done}")
    offset = float(np.linalg.norm(middle)) * factor
    if offset <= _KEEP_OFFSET:
        middle = np.zeros(3)
    said.append(f"origin: the cameras look at a point {offset:.3f} m from it, {'moved' if middle.any() else 'kept'}")
    return middle, factor


def _looked_at(capture: Capture) -> Floats:
    """Where the optical axes meet."""
    return meeting_point(capture.centers, capture.world_to_camera[:, 2, :3])


def _moved(capture: Capture, rotation: Floats, center: Floats, scale: float) -> Capture:
    """The same pictures in the frame x' = scale * rotation (x - center)."""
    if scale == 1.0 and not center.any() and np.array_equal(rotation, np.eye(3)):
        return capture
    moved = capture.world_to_camera.copy()
    moved[:, :3, 3] = scale * (moved[:, :3, 3] + moved[:, :3, :3] @ center)
    moved[:, :3, :3] = moved[:, :3, :3] @ rotation.T
    return replace(capture, world_to_camera=moved)


def _between(start: Floats, end: Floats) -> Floats:
    """The smallest rotation that takes one unit vector to another."""
    axis, cosine = np.cross(start, end), float(start @ end)
    if cosine < -0.999999:
        return np.diag([1.0, -1.0, -1.0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def _about_y(angle: float) -> Floats:
    """Rotation about +y that takes azimuth a (from +z towards +x) to a + angle."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
