"""Folders with transforms.json, as nerfstudio writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data.images import encode_jpeg
from miniatures.scene import draw, rig


def write(root: Path, names: tuple[str, ...], cameras: int = 3) -> Path:
    """One capture per name; each is a little brighter than the one before."""
    for number, name in enumerate(names):
        folder = root / name
        (folder / "images").mkdir(parents=True)
        frames = []
        for view, camera in enumerate(rig(cameras, (48, 40), focal=130.0)):
            image = np.clip(draw(camera).astype(int) + number, 0, 255).astype(np.uint8)
            (folder / f"images/c{view}.jpg").write_bytes(encode_jpeg(image))
            pose = np.linalg.inv(camera.world_to_camera) @ np.diag([1.0, -1, -1, 1])
            K = camera.K
            lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": 40, "h": 48}
            frames.append({"file_path": f"images/c{view}.jpg", "transform_matrix": pose.tolist(), **lens})
        (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return root
