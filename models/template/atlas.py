"""Which point of the mesh every texel of a square UV map shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from configs.errors import UserError
from data.mesh import Floats, HeadMesh, Ints


@dataclass(frozen=True)
class Atlas:
    """Texel -> surface point, for a `size` x `size` map whose row 0 is v = 1.

    Attributes:
        faces: `[size, size]` face index; texels outside every chart take the nearest covered texel's.
        barycentric: `[size, size, 3]` weights of that face's corners.
        covered: `[size, size]` whether a chart covers the texel centre.
    """

    faces: Ints
    barycentric: Floats
    covered: NDArray[np.bool_]

    def interpolate(self, mesh: HeadMesh, values: Floats) -> Floats:
        """Per-vertex `values` `[v, c]` on the map, `[size, size, c]`."""
        corners = values[mesh.faces[self.faces]]
        return (corners * self.barycentric[..., None]).sum(axis=2, dtype=np.float32)


def build_atlas(mesh: HeadMesh, size: int) -> Atlas:
    """Look straight down on the UV plane: one ray per texel centre, cast by Embree."""
    flat = np.concatenate([mesh.uvs, np.zeros((len(mesh.uvs), 1), np.float32)], axis=1)
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(flat[mesh.uv_faces], np.float32))
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid(centres, centres[::-1])
    origins = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    directions = np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape)
    hits = scene.run(np.ascontiguousarray(origins), np.ascontiguousarray(directions), output=1)
    covered = (hits["primID"] >= 0).reshape(size, size)
    if not covered.any():
        raise UserError("no texel is covered: the template's UV coordinates are not in [0, 1]", where="model.template")
    second, third = hits["u"], hits["v"]
    barycentric = np.stack([1 - second - third, second, third], axis=-1).reshape(size, size, 3)
    nearest: Any = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    rows, columns = nearest
    faces = hits["primID"].reshape(size, size).astype(np.int32)
    return Atlas(faces[rows, columns], barycentric[rows, columns].astype(np.float32), covered)
