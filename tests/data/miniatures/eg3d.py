"""FFHQ as EG3D prepares it: dataset.json with 25 numbers per image, mirrored copies, a folder or a zip."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniatures.scene import Camera, draw, look_at, silhouette

SIZE = (128, 128)
FOCAL = 2985.29 / 700  # in shares of the image


def camera(number: int) -> Camera:
    """At a metre from where EG3D's world has its origin, in the canonical frame."""
    yaw, pitch = 0.25 * number - 0.4, 0.1 * number - 0.15
    away = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    origin = np.array([0.0, -0.028, 0.003])
    K = np.diag([SIZE[1], SIZE[0], 1.0]) @ np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]])
    return Camera(K, look_at(origin + away, origin), SIZE)


def label(seen: Camera) -> list[float]:
    """What EG3D's preparation writes: positions times 2.7 per metre."""
    pose = np.linalg.inv(seen.world_to_camera)
    pose[:3, 3] = (pose[:3, 3] - [0.0, -0.028, 0.003]) * 2.7
    return [*pose.ravel().tolist(), FOCAL, 0, 0.5, 0, FOCAL, 0.5, 0, 0, 1]


def mirrored(numbers: list[float]) -> list[float]:
    """EG3D's flip of the yaw."""
    pose = np.array(numbers[:16]).reshape(4, 4)
    for place in ((0, 1), (0, 2), (1, 0), (2, 0), (0, 3)):
        pose[place] *= -1
    return [*pose.ravel().tolist(), *numbers[16:]]


def files(count: int = 4, alpha: bool = False) -> dict[str, bytes]:
    """Every file by name, `count` people with a mirrored copy of each."""
    found, labels = {}, []
    for number in range(count):
        seen = camera(number)
        pixels = draw(seen)
        if alpha:
            pixels = np.dstack([pixels, silhouette(seen)])
        for name, image, numbers in (
            (f"00000/img{number:08d}.png", pixels, label(seen)),
            (f"00000/img{number:08d}_mirror.png", pixels[:, ::-1], mirrored(label(seen))),
        ):
            found[name] = png(np.ascontiguousarray(image))
            labels.append([name, numbers])
    found["dataset.json"] = json.dumps({"labels": labels}).encode()
    return found


def write(root: Path, made: dict[str, bytes] | None = None, **options: Any) -> Path:
    """As a folder."""
    for name, data in (made or files(**options)).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, made: dict[str, bytes] | None = None, inside: str = "", **options: Any) -> Path:
    """As EG3D's zip: stored, not compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (made or files(**options)).items():
            archive.writestr(inside + name, data)
    return path


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
