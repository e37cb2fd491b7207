"""A picture that shows whether cameras are right: the canonical head box and axes drawn into the views."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.capture import Capture
from data.images import load

# Metres: an adult head from crown to chin, around the point between its ears.
BOX = np.array([[-0.09, -0.12, -0.11], [0.09, 0.14, 0.11]])
_AXES = ((230, 40, 40), (40, 180, 40), (50, 90, 255))


def draw_reprojection(capture: Capture, columns: int = 4, width: int = 240) -> Image.Image:
    """Contact sheet of all views with the head box in yellow and the axes +x red, +y green, +z blue.

    In a right capture the box frames the head in every view, green points to the crown and blue out of the face.
    """
    tiles = [_tile(capture, view, width) for view in range(len(capture.cameras))]
    height, rows = max(tile.height for tile in tiles), -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def _tile(capture: Capture, view: int, width: int) -> Image.Image:
    size = capture.sizes[view]
    scale = width / size[1]
    tile = Image.fromarray(load(capture.images[view], (max(1, round(size[0] * scale)), width)))
    draw = ImageDraw.Draw(tile)
    for start, end in _edges():
        _line(draw, capture, view, scale, np.stack([start, end]), (235, 190, 0))
    for axis, color in enumerate(_AXES):
        _line(draw, capture, view, scale, np.stack([np.zeros(3), 0.15 * np.eye(3)[axis]]), color, 3)
    draw.text((4, 4), capture.cameras[view], fill=(0, 0, 0))
    return tile


def _edges() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    corners = [BOX[list(choice), range(3)] for choice in itertools.product((0, 1), repeat=3)]
    return [(a, b) for a, b in itertools.combinations(corners, 2) if np.count_nonzero(a != b) == 1]


def _line(
    draw: ImageDraw.ImageDraw,
    capture: Capture,
    view: int,
    scale: float,
    ends: NDArray[np.float64],
    color: tuple[int, int, int],
    width: int = 1,
) -> None:
    local = ends @ capture.world_to_camera[view, :3, :3].T + capture.world_to_camera[view, :3, 3]
    if (local[:, 2] > 1e-3).all():
        image = local @ capture.K[view].T
        pixels = scale * image[:, :2] / image[:, 2:]
        draw.line([(float(x), float(y)) for x, y in pixels], fill=color, width=width)
