"""How well cameras agree with what their images show, in numbers from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.capture import camera_centers
from data.ingest.hull import Flags, Silhouettes, mask_center, meeting_point
from data.inspect.observed import Observed

Floats = NDArray[np.float64]

_CELLS = 24
_FLAT = 4.0  # grey levels of deviation below which colours tell nothing
_SHARED = 20  # points that two views must share to be compared


@dataclass(frozen=True)
class Surface:
    """Points `[n, 3]` on (about) the person's surface and their unit normals `[n, 3]`."""

    points: Floats
    normals: Floats


def silhouette_agreement(views: Silhouettes) -> tuple[Floats, Surface | None]:
    """Overlap of each mask with the visual hull of all masks projected back into it.

    Wrong cameras carve their hull away; right ones leave what fills every mask.

    Returns:
        `[v]` intersection over union, within the ball that all masks show around where their centroids meet; 0 for a
        camera that has that point behind it. And the hull's surface, None where nothing is left.
    """
    middle = mask_center(views)
    depth = views.world_to_camera[:, 2, :3] @ middle + views.world_to_camera[:, 2, 3]
    scores = np.zeros(len(views.masks))
    if (depth > 0).sum() < 3:
        return scores, None
    half = _half_size(views, depth)
    steps = ((np.arange(_CELLS) + 0.5) * (2 / _CELLS) - 1) * half
    points = middle + np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    projected = [views.project(points, view) for view in range(len(views.masks))]
    hull = _carve(views, projected) & (np.linalg.norm(points - middle, axis=1) <= half)
    for view, (pixels, inside) in enumerate(projected):
        if depth[view] > 0:
            reach = views.K[view, 0, 0] / depth[view]
            drawn = _splat(pixels[inside & hull], views.masks[view].shape, 2 * half / _CELLS * reach)
            disc = _disc(views, view, middle, 0.6 * half * reach)
            union = (drawn | views.masks[view]) & disc
            scores[view] = (drawn & views.masks[view] & disc).sum() / max(1, union.sum())
    return scores, _surface(points, hull)


