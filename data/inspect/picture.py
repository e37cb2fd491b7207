"""A contact sheet that shows whether cameras are right: the template head and the keypoints drawn into the views."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data.capture import Capture
from data.images import Fit, decode, load, resample
from data.inspect.cameras import Verdict
from data.inspect.frame import Placement
from data.inspect.hypotheses import repaired
from data.inspect.observed import keypoints_of
from data.synth import neutral_head

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

HEAD, MASK, POINT = (255, 196, 0), (0, 190, 220), (40, 220, 60)
_AXES = ((235, 60, 60), (60, 190, 60), (70, 120, 255))
_MOST = 16


def draw_verdict(capture: Capture, verdict: Verdict, columns: int = 8, width: int = 150) -> Image.Image:
    """The views under the cameras as given and, where those are likely wrong, under the repaired ones below.

    Yellow is the outline of the neutral template where the head should be, green its landmarks (or the capture's own
    keypoints), cyan the outline of the mask; axes +x red, +y green, +z blue. In a right capture yellow follows the
    head and blue comes out of the face. At most 16 views are shown.
    """
    canonical = Placement(np.eye(3), 1.0, np.zeros(3))
    given = canonical if _frame_known(verdict) else verdict.placement
    rows = [_row(f"{capture.name}: as given", capture, given, columns, width)]
    if not verdict.right:
        # The verdict's own cameras may be fewer.
        cameras = repaired(verdict.best.fixes, capture.world_to_camera, capture.K, capture.sizes)
        better = replace(capture, world_to_camera=cameras[0], K=cameras[1])
        rows.append(_row(f"repaired: {' + '.join(verdict.wrong)}", better, verdict.placement, columns, width))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _frame_known(verdict: Verdict) -> bool:
    """Whether the capture claims the canonical frame: then the head belongs to the origin, found there or not."""
    return any(check.name == "up" for check in verdict.checks)


def _row(title: str, capture: Capture, placement: Placement, columns: int, width: int) -> Image.Image:
    count = len(capture.cameras)
    views = sorted({round(view) for view in np.linspace(0, count - 1, min(count, _MOST))})
    tiles = [_tile(capture, view, placement, width) for view in views]
    columns = min(columns, len(tiles))
    height, rows = max(tile.height for tile in tiles), -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height + 22), "white")
    ImageDraw.Draw(sheet).text((5, 3), title, fill=(30, 30, 30), font=_font(14))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, 22 + number // columns * height))
    return sheet


def _tile(capture: Capture, view: int, placement: Placement, width: int) -> Image.Image:
    height, full = capture.sizes[view]
    shrink = width / full
    size = (max(1, round(height * shrink)), width)
    fit = Fit(0.0, 0.0, float(full), float(height))
    pixels = resample(load(capture.images[view], (height, full)), fit, size).astype(np.float64)
    K = np.diag([size[1] / full, size[0] / height, 1.0]) @ capture.K[view]
    places = _project(placement(_vertices()), capture.world_to_camera[view], K)
    head = _filled(places, size)
    pixels[head] = 0.78 * pixels[head] + 0.22 * np.array(HEAD)
    mask = capture.masks[view]
    if mask is not None:
        pixels[_outline(resample(decode(mask, 1), fit, size) >= 128)] = MASK
    pixels[_outline(head)] = HEAD
    tile = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(tile)
    _draw_axes(draw, placement, capture.world_to_camera[view], K)
    for x, y in _project(_keypoints(capture, placement), capture.world_to_camera[view], K):
        if np.isfinite(x) and abs(x) + abs(y) < 1e5:
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=POINT)
    if not head.any():
        _write(draw, (4, size[0] - 17), "no head in view", (255, 140, 110))
    _write(draw, (4, 2), capture.cameras[view], (255, 255, 255))
    return tile


def _draw_axes(draw: ImageDraw.ImageDraw, placement: Placement, world_to_camera: Floats, K: Floats) -> None:
    ends = _project(placement(np.vstack([np.zeros(3), 0.16 * np.eye(3)])), world_to_camera, K)
    for axis, color in enumerate(_AXES):
        line = ends[[0, axis + 1]]
        if np.isfinite(line).all() and np.abs(line).max() < 1e5:
            draw.line([(float(x), float(y)) for x, y in line], fill=color, width=2)


def _keypoints(capture: Capture, placement: Placement) -> Floats:
    given = keypoints_of(capture)
    if given is not None:
        return given
    head = neutral_head()
    return placement(head.vertices[list(head.landmarks.values())].astype(np.float64))


def _project(points: Floats, world_to_camera: Floats, K: Floats) -> Floats:
    """Pixels `[n, 2]`, NaN behind the camera."""
    local = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = local @ K.T
    depth = np.where((local[:, 2] > 1e-9) & (np.abs(image[:, 2]) > 1e-9), image[:, 2], np.nan)
    return image[:, :2] / depth[:, None]


def _filled(places: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The area that dense points cover."""
    known = places[np.isfinite(places).all(axis=1)]
    known = known[(known >= 0).all(axis=1) & (known[:, 0] < size[1]) & (known[:, 1] < size[0])].astype(int)
    drawn = np.zeros((size[0] + 8, size[1] + 8), bool)
    drawn[known[:, 1] + 4, known[:, 0] + 4] = True
    closed = ndimage.binary_closing(drawn, iterations=3)
    return np.asarray(ndimage.binary_fill_holes(closed), bool)[4:-4, 4:-4]


def _outline(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return area & ~np.asarray(ndimage.binary_erosion(area, border_value=1), bool)


@cache
def _vertices() -> Floats:
    """The template without its shoulders."""
    vertices = neutral_head().vertices.astype(np.float64)
    return vertices[vertices[:, 1] > -0.15]


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    draw.text(place, text, fill=color, font=_font(11), stroke_width=2, stroke_fill=(30, 30, 30))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
