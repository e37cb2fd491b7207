"""Parts that several networks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), the identity at initialisation. `[b, c, h, w]` in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(8, channels), channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (QK-norm), no bias.

    Attributes:
        kernel: softmax(q k^T / sqrt(d)) v, as `torch.nn.functional.scaled_dot_product_attention`.
    """

    kernel: Callable[..., Tensor] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads)
        self.key_norm = nn.RMSNorm(width // heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x` `[b, n, width]` attends to `context` `[b, m, width]`."""
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        attended = self.kernel(self.query_norm(query), self.key_norm(key), value)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Sequential):
    """width -> 4 width -> width with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class Upsample(nn.Sequential):
    """1x1 convolution and pixel shuffle: twice the side. `[b, i, h, w]` -> `[b, o, 2h, 2w]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))


def fourier(points: Tensor, octaves: int, unit: float) -> Tensor:
    """Sines and cosines of `points / unit` at `octaves` doubling frequencies; `[..., 3]` -> `[..., 6 octaves]`."""
    frequencies = 2.0 ** torch.arange(octaves, device=points.device) * (math.pi / 2 / unit)
    angles = points[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sample(maps: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear lookup.

    Args:
        maps: `[n, c, h, w]` features of an image of `height` x `width` pixels, at any resolution.
        pixels: `[n, p, 2]` positions in that image, x right, y down.

    Returns:
        `[n, p, c]`; zero outside of the image.
    """
    size = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    grid = (2 * pixels / size - 1)[:, :, None]
    found = F.grid_sample(maps.contiguous(), grid.to(maps.dtype), align_corners=False)
    return found[..., 0].transpose(1, 2)


def run(module: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    """The module's output; with `recompute` the backward pass computes what is inside again instead of keeping it."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def zeroed(module: nn.Module) -> nn.Module:
    """Weights and biases set to zero: the layer adds nothing until it has learned to."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
