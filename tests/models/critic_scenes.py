"""Random poses for the tests of critics."""

from __future__ import annotations

import torch
from torch import Tensor


def rigid(generator: torch.Generator, *shape: int, metres: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform rotations and normal translations, `[*shape, 4, 4]`."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    rotations, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64))
    matrices[..., :3, :3] = rotations * torch.linalg.det(rotations)[..., None, None]
    matrices[..., :3, 3] = metres * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    return matrices.to(dtype)
