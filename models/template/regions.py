"""Where the eyes and the mouth of a head are, in every face that it can make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.mesh import Floats, HeadMesh, vertex_normals

LIP_SHAPES = ("mouthFunnel", "mouthRollLower", "mouthRollUpper")
MOUTH_STRETCH = ("jawOpen", "mouthLeft", "mouthPucker", "mouthRight", "mouthSmileLeft", "mouthSmileRight")
# Share of a shape's own largest movement from which a vertex belongs to what it moves. Lids move little at the corners
# of an eye; lips take the skin around them along.
EYE_SUPPORT, LIP_SUPPORT = 0.1, 0.5
MOUTH_REACH = 0.5  # of each stretching shape: with a jaw as wide open as it goes the box would be twice the mouth's

# Proportions for heads without named shapes: radii of the eyeball, and distances between the eyes.
EYE_RADII = 1.2
MOUTH_BELOW, MOUTH_HALF_WIDTH, MOUTH_UP, MOUTH_DOWN = 1.12, 0.48, 0.2, 0.42


@dataclass(frozen=True)
class Region:
    """A part of the face, enclosed.

    Attributes:
        points: `[p, 3]` metres: corners of the convex hull around the part at rest and where faces carry it.
        center: `[3]` metres, the middle of the part at rest.
        normal: `[3]` unit, where it looks: level, and away from the head's vertical axis.
    """

    points: Floats
    center: Floats
    normal: Floats


def face_regions(mesh: HeadMesh) -> dict[str, Region]:
    """`left_eye`, `right_eye` and `mouth`; left is the subject's left.

    A head with ARKit's blendshapes (ours, ICT-FaceKit) says itself: an eye is where its lid moves, a mouth is what
    its lips' shapes move, and further shapes say where that can go. A head without them (FLAME) has eyeballs that are
    pieces of their own, and a mouth below them by the proportions of people's faces.

    Raises:
        UserError: a head that has neither.
    """
    if {*LIP_SHAPES, "eyeBlinkLeft", "eyeBlinkRight"} <= set(mesh.expression_names):
        return {
            "left_eye": _by_shapes(mesh, ["eyeBlinkLeft"], EYE_SUPPORT, ["eyeBlinkLeft"]),
            "right_eye": _by_shapes(mesh, ["eyeBlinkRight"], EYE_SUPPORT, ["eyeBlinkRight"]),
            "mouth": _by_shapes(mesh, LIP_SHAPES, LIP_SUPPORT, MOUTH_STRETCH, MOUTH_REACH),
        }
    return _by_proportion(mesh)


def _by_shapes(
    mesh: HeadMesh, shapes: Sequence[str], support: float, stretch: Sequence[str], reach: float = 1.0
) -> Region:
    """What `shapes` move by a share of what they move at all, at rest and under `reach` of each of `stretch`."""
    distance = np.linalg.norm(_offsets(mesh, shapes), axis=-1)
    inside = (distance > support * distance.max(axis=1, keepdims=True)).any(axis=0)
    return _region(mesh, inside, reach * _offsets(mesh, stretch))


def _offsets(mesh: HeadMesh, shapes: Sequence[str]) -> Floats:
    return mesh.expressions[[mesh.expression_names.index(name) for name in shapes if name in mesh.expression_names]]


def _region(mesh: HeadMesh, inside: NDArray[np.bool_], offsets: Floats | None = None) -> Region:
    """Enclose what is `inside` and looks forward, as skin does and a mouth's inner side does not, and where
    `offsets` `[s, v, 3]` carry it."""
    from scipy.spatial import ConvexHull

    inside = inside & (vertex_normals(mesh.vertices, mesh.faces)[:, 2] > 0)
    if inside.sum() < 4:
        raise _without_a_face()
    rest = mesh.vertices[inside]
    points = rest if offsets is None else np.concatenate([rest, (rest + offsets[:, inside]).reshape(-1, 3)])
    center = rest.mean(axis=0)
    level = center * np.array([1, 0, 1], np.float32)
    return Region(points[ConvexHull(points).vertices], center, level / np.linalg.norm(level))


def _by_proportion(mesh: HeadMesh) -> dict[str, Region]:
    vertices = mesh.vertices
    (left, radius), (right, _) = _eyeballs(mesh)
    apart = np.linalg.norm(left - right)
    across, up, forward = ((vertices - (left + right) / 2) / apart).T
    lips = (np.abs(across) < MOUTH_HALF_WIDTH) & (np.abs(up + MOUTH_BELOW) < MOUTH_UP) & (forward > 0)
    eyes = [(np.linalg.norm(vertices - ball, axis=1) < EYE_RADII * radius) & (forward > 0) for ball in (left, right)]
    opened = np.zeros((1, *vertices.shape), np.float32)
    opened[..., 1] = (MOUTH_UP - MOUTH_DOWN) * apart
    return {
        "left_eye": _region(mesh, eyes[0]),
        "right_eye": _region(mesh, eyes[1]),
        "mouth": _region(mesh, lips, opened),
    }


def _eyeballs(mesh: HeadMesh) -> list[tuple[Floats, float]]:
    """Centre and radius in metres of the left and of the right one: pieces of their own as large as eyes are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    joined = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(mesh.vertices),) * 2)
    pieces: Any = connected_components(joined, directed=False)[1]
    found: dict[bool, tuple[Floats, float]] = {}
    for piece in np.unique(pieces, return_counts=True)[0]:
        points = mesh.vertices[pieces == piece]
        low, high = points.min(axis=0), points.max(axis=0)
        center, radius = (low + high) / 2, float((high - low).max() / 2)
        if 0.008 < radius < 0.02 and 0.015 < abs(center[0]) < 0.05 and center[2] > 0:
            side = bool(center[0] > 0)
            if side not in found or radius > found[side][1]:
                found[side] = center, radius
    if len(found) < 2:
        raise _without_a_face()
    return [found[True], found[False]]


def _without_a_face() -> UserError:
    return UserError(
        "the template has neither ARKit's blendshapes nor eyeballs: its eyes and mouth cannot be found",
        where="model.template",
        hint="set objective.regions.eyes=0 objective.regions.mouth=0",
    )
