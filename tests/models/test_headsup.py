"""HeadsUp: any number of views, always as many Gaussians, and a start that looks like the template."""

from __future__ import annotations

import math

import pytest
import torch

from configs import load_config
from configs.systems.headsup import HeadsUpConfig
from data.views import Cameras, Views
from models.headsup.background import equirectangular
from models.headsup.encoder import pad_to_multiple, plucker_rays
from models.layers import fourier, sample
from models.system import System, build, composite, predict

TINY = ["model.capacity=1", "model.latent_size=8", "model.uv_size=32", "model.heads=2", "model.pixel_grid=16"]


def tiny(*overrides: str, preset: str = "headsup-nano") -> tuple[System, HeadsUpConfig]:
    torch.manual_seed(0)
    config = load_config(preset, [*TINY, *overrides]).model
    assert isinstance(config, HeadsUpConfig)
    return build(config), config


def ring(batch: int, views: int, height: int = 64, width: int = 64) -> Views:
    """Cameras on a circle around the head, looking at it from a metre away."""
    angles = torch.linspace(-1.2, 1.2, views)
    matrices = torch.zeros(views, 4, 4)
    for matrix, angle in zip(matrices, angles.tolist(), strict=True):
        s, c = math.sin(angle), math.cos(angle)
        matrix[:3, :3] = torch.tensor([[c, 0, -s], [0, -1, 0], [-s, 0, -c]])
        matrix[:, 3] = torch.tensor([0, 0, 1.0, 1.0])
    focal = 3.0 * height
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    cameras = Cameras(matrices.expand(batch, -1, -1, -1), K.expand(batch, views, 3, 3), width, height)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, views, 3, height, width, generator=generator)
    return Views(images, torch.ones(batch, views, 1, height, width), cameras)


@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize("switches", [True, False])
def test_the_count_of_gaussians_never_changes(views: int, switches: bool) -> None:
    system, config = tiny(f"model.pixel_features={switches}", f"model.color_skip={switches}")
    prediction = predict(system, ring(2, views))
    assert len(prediction.foreground) == config.uv_size**2
    assert prediction.background is not None
    assert len(prediction.foreground) + len(prediction.background) == config.gaussians
    assert prediction.extras["latents"].shape == (2, config.width, 8, 8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 38), (63, 47)])
def test_image_sizes_need_not_be_multiples_of_the_stride(height: int, width: int) -> None:
    system, config = tiny()
    assert len(predict(system, ring(1, 2, height, width)).foreground) == config.uv_size**2


def test_the_order_of_views_does_not_matter() -> None:
    system, _ = tiny()
    views = ring(1, 4)
    order = torch.tensor([2, 0, 3, 1])
    first, second = predict(system, views).foreground, predict(system, views[:, order]).foreground
    torch.testing.assert_close(first.means, second.means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.sh, second.sh, atol=1e-4, rtol=1e-4)


def test_batches_do_not_mix() -> None:
    system, _ = tiny()
    views = ring(2, 3)
    together = predict(system, views).foreground
    alone = predict(system, views[1:]).foreground
    torch.testing.assert_close(together.means[1:], alone.means, atol=1e-5, rtol=1e-4)


def test_an_untrained_model_starts_near_the_template() -> None:
    system, config = tiny("model.color_skip=false")
    means = predict(system, ring(1, 2)).foreground.means
    assert (means - system.anchors.positions).norm(dim=-1).max() < config.offset_range / 2  # type: ignore[union-attr]


def test_offsets_stay_in_range() -> None:
    system, config = tiny("model.color_skip=false")
    system.decoder.bias_map.data.fill_(100.0)  # type: ignore[union-attr]
    offsets = predict(system, ring(1, 1)).foreground.means - system.anchors.positions  # type: ignore[union-attr]
    assert offsets.abs().max() <= config.offset_range + 1e-6


