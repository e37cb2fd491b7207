"""Balls of known colours at known places in and around an ellipsoid head, and proof that a capture shows them there.

The proof does not depend on the world frame: the balls are found in the images by their colours, triangulated with the
capture's own cameras, and must reproject within a pixel and be as far from each other as they are. A camera that is
inverted, transposed, in other units or of another image size, and swapped colours, all fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.capture import Capture
from data.images import decode
from data.ingest.job import Format, Selection
from data.ingest.source import Source

Floats = np.ndarray
BACKGROUND, SKIN = (118, 118, 118), (168, 150, 140)
BALLS: dict[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    "red": ((225, 20, 20), (0.05, 0.09, 0.02)),
    "green": ((20, 200, 20), (-0.05, 0.03, 0.06)),
    "blue": ((20, 20, 225), (0.045, -0.03, 0.05)),
    "yellow": ((230, 220, 20), (-0.04, 0.1, -0.03)),
    "magenta": ((215, 20, 215), (-0.03, -0.05, -0.05)),
    "cyan": ((20, 215, 215), (0.01, 0.03, -0.08)),
}
"""Colour and place in the canonical head frame, metres."""
RADIUS = 0.012
AXES, CENTER = np.array([0.078, 0.125, 0.098]), np.array([0.0, 0.01, 0.005])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in the canonical head frame; `size` is (height, width), `lens` k1, k2, p1, p2."""

    K: Floats
    world_to_camera: Floats
    size: tuple[int, int]
    lens: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels `[n, 2]` and depths `[n]`."""
        local = points @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]
        x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
        k1, k2, p1, p2 = self.lens
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        bent = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.stack([*bent, np.ones_like(x)], axis=1) @ self.K.T[:, :2], local[:, 2]


def captures_of(form: Format, root: Path | str, select: Selection | None = None) -> list[Capture]:
    """Every capture that a format finds in a miniature."""
    source, select = Source(root), select or Selection()
    return [capture for unit in form.units(source, select) for capture in form.captures(source, unit, select)]


def look_at(center: Floats, target: Floats | None = None) -> Floats:
    """OpenCV world-to-camera of an upright camera."""
    forward = (np.zeros(3) if target is None else target) - center
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ center
    return matrix


def rig(
    count: int,
    size: tuple[int, int] = (120, 100),
    arc: float = 150.0,
    focal: float = 330.0,
    lens: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
) -> list[Camera]:
    """Cameras on an arc (degrees) before the face at a metre; principal points are off the middle."""
    azimuths = np.radians(np.linspace(-arc / 2, arc / 2, count))
    centers = np.stack([np.sin(azimuths), 0.15 * np.cos(3 * azimuths), np.cos(azimuths)], axis=1)
    K = np.array([[focal, 0, size[1] / 2 + 2.5], [0, focal * 1.01, size[0] / 2 - 3.25], [0, 0, 1.0]])
    return [Camera(K, look_at(center), size, lens) for center in centers]


def draw(camera: Camera, moved: Floats | None = None) -> np.ndarray:
    """uint8 `[h, w, 3]`, RGB: head and balls; `moved` `[4, 4]` is the head's pose, in front of cameras that stay."""
    image = np.empty((*camera.size, 3), np.uint8)
    image[:] = BACKGROUND
    image[silhouette(camera, moved) > 0] = SKIN
    rows, columns = np.indices(camera.size) + 0.5
    pose = np.eye(4) if moved is None else moved
    places = np.array([place for _, place in BALLS.values()]) @ pose[:3, :3].T + pose[:3, 3]
    pixels, depths = camera.project(places)
    colors = [color for color, _ in BALLS.values()]
    for ball in np.argsort(-depths):
        near = np.hypot(columns - pixels[ball, 0], rows - pixels[ball, 1]) < RADIUS * camera.K[0, 0] / depths[ball]
        image[near] = colors[ball]
    return image


