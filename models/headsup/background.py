"""The background branch: all views -> 32 numbers -> Gaussians on a sphere around the rig."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.systems.headsup import BackgroundConfig
from models.gaussians import Gaussians
from models.headsup.decoder import SH_DC
from models.layers import ResidualBlock, Upsample

LEVELS = 3
OPACITY_LOGIT = 4.0
COVER = 0.65  # standard deviation over spacing: closes the sphere with a third of the overdraw of 1


class Background(nn.Module):
    """Residual encoder, mean over views, residual decoder to an equirectangular map of colour and scale."""

    def __init__(self, config: BackgroundConfig) -> None:
        super().__init__()
        width = config.channels
        self.grid = (max(1, config.height // 2**LEVELS), max(1, config.width // 2**LEVELS))
        self.size, self.radius = (config.height, config.width), config.radius
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4),
            ResidualBlock(width),
            nn.Conv2d(width, width, 2, stride=2),
            ResidualBlock(width),
        )
        self.to_latent = nn.Linear(width, config.latent)
        self.from_latent = nn.Linear(config.latent, width * self.grid[0] * self.grid[1])
        self.decoder = nn.Sequential(
            *(layer for _ in range(LEVELS) for layer in (ResidualBlock(width), Upsample(width, width)))
        )
        self.head = nn.Conv2d(width, 4, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        self.bias_map = nn.Parameter(torch.zeros(4, *self.size))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`[b, v, 3, h, w]` -> fields of Gaussians `[b, height * width]` of degree 0."""
        batch, views = images.shape[:2]
        small = F.interpolate(images.flatten(0, 1), size=(64, 64), mode="area") * 2 - 1
        latent = self.to_latent(self.encoder(small).mean(dim=(2, 3))).unflatten(0, (batch, views)).mean(dim=1)
        maps = self.decoder(self.from_latent(latent).unflatten(1, (-1, *self.grid)))
        maps = F.interpolate(self.head(maps), size=self.size) + self.bias_map
        return self._gaussians(maps.float().flatten(2).transpose(1, 2))

    def _gaussians(self, texels: Tensor) -> dict[str, Tensor]:
        directions, spacing = equirectangular(*self.size, device=texels.device)
        batch, count = texels.shape[:2]
        log_scales = torch.log(COVER * self.radius * spacing)[:, None] + 0.5 * torch.tanh(texels[..., 3:])
        gaussians = Gaussians(
            means=(self.radius * directions).expand(batch, -1, -1),
            quats=torch.tensor([1.0, 0, 0, 0], device=texels.device).expand(batch, count, 4),
            scales=log_scales.expand(-1, -1, 3),
            opacities=torch.full((batch, count), OPACITY_LOGIT, device=texels.device),
            sh=((torch.sigmoid(texels[..., :3]) - 0.5) / SH_DC)[..., None, :],
        )
        return {name: getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")}


def equirectangular(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Unit directions `[height * width, 3]` of a map whose poles are +-y, and the larger spacing in radians `[n]`."""
    elevation = (0.5 - (torch.arange(height, device=device) + 0.5) / height) * math.pi
    azimuth = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1) * math.pi
    up, around = torch.meshgrid(elevation, azimuth, indexing="ij")
    directions = torch.stack([around.sin() * up.cos(), up.sin(), around.cos() * up.cos()], dim=-1)
    spacing = torch.maximum(2 * math.pi / width * up.cos(), torch.full_like(up, math.pi / height))
    return directions.flatten(0, 1), spacing.flatten()
