"""Image losses against their definitions and their packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from configs import UserError
from configs.objectives.reconstruction import LpipsConfig
from trainer.objectives.losses import (
    dissimilarity,
    lpips_distance,
    perceptual,
    psnr,
    structural_similarity,
    total_variation,
)


def images(seed: int = 0, views: int = 2) -> torch.Tensor:
    coarse = torch.rand(1, views * 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=64, mode="bilinear").unflatten(1, (views, 3))


def test_the_same_image_costs_nothing() -> None:
    x = images()
    assert dissimilarity(x, x).abs() < 1e-6
    assert psnr(x, x).min() >= 99


@pytest.mark.parametrize("amount", [0.02, 0.2])
def test_ssim_is_torchmetrics_ssim(amount: float) -> None:
    x, y = images(0), (images(0) + amount * images(1)).clamp(0, 1)
    usual = structural_similarity_index_measure(x[0], y[0], data_range=1.0, reduction="none")
    torch.testing.assert_close(structural_similarity(x, y)[0], usual, atol=1e-5, rtol=0)
    assert abs(float(1 - dissimilarity(x, y)) - float(structural_similarity(x, y).mean())) < 0.1


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_psnr_is_its_formula(noise: float) -> None:
    x = torch.full((1, 1, 3, 8, 8), 0.5)
    torch.testing.assert_close(psnr(x + noise, x), torch.tensor([[-20.0 * torch.log10(torch.tensor(noise))]]))


def test_psnr_forgives_what_a_screen_cannot_show() -> None:
    assert psnr(torch.full((1, 1, 3, 8, 8), 7.0), torch.ones(1, 1, 3, 8, 8)).min() >= 99


def test_total_variation_of_a_ramp_is_its_slope() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(total_variation(ramp), torch.tensor(1.0))


def test_lpips_off_is_nothing() -> None:
    assert perceptual(LpipsConfig()) is None


def test_lpips_with_random_weights_runs_the_real_path() -> None:
    torch.manual_seed(0)
    network = perceptual(LpipsConfig(weights="random", network="squeeze"))
    assert network is not None
    x = images().requires_grad_()
    distances = lpips_distance(network, x, images(1))
    assert distances.shape == (1, 2)
    distances.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert lpips_distance(network, x, x).abs().max() < 1e-6


def test_lpips_takes_a_local_backbone(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(3)
    backbone = torchvision.models.squeezenet1_1().state_dict()
    torch.save(backbone, tmp_path / "squeeze.pth")
    settings = LpipsConfig(weights="file", network="squeeze", path=str(tmp_path / "squeeze.pth"))
    first, second = perceptual(settings), perceptual(settings)
    assert first is not None
    assert second is not None
    x, y = images(0), images(1)
    torch.testing.assert_close(lpips_distance(first, x, y), lpips_distance(second, x, y), rtol=0, atol=0)
    weights = dict(first.net.named_parameters())  # type: ignore[union-attr]
    torch.testing.assert_close(weights["slice1.0.weight"].data, backbone["features.0.weight"])


@pytest.mark.parametrize("content", [None, b"", b"no state dict"])
def test_a_bad_backbone_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"backbone"):
        perceptual(LpipsConfig(weights="file", network="squeeze", path=str(path)))
