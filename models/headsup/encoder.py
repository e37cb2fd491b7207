"""The foreground encoder: every source view on its own to a grid of tokens."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.systems.headsup import HeadsUpConfig
from data.views import Cameras
from models.layers import ResidualBlock, run


class Encoder(nn.Module):
    """Residual network over colour and Plücker rays, 9 channels in."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        channels = config.encoder_channels
        self.patch, self.token_pool = config.patch, config.token_pool
        self.checkpointing = config.encoder_checkpointing
        self.multiple = config.patch * 2 ** (len(channels) - 1)
        kernel = 3 if config.patch == 1 else 1
        self.stem = nn.Conv2d(9 * config.patch**2, channels[0], kernel, padding=kernel // 2)
        self.levels = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.encoder_blocks))) for width in channels
        )
        self.down = nn.ModuleList(
            nn.Conv2d(wide, narrow, 3, stride=2, padding=1) for wide, narrow in pairwise(channels)
        )
        self.to_tokens = nn.Conv2d(channels[-1], config.width, 1) if channels[-1] != config.width else nn.Identity()
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor, plucker: Tensor) -> tuple[Tensor, Tensor]:
        """Encode views.

        Args:
            images: `[batch, view, 3, h, w]` in [0, 1].
            plucker: `[batch, view, 6, h, w]`.

        Returns:
            tokens `[batch, view * th * tw, width]` and the finest features `[batch * view, c, fh, fw]`,
            which cover the image padded to a multiple of `multiple`.
        """
        batch = images.shape[0]
        x = torch.cat([images * 2 - 1, plucker.to(images.dtype)], dim=2).flatten(0, 1)
        x = pad_to_multiple(x, self.multiple)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        fine = x = self._level(0, self.stem(x.contiguous(memory_format=torch.channels_last)))
        for level, down in enumerate(self.down, start=1):
            x = self._level(level, down(x))
        x = self.to_tokens(x)
        if self.token_pool > 1:
            x = F.avg_pool2d(x, self.token_pool, ceil_mode=True, count_include_pad=False)
        return self.norm(x.flatten(2).transpose(1, 2)).unflatten(0, (batch, -1)).flatten(1, 2), fine

    def _level(self, level: int, x: Tensor) -> Tensor:
        for block in cast(nn.Sequential, self.levels[level]):
            x = run(block, x, recompute=self.checkpointing)
        return x


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros on the right and at the bottom until both sides are multiples."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


def padded(size: int, multiple: int) -> int:
    """The side that `pad_to_multiple` gives."""
    return math.ceil(size / multiple) * multiple


def plucker_rays(cameras: Cameras) -> Tensor:
    """Plücker coordinates (o x d, d) of every pixel's ray, `[..., 6, h, w]`; metres and unit vectors."""
    origins, directions = cameras.rays()
    moments = torch.cross(origins[..., None, None, :].expand_as(directions), directions, dim=-1)
    return torch.cat([moments, directions], dim=-1).movedim(-1, -3)
