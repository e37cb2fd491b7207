"""3D Gaussians as tensors, before activation, as a PLY would store them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """A set of 3D Gaussians; leading dimensions are batch (Kerbl et al. 2023, gsplat's argument names).

    Attributes:
        means: `[..., n, 3]` centres, metres.
        quats: `[..., n, 4]` rotations, wxyz, need not be normalised.
        scales: `[..., n, 3]` **log** of the standard deviations, metres.
        opacities: `[..., n]` **logit** of the opacity.
        sh: `[..., n, (degree + 1) ** 2, 3]` spherical harmonics; colour = 0.5 + basis(direction) . sh.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[:-1]
        expected = {"means": (*n, 3), "quats": (*n, 4), "scales": (*n, 3), "opacities": tuple(n)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if self.sh.shape[:-2] != n or self.sh.shape[-1] != 3 or self.sh.shape[-2] not in (1, 4, 9, 16):
            raise ValueError(f"sh has shape {tuple(self.sh.shape)}, expected {(*n, '1|4|9|16', 3)}")

    def __len__(self) -> int:
        return self.means.shape[-2]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[-2]]

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply `function` to every tensor."""
        return Gaussians(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def __getitem__(self, index: int | slice) -> Gaussians:
        """Index the first batch dimension."""
        return self.map(lambda tensor: tensor[index])

    @staticmethod
    def concatenate(first: Gaussians, second: Gaussians) -> Gaussians:
        """Both sets as one, for example foreground and background, along the Gaussian dimension."""
        lead = first.opacities.dim() - 1
        pairs = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(Gaussians)}
        return Gaussians(**{name: torch.cat(pair, dim=lead) for name, pair in pairs.items()})
