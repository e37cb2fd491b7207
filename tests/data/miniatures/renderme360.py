"""RenderMe-360's pairs of SMC files: HDF5 with JPEG bytes, K, D, RT, keypoints, and FLAME in expression parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from miniatures.scene import AXES, BALLS, CENTER, Camera, draw, rig, silhouette

SIZE = (100, 120)  # height, width: the real ones are 2048 x 2448
LENS = (-4.0, 0.3, 0.01, -0.02)
WORLD = np.eye(4)
"""From the canonical frame to the data set's world: y down, head off the origin, metres."""
WORLD[:3, :3] = Rotation.from_euler("xyz", [172, 12, 4], degrees=True).as_matrix()
WORLD[:3, 3] = [0.2, -0.1, 0.9]
NECK = np.array([0.0, 0.15, 0.02])


def cameras(count: int, lens: tuple[float, float, float, float]) -> list[Camera]:
    """In the canonical frame."""
    return rig(count, SIZE, arc=300.0, focal=330.0, lens=lens)


def write(
    root: Path,
    subject: str = "0026",
    part: str = "e0",
    *,
    frames: int = 2,
    count: int = 8,
    inverse: bool = False,
    lens: tuple[float, float, float, float] = LENS,
    missing: tuple[str, ...] = (),
    full: float = 1.0,
) -> Path:
    """One part of one person.

    Args:
        inverse: RT is camera-to-world.
        missing: images that are not there, `05/1` for camera 05 in frame 1.
        full: the files state a resolution and K that are so many times the images'.
    """
    root.mkdir(exist_ok=True)
    found = {f"{number:02d}": camera for number, camera in enumerate(cameras(count, lens))}
    with h5py.File(root / f"{subject}_{part}_raw.smc", "w") as file:
        _facts(file, subject, part)
        group = file.create_group("Camera")
        group.attrs.update({"num_device": count, "num_frame": frames, "resolution": [120 * full, 100 * full]})
        for name, camera in found.items():
            for frame in range(frames):
                if f"{name}/{frame}" not in missing:
                    # As OpenCV writes it: BGR goes in, a plain JPEG comes out.
                    image = cv2.imencode(".jpg", draw(camera)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97])[1]
                    group.create_dataset(f"{name}/color/{frame}", data=image.ravel())
    with h5py.File(root / f"{subject}_{part}_anno.smc", "w") as file:
        _facts(file, subject, part)
        for name, camera in found.items():
            _annotate(file, name, camera, frames, inverse, full)
        places = np.array([place for _, place in BALLS.values()])
        file.create_group("Keypoints3d").attrs["num_frame"] = frames
        file.create_group("Keypoints3d/0")  # not every frame has them
        file["Keypoints3d"].create_dataset("1", data=places @ WORLD[:3, :3].T + WORLD[:3, 3])
        if part.startswith("e"):
            for frame in range(frames):
                for key, value in flame().items():
                    file.create_dataset(f"FLAME/{frame}/{key}", data=value)
    return root


def _facts(file: Any, subject: str, part: str) -> None:
    person = {"age": 31, "gender": "female", "height": 170.0, "weight": float("nan"), "color": "yellow"}
    file.attrs.update({"actor_id": subject, "performance_part": part, "capture_date": "2022-06-01", **person})


def _annotate(file: Any, name: str, camera: Camera, frames: int, inverse: bool, full: float) -> None:
    RT = camera.world_to_camera @ np.linalg.inv(WORLD)
    calibration = file.create_group(f"Calibration/{name}")
    calibration["K"] = np.diag([full, full, 1.0]) @ camera.K
    calibration["D"] = np.array([*camera.lens, 0.0])
    calibration["RT"] = np.linalg.inv(RT) if inverse else RT
    mask = silhouette(camera)
    for frame in range(frames):
        data = cv2.imencode(".png", np.dstack([mask, np.zeros_like(mask), mask]))[1].ravel()
        file.create_dataset(f"Camera/{name}/mask/{frame}", data=data)
    if int(name) < 5:
        places = np.array([place for _, place in BALLS.values()])
        file.create_dataset(f"Keypoints2d/{name}/1", data=full * camera.project(places)[0])


def flame() -> dict[str, np.ndarray]:
    """A head whose ears stick out and whose neck is wider than they are apart."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(5001, 3))
    head = CENTER + AXES * directions / np.linalg.norm(directions, axis=1)[:, None]
    ears = np.array([[0.086, 0.0, 0.0], [-0.086, 0.0, 0.0]])
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    neck = np.stack([0.11 * np.cos(angles), np.full(20, -0.2), 0.08 * np.sin(angles)], axis=1)
    turn = Rotation.from_matrix(WORLD[:3, :3]) * Rotation.from_rotvec(NECK).inv()
    return {
        "global_pose": turn.as_rotvec(),
        "neck_pose": NECK,
        "jaw_pose": np.array([0.1, 0.0, 0.0]),
        "left_eye_pose": np.zeros(3),
        "right_eye_pose": np.zeros(3),
        "trans": WORLD[:3, 3],
        "shape": rng.normal(size=100),
        "exp": rng.normal(size=50),
        "verts": np.concatenate([head, ears, neck]) @ WORLD[:3, :3].T + WORLD[:3, 3],
        "albedos": np.zeros((3, 4, 4)),
    }
