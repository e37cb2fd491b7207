"""The image critic: StyleGAN2's residual discriminator for images of any size (Karras et al. 2020, figure 7c)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.critics import ImageCriticConfig
from data.views import Cameras
from models.critics.equalised import EqualisedConv, EqualisedLinear, activate

CAMERA_NUMBERS = 16


class ImageCritic(nn.Module):
    """Tells real images from made ones; twice differentiable, nothing in place.

    With `config.camera` the logit is <features(image), embedding(camera)> / sqrt(width), so that it also judges whether
    the image is what that camera would see (Miyato & Koyama 2018, as in StyleGAN2-ADA and EG3D).
    """

    def __init__(self, config: ImageCriticConfig) -> None:
        super().__init__()
        self.config = config
        widths = [min(config.channels * 2**level, config.max_channels) for level in range(config.levels + 1)]
        last = widths[-1]
        self.stem = EqualisedConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(map(Down, widths[:-1], widths[1:]))
        self.last = EqualisedConv(last + bool(config.stddev_group), last, 3)
        self.dense = EqualisedLinear(last * config.grid**2, last)
        self.out = EqualisedLinear(last, last if config.camera else 1)
        self.camera = CameraEmbedding(last, config) if config.camera else None

    def forward(self, images: Tensor, cameras: Cameras | None = None) -> Tensor:
        """Judge images.

        Args:
            images: `[n, 3, h, w]` in [0, 1], of any size.
            cameras: `[n]`; what saw them. Needed if and only if `config.camera`.

        Returns:
            logits `[n]`, at least float32; positive means real.
        """
        self._check(images, cameras)
        x = activate(self.stem((images * 2 - 1).to(self.stem.weight.dtype)))
        for block in self.blocks:
            x = block(x)
        if self.config.stddev_group:
            x = with_deviation(x, self.config.stddev_group)
        x = F.adaptive_avg_pool2d(activate(self.last(x)), self.config.grid)
        x = self.out(activate(self.dense(x.flatten(1))))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.camera is None or cameras is None:
            return x[:, 0]
        return (x * self.camera(cameras).to(x.dtype)).sum(1) / math.sqrt(x.shape[1])

    def _check(self, images: Tensor, cameras: Cameras | None) -> None:
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected [n, 3, h, w]")
        if (cameras is not None) != self.config.camera:
            raise ValueError(
                f"camera is {self.config.camera}, and cameras were {'not ' if cameras is None else ''}given"
            )
        if cameras is None:
            return
        given, size = (*cameras.shape, cameras.height, cameras.width), (len(images), *images.shape[2:])
        if given != size:
            raise ValueError(f"cameras [n], height, width are {given}, and those of the images {size}")


class Down(nn.Module):
    """Residual block that halves the side, rounded up: two convolutions beside one of 1 x 1, both after a blur."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualisedConv(inputs, inputs, 3)
        self.second = EqualisedConv(inputs, outputs, 3, stride=2)
        self.skip = EqualisedConv(inputs, outputs, 1, bias=False)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", (taps[:, None] * taps).expand(inputs, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, i, h, w]` -> `[n, o, ceil(h / 2), ceil(w / 2)]`."""
        skip = self.skip(self._blur(x, stride=2))
        x = activate(self.second(self._blur(activate(self.first(x)))))
        return (x + skip) * math.sqrt(0.5)

    def _blur(self, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(F.pad(x, (1, 2, 1, 2)), self.kernel.to(x.dtype), stride=stride, groups=x.shape[1])


class CameraEmbedding(nn.Module):
    """Cameras `[n]` -> `[n, width]` with unit variance."""

    def __init__(self, width: int, config: ImageCriticConfig) -> None:
        super().__init__()
        self.unit = config.camera_unit
        inputs = [CAMERA_NUMBERS] + [width] * (config.camera_layers - 1)
        self.layers = nn.ModuleList(EqualisedLinear(i, width) for i in inputs)

    def forward(self, cameras: Cameras) -> Tensor:
        """See the class."""
        x = camera_numbers(cameras, self.unit).to(next(self.parameters()).dtype)
        for layer in self.layers:
            x = activate(layer(x))
        return x


def camera_numbers(cameras: Cameras, unit: float) -> Tensor:
    """What is not constant of EG3D's 25 numbers, all about 1 in size and apart from the image's resolution.

    Args:
        cameras: `[...]`.
        unit: metres that count as 1.

    Returns:
        `[..., 16]`: rotation of world_to_camera (9), translation / unit (3), log of fx / width and fy / height, and the
        principal point as a share of width and height, from the middle.
    """
    rotation, translation = cameras.world_to_camera[..., :3, :3], cameras.world_to_camera[..., :3, 3]
    size = torch.tensor([cameras.width, cameras.height]).to(cameras.K)
    focal = torch.stack([cameras.K[..., 0, 0], cameras.K[..., 1, 1]], dim=-1) / size
    middle = cameras.K[..., :2, 2] / size - 0.5
    return torch.cat([rotation.flatten(-2), translation / unit, focal.log(), middle], dim=-1)


def with_deviation(x: Tensor, group: int) -> Tensor:
    """Minibatch standard deviation as one more channel (Karras et al. 2018, section 3).

    Groups are neighbours in the batch, as many images each as the largest divisor of the batch that is at most `group`.

    Args:
        x: `[n, c, h, w]`.
        group: images per group.

    Returns:
        `[n, c + 1, h, w]`.
    """
    size = max(d for d in range(1, min(group, len(x)) + 1) if len(x) % d == 0)
    grouped = x.unflatten(0, (-1, size)).to(torch.promote_types(x.dtype, torch.float32))
    deviation = (grouped.var(dim=1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel.to(x.dtype)], dim=1)
