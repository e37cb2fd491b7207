"""Layers with an equalised learning rate (Karras et al. 2018, section 4.1): unit weights, scaled when used."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EqualisedConv(nn.Module):
    """Convolution `[n, i, h, w]` -> `[n, o, ceil(h / stride), ceil(w / stride)]`; odd kernels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class EqualisedLinear(nn.Module):
    """`[..., i]` -> `[..., o]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(x, self.weight * self.gain, self.bias)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance (StyleGAN2: slope 0.2, gain sqrt 2)."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)
