"""Makes the pictures of "Looking at a dataset" in docs/data.md: `python docs/make_inspect_pictures.py`, 20 seconds."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.cli import main
from data.capture import Capture
from data.manifest import commit
from data.shards import write_shard
from data.synth import synthesise, synthesise_subject

IMAGES = Path(__file__).parent / "images"


def make() -> None:
    """Write every picture by the commands that the page shows."""
    with tempfile.TemporaryDirectory() as folder:
        right, wrong = f"{folder}/right", f"{folder}/wrong"
        synthesise(right, 24, frames=3, image_size=(160, 128), workers=2)
        write_shard(wrong, 0, [blender(synthesise_subject(0, 3, image_size=(200, 160))[0])])
        commit(wrong, licence="CC0-1.0")
        run("stats", right, "--picture", str(IMAGES / "rig.png"))
        run("check-cameras", f"{right}#s000006_f001", "--out", str(IMAGES / "check_cameras.jpg"))
        run("check-cameras", wrong, "--out", str(IMAGES / "check_cameras_wrong.jpg"))


def blender(capture: Capture) -> Capture:
    """Cameras as somebody forgot to convert them: OpenGL axes, z up, centimetres."""
    z_up = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    matrices = np.diag([1.0, -1.0, -1.0, 1.0]) @ capture.world_to_camera
    matrices[:, :3, :3] = matrices[:, :3, :3] @ z_up.T
    matrices[:, :3, 3] *= 100
    return replace(capture, world_to_camera=matrices)


def run(*arguments: str) -> None:
    """A command of `headway data`."""
    with contextlib.suppress(SystemExit):
        main(("data", *arguments))


if __name__ == "__main__":
    make()
