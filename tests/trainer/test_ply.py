"""PLY: what every 3DGS viewer expects, byte for byte."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from configs import UserError
from models.gaussians import Gaussians
from trainer.export.ply import read_ply, write_ply


def some(n: int, degree: int) -> Gaussians:
    g = torch.Generator().manual_seed(0)
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh": (n, (degree + 1) ** 2, 3)}
    return Gaussians(**{name: torch.randn(*shape, generator=g) for name, shape in shapes.items()})


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_round_trip_is_exact(n: int, degree: int, tmp_path: Path) -> None:
    gaussians = some(n, degree)
    write_ply(gaussians, tmp_path / "head.ply")
    back = read_ply(tmp_path / "head.ply")
    for field in fields(Gaussians):
        assert torch.equal(getattr(back, field.name), getattr(gaussians, field.name))


def test_the_header_is_the_reference_implementation_s(tmp_path: Path) -> None:
    write_ply(some(2, 1), tmp_path / "head.ply")
    header = (tmp_path / "head.ply").read_bytes().split(b"end_header")[0].decode().split("\n")
    assert header[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 2"]
    names = [line.split()[-1] for line in header[3:] if line]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity",
                     "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip


def test_higher_harmonics_are_stored_channel_first(tmp_path: Path) -> None:
    gaussians = some(1, 1)
    write_ply(gaussians, tmp_path / "head.ply")
    row = torch.frombuffer(
        bytearray((tmp_path / "head.ply").read_bytes().split(b"end_header\n")[1]), dtype=torch.float32
    )
    torch.testing.assert_close(row[9:12], gaussians.sh[0, 1:, 0])


@pytest.mark.parametrize("content", [b"", b"ply\nformat ascii 1.0\nend_header\n", b"solid stl"])
def test_other_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ply").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.ply"):
        read_ply(tmp_path / "x.ply")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_ply(some(5, 1), tmp_path / "x.ply")
    (tmp_path / "x.ply").write_bytes((tmp_path / "x.ply").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"not a binary 3DGS PLY"):
        read_ply(tmp_path / "x.ply")
