"""World-to-camera or camera-to-world? The keypoints know."""

from __future__ import annotations

import numpy as np

from configs.errors import UserError
from data.ingest.parse import Floats, inverse

WORST = 0.02  # of the focal length: the median error of right cameras is a tenth of that, of inverted ones tenfold


def find_direction(
    cameras: list[str], K: Floats, transforms: Floats, points: Floats, seen: dict[str, Floats], where: str
) -> tuple[Floats, list[str]]:
    """Which of a matrix and its inverse is world-to-camera, by reprojection.

    Args:
        cameras: v names.
        K: `[v, 3, 3]`, in pixels of the images that `seen` speaks of.
        transforms: `[v, 4, 4]` rigid.
        points: `[k, 3]` keypoints in the world.
        seen: their pixels `[k, 2]` in some of the cameras; without any, the head must lie before all of them and near
            the middle of their views.
        where: names the capture in messages.

    Returns:
        world-to-camera `[v, 4, 4]`, and the finding as a sentence.

    Raises:
        UserError: neither fits, naming the worst camera.
    """
    found = {
        "world-to-camera": transforms,
        "camera-to-world, and was inverted": np.stack([inverse(one) for one in transforms]),
    }
    errors = {name: _errors(cameras, K, matrices, points, seen) for name, matrices in found.items()}
    best = min(errors, key=lambda name: float(np.median(list(errors[name].values()))))
    typical = float(np.median(list(errors[best].values())))
    worst = max(errors[best], key=errors[best].__getitem__)
    limit = WORST if seen else 1.0
    if typical > limit:
        what = f"the keypoints do not reproject, whichever way RT is read: off by {typical:.2f} of the focal length"
        raise UserError(
            what, where=f"{where}, worst in camera {worst}", hint="are K, RT and keypoints of one recording?"
        )
    kind = "the keypoints' pixels" if seen else "the head's place before the cameras"
    said = f"cameras: by {kind}, RT is {best}; median error {typical:.4f} of the focal length, worst camera {worst}"
    return found[best], [said]


def _errors(
    cameras: list[str], K: Floats, matrices: Floats, points: Floats, seen: dict[str, Floats]
) -> dict[str, float]:
    """By camera: median distance between keypoints and their pixels, or of their middle from the axis, over the focal
    length; 10 behind the camera."""
    errors = {}
    for view, camera in enumerate(cameras):
        if seen and camera not in seen:
            continue
        local = points @ matrices[view, :3, :3].T + matrices[view, :3, 3]
        if (local[:, 2] <= 0).mean() > 0.5:
            errors[camera] = 10.0
            continue
        image = local @ K[view].T
        pixels = image[:, :2] / np.where(image[:, 2:] > 0, image[:, 2:], np.nan)
        wanted = seen[camera] if seen else np.broadcast_to(K[view, :2, 2], pixels.shape)
        errors[camera] = min(10.0, float(np.nanmedian(np.linalg.norm(pixels - wanted, axis=1))) / K[view, 0, 0])
    return errors
