"""Image losses; all take `[batch, view, c, h, w]` in [0, 1] and return a scalar."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.objectives.reconstruction import LpipsConfig

WINDOW = 8
C1, C2 = 0.01**2, 0.03**2


def dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """1 - SSIM with uniform 8x8 windows every 4 pixels: for training, at a fraction of the Gaussian window's cost."""
    # Means of blocks, then of 2x2 neighbouring blocks: the same windows with a quarter of the reads.
    blocks = F.avg_pool2d(_moments(first.flatten(0, 1), second.flatten(0, 1)), WINDOW // 2)
    return 1 - _ssim(F.avg_pool2d(blocks, 2, stride=1)).mean()


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of every image, `[batch, view]` (Wang et al. 2004: 11x11 Gaussian window, sigma 1.5; reflected border).

    Ours because torchmetrics', which the tests compare it with, takes seconds to import.
    """
    taps = torch.exp(-0.5 * ((torch.arange(11, device=first.device) - 5) / 1.5) ** 2)
    taps = (taps / taps.sum()).to(first)
    padded = (F.pad(images.flatten(0, 1), (5, 5, 5, 5), mode="reflect") for images in (first, second))
    moments = _moments(*padded).flatten(0, 1)[:, None]
    moments = F.conv2d(F.conv2d(moments, taps.view(1, 1, 1, 11)), taps.view(1, 1, 11, 1))
    return _ssim(moments.unflatten(0, (-1, first.shape[-3]))[:, :, 0]).mean(dim=(1, 2, 3)).unflatten(0, first.shape[:2])


def _moments(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y, x * x, y * y, x * y])


def _ssim(moments: Tensor) -> Tensor:
    """Wang et al. 2004, equation 13, from the windows' moments, stacked along dimension 0."""
    mean_x, mean_y, xx, yy, xy = moments.chunk(5)
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    agree = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return agree / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))


def total_variation(maps: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in `[batch, c, s, s]`."""
    return (maps[..., 1:, :] - maps[..., :-1, :]).abs().mean() + (maps[..., 1:] - maps[..., :-1]).abs().mean()


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of every image: `[..., c, h, w]` -> `[...]`."""
    error = (first.clamp(0, 1) - second).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(error.clamp(min=1e-10))


def perceptual(config: LpipsConfig) -> nn.Module | None:
    """LPIPS by the `lpips` package, or none when it is off.

    `download` fetches torchvision's backbone, `file` reads one from `path`, `random` is for tests only: its numbers
    are not LPIPS.

    Raises:
        UserError: when the backbone's weights cannot be had.
    """
    if config.weights == "off":
        return None
    import models  # noqa: F401  declares what torchvision misses on a CPU, before lpips imports it

    import lpips  # isort: skip

    try:
        network = lpips.LPIPS(net=config.network, pnet_rand=config.weights != "download", verbose=False)
    except OSError as error:
        raise UserError(
            f"the LPIPS backbone could not be downloaded ({error})",
            where="objective.lpips.weights",
            hint="give a local state dict: objective.lpips.weights=file objective.lpips.path=vgg16.pth",
        ) from None
    if config.weights == "file":
        _load_backbone(network.net, config.path)
    return network.requires_grad_(False).eval()


def lpips_distance(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """LPIPS of every image, `[batch, view]`."""
    distances = network(first.flatten(0, 1) * 2 - 1, second.flatten(0, 1) * 2 - 1)
    return distances.flatten().unflatten(0, first.shape[:2])


def _load_backbone(net: nn.Module, path: str | None) -> None:
    """torchvision's `features.<i>` sit in lpips' `slice<k>.<i>`."""
    if path is None or not Path(path).is_file():
        raise UserError(f"no such backbone file: {path}", where="objective.lpips.path")
    try:
        source = torch.load(path, map_location="cpu", weights_only=True)
        own = net.state_dict()
        net.load_state_dict({key: source[f"features.{key.split('.', 1)[1]}"] for key in own})
    except (KeyError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"not a torchvision backbone of that network: {error}", where=path) from None
