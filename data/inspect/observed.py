"""What cameras are judged by: a capture's views as small pixels and masks, the calibration as it was given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import Capture
from data.images import Fit, decode, load, resample
from data.ingest.hull import Flags, Silhouettes
from data.synth import neutral_head

Floats = NDArray[np.float64]

LONGEST = 64
"""Pixels of the longer side of the views that are compared: a head's outline is coarser than that of its hair."""
MOST_VIEWS = 16


@dataclass(frozen=True)
class Observed:
    """v views of one capture and their cameras, which may be wrong.

    Attributes:
        name: the capture's.
        cameras: v names.
        world_to_camera: `[v, 4, 4]` rigid, as given.
        K: `[v, 3, 3]` in pixels of the images as they are stored, as given.
        sizes: (height, width) of the stored images.
        images: small sRGB images, uint8 `[h, w, 3]` each.
        masks: the same size, True on the person; None where a view has none.
        keypoints: `[k, 3]` points on the person, in the cameras' world; None where the capture has none.
        keypoints_2d: `[v, k, 2]` pixels of the stored images where the keypoints were seen; NaN where they were not.
    """

    name: str
    cameras: tuple[str, ...]
    world_to_camera: Floats
    K: Floats
    sizes: tuple[tuple[int, int], ...]
    images: list[NDArray[np.uint8]]
    masks: list[Flags | None]
    keypoints: Floats | None = None
    keypoints_2d: Floats | None = None

    def with_cameras(self, world_to_camera: Floats, K: Floats) -> Observed:
        """The same views under other cameras."""
        return replace(self, world_to_camera=world_to_camera, K=K)

    @property
    def small_K(self) -> Floats:
        """`[v, 3, 3]` in pixels of the small images."""
        pairs = zip(self.sizes, self.images, strict=True)
        return np.stack([_shrink(size, image.shape[:2]) for size, image in pairs]) @ self.K

    def silhouettes(self) -> Silhouettes | None:
        """The views that have a mask with a person in it; None for fewer than three."""
        chosen = [view for view, mask in enumerate(self.masks) if mask is not None and mask.any()]
        if len(chosen) < 3:
            return None
        masks = [mask for mask in self.masks if mask is not None and mask.any()]
        return Silhouettes(self.world_to_camera[chosen], self.small_K[chosen], masks)

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels of the small images `[v, n, 2]` and depths `[v, n]` of points `[n, 3]`; NaN behind a camera."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        local = points @ np.swapaxes(rotation, 1, 2) + translation[:, None]
        image = local @ np.swapaxes(self.small_K, 1, 2)
        depth = np.where(local[..., 2] > 1e-9, local[..., 2], np.nan)
        return image[..., :2] / depth[..., None], depth


def observe(capture: Capture, canonical: bool = True) -> Observed:
    """Shrink a capture's views; at most 16 of them, spread over the rig's list.

    Args:
        capture: with cameras of any convention. Of its meta, `keypoints_3d` (`[k, 3]`, or points by name) or
            `keypoints` (`points` `[k, 3]`, as importers write it) are points in the cameras' world, `keypoints_2d`
            holds by camera `[k, 2]` pixels of them.
        canonical: whether the cameras are said to be in the canonical head frame; the template's landmarks then stand
            in for keypoints where there are fewer than three views.

    Raises:
        UserError: a broken image or mask, cameras that are not numbers, or keypoints of another shape; by name.
    """
    count = len(capture.cameras)
    chosen = sorted({round(number) for number in np.linspace(0, count - 1, min(count, MOST_VIEWS))})
    pairs = [_small(capture, view) for view in chosen]
    keypoints = keypoints_of(capture)
    if keypoints is None and canonical and len(chosen) < 3:
        head = neutral_head()
        keypoints = head.vertices[list(head.landmarks.values())].astype(np.float64)
    return Observed(
        capture.name,
        tuple(capture.cameras[view] for view in chosen),
        np.asarray(capture.world_to_camera, np.float64)[chosen],
        np.asarray(capture.K, np.float64)[chosen],
        tuple(capture.sizes[view] for view in chosen),
        [image for image, _ in pairs],
        [mask for _, mask in pairs],
        keypoints,
        None if keypoints is None else _seen_keypoints(capture, chosen, len(keypoints)),
    )


def _shrink(size: tuple[int, int], small: tuple[int, ...]) -> Floats:
    return np.diag([small[1] / size[1], small[0] / size[0], 1.0])


def _small(capture: Capture, view: int) -> tuple[NDArray[np.uint8], Flags | None]:
    where = f"capture {capture.name}, camera {capture.cameras[view]}"
    _check_numbers(capture.world_to_camera[view], capture.K[view], where)
    height, width = capture.sizes[view]
    shrink = LONGEST / max(height, width)
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    whole = Fit(0.0, 0.0, float(width), float(height))
    try:
        image = load(capture.images[view], (height, width))
        mask = capture.masks[view]
        coverage = None if mask is None else resample(decode(mask, 1), whole, size) >= 128
    except ValueError as error:
        raise UserError(f"broken image or mask: {error}", where=where) from None
    return resample(image, whole, size), coverage


def _check_numbers(world_to_camera: Floats, K: Floats, where: str) -> None:
    """What no convention allows; whatever some convention allows is judged by evidence."""
    if not (np.isfinite(world_to_camera).all() and np.isfinite(K).all()):
        raise UserError("NaN or infinity in the camera", where=where)
    rotation = world_to_camera[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.abs(world_to_camera[3] - [0, 0, 0, 1]).max() > 1e-6:
        hint = "R R^T must be 1 and the last row 0 0 0 1: the whole 4 x 4 transposed, or a scale in it?"
        raise UserError("the camera's transform is not rigid", where=where, hint=hint)
    if np.linalg.det(rotation) < 0:
        hint = "one axis too many is flipped: left-handed axes, or a sign lost on the way"
        raise UserError("the camera's rotation mirrors", where=where, hint=hint)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise UserError(f"focal length {K[0, 0]:g}, {K[1, 1]:g} is not positive", where=where)


def keypoints_of(capture: Capture) -> Floats | None:
    """Keypoints `[k, 3]` of a capture, as importers keep them; None where it has none.

    Raises:
        UserError: they are something else, naming the capture.
    """
    given = capture.meta.get("keypoints_3d")
    if given is None and isinstance(found := capture.meta.get("keypoints"), dict):
        given = found.get("points")
    if given is None:
        return None
    points: NDArray[Any]
    try:
        points = np.array(list(given.values()) if isinstance(given, dict) else given, np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        what = "the keypoints in meta are not a list of [x, y, z]"
        raise UserError(what, where=f"capture {capture.name}")
    return points


def _seen_keypoints(capture: Capture, chosen: list[int], count: int) -> Floats | None:
    given = capture.meta.get("keypoints_2d")
    if given is None:
        return None
    seen = np.full((len(chosen), count, 2), np.nan)
    for place, view in enumerate(chosen):
        camera = capture.cameras[view]
        if not isinstance(given, dict) or camera not in given:
            continue
        try:
            seen[place] = np.array(given[camera], np.float64)
        except (TypeError, ValueError):
            what = f"meta['keypoints_2d'] does not hold [x, y] for each of {count} keypoints"
            raise UserError(what, where=f"capture {capture.name}, camera {camera}") from None
    return seen
