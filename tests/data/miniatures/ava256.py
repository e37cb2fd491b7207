"""Ava-256 as it is downloaded: KRT transposed, in millimetres, for images of 4096 x 2668; zips of AVIF; head poses."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from miniatures.scene import BALLS, Camera, draw, look_at, rig

SIZE = (128, 83)  # 4096 x 2668 resized
LENS = (-6.0, 0.5, 0.02, -0.03)  # as much as a wide lens, for the few degrees that the miniature sees
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
FRAMES = {"EXP_neutral_peak": (12, 13), "EXP_free_face": (700,)}


def head_pose(frame: int) -> np.ndarray:
    """Canonical head frame to the dome's (y down, z into the face, origin a metre before it), metres."""
    angle = 0.02 * (frame % 10)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, 0, s, 0.01], [0, 1, 0, 0.02], [-s, 0, c, 0.0], [0, 0, 0, 1]])
    dome = FLIP.copy()
    dome[2, 3] = 1.1
    return dome @ turn


def cameras(count: int = 6, lens: tuple[float, float, float, float] = LENS) -> list[Camera]:
    """World-to-camera of the dome's frame, metres."""
    to_head = np.linalg.inv(head_pose(0))
    found = []
    for camera in rig(count, SIZE, arc=120.0, focal=370.0, lens=lens):
        center = np.linalg.inv(camera.world_to_camera)[:3, 3]
        found.append(Camera(camera.K, look_at(center * 1.1) @ to_head, SIZE, lens))
    return found


def write(root: Path, subject: str = "ABC123", count: int = 6, lens=LENS, missing: tuple[str, ...] = ()) -> Path:
    """One person; `missing` are members such as `cam400002/000013.avif`."""
    folder = root / f"m--20210817--0000--{subject}--GHS/decoder"
    folder.mkdir(parents=True)
    rig_ = dict(zip([str(400001 + number) for number in range(count)], cameras(count, lens), strict=True))
    entries = []
    for name, camera in rig_.items():
        K = np.diag([2668 / SIZE[1], 4096 / SIZE[0], 1.0]) @ camera.K
        T = np.eye(4)
        T[:3] = camera.world_to_camera[:3]
        T[:3, 3] *= 1000
        distortion = list(camera.lens)
        entries.append({"cameraId": name, "K": K.T.tolist(), "distortion": distortion, "T": T.T.tolist()})
    (folder / "camera_calibration.json").write_text(json.dumps({"KRT": entries}))
    rows = [f"{segment},{frame}" for segment, frames in FRAMES.items() for frame in frames]
    (folder / "frame_list.csv").write_text("\n".join(["seg_id,frame_id", *rows]) + "\n")
    frames = [frame for chosen in FRAMES.values() for frame in chosen]
    _zip(folder / "head_pose/head_pose.zip", {f"{frame:06d}.txt": _pose_text(frame) for frame in frames})
    _zip(folder / "keypoints_3d/keypoints_3d.zip", {f"{frame:06d}.npy": _keypoints(frame) for frame in frames})
    for name, camera in rig_.items():
        members = {f"cam{name}/{frame:06d}.avif": avif(draw(camera, head_pose(frame))) for frame in frames}
        _zip(folder / f"image/cam{name}.zip", {key: data for key, data in members.items() if key not in missing})
    return root


def avif(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", quality=90, subsampling="4:4:4", speed=10)
    return buffer.getvalue()


def _pose_text(frame: int) -> bytes:
    # The data set's head frame, too, has y down and z into the head.
    pose = (head_pose(frame) @ FLIP)[:3]
    pose[:, 3] *= 1000
    buffer = io.BytesIO()
    np.savetxt(buffer, pose)
    return buffer.getvalue()


def _keypoints(frame: int) -> bytes:
    places = np.array([place for _, place in BALLS.values()])
    pose = head_pose(frame)
    world = 1000 * (places @ pose[:3, :3].T + pose[:3, 3])
    ids = np.arange(len(places))[:, None]
    buffer = io.BytesIO()
    np.save(buffer, np.hstack([ids, world, np.ones((len(places), 2))]))
    return buffer.getvalue()


def _zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
