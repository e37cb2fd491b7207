"""The set critic: do these views show one head, seen from where they say? (MVCHead's SE(3) multi-view critic, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.critics import SetCriticConfig
from data.views import Cameras
from models.critics.gta import GeometricBlock, Geometry, anchored, pixel_angles


class SetCritic(nn.Module):
    """A ViT over the patches of all views; poses enter by geometric transform attention alone.

    Its answer depends neither on the order of the views nor on the world that poses are given in, and not on intrinsics
    (MVCHead leaves them out). Twice differentiable by the images.
    """

    def __init__(self, config: SetCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _stem(config)
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
        geometry = self._geometry(cameras, maps.shape[-2:], (height, width))
        for block in self.blocks:
            tokens = block(tokens, geometry)
        logits = self.out(self.norm(tokens).mean(dim=(1, 2)))[:, 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _geometry(self, cameras: Cameras, grid: torch.Size, size: tuple[int, int]) -> Geometry:
        axes = [
            torch.arange(count, device=cameras.K.device, dtype=torch.float64) * self.config.patch / side
            for count, side in zip(grid, size, strict=True)
        ]
        coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        angles = pixel_angles(coordinates, self.config.so2_channels, self.config.max_frequency)
        return Geometry(anchored(cameras.world_to_camera), angles)

    def _check(self, images: Tensor, cameras: Cameras) -> None:
        if images.dim() != 5 or images.shape[1] < 2 or images.shape[2] != 3 or 0 in images.shape:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected [b, v, 3, h, w] with two views or more"
            )
        if tuple(cameras.shape) != tuple(images.shape[:2]):
            raise ValueError(f"cameras have shape {tuple(cameras.shape)}, images {tuple(images.shape[:2])}")


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
