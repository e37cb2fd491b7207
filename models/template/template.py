"""The neutral head that anchors Gaussians: positions, frames and sizes on a UV map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from data.mesh import Floats, HeadMesh, vertex_normals
from models.template.atlas import build_atlas


@dataclass(frozen=True)
class TemplateMaps:
    """The template sampled on a `size` x `size` UV map.

    Attributes:
        positions: `[size, size, 3]` metres.
        normals: `[size, size, 3]` unit, outward.
        quats: `[size, size, 4]` wxyz; local x along u, y along v, z along the normal.
        log_scales: `[size, size, 3]` log metres: flat discs as wide as the spacing of the texels.
    """

    positions: Tensor
    normals: Tensor
    quats: Tensor
    log_scales: Tensor


class Template:
    """A head mesh that can be sampled on UV maps of any size."""

    def __init__(self, mesh: HeadMesh) -> None:
        self.mesh = mesh

    def maps(self, size: int) -> TemplateMaps:
        """Sample position, normal, tangent frame and texel spacing."""
        atlas = build_atlas(self.mesh, size)
        positions = atlas.interpolate(self.mesh, self.mesh.vertices)
        normals = _unit(atlas.interpolate(self.mesh, vertex_normals(self.mesh.vertices, self.mesh.faces)))
        along_v, along_u = np.gradient(positions, axis=0), np.gradient(positions, axis=1)
        tangent = _tangents(along_u, normals)
        frames = np.stack([tangent, np.cross(normals, tangent), normals], axis=-1)
        return TemplateMaps(
            positions=torch.from_numpy(positions),
            normals=torch.from_numpy(normals),
            quats=torch.from_numpy(_quaternions(frames)),
            log_scales=torch.from_numpy(_log_scales(along_u, along_v, size)),
        )

    def expression_maps(self, size: int, names: Sequence[str]) -> Tensor:
        """Offsets at coefficient 1 of the blendshapes called `names`, `[len(names), size, size, 3]` in metres."""
        atlas = build_atlas(self.mesh, size)
        numbers = [self.mesh.expression_names.index(name) for name in names]
        return torch.from_numpy(np.stack([atlas.interpolate(self.mesh, self.mesh.expressions[n]) for n in numbers]))


def load_template(name: str, path: str | None = None) -> Template:
    """Ours (`headway`), or ICT-FaceKit or FLAME from the file that the user gives.

    Raises:
        UserError: when the file is missing or is not what its name says.
    """
    if name == "headway":
        from data.synth.head import neutral_head

        return Template(neutral_head())
    if path is None:
        raise UserError(f"the {name} template needs its file", where="model.template.path")
    from models.template.files import load_flame, load_ict

    return Template({"ict": load_ict, "flame": load_flame}[name](path))


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _tangents(along_u: Floats, normals: Floats) -> Floats:
    """Unit directions of growing u within the surface; any such direction where the map stands still."""
    tangent = along_u - normals * (along_u * normals).sum(-1, keepdims=True)
    still = np.linalg.norm(tangent, axis=-1, keepdims=True) < 1e-7
    least = np.eye(3, dtype=np.float32)[np.abs(normals).argmin(-1)]
    return _unit(np.where(still, np.cross(least, normals), tangent))


def _log_scales(along_u: Floats, along_v: Floats, size: int) -> Floats:
    # 0.6 of the spacing closes the surface; the cap keeps stretched texels at seams and poles from covering others.
    cap = 0.012 * 64 / size
    width = 0.6 * np.clip(np.linalg.norm(along_u, axis=-1), cap / 12, cap)
    height = 0.6 * np.clip(np.linalg.norm(along_v, axis=-1), cap / 12, cap)
    return np.log(np.stack([width, height, 0.3 * np.minimum(width, height)], axis=-1)).astype(np.float32)


def _quaternions(rotations: Floats) -> Floats:
    """Rotation matrices `[..., 3, 3]` to wxyz."""
    from scipy.spatial.transform import Rotation

    flat = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_quat(scalar_first=True)
    return flat.reshape(*rotations.shape[:-2], 4).astype(np.float32)