@pytest.mark.parametrize("preset", ["headsup-nano", "headsup-base"])
def test_every_parameter_learns(preset: str) -> None:
    system, _ = tiny("model.activation_checkpointing=true", preset=preset)
    views = ring(2, 3)
    # Zero-initialised layers pass nothing back at first; one step of noise opens them.
    generator = torch.Generator().manual_seed(2)
    for parameter in system.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    rendered = composite(predict(system, views), views.cameras)
    (rendered.images.square().mean() + rendered.alphas.mean()).backward()
    silent = [name for name, p in system.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Nothing but the very edge of what is seen: the background map's texels behind the cameras get none, whole maps do.
    assert silent == []


def test_activation_checkpointing_changes_nothing() -> None:
    views, gradients = ring(1, 2), []
    for switch in ("true", "false"):
        system, _ = tiny(f"model.activation_checkpointing={switch}")
        predict(system, views).foreground.means.square().sum().backward()
        gradients.append(system.fusion.queries.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_bf16_weights_keep_the_geometry_in_float32() -> None:
    system, _ = tiny()
    exact = predict(system, ring(1, 2)).foreground
    half = predict(system.bfloat16(), ring(1, 2)).foreground
    assert half.means.dtype == torch.float32
    assert (half.means - exact.means).abs().max() < 2e-3


def test_stage_two_has_the_weights_of_stage_one() -> None:
    one, _ = tiny(preset="headsup-base")
    two, _ = tiny(preset="headsup-base-stage2")
    assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in two.named_parameters()}


def test_full_resolution_keeps_the_token_count() -> None:
    one, _ = tiny(preset="headsup-base")
    two, _ = tiny(preset="headsup-base-stage2")
    half, full = ring(1, 1, 100, 75), ring(1, 1, 200, 150)
    counts = [
        system.encoder(v.images, plucker_rays(v.cameras))[0].shape[1]  # type: ignore[union-attr]
        for system, v in ((one, half), (two, full))
    ]
    assert counts[0] == counts[1]


def test_a_background_fills_every_pixel() -> None:
    system, _ = tiny()
    views = ring(1, 3)
    behind = predict(system, views).background
    assert behind is not None
    from models.render import render

    assert render(behind, views.cameras).alphas.min() > 0.9


def test_a_colour_takes_the_place_of_the_background() -> None:
    system, _ = tiny()
    views = ring(1, 1)
    white = composite(predict(system, views), views.cameras, background=torch.ones(3))
    corner = white.images[0, 0, :, 0, 0] + 0 * white.alphas[0, 0, :, 0, 0]
    torch.testing.assert_close(corner, torch.ones(3), atol=0.05, rtol=0)


def test_plucker_rays_are_what_they_are_called() -> None:
    cameras = ring(1, 2).cameras
    moments, directions = plucker_rays(cameras).split(3, dim=2)
    torch.testing.assert_close(directions.norm(dim=2), torch.ones_like(directions[:, :, 0]))
    torch.testing.assert_close((moments * directions).sum(2), torch.zeros_like(directions[:, :, 0]), atol=1e-6, rtol=0)
    # The moment of the ray through the optical axis vanishes only if the axis meets the origin, as it does here.
    pixels, depth = cameras.project(torch.zeros(1, 3))
    torch.testing.assert_close(pixels[0, :, 0], torch.tensor([[32.0, 32.0]]).expand(2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, torch.ones(1, 2, 1))


def test_sampling_hits_pixel_centres() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    found = sample(image, torch.tensor([[[0.5, 0.5], [3.5, 2.5], [1.0, 0.5], [9.0, 9.0]]]), 3, 4)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.0, 11.0, 0.5, 0.0]))


def test_padding_and_fourier_shapes() -> None:
    assert pad_to_multiple(torch.zeros(1, 1, 5, 8), 8).shape == (1, 1, 8, 8)
    assert fourier(torch.zeros(7, 3), 6, 0.1).shape == (7, 36)


def test_equirectangular_directions_are_unit_and_cover_the_sphere() -> None:
    directions, spacing = equirectangular(16, 32)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(512))
    assert directions.mean(0).abs().max() < 1e-6
    assert (spacing > 0).all()
