"""The foreground decoder: latent Z -> UV maps -> Gaussians anchored to the template."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from configs.systems.headsup import HeadsUpConfig
from models.gaussians import Gaussians
from models.layers import ResidualBlock, Upsample
from models.template import TemplateMaps

SH_DC = 0.28209479177387814  # the constant spherical harmonic
GEOMETRY = 11  # position 3, log-scale 3, quaternion 4, opacity 1; then colour 3 and the higher harmonics
OPACITY_BIAS = 2.0


def map_channels(sh_degree: int) -> int:
    """Channels of the UV map."""
    return GEOMETRY + 3 * (sh_degree + 1) ** 2


class Decoder(nn.Module):
    """Residual decoder; every level doubles the side."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        widths = config.decoder_channels
        outputs = map_channels(config.sh_degree)
        self.first = nn.Conv2d(config.width, widths[0], 1) if config.width != widths[0] else nn.Identity()
        self.levels = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.up = nn.ModuleList(Upsample(wide, narrow) for wide, narrow in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], outputs, 1)
        nn.init.normal_(self.head.weight, std=0.01 * math.sqrt(config.base.decoder_channels[-1] / widths[-1]))
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.bias_map = nn.Parameter(torch.zeros(outputs, config.uv_size, config.uv_size))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """`[b, width, l, l]` -> maps `[b, outputs, s, s]` and the features before the last layer."""
        x = self.levels[0](self.first(latents.contiguous(memory_format=torch.channels_last)))
        for up, level in zip(self.up, list(self.levels)[1:], strict=True):
            x = level(up(x).contiguous(memory_format=torch.channels_last))
        return self.head(x) + self.bias_map, x


class Anchors:
    """The neutral template at the decoder's resolution; turns maps into Gaussians.

    A tracked anchor moves the positions alone: normals, frames and sizes stay the neutral template's, and the maps,
    which turn and scale every Gaussian, have to follow the skin.
    """

    def __init__(self, template: TemplateMaps, offset_range: float) -> None:
        self.positions = template.positions.flatten(0, 1)
        self.normals = template.normals.flatten(0, 1)
        self.quats = template.quats.flatten(0, 1)
        self.log_scales = template.log_scales.flatten(0, 1)
        self.offset_range = offset_range

    def to(self, device: torch.device) -> Anchors:
        """Move the template; it stays in float32 whatever the network's precision."""
        if self.positions.device != device:
            for name in ("positions", "normals", "quats", "log_scales"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def means(self, maps: Tensor, moved: Tensor | None = None) -> Tensor:
        """Centres `[b, n, 3]`: mu = template + r tanh(x); the template `moved` by `[b, n, 3]` metres, or neutral."""
        positions = self.positions if moved is None else self.positions + moved
        return positions + self.offset_range * torch.tanh(_texels(maps[:, :3]))

    def gaussians(self, maps: Tensor, moved: Tensor | None = None) -> Gaussians:
        """All attributes from maps `[b, channels, s, s]`; `moved` as in `means`."""
        texels = _texels(maps)
        color = (torch.sigmoid(texels[..., GEOMETRY : GEOMETRY + 3]) - 0.5) / SH_DC
        higher = texels[..., GEOMETRY + 3 :].unflatten(-1, (-1, 3)) if texels.shape[-1] > GEOMETRY + 3 else None
        sh = color[..., None, :] if higher is None else torch.cat([color[..., None, :], higher], dim=-2)
        return Gaussians(
            means=self.means(maps, moved),
            quats=self.quats + 0.5 * texels[..., 6:10],
            scales=self.log_scales + 2 * torch.tanh(texels[..., 3:6] / 2),
            opacities=texels[..., 10] + OPACITY_BIAS,
            sh=sh,
        )


def _texels(maps: Tensor) -> Tensor:
    """`[b, c, s, s]` -> `[b, s * s, c]` in float32."""
    return maps.float().flatten(2).transpose(1, 2)