def color_agreement(seen: Observed, surface: Surface) -> float:
    """Mean correlation of the colours that neighbouring views show at the surface's points.

    Silhouettes hardly tell a rig from its mirror image; what moves which way between neighbours does. NaN where the
    person has no texture or no two views share enough of it.
    """
    pixels, depth = seen.project(surface.points)
    colors = [_sample(*view) for view in zip(seen.images, seen.masks, pixels, strict=True)]
    centers = camera_centers(seen.world_to_camera)
    rays = centers[:, None] - surface.points
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    facing = ((rays * surface.normals).sum(axis=2) > 0.3) & np.isfinite(depth)
    around = centers - surface.points.mean(axis=0)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    closeness = around @ around.T - 10 * np.eye(len(around))
    found = []
    for view in range(len(around)):
        for other in np.argsort(-closeness[view])[: min(2, len(around) - 1)]:
            both = facing[view] & facing[other]
            found.append(_correlation(colors[view][both], colors[other][both]))
    known = [value for value in found if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def looked_at_surfaces(seen: Observed) -> list[Surface]:
    """Upright ellipsoids where the optical axes meet, of three sizes: what a head without a mask may be.

    Empty where fewer than two cameras have that point in front of them.
    """
    axes = seen.world_to_camera[:, 2, :3]
    centers = camera_centers(seen.world_to_camera)
    middle = meeting_point(centers, axes)
    depth = axes @ middle + seen.world_to_camera[:, 2, 3]
    if (depth > 0).sum() < max(2, 0.8 * len(depth)):
        return []
    sides = np.array([min(image.shape[:2]) for image in seen.images])
    extent = float(np.median((sides * depth / seen.small_K[:, 0, 0])[depth > 0]))
    up = -seen.world_to_camera[:, 1, :3].mean(axis=0)
    turn = np.linalg.qr(np.column_stack([up, np.eye(3)]))[0][:, :3]
    ball = _ball(1500)
    shapes = [np.array([1.3, 1.0, 1.0]) * share * extent for share in (0.2, 0.28, 0.36)]
    normals = [ball / shape for shape in shapes]
    return [
        Surface(middle + (ball * shape) @ turn.T, (n / np.linalg.norm(n, axis=1, keepdims=True)) @ turn.T)
        for shape, n in zip(shapes, normals, strict=True)
    ]


def keypoint_agreement(seen: Observed) -> float:
    """How well the 3D keypoints fit the views; NaN without keypoints.

    With 2D keypoints: 1 at no error, 0 at a twentieth of the image. Without: share of keypoints that lie in front of
    the camera, inside the image and, where there is a mask, on it (or a pixel beside it).
    """
    if seen.keypoints is None:
        return float("nan")
    pixels, _ = seen.project(seen.keypoints)
    scores = []
    for view, places in enumerate(pixels):
        if seen.keypoints_2d is not None and np.isfinite(seen.keypoints_2d[view]).any():
            scores.append(_distance_score(seen, view, places))
        else:
            scores.append(_inside_share(seen, view, places))
    return float(np.mean(scores))


def _distance_score(seen: Observed, view: int, places: Floats) -> float:
    assert seen.keypoints_2d is not None
    size, small = seen.sizes[view], seen.images[view].shape
    wanted = seen.keypoints_2d[view] * [small[1] / size[1], small[0] / size[0]]
    known = np.isfinite(wanted).all(axis=1)
    error = np.linalg.norm(places - wanted, axis=1)[known] / (0.05 * max(small))
    return float(np.clip(1 - np.nan_to_num(error, nan=np.inf), 0, 1).mean())


def _inside_share(seen: Observed, view: int, places: Floats) -> float:
    mask = seen.masks[view]
    height, width = seen.images[view].shape[:2]
    allowed = np.ones((height, width), bool) if mask is None else np.asarray(ndimage.binary_dilation(mask), bool)
    good = np.asarray(np.isfinite(places).all(axis=1))
    column, row = np.floor(np.where(good[:, None], places, -1)).astype(np.int64).T
    good &= (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return float(allowed[row[good], column[good]].sum() / len(places))


def _ball(count: int) -> Floats:
    """Evenly spread unit vectors `[count, 3]`."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    radius = np.sqrt(1 - height**2)
    return np.stack([height, radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _sample(image: NDArray[np.uint8], mask: Flags | None, pixels: Floats) -> Floats:
    """Colours `[n, 3]` at pixels `[n, 2]`; NaN outside, and off the mask or at its edge."""
    height, width = image.shape[:2]
    inside = (pixels > 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    places = np.where(inside[:, None], pixels, 0.5) - 0.5
    planes = np.moveaxis(image.astype(np.float64), 2, 0)
    colors = np.stack([ndimage.map_coordinates(p, places.T[::-1], order=1, mode="nearest") for p in planes], axis=1)
    if mask is not None:
        column, row = np.floor(np.where(inside[:, None], pixels, 0)).astype(np.int64).T
        inside &= ndimage.binary_erosion(mask)[row, column]
    colors[~inside] = np.nan
    return colors


def _correlation(first: Floats, second: Floats) -> float:
    """Of two views of the same points, over points and colours together, with each view's mean colour taken out."""
    known = np.isfinite(first[:, 0]) & np.isfinite(second[:, 0])
    if known.sum() < _SHARED:
        return float("nan")
    a, b = first[known] - first[known].mean(axis=0), second[known] - second[known].mean(axis=0)
    deviation = np.sqrt((a * a).mean() * (b * b).mean())
    return float((a * b).mean() / deviation) if deviation > _FLAT**2 else float("nan")


def _surface(points: Floats, hull: Flags) -> Surface | None:
    filled = hull.reshape(_CELLS, _CELLS, _CELLS)
    border = filled & ~np.asarray(ndimage.binary_erosion(filled), bool)
    if border.sum() < 50:
        return None
    smooth = ndimage.gaussian_filter(filled.astype(np.float64), 1.5)
    outward = -np.stack([*np.gradient(smooth)], axis=-1)[border]
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    return Surface(points[border.ravel()], outward)


def _carve(views: Silhouettes, projected: list[tuple[NDArray[np.int32], Flags]]) -> Flags:
    """Points that at least half of the views contain and nine in ten of those show as the person."""
    seen, hit = np.zeros((2, len(projected[0][1])), np.int32)
    for mask, (pixels, inside) in zip(views.masks, projected, strict=True):
        seen += inside
        hit[inside] += mask[tuple(pixels[inside].T)]
    return (seen >= max(2, len(views.masks) // 2)) & (hit >= 0.9 * seen)


def _half_size(views: Silhouettes, depth: Floats) -> float:
    """Half the edge of a cube that holds what the masks show."""
    extents = np.array([np.ptp(np.argwhere(mask), axis=0).max() for mask in views.masks])
    front = depth > 0
    return 0.6 * float(np.median(extents[front] * depth[front] / views.K[front, 0, 0]))


def _splat(pixels: NDArray[np.int32], shape: tuple[int, ...], size: float) -> Flags:
    drawn = np.zeros(shape, bool)
    drawn[tuple(pixels.T)] = True
    return np.asarray(ndimage.maximum_filter(drawn, max(1, round(size))), bool)


def _disc(views: Silhouettes, view: int, center: Floats, radius: float) -> Flags:
    pixel = views.K[view] @ (views.world_to_camera[view, :3, :3] @ center + views.world_to_camera[view, :3, 3])
    rows, columns = np.indices(views.masks[view].shape)
    return np.hypot(columns + 0.5 - pixel[0] / pixel[2], rows + 0.5 - pixel[1] / pixel[2]) <= radius
