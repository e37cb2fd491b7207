"""A head mesh with UVs, blendshapes and landmarks: what a template is before it anchors anything."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class HeadMesh:
    """Triangle mesh of a neutral head in the canonical frame.

    The canonical frame: metres, origin between the ears, +x the subject's left, +y up, +z out of the face,
    Frankfurt plane horizontal.

    Attributes:
        vertices: `[v, 3]`.
        faces: `[f, 3]` vertex indices, counter-clockwise from outside.
        uvs: `[t, 2]` in [0, 1], v up; the charts do not overlap.
        uv_faces: `[f, 3]` indices into `uvs`.
        identity: `[k, v, 3]` offsets of the identity basis (k may be 0), one standard deviation each.
        expressions: `[e, v, 3]` offsets at coefficient 1.
        expression_names: e names; ARKit's where the basis is ARKit's.
        landmarks: vertex index by name, for alignment and region losses.
        licence: SPDX name or sentence; travels with every export.
    """

    vertices: Floats
    faces: Ints
    uvs: Floats
    uv_faces: Ints
    identity: Floats
    expressions: Floats
    expression_names: tuple[str, ...]
    landmarks: dict[str, int] = field(default_factory=dict)
    licence: str = "Apache-2.0"

    def deformed(self, identity: Floats | None = None, expression: dict[str, float] | None = None) -> Floats:
        """Vertices `[v, 3]` under identity coefficients and named expression coefficients in [0, 1]."""
        vertices = self.vertices.copy()
        if identity is not None:
            vertices += np.tensordot(identity, self.identity[: len(identity)], axes=1)
        for name, weight in (expression or {}).items():
            vertices += np.float32(weight) * self.expressions[self.expression_names.index(name)]
        return vertices


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """Area-weighted unit normals `[v, 3]`; zero for vertices without a face."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], cross[:, axis], len(vertices))
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
