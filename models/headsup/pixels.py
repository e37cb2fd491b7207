"""Two switches beyond the paper: image features and colours fetched where template points project.

They are what makes small models learn fast: +2.4 dB and +1.5 dB in the first half minute (docs/headsup.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.systems.headsup import HeadsUpConfig
from data.views import Cameras
from models.layers import sample, zeroed

SHARPNESS = 6.0  # of the preference for cameras that face the surface


class PixelFeatures(nn.Module):
    """Features at projected template points, fused over views, as hints for the queries."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        reduced, self.channels = 32, config.pixel_channels
        self.grid = config.pixel_grid
        self.reduce = nn.Conv2d(config.encoder_channels[0], reduced, 1)
        self.mix = nn.Sequential(nn.Linear(reduced + 3 + 4, 64), nn.SiLU(), nn.Linear(64, self.channels + 1))
        stride = config.pixel_grid // config.latent_size
        self.to_latents = nn.Conv2d(self.channels, config.width, stride, stride=stride)

    def forward(
        self,
        fine: Tensor,
        padded: tuple[int, int],
        images: Tensor,
        cameras: Cameras,
        points: Tensor,
        normals: Tensor,
    ) -> Tensor:
        """Look every point up in every view.

        Args:
            fine: `[b * v, c, fh, fw]` encoder features of images padded to `padded` (height, width).
            padded: see `fine`.
            images: `[b, v, 3, h, w]`.
            cameras: `[b, v]`.
            points: `[grid * grid, 3]` of the neutral template, or `[b, grid * grid, 3]` of the tracked one.
            normals: `[grid * grid, 3]` of the neutral template.

        Returns:
            hints `[b, latents, width]`.
        """
        batch, views = images.shape[:2]
        points = points[..., None, :, :]  # the same in every view
        pixels = cameras.project(points)[0].flatten(0, 1)
        features = sample(self.reduce(fine), pixels, *padded)
        colors = sample(images.flatten(0, 1), pixels, cameras.height, cameras.width) * 2 - 1
        directions = F.normalize(cameras.centers[:, :, None] - points, dim=-1)
        facing = (directions * normals).sum(-1, keepdim=True)
        seen = torch.cat([features, colors, directions.flatten(0, 1), facing.flatten(0, 1)], dim=-1)
        mixed = self.mix(seen.to(features.dtype)).unflatten(0, (batch, views))
        weights = (mixed[..., :1] + SHARPNESS * facing.clamp(min=-0.3)).softmax(dim=1)
        fused = (weights * mixed[..., 1:]).sum(dim=1).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.to_latents(fused.to(mixed.dtype)).flatten(2).transpose(1, 2)


class ColorSkip(nn.Module):
    """Colour = gate x reprojected source colour + (1 - gate) x learned base, and a residual on every map."""

    def __init__(self, channels: int, outputs: int, uv_size: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor([SHARPNESS]))
        self.gate = zeroed(nn.Conv2d(channels, 1, 1))
        self.bias_map = nn.Parameter(torch.zeros(3, uv_size, uv_size))
        self.refine = nn.Sequential(
            nn.Conv2d(channels + 4, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, outputs, 1)),
        )

    def forward(
        self, features: Tensor, means: Tensor, normals: Tensor, images: Tensor, cameras: Cameras
    ) -> tuple[Tensor, Tensor]:
        """Fetch colours at the predicted positions; gradients flow through the positions.

        Args:
            features: `[b, c, s, s]` last decoder features.
            means: `[b, s * s, 3]`, metres.
            normals: `[s * s, 3]` of the template.
            images: `[b, v, 3, h, w]`.
            cameras: `[b, v]`.

        Returns:
            residual of all maps `[b, outputs, s, s]` and colour logits `[b, 3, s, s]`.
        """
        batch, size = features.shape[0], features.shape[-1]
        pixels = cameras.project(means[:, None])[0].flatten(0, 1)
        colors = sample(images.flatten(0, 1), pixels, cameras.height, cameras.width).unflatten(0, (batch, -1))
        facing = (F.normalize(cameras.centers[:, :, None] - means[:, None].detach(), dim=-1) * normals).sum(-1)
        weights = (self.sharpness * facing).softmax(dim=1)[..., None]
        fetched = (weights * colors).sum(dim=1).transpose(1, 2).unflatten(2, (size, size))
        best = facing.amax(dim=1).unflatten(1, (size, size))[:, None]
        context = torch.cat([features, (fetched * 2 - 1).to(features.dtype), best.to(features.dtype)], dim=1)
        gate = torch.sigmoid(self.gate(features) + 4 * best - 1)
        logits = gate * torch.logit(fetched.clamp(0.02, 0.98)) + (1 - gate) * self.bias_map
        return self.refine(context), logits
