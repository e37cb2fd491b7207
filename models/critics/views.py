"""The set critic: do these views show one head, seen from where they say? (MVCHead's SE(3) multi-view critic, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.critics import SetCriticConfig
from data.views import Cameras
from models.critics.gta import GeometricBlock, Geometry, anchored, pixel_angles

OCTAVES, FASTEST = 4, 4.0
"""Of the Fourier features that tell a token where in its image it lies, and the fastest's turns across the image."""


class SetCritic(nn.Module):
    """A ViT over the patches of all views; poses enter by geometric transform attention alone.

    Tokens are told their place in the image, as a ViT's are. Attention by itself knows only how far apart two tokens
    lie; where lines of sight meet depends on both places, and without them bent heads are hardly ever told apart
    (docs/benchmarks/critic.md).

    Its answer depends neither on the order of the views nor on the world that poses are given in, and not on intrinsics
    (MVCHead leaves them out). Twice differentiable by the images.
    """

    def __init__(self, config: SetCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _stem(config)
        self.position = nn.Linear(2 + 4 * OCTAVES, config.width)
        self.blocks = nn.ModuleList(
            GeometricBlock(config.width, config.heads, config.translation_init) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, 1)
        self.apply(_initialise)

    def forward(self, images: Tensor, cameras: Cameras) -> Tensor:
        """Judge sets of views.

        Args:
            images: `[b, v, 3, h, w]` in [0, 1], two views or more, of any size.
            cameras: `[b, v]`; only their poses count. In metres.

        Returns:
            logits `[b]`, at least float32; positive means one head.
        """
        self._check(images, cameras)
        height, width = images.shape[-2:]
        patch = self.config.patch
        x = (images.flatten(0, 1) * 2 - 1).to(self.out.weight.dtype)
        maps = self.embed(F.pad(x, (0, -width % patch, 0, -height % patch)))
        tokens = maps.flatten(2).transpose(1, 2).unflatten(0, images.shape[:2])
        places = self._places(maps.shape[-2:], (height, width), cameras.K.device)
        tokens = tokens + self.position(_fourier(places).to(tokens.dtype))
        angles = pixel_angles(places, self.config.so2_channels, self.config.max_frequency)
        geometry = Geometry(anchored(cameras.world_to_camera), angles)
        for block in self.blocks:
            tokens = block(tokens, geometry)
        logits = self.out(self.norm(tokens).mean(dim=(1, 2)))[:, 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _places(self, grid: torch.Size, size: tuple[int, int], device: torch.device) -> Tensor:
        """Row and column of every token as shares of the image, `[p, 2]`."""
        axes = [
            torch.arange(count, device=device, dtype=torch.float64) * self.config.patch / side
            for count, side in zip(grid, size, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)

    def _check(self, images: Tensor, cameras: Cameras) -> None:
        if images.dim() != 5 or images.shape[1] < 2 or images.shape[2] != 3 or 0 in images.shape:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected [b, v, 3, h, w] with two views or more"
            )
        if tuple(cameras.shape) != tuple(images.shape[:2]):
            raise ValueError(f"cameras have shape {tuple(cameras.shape)}, images {tuple(images.shape[:2])}")


def _fourier(places: Tensor) -> Tensor:
    """`[p, 2]` -> `[p, 2 + 4 OCTAVES]`."""
    angles = pixel_angles(places, 4 * OCTAVES, FASTEST)
    return torch.cat([2 * places - 1, angles.sin(), angles.cos()], dim=-1)


def _initialise(module: nn.Module) -> None:
    # torch's own scale loses two thirds of the image in every layer of a stem; what is left are biases.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _stem(config: SetCriticConfig) -> nn.Module:
    """`[n, 3, h, w]`, sides multiples of the patch -> `[n, width, h / patch, w / patch]`."""
    if not config.stem_channels:
        return nn.Conv2d(3, config.width, config.patch, stride=config.patch)
    layers: list[nn.Module] = []
    inputs = 3
    for channels in config.stem_channels:
        layers += [nn.Conv2d(inputs, channels, 3, stride=2, padding=1), nn.GELU()]
        inputs = channels
    return nn.Sequential(*layers, nn.Conv2d(inputs, config.width, 1))
