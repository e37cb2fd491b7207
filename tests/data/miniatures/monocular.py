"""A head that moves before a fixed camera, and FLAME parameters that say how, in both forms that trackers write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from miniatures.eg3d import png
from miniatures.scene import Camera, draw, silhouette

SIZE = (160, 128)
ROOT, NECK = np.array([0.002, -0.14, -0.015]), np.array([0.0, -0.08, -0.02])
"""The joints of the miniature's FLAME; its axes and origin are the canonical ones."""


def at(point: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """A turn about a point."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, point - rotation @ point
    return pose


def shift(vector: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = vector
    return pose


def motion(count: int) -> dict[str, np.ndarray]:
    """Turns of up to 25 degrees and a step to the side, and all the rest that a tracker writes."""
    phase = np.linspace(-1, 1, count)[:, None]
    rng = np.random.default_rng(0)
    return {
        "shape": rng.normal(size=(1, 300)),
        "expr": rng.normal(size=(count, 100)),
        "rotation": np.hstack([0.15 * phase, 0.42 * phase, 0.1 * phase**2]),
        "neck_pose": np.hstack([-0.1 * phase, 0.2 * phase**2, 0.05 * phase]),
        "jaw_pose": np.abs(phase) * [[0.2, 0, 0]],
        "eyes_pose": np.zeros((count, 6)),
        "translation": np.hstack([0.03 * phase, 0.01 + 0 * phase, -0.02 * phase]),
    }


def vhap(count: int = 5) -> tuple[dict[str, np.ndarray], list[np.ndarray], Camera]:
    """VHAP's form: parameters, the head's poses, and the camera a metre away on +z; turns are about the joints."""
    tracked = motion(count)
    tracked.update(focal_length=np.array([2.4]), root_joint=ROOT, neck_joint=NECK)
    poses = []
    for row in range(count):
        turn, neck = (Rotation.from_rotvec(tracked[key][row]).as_matrix() for key in ("rotation", "neck_pose"))
        poses.append(shift(tracked["translation"][row]) @ at(ROOT, turn) @ at(NECK, neck))
    focal = 2.4 * max(SIZE)
    K = np.array([[focal, 0, SIZE[1] / 2], [0, focal, SIZE[0] / 2], [0, 0, 1]])
    camera = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]])
    return tracked, poses, Camera(K, camera, SIZE)


def benchmark(count: int = 5, scale: float = 1.0) -> tuple[dict[str, np.ndarray], list[np.ndarray], Camera]:
    """NeRSemble's form: Euler angles, a scale, turns about the origin, and a calibrated camera."""
    tracked, _, camera = vhap(count)
    for ours, theirs in (("expression", "expr"), ("neck", "neck_pose"), ("jaw", "jaw_pose"), ("eyes", "eyes_pose")):
        tracked[ours] = tracked.pop(theirs)
    del tracked["focal_length"], tracked["root_joint"]
    look = Rotation.from_euler("xyz", [5, 10, -4], degrees=True).as_matrix()
    seen = camera.world_to_camera @ at(np.zeros(3), look)
    turns = Rotation.from_euler("XYZ", tracked["rotation"]).as_matrix()
    tracked.update(scale=np.array([[scale]]), K=camera.K, world_to_camera=seen, frames=np.arange(count))
    tracked["rotation_matrices"] = turns
    poses = []
    for row in range(count):
        neck = at(NECK, Rotation.from_rotvec(tracked["neck"][row]).as_matrix())
        neck[:3, 3] *= scale
        head = np.eye(4)
        head[:3, :3], head[:3, 3] = turns[row], tracked["translation"][row]
        poses.append(head @ neck)
    return tracked, poses, Camera(camera.K, seen, SIZE)


def write_folder(
    root: Path, tracked: dict[str, Any], poses: list[np.ndarray], camera: Camera, masks: bool = True
) -> Path:
    """Frames and masks as PNG, the npz beside their folders."""
    (root / "images").mkdir(parents=True)
    (root / "fg_masks").mkdir()
    for number, pose in enumerate(poses):
        (root / f"images/{number:05d}.png").write_bytes(png(draw(camera, pose)))
        if masks:
            (root / f"fg_masks/{number:05d}.png").write_bytes(png(silhouette(camera, pose)))
    np.savez(root / "tracked_flame_params_30.npz", **tracked)
    return root


def write_video(path: Path, tracked: dict[str, Any], poses: list[np.ndarray], camera: Camera) -> Path:
    """`CLIP.mp4` beside `CLIP.npz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (camera.size[1], camera.size[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 100)
    for pose in poses:
        writer.write(cv2.cvtColor(draw(camera, pose), cv2.COLOR_RGB2BGR))
    writer.release()
    np.savez(path.with_suffix(".npz"), **tracked)
    return path
