"""Where a head is and how large, from silhouettes alone: the visual hull of the masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_CELLS = 48
# Proportions of an adult head over the diameter of its widest horizontal section (0.18 m): where the section is
# sought beneath the crown, before the shoulders, and how far the ears lie below the crown.
_SEARCH, _EARS = 1.25, 0.74


@dataclass(frozen=True)
class Silhouettes:
    """Masks of v calibrated views: `[v, 4, 4]`, `[v, 3, 3]` in pixels of the masks, and the masks `[h, w]` each."""

    world_to_camera: Floats
    K: Floats
    masks: list[Flags]

    def project(self, points: Floats, view: int) -> tuple[NDArray[np.int32], Flags]:
        """Pixels (row, column) of points `[n, 3]`, and which of them the view contains."""
        rotation, translation = self.world_to_camera[view, :3, :3], self.world_to_camera[view, :3, 3]
        column, row, depth = self.K[view] @ (rotation @ points.T + translation[:, None])
        height, width = self.masks[view].shape
        # The last row of K is 0 0 1: the third coordinate is the depth. Behind the camera nothing is inside.
        near = np.where(depth > 0, depth, 1e-12)
        column, row = np.floor(column / near), np.floor(row / near)
        inside = (depth > 0) & (row >= 0) & (column >= 0) & (row < height) & (column < width)
        pixels = np.stack([row, column], axis=1)
        pixels[~inside] = -1
        return pixels.astype(np.int32), inside


@dataclass(frozen=True)
class Head:
    """A head found in a hull, in the units of the cameras; +y is up.

    Attributes:
        center: `[3]`, between the ears.
        diameter: of the circle whose area is that of the head's widest horizontal section; about 0.18 m in adults.
        points: `[n, 3]` centres of the hull's cells.
        cell: edge of a cell.
    """

    center: Floats
    diameter: float
    points: Floats
    cell: float


def meeting_point(origins: Floats, directions: Floats) -> Floats:
    """The point `[3]` with the least squared distance to lines through `origins` `[n, 3]` along unit `directions`."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    total = (across @ origins[:, :, None]).sum(axis=0)[:, 0]
    return np.asarray(np.linalg.lstsq(across.sum(axis=0), total, rcond=None)[0], np.float64)


def mask_center(views: Silhouettes) -> Floats:
    """Where the rays through the masks' centroids meet, `[3]`."""
    origins, directions = [], []
    for view, mask in enumerate(views.masks):
        if not mask.any():
            continue
        row, column = np.argwhere(mask).mean(axis=0) + 0.5
        rotation, translation = views.world_to_camera[view, :3, :3], views.world_to_camera[view, :3, 3]
        ray = rotation.T @ np.linalg.solve(views.K[view], [column, row, 1.0])
        origins.append(-rotation.T @ translation)
        directions.append(ray / np.linalg.norm(ray))
    return meeting_point(np.array(origins), np.array(directions))


def find_head(views: Silhouettes, up: Floats) -> Head | None:
    """The head at the top of the visual hull along the unit vector `up`; None where the masks share no volume."""
    middle, half = mask_center(views), _half_size(views)
    axes = _frame(up)
    steps = ((np.arange(_CELLS) + 0.5) * (2 / _CELLS) - 1) * half
    height, *across = np.meshgrid(steps, steps, steps, indexing="ij")
    points = middle + np.stack([height.ravel(), *(part.ravel() for part in across)], axis=1) @ axes
    filled = _carve(views, points)
    areas = filled.reshape(_CELLS, -1).sum(axis=1) * (2 * half / _CELLS) ** 2
    if not areas.any():
        return None
    top = int(np.flatnonzero(areas)[-1])
    diameters = 2 * np.sqrt(areas[: top + 1][::-1] / np.pi)
    widest, cell = np.maximum.accumulate(diameters), 2 * half / _CELLS
    deep = np.arange(len(widest)) * cell >= _SEARCH * widest
    diameter = float(widest[int(np.argmax(deep))] if deep.any() else widest[-1])
    levels = np.repeat(np.arange(_CELLS), _CELLS**2)
    head = filled & (levels >= top - diameter / cell)
    center = points[head].mean(axis=0)
    crown = float((middle @ up) + steps[top] + cell / 2)
    center = center + (crown - _EARS * diameter - center @ up) * up
    return Head(center, diameter, points[filled], cell)


