"""Makes the pictures of docs/synthetic.md: `python docs/make_synth_pictures.py`, about a minute on one core."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.capture import Capture, camera_centers
from data.synth import neutral_head, synthesise_subject
from data.synth.body import Body
from data.synth.captures import pose
from data.synth.render import Figure
from data.synth.rig import look_at, rig_cameras
from data.synth.studio import Backdrop
from data.synth.subject import draw_subject

IMAGES = Path(__file__).parent / "images"
Pixels = NDArray[np.uint8]
FRONT = 8
EXPRESSIONS = (
    {},
    {"jawOpen": 0.9},
    {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.7, "cheekSquintRight": 0.7},
    {"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.8, "browOuterUpRight": 0.8},
    {"browDownLeft": 1.0, "browDownRight": 1.0, "mouthFrownLeft": 1.0, "mouthFrownRight": 1.0},
    {"browInnerUp": 1.0, "eyeWideLeft": 1.0, "eyeWideRight": 1.0, "mouthFunnel": 0.8, "jawOpen": 0.3},
    {"mouthPucker": 1.0, "eyeLookInLeft": 0.9, "eyeLookOutRight": 0.9},
    {"cheekPuff": 1.0, "eyeSquintLeft": 0.8, "eyeSquintRight": 0.8},
)


def main() -> None:
    """Write every picture."""
    IMAGES.mkdir(exist_ok=True)
    people = [_view(synthesise_subject(0, number, image_size=(200, 200))[0], FRONT) for number in range(16)]
    _save("synth_identities", _tile(people, 8))
    one = synthesise_subject(0, 13, image_size=(200, 200))[0]
    _save("synth_views", _tile([_view(one, view) for view in range(16)], 8))
    _save("synth_template", template())
    _save("synth_expressions", expressions(number=9))
    _save("synth_rigs", np.concatenate([rig(16), rig(80)], axis=1))


def template(size: int = 360) -> Pixels:
    """The neutral template in clay and with its UVs as colours and squares, from four sides."""
    cell = np.indices((1024, 1024)) // 32
    v, u = (np.indices((1024, 1024)) + 0.5) / 1024
    squares = np.where((cell.sum(0) % 2)[..., None], 1.0, 0.55)
    chart = np.stack([u, 0.25 + 0.3 * (1 - u), v], axis=-1) * squares
    rows = []
    for albedo in (np.full((1024, 1024, 3), 0.45), chart):
        mesh = neutral_head()
        figure = Figure(mesh.vertices, albedo.astype(np.float32), np.full(len(mesh.vertices), 0.5, np.float32))
        rows.append(
            [_look(figure, azimuth, elevation, size) for azimuth, elevation in ((0, 0), (40, 5), (90, 0), (160, 35))]
        )
    return _tile([*rows[0], *rows[1]], 4)


def expressions(number: int, size: int = 240) -> Pixels:
    """One subject makes faces."""
    subject = draw_subject(0, number)
    body = Body(subject)
    return _tile(
        [_look(pose(subject, body, face, (2 * size, 2 * size)), 12, 3, size, zoom=1.45) for face in EXPRESSIONS], 4
    )


def rig(count: int, size: int = 480) -> Pixels:
    """Where the cameras of a rig stand, from above (left) and from the side (right)."""
    world_to_camera, _ = rig_cameras(16 if count == 16 else 80, (128, 128))
    centers = camera_centers(world_to_camera)
    head = neutral_head().vertices
    page = Image.new("RGB", (2 * size, size), "white")
    draw = ImageDraw.Draw(page)
    draw.text((12, 10), f"{count} cameras: from above, the face down | from the side, the face right", fill="black")
    for panel, (across, down, sign) in enumerate(((0, 2, 1), (2, 1, -1))):
        middle = np.array([(panel + 0.5) * size, 0.5 * size])
        scale = 0.40 * size

        def place(point: NDArray[np.floating], middle=middle, axes=(across, down), sign=sign, scale=scale):
            return tuple(middle + scale * np.array([point[axes[0]], sign * point[axes[1]]]))

        draw.point([place(vertex) for vertex in head[::3]], fill=(150, 120, 105))
        for center in centers:
            x, y = place(center)
            draw.line([(x, y), place(0.85 * center)], fill=(60, 110, 190), width=2)
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(25, 60, 130))
    return np.asarray(page)


def _look(figure: Figure, azimuth: float, elevation: float, size: int, zoom: float = 1.0) -> Pixels:
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    target = np.array([0.0, -0.03 if zoom == 1.0 else -0.005, 0.0])
    center = target + 1.05 * np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    focal = size * 1.05 / 0.40 * zoom
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return figure.view(look_at(center, target), K, (size, size), Backdrop(0)).image


def _view(capture: Capture, view: int) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(capture.images[view])))


def _tile(images: list[Pixels], columns: int) -> Pixels:
    return np.concatenate([np.concatenate(images[i : i + columns], 1) for i in range(0, len(images), columns)])


def _save(name: str, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(IMAGES / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
