"""Objects as OpenLRM's Blender script renders them: z up, the face along -y, camera-to-world of 3 x 4, alpha."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from miniatures.eg3d import png
from miniatures.scene import draw, rig, silhouette

SIZE = (120, 100)
BLENDER = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""From the canonical axes to Blender's: y up becomes z up, the face looks along -y."""


def write(
    root: Path, names: tuple[str, ...] = ("anna",), count: int = 12, unit: float = 10.0, resized: int = 1
) -> Path:
    """One folder per object; `unit` is how long a metre is, `resized` how much larger the images were rendered."""
    for name in names:
        folder = root / name
        (folder / "rgba").mkdir(parents=True)
        (folder / "pose").mkdir()
        cameras = rig(count, SIZE, arc=330.0)
        for view, camera in enumerate(cameras):
            pixels = np.dstack([draw(camera), silhouette(camera)])
            ball = (np.abs(pixels[..., :3].astype(int) - [118, 118, 118]).max(-1) > 0) & (pixels[..., 3] == 0)
            pixels[ball, 3] = 255
            (folder / f"rgba/{view:03d}.png").write_bytes(png(pixels))
            to_world = np.linalg.inv(camera.world_to_camera)
            opengl = to_world[:3, :3] @ np.diag([1.0, -1, -1])
            pose = np.hstack([BLENDER @ opengl, unit * (BLENDER @ to_world[:3, 3:])])
            np.save(folder / f"pose/{view:03d}.npy", pose)
        K = cameras[0].K * resized
        lens = [[K[0, 0], K[1, 1]], [K[0, 2], K[1, 2]], [SIZE[1] * resized, SIZE[0] * resized]]
        np.save(folder / "intrinsics.npy", np.array(lens))
    return root