def silhouette(camera: Camera, moved: Floats | None = None) -> np.ndarray:
    """uint8 `[h, w]`, 255 where the ellipsoid or its neck is; the lens is left out of it."""
    world_to_camera = camera.world_to_camera if moved is None else camera.world_to_camera @ moved
    rows, columns = np.indices(camera.size) + 0.5
    rays = np.stack([columns, rows, np.ones(camera.size)], axis=-1) @ np.linalg.inv(camera.K).T
    rays = rays @ world_to_camera[:3, :3]
    center = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    origin, scaled = (center - CENTER) / AXES, rays / AXES
    head = (scaled @ origin) ** 2 - (scaled**2).sum(-1) * (origin @ origin - 1) > 0
    flat, foot = rays[..., ::2], center[[0, 2]]
    t = -(flat @ foot) / (flat**2).sum(-1)
    neck = (((flat * t[..., None] + foot) ** 2).sum(-1) < 0.055**2) & (center[1] + t * rays[..., 1] < 0)
    return np.where(head | neck, 255, 0).astype(np.uint8)


def found_balls(capture: Capture, view: int) -> dict[str, Floats]:
    """Pixel of each ball's middle in a view; those that are covered or cut off are left out."""
    image = decode(capture.images[view]).astype(np.float64)
    rows, columns = np.indices(image.shape[:2]) + 0.5
    distance = np.linalg.norm(np.linalg.inv(capture.world_to_camera[view])[:3, 3])
    expected = np.pi * (RADIUS * capture.K[view, 0, 0] / distance) ** 2
    found = {}
    for name, (color, _) in BALLS.items():
        near = np.linalg.norm(image - color, axis=-1) < 70
        if 0.75 * expected < near.sum() < 1.5 * expected:
            found[name] = np.array([columns[near].mean(), rows[near].mean()])
    return found


def triangulate(capture: Capture) -> tuple[dict[str, Floats], float, int]:
    """Places of the balls by the capture's own cameras, the worst reprojection in pixels, and how many were seen."""
    seen: dict[str, list[tuple[int, Floats]]] = {}
    for view in range(len(capture.cameras)):
        for name, pixel in found_balls(capture, view).items():
            seen.setdefault(name, []).append((view, pixel))
    places, worst, count = {}, 0.0, 0
    for name, pixels in seen.items():
        if len(pixels) < 2:
            continue
        rows = []
        for view, (u, v) in pixels:
            P = capture.K[view] @ capture.world_to_camera[view][:3]
            rows += [u * P[2] - P[0], v * P[2] - P[1]]
        homogeneous = np.linalg.svd(np.array(rows))[2][-1]
        places[name] = homogeneous[:3] / homogeneous[3]
        for view, pixel in pixels:
            x = capture.K[view] @ (capture.world_to_camera[view] @ [*places[name], 1.0])[:3]
            worst, count = max(worst, float(np.hypot(*(x[:2] / x[2] - pixel)))), count + 1
    return places, worst, count


def check(capture: Capture, exact: bool = False, pixels: float = 1.0, metres: float = 0.003) -> None:
    """The proof; with `exact` the balls must also lie where they are in the canonical frame.

    Raises:
        AssertionError: with what was found.
    """
    places, worst, count = triangulate(capture)
    wanted = 3.5 * len(capture.cameras)
    assert len(places) >= 5, f"only {sorted(places)} were found"
    assert count >= wanted, f"{count} balls were seen in {len(capture.cameras)} views"
    assert worst < pixels, f"reprojection error {worst:.2f} pixels"
    names = sorted(places)
    got = np.array([places[name] for name in names])
    true = np.array([BALLS[name][1] for name in names])
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (got, true)]
    off = float(np.abs(distances[0] - distances[1]).max())
    assert off < metres, f"distances are off by {off * 1000:.1f} mm"
    if exact:
        off = float(np.linalg.norm(got - true, axis=1).max())
        assert off < metres, f"places are off by {off * 1000:.1f} mm"
