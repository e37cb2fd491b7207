"""Standard 3DGS PLY (Kerbl et al. 2023): binary little endian, values before activation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from configs.errors import UserError
from models.gaussians import Gaussians

COUNTS = {0: 0, 9: 1, 24: 2, 45: 3}  # f_rest columns -> degree


def write_ply(gaussians: Gaussians, path: Path) -> None:
    """Write one set of Gaussians, `[n]` without batch; readable by every 3DGS viewer."""
    parts = gaussians.map(lambda tensor: tensor.detach().float().cpu())
    rest = parts.sh[:, 1:].transpose(1, 2).flatten(1)  # channel first: all of red, all of green, all of blue
    columns = [parts.means, torch.zeros_like(parts.means), parts.sh[:, 0], rest]
    table = torch.cat([*columns, parts.opacities[:, None], parts.scales, parts.quats], dim=1).numpy().astype("<f4")
    names = _columns(rest.shape[1])
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    path.write_bytes("\n".join(header).encode() + table.tobytes())


def read_ply(path: Path) -> Gaussians:
    """Read what `write_ply` or the reference implementation wrote.

    Raises:
        UserError: not a 3DGS PLY.
    """
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    count = next((int(line.split()[-1]) for line in lines if line.startswith("element vertex ")), -1)
    rest = sum(name.startswith("f_rest_") for name in names)
    little = "format binary_little_endian 1.0" in lines
    if not little or rest not in COUNTS or count < 0 or len(body) != count * len(names) * 4:
        raise UserError("not a binary 3DGS PLY of float columns", where=str(path))
    missing = set(_columns(rest)) - set(names) - {"nx", "ny", "nz"}
    if missing:
        raise UserError(f"lacks the columns {', '.join(sorted(missing))}", where=str(path))
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(count, len(names)).copy())
    column = {name: table[:, index] for index, name in enumerate(names)}

    def stack(*wanted: str) -> torch.Tensor:
        return torch.stack([column[name] for name in wanted], dim=1)

    dc = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    higher = [stack(*(f"f_rest_{i}" for i in range(rest))).unflatten(1, (3, -1)).transpose(1, 2)] if rest else []
    return Gaussians(
        means=stack("x", "y", "z"),
        quats=stack("rot_0", "rot_1", "rot_2", "rot_3"),
        scales=stack("scale_0", "scale_1", "scale_2"),
        opacities=column["opacity"],
        sh=torch.cat([dc, *higher], dim=1),
    )


def _columns(rest: int) -> list[str]:
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{index}" for index in range(rest)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
