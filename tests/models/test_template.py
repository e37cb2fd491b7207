"""The template: every texel has a place, and other people's heads speak the same language."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import UserError
from data.mesh import HeadMesh
from models.template import Template, load_template
from models.template.atlas import build_atlas


def square() -> HeadMesh:
    """A flat unit square, two triangles, UV = position."""
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = np.int32([[0, 1, 2], [0, 2, 3]])
    return HeadMesh(vertices, faces, vertices[:, :2], faces, np.zeros((0, 4, 3), np.float32), np.zeros((0, 4, 3)), ())


def test_atlas_puts_texels_where_their_centres_are() -> None:
    mesh = square()
    positions = build_atlas(mesh, 4).interpolate(mesh, mesh.vertices)
    np.testing.assert_allclose(positions[0, 0], [0.125, 0.875, 0], atol=1e-6)
    np.testing.assert_allclose(positions[3, 2], [0.625, 0.125, 0], atol=1e-6)


def test_uncovered_texels_take_the_nearest_covered_one() -> None:
    mesh = square()
    half = HeadMesh(
        mesh.vertices, mesh.faces, mesh.uvs * np.float32([0.5, 1]), mesh.faces, mesh.identity, mesh.expressions, ()
    )
    atlas = build_atlas(half, 8)
    assert atlas.covered.mean() == 0.5
    positions = atlas.interpolate(half, half.vertices)
    np.testing.assert_allclose(positions[:, 7], positions[:, 3], atol=1e-6)


def test_uvs_outside_the_square_are_refused() -> None:
    mesh = square()
    outside = HeadMesh(mesh.vertices, mesh.faces, mesh.uvs + 5, mesh.faces, mesh.identity, mesh.expressions, ())
    with pytest.raises(UserError, match="no texel is covered"):
        build_atlas(outside, 4)


def test_frames_lie_in_the_surface() -> None:
    maps = Template(square()).maps(8)
    np.testing.assert_allclose(maps.normals.numpy(), np.broadcast_to([0, 0, 1.0], (8, 8, 3)), atol=1e-6)
    torch.testing.assert_close(maps.quats.norm(dim=-1), torch.ones(8, 8))
    assert (maps.log_scales[..., 2] < maps.log_scales[..., :2].min(dim=-1).values).all()


@pytest.mark.parametrize("size", [16, 64])
def test_our_template_fills_its_map(size: int) -> None:
    template = load_template("headway")
    assert build_atlas(template.mesh, size).covered.mean() > 0.97
    maps = template.maps(size)
    outward = (maps.normals * maps.positions).sum(-1)
    assert (outward > 0).float().mean() > 0.85
    assert maps.positions.abs().max() < 0.5
    assert all(torch.isfinite(t).all() for t in (maps.positions, maps.quats, maps.log_scales))


def test_ict_has_the_same_interface(shared: Path) -> None:
    template = load_template("ict", str(shared / "data" / "ict_facekit_headlite.npz"))
    mesh = template.mesh
    assert {"jawOpen", "browDownLeft", "mouthSmileRight", "browInnerUp"} <= set(mesh.expression_names)
    assert len(mesh.identity) == 20
    assert 0.18 < np.ptp(mesh.vertices[:, 0]) < 0.3
    assert mesh.vertices[:, 2].max() > 0.08, "the nose points to +z"
    maps = template.maps(64)
    assert ((maps.normals * maps.positions).sum(-1) > 0).float().mean() > 0.8


def flame_folder(folder: Path) -> Path:
    mesh = square()
    basis = np.zeros((4, 3, 310), np.float32)
    basis[:, 0, 305] = 0.01
    np.savez(folder / "flame.npz", v_template=mesh.vertices, f=mesh.faces, shapedirs=basis)
    lines = [f"vt {u} {v}" for u, v in mesh.uvs] + [f"f {' '.join(f'{i + 1}/{i + 1}' for i in f)}" for f in mesh.faces]
    (folder / "head_template.obj").write_text("\n".join(lines))
    return folder / "flame.npz"


def test_flame_splits_identity_from_expression(tmp_path: Path) -> None:
    mesh = load_template("flame", str(flame_folder(tmp_path))).mesh
    assert len(mesh.identity) == 300
    assert len(mesh.expressions) == 10
    assert mesh.expressions[5, 0, 0] == np.float32(0.01)


def test_flame_pickle_runs_nothing(tmp_path: Path) -> None:
    flame_folder(tmp_path)
    trap = tmp_path / "trap.pkl"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (exec, ("open(r'%s', 'w')" % (tmp_path / "ran"),))

    trap.write_bytes(pickle.dumps({"v_template": Trap()}))
    with pytest.raises(UserError, match=r"builtins\.exec"):
        load_template("flame", str(trap))
    assert not (tmp_path / "ran").exists()


def test_flame_pickle_of_arrays_loads(tmp_path: Path) -> None:
    with np.load(flame_folder(tmp_path)) as file:
        (tmp_path / "flame.pkl").write_bytes(pickle.dumps(dict(file), protocol=2))
    assert len(load_template("flame", str(tmp_path / "flame.pkl")).mesh.vertices) == 4


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("ict", None, "needs its file"),
        ("ict", "nowhere.npz", "no such template file"),
        ("flame", "nowhere.npz", "UVs are missing"),
    ],
)
def test_bad_templates_are_named(name: str, path: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_template(name, path)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="lacks neutral"):
        load_template("ict", str(tmp_path / "other.npz"))
