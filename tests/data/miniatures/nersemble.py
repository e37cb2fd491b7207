"""NeRSemble v2 on disk: videos by serial, K for 3208 x 2200, colours to be corrected, alpha maps, FLAME tracking."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from data.images import encode_jpeg
from miniatures.scene import BACKGROUND, Camera, draw, rig, silhouette

SIZE = (320, 220)
SERIALS = ("222200036", "222200037", "222200038", "220700191", "221501007")
SEQUENCE = "EXP-3-cheeks+nose"
WORLD = np.eye(4)
"""From the canonical frame to the participant's world, metres."""
WORLD[:3, :3] = Rotation.from_euler("yx", [200, 5], degrees=True).as_matrix()
WORLD[:3, 3] = [0.1, -0.2, 0.3]
MIX = np.array([[0.7, 0.18, 0.12], [0.1, 0.7, 0.2], [0.18, 0.12, 0.7]])


def cameras() -> dict[str, Camera]:
    """In the canonical frame."""
    return dict(zip(SERIALS, rig(len(SERIALS), SIZE, arc=90.0, focal=760.0), strict=True))


def head_pose(frame: int) -> np.ndarray:
    """The head moves within the canonical frame of the first moment."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", 3.0 * frame, degrees=True).as_matrix()
    pose[:3, 3] = [0.004 * frame, 0, 0]
    return pose


def recorded(pixels: np.ndarray, number: int) -> np.ndarray:
    """What camera `number` makes of true colours: that which its matrix leads back."""
    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    true, matrix = _decode(colours / 255), colour_matrix(number)
    found = true
    for _ in range(50):
        found = (true - _expand(found)[:, 3:] @ matrix[:, 3:].T) @ np.linalg.inv(matrix[:, :3]).T
    return _encode(found)[places.ravel()].reshape(pixels.shape)


def colour_matrix(number: int) -> np.ndarray:
    """`[3, 10]`, another one for every camera; undoes a mixture of the channels, and a little that is not linear."""
    matrix = np.zeros((3, 10))
    matrix[:, :3] = np.linalg.inv(np.roll(MIX, number, axis=(0, 1)) * (1 - 0.03 * number))
    matrix[:, 3:9] = 0.04
    matrix[:, 6 + number % 3] -= 0.1
    return matrix


def write(
    root: Path,
    subject: str = "017",
    *,
    frames: int = 4,
    per_camera: bool = False,
    colour: bool = True,
    alpha: bool = False,
    tracking: bool = False,
    still: bool = False,
) -> Path:
    """One sequence of one participant, and the empty studio.

    Args:
        per_camera: a K for each camera and for the images as they are, as in the benchmark.
        still: the head does not move.
    """
    folder = root / subject
    (folder / "calibration").mkdir(parents=True)
    rig_ = cameras()
    native = np.diag([2200 / SIZE[1], 3208 / SIZE[0], 1.0])
    each = {serial: camera.K.tolist() for serial, camera in rig_.items()}
    params = {
        "world_2_cam": {s: (camera.world_to_camera @ np.linalg.inv(WORLD)).tolist() for s, camera in rig_.items()},
        "intrinsics": each if per_camera else (native @ rig_[SERIALS[0]].K).tolist(),
    }
    (folder / "calibration/camera_params.json").write_text(json.dumps(params))
    if colour:
        matrices = {serial: colour_matrix(number).tolist() for number, serial in enumerate(rig_)}
        (folder / "calibration/color_calibration.json").write_text(json.dumps(matrices))
    sequence, empty = folder / "sequences" / SEQUENCE, folder / "sequences/BACKGROUND"
    empty.mkdir(parents=True)
    poses = [head_pose(0 if still else frame) for frame in range(frames)]
    for number, (serial, camera) in enumerate(rig_.items()):
        images = [draw(camera, pose) for pose in poses]
        images = [recorded(image, number) for image in images] if colour else images
        # Colours that are stretched afterwards want a gentle codec, motion one that predicts from frame to frame.
        video(sequence / f"images/cam_{serial}.mp4", images, "MJPG" if colour else "mp4v")
        nothing = np.full((*SIZE, 3), BACKGROUND, np.uint8)
        nothing = recorded(nothing, number) if colour else nothing
        (empty / f"image_{serial}.jpg").write_bytes(encode_jpeg(nothing))
        if alpha:
            masks = [np.repeat(silhouette(camera, pose)[..., None], 3, axis=2) for pose in poses]
            video(sequence / f"alpha_maps/cam_{serial}.mp4", masks)
    if tracking:
        track(sequence / "tracking/flame2023_tracking_v2.npz", poses)
    return root


def video(path: Path, images: list[np.ndarray], codec: str = "mp4v") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 24.0, (SIZE[1], SIZE[0]))
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()


def track(path: Path, poses: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True)
    count, rng = len(poses), np.random.default_rng(0)
    world = [WORLD @ pose for pose in poses]
    np.savez(
        path,
        shape=rng.normal(size=(1, 300)),
        expression=rng.normal(size=(count, 100)),
        rotation=Rotation.from_matrix([pose[:3, :3] for pose in world]).as_euler("XYZ"),
        rotation_matrices=np.array([pose[:3, :3] for pose in world]),
        translation=np.array([pose[:3, 3] for pose in world]),
        jaw=np.zeros((count, 3)),
        frames=np.arange(count),
        scale=np.array([[1.07]]),
        neck=np.zeros((count, 3)),
        eyes=np.zeros((count, 6)),
    )


def _expand(linear: np.ndarray) -> np.ndarray:
    """Cheung's ten terms `[n, 10]`."""
    r, g, b = linear.T
    return np.stack([r, g, b, r * g, r * b, g * b, r * r, g * g, b * b, np.ones_like(r)], axis=1)


def _decode(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(linear: np.ndarray) -> np.ndarray:
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * np.clip(value, 0, 1)).astype(np.uint8)
