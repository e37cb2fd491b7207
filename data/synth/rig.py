"""Rigs of cameras in a studio's arrangement: rows around the head, long lenses about a metre away."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError

Floats = NDArray[np.float64]
RigSize = Literal[16, 80]

DISTANCE = 1.05
"""Metres from the head."""
FIELD = 0.375
"""Metres of the subject that fill the image height."""
TARGET = np.array([0.0, -0.018, 0.0])
"""What the cameras look at: the head with neck and the tops of the shoulders in frame."""

# Elevation and azimuths of every row in degrees; azimuth 0 is the front, positive the subject's left.
ROWS_16 = (
    (-12.0, (-78.0, -38.0, 0.0, 38.0, 78.0)),
    (8.0, (-108.0, -57.0, -18.0, 18.0, 57.0, 108.0)),
    (28.0, (-150.0, -70.0, 0.0, 70.0, 150.0)),
)
ROWS_80 = tuple(
    (elevation, tuple(shift + np.concatenate([np.linspace(-100.0, 100.0, 12), [125.0, 155.0, 180.0, -140.0]])))
    for elevation, shift in ((-22.0, 0.0), (-8.0, 6.0), (6.0, 0.0), (20.0, 6.0), (36.0, 0.0))
)


def rig_cameras(
    size: RigSize, image_size: tuple[int, int], rng: np.random.Generator | None = None
) -> tuple[Floats, Floats]:
    """Extrinsics and intrinsics of a rig.

    Args:
        size: number of cameras.
        image_size: height and width in pixels; the height frames the head, the width crops or widens.
        rng: draws the jitter of positions, directions, roll and focal length; none leaves the rig as designed.

    Returns:
        world_to_camera `[size, 4, 4]` and K `[size, 3, 3]`, exact for the jittered cameras.

    Raises:
        UserError: no such rig, or an image size that cannot be.
    """
    check_rig(size)
    check_image_size(image_size)
    rows = {16: ROWS_16, 80: ROWS_80}[size]
    angles = [(elevation, azimuth) for elevation, azimuths in rows for azimuth in azimuths]
    jitter = np.zeros((size, 8)) if rng is None else np.clip(rng.normal(size=(size, 8)), -2.0, 2.0)
    height, width = image_size
    extrinsics, intrinsics = [], []
    for (elevation, azimuth), noise in zip(angles, jitter, strict=True):
        e, a = np.deg2rad(elevation), np.deg2rad(azimuth)
        center = TARGET + DISTANCE * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        center += 0.018 * noise[:3]
        extrinsics.append(look_at(center, TARGET + 0.006 * noise[3:6], roll=np.deg2rad(1.2) * noise[6]))
        focal = height * DISTANCE / FIELD * (1.0 + 0.015 * noise[7])
        intrinsics.append([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return np.stack(extrinsics), np.array(intrinsics)


def check_rig(size: int) -> None:
    """Refuse a rig that does not exist."""
    if size not in get_args(RigSize):
        raise UserError(f"there is no rig of {size} cameras", where="rig", hint="16 or 80")


def check_least(where: str, value: int, least: int) -> None:
    """Refuse a number that is too small."""
    if value < least:
        raise UserError(f"{value} is too few", where=where, hint=f"{least} or more")


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse images that are too small to show a head or too large to be meant."""
    if min(image_size) < 8 or max(image_size) > 4096:
        hint = "height and width from 8 to 4096 pixels"
        raise UserError(f"images of {image_size[0]} x {image_size[1]} pixels", where="image_size", hint=hint)


def look_at(center: Floats, target: Floats, roll: float = 0.0) -> Floats:
    """World-to-camera `[4, 4]` of an OpenCV camera at `center` that looks at `target`, the world's y up."""
    forward = target - center
    forward = forward / np.sqrt((forward**2).sum())
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.sqrt((right**2).sum())
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -(rotation * center).sum(1)
    return matrix