def agreement(views: Silhouettes, head: Head) -> tuple[Floats, Floats]:
    """How well each view agrees with the hull of all, projected back into it.

    Returns:
        covered: share of the mask near the head that the hull covers, `[v]`. A camera of another convention carves
            the hull away, or looks elsewhere.
        inside: share of the head's part of the hull that lies on the mask, `[v]`; above 0.99 for exact cameras and
            masks. One displaced camera among many shows here.

        0 where a view shows a person but not the head, NaN where its mask is empty.
    """
    covered, inside = np.full((2, len(views.masks)), np.nan)
    points = head.points[np.linalg.norm(head.points - head.center, axis=1) < 0.75 * head.diameter]
    for view, mask in enumerate(views.masks):
        if mask.any():
            covered[view] = _covered(views, view, head)
            pixels, seen = views.project(points, view)
            inside[view] = mask[tuple(pixels[seen].T)].mean() if seen.any() else 0.0
    return covered, inside


def _covered(views: Silhouettes, view: int, head: Head) -> float:
    mask = views.masks[view]
    depth = float(views.world_to_camera[view, 2, :3] @ head.center + views.world_to_camera[view, 2, 3])
    if depth <= 0:
        return 0.0
    pixels, seen = views.project(head.points, view)
    drawn = np.zeros_like(mask)
    drawn[tuple(pixels[seen].T)] = True
    scale = float(views.K[view, 0, 0]) / depth
    reach = max(1, int(np.ceil(head.cell * scale)))
    drawn = np.asarray(ndimage.maximum_filter(drawn, 2 * reach + 1), bool)
    near = mask & _disc(views, view, head, 0.5 * head.diameter * scale)
    return float((drawn & near).sum() / near.sum()) if near.any() else 0.0


def _carve(views: Silhouettes, points: Floats) -> Flags:
    """Points that at least half of the views contain and nine in ten of those show as the person."""
    seen, hit = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for view, mask in enumerate(views.masks):
        pixels, inside = views.project(points, view)
        seen += inside
        hit[inside] += mask[tuple(pixels[inside].T)]
    return (seen >= max(1, len(views.masks) // 2)) & (hit >= 0.9 * seen)


def _half_size(views: Silhouettes) -> float:
    """Half the edge of a cube that holds what most masks show."""
    middle, sizes = mask_center(views), []
    for view, mask in enumerate(views.masks):
        if mask.any():
            extent = np.ptp(np.argwhere(mask), axis=0).max()
            depth = abs(views.world_to_camera[view, 2, :3] @ middle + views.world_to_camera[view, 2, 3])
            sizes.append(0.5 * extent * depth / views.K[view, 0, 0])
    return 1.2 * float(np.median(sizes))


def _frame(up: Floats) -> Floats:
    """Rows: `up` and two unit vectors across it."""
    side = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    side /= np.linalg.norm(side)
    return np.stack([up, side, np.cross(up, side)]).astype(np.float64)


def _disc(views: Silhouettes, view: int, head: Head, radius: float) -> Flags:
    """Pixels within `radius` of the projected centre of the head."""
    pixel = views.K[view] @ (views.world_to_camera[view, :3, :3] @ head.center + views.world_to_camera[view, :3, 3])
    rows, columns = np.indices(views.masks[view].shape)
    across, down = columns + 0.5 - pixel[0] / pixel[2], rows + 0.5 - pixel[1] / pixel[2]
    return np.hypot(across, down) <= radius
