"""ICT-FaceKit and FLAME heads from files that the user has: same interface as ours, never shipped."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from data.mesh import Floats, HeadMesh, Ints

# ICT's materials each have their own UV tile: (scale u, scale v, offset u, offset v) packs them into one square.
ICT_CHARTS = {
    "M_Face": (0.6, 1.0, 0.0, 0.0),
    "M_BackHead": (0.4, 0.8, 0.6 - 0.4, 0.2),  # its tile begins at u = 1
    "M_ScleraLeft": (0.2, 0.2, 0.6, 0.0),
    "M_ScleraRight": (0.2, 0.2, 0.8, 0.0),
}
FLAME_SHAPES = 300


def load_ict(path: str | Path) -> HeadMesh:
    """ICT-FaceKit light as one npz: neutral, quad faces, uvs, identity and expression bases in centimetres."""
    with _archive(path) as file:
        keys = ("neutral", "faces", "uvs", "uv_faces", "face_material", "materials", "identity", "expression")
        table = _require(file, (*keys, "expression_names"), path)
    names = [str(name) for name in table["materials"]]
    faces, uv_faces, material = _triangles(table["faces"], table["uv_faces"], table["face_material"])
    kept = np.isin(material, [names.index(name) for name in ICT_CHARTS])
    faces, uv_faces, material = faces[kept], uv_faces[kept], material[kept]
    uvs, uv_faces = _pack(table["uvs"], uv_faces, [names[index] for index in material])
    vertices = table["neutral"].astype(np.float32) * 0.01
    used, faces = np.unique(faces, return_inverse=True)
    origin = _between_ears(vertices[used])
    expressions, expression_names = _arkit(table["expression"][:, used], table["expression_names"])
    return HeadMesh(
        vertices=vertices[used] - origin,
        faces=faces.reshape(-1, 3).astype(np.int32),
        uvs=uvs,
        uv_faces=uv_faces,
        identity=table["identity"][:, used].astype(np.float32) * 0.01,
        expressions=expressions * 0.01,
        expression_names=expression_names,
        licence="MIT (ICT-FaceKit, USC Institute for Creative Technologies)",
    )


def load_flame(path: str | Path) -> HeadMesh:
    """FLAME: the model file (npz or pkl) with `head_template.obj`, which has the UVs, beside it."""
    model, template = Path(path), Path(path).parent / "head_template.obj"
    if not template.is_file():
        raise UserError(
            "FLAME's UVs are missing", where=str(template), hint="put head_template.obj beside the model file"
        )
    if model.suffix == ".pkl":
        table = _require(_safe_pickle(model), ("v_template", "f", "shapedirs"), path)
    else:
        with _archive(path) as file:
            table = _require(file, ("v_template", "f", "shapedirs"), path)
    uvs, uv_faces = _obj_uvs(template)
    if len(uv_faces) != len(table["f"]):
        raise UserError(f"{len(uv_faces)} UV faces, but the model has {len(table['f'])} faces", where=str(template))
    vertices = np.asarray(table["v_template"], np.float32)
    basis = np.moveaxis(np.asarray(table["shapedirs"], np.float32), 2, 0)
    expressions = basis[FLAME_SHAPES:]
    return HeadMesh(
        vertices=vertices - _between_ears(vertices),
        faces=np.asarray(table["f"], np.int32),
        uvs=uvs,
        uv_faces=uv_faces,
        identity=basis[:FLAME_SHAPES],
        expressions=expressions,
        expression_names=tuple(f"flame_{index:03d}" for index in range(len(expressions))),
        licence="FLAME model licence (flame.is.tue.mpg.de); not redistributable with Headway",
    )


def _archive(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise UserError("no such template file", where=f"model.template.path: {path}")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"not readable as npz: {error}", where=str(path)) from None


def _require(table: Any, keys: tuple[str, ...], path: str | Path) -> dict[str, Any]:
    missing = [key for key in keys if key not in table]
    if missing:
        raise UserError(f"lacks {', '.join(missing)}", where=str(path), hint="is it the right template file?")
    return {key: table[key] for key in keys}


def _between_ears(vertices: Floats) -> Floats:
    """Midpoint of the outermost points of the upper half: the tips of the ears, whatever the shoulders do."""
    upper = vertices[vertices[:, 1] > np.median(vertices[:, 1])]
    return (upper[upper[:, 0].argmin()] + upper[upper[:, 0].argmax()]) / 2 * np.array([0, 1, 1], np.float32)


def _triangles(faces: Ints, uv_faces: Ints, material: Any) -> tuple[Ints, Ints, Any]:
    """Split quads; a fourth index of -1 marks a triangle."""
    quads = faces[:, 3] >= 0
    split = [[0, 1, 2], [0, 2, 3]]
    return (
        np.concatenate([faces[:, split[0]], faces[quads][:, split[1]]]),
        np.concatenate([uv_faces[:, split[0]], uv_faces[quads][:, split[1]]]),
        np.concatenate([material, material[quads]]),
    )


def _pack(uvs: Floats, uv_faces: Ints, charts: list[str]) -> tuple[Floats, Ints]:
    """Move every chart into its place; corners of different charts no longer share a UV vertex."""
    transform = np.array([ICT_CHARTS[chart] for chart in charts], np.float32)
    corners = uvs[uv_faces] * transform[:, None, :2] + transform[:, None, 2:]
    unique, index = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    return unique.astype(np.float32), index.reshape(-1, 3).astype(np.int32)


def _arkit(offsets: Any, names: Any) -> tuple[Floats, tuple[str, ...]]:
    """ICT's `browDown_L` is ARKit's `browDownLeft`; halves of shapes that ARKit has once are added up."""
    whole = ("browInnerUp", "cheekPuff")
    shapes: dict[str, Floats] = {}
    for name, offset in zip(map(str, names), offsets.astype(np.float32), strict=True):
        stem, _, side = name.partition("_")
        key = stem if stem in whole else stem + {"L": "Left", "R": "Right", "": ""}[side]
        shapes[key] = shapes[key] + offset if key in shapes else offset
    return np.stack(list(shapes.values())), tuple(shapes)


class _ArraysOnly(pickle.Unpickler):
    """FLAME is distributed as a pickle; let it name arrays and nothing that could run."""

    ALLOWED = re.compile(r"numpy(\._?core(\.multiarray|\.numeric)?)?|scipy\.sparse(\._?csc)?|chumpy(\..*)?|_codecs")
    NAMES = frozenset({"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer", "csc_matrix", "Ch", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if not self.ALLOWED.fullmatch(module) or name not in self.NAMES:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}")
        if module.startswith("chumpy"):
            return _ChumpyArray
        return super().find_class(module, name)


class _ChumpyArray:
    """Stands in for chumpy's class, which nobody can install any more: keeps the array it holds."""

    x: Any

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.x = state["x"]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.x, dtype)


def _safe_pickle(path: Path) -> Any:
    if not path.is_file():
        raise UserError("no such template file", where=f"model.template.path: {path}")
    try:
        return _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise UserError(f"not a FLAME model: {error}", where=str(path)) from None


def _obj_uvs(path: Path) -> tuple[Floats, Ints]:
    """`vt` and the second index of every `f` of an OBJ file."""
    uvs, faces = [], []
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "vt":
            uvs.append([float(field) for field in fields[:2]])
        elif kind == "f":
            faces.append([int(field.split("/")[1]) - 1 for field in fields[:3]])
    if not uvs or not faces:
        raise UserError("has no UVs", where=str(path))
    return np.array(uvs, np.float32), np.array(faces, np.int32)
