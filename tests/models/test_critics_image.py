"""The image critic: any size, twice differentiable, aware of its camera where it shall be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.critics import ImageCriticConfig
from data.views import Cameras
from models.critics import ImageCritic
from models.critics.crops import crop, crop_cameras, draw_corners
from models.critics.image import camera_numbers
from models.critics.losses import r1


def critic(**settings: object) -> ImageCritic:
    torch.manual_seed(0)
    return ImageCritic(ImageCriticConfig(**{"channels": 4, "max_channels": 8, "levels": 2, "grid": 2, **settings}))


def images(n: int, height: int, width: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def cameras(n: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Cameras:
    generator = torch.Generator().manual_seed(2)
    matrices = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    matrices[:, :3, :3] = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator, dtype=torch.float64))[0]
    matrices[:, :3, 3] = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    K = torch.tensor([[2.5 * height, 0, width / 2], [0, 2.5 * height, height / 2], [0, 0, 1]]).repeat(n, 1, 1)
    return Cameras(matrices.to(dtype), K.to(dtype), width, height)


@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 4), height=st.integers(1, 40), width=st.integers(1, 40), camera=st.booleans())
def test_any_number_of_images_of_any_size(n: int, height: int, width: int, camera: bool) -> None:
    network = critic(camera=camera)
    logits = network(images(n, height, width), cameras(n, height, width) if camera else None)
    assert logits.shape == (n,)
    assert logits.isfinite().all()


def test_logits_start_about_one_in_size() -> None:
    network = critic(channels=16, max_channels=64, levels=4, camera=True)
    logits = network(images(32, 32, 48), cameras(32, 32, 48))
    assert 0.05 < logits.std() < 5


@pytest.mark.parametrize("stddev_group", [0, 2])
@pytest.mark.parametrize("camera", [False, True])
def test_the_second_derivative_is_right(camera: bool, stddev_group: int) -> None:
    network = critic(levels=1, camera=camera, stddev_group=stddev_group).double()
    seen = cameras(2, 5, 7, torch.float64) if camera else None
    x = images(2, 5, 7).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: network(x, seen), x, atol=1e-6)


def test_every_weight_learns_from_r1() -> None:
    network = critic(camera=True, stddev_group=2)
    r1(network, images(4, 20, 12), cameras(4, 20, 12)).backward()
    # Biases need not: the derivative of what is linear between kinks does not know them.
    weights = {name: p.grad for name, p in network.named_parameters() if name.endswith("weight")}
    assert [name for name, grad in weights.items() if grad is None or not grad.abs().sum() > 0] == []


def test_every_parameter_learns_from_its_logits() -> None:
    network = critic(camera=True, stddev_group=2)
    network(images(4, 20, 12), cameras(4, 20, 12)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_r1_twice_gives_the_same() -> None:
    network, x = critic(), images(2, 16, 16)
    before = x.clone()
    assert torch.equal(r1(network, x), r1(network, x))
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_bfloat16_autocast() -> None:
    network, x = critic(camera=True, stddev_group=2), images(4, 24, 24)
    plain = network(x, cameras(4, 24, 24))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x, cameras(4, 24, 24))
        penalty = r1(network, x, cameras(4, 24, 24))
    assert logits.dtype == penalty.dtype == torch.float32
    penalty.backward()
    torch.testing.assert_close(logits, plain, atol=0.1, rtol=0.1)


def test_bfloat16_weights() -> None:
    logits = critic(camera=True, stddev_group=2).bfloat16()(images(4, 24, 24), cameras(4, 24, 24))
    assert logits.dtype == torch.float32


def test_the_camera_matters_where_it_shall() -> None:
    network, x = critic(camera=True), images(2, 16, 16).expand(2, -1, -1, -1)
    seen = cameras(2, 16, 16)
    assert not torch.allclose(network(x, seen), network(x, seen[torch.tensor([1, 0])]))


def test_a_camera_does_not_depend_on_the_resolution() -> None:
    seen = cameras(3, 64, 48)
    torch.testing.assert_close(camera_numbers(seen, 1.0), camera_numbers(seen.resized(32, 24), 1.0))


def test_images_of_a_batch_do_not_mix() -> None:
    network, x = critic(), images(3, 16, 16)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), atol=1e-5, rtol=1e-5)


def test_groups_see_how_alike_their_images_are() -> None:
    network = critic(stddev_group=4)
    x = images(4, 16, 16)
    alike = x[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(network(alike), network(x[:1]).expand(4), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(network(x)[:1], network(x[:1]), atol=1e-5)


def test_groups_stay_within_a_worker_s_share() -> None:
    network, x = critic(stddev_group=2), images(4, 16, 16)
    torch.testing.assert_close(network(x), torch.cat([network(x[:2]), network(x[2:])]), atol=1e-5, rtol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[n, 3, h, w\]"):
        critic()(torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="not given"):
        critic(camera=True)(images(1, 8, 8))
    with pytest.raises(ValueError, match="camera is False"):
        critic()(images(1, 8, 8), cameras(1, 8, 8))
    with pytest.raises(ValueError, match=r"\(1, 8, 8\)"):
        critic(camera=True)(images(1, 8, 8), cameras(1, 8, 16))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 40), width=st.integers(4, 40), side=st.integers(2, 48), seed=st.integers(0, 99))
def test_a_crop_s_camera_sees_what_the_crop_shows(height: int, width: int, side: int, seed: int) -> None:
    corners = draw_corners(3, (height, width), side, torch.Generator().manual_seed(seed))
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([columns, rows]).expand(3, -1, -1, -1)
    cut = crop(places, corners, side)
    assert cut.shape == (3, 2, min(side, height), min(side, width))
    whole = cameras(3, height, width)
    cropped = crop_cameras(whole, corners, side)
    assert (cropped.height, cropped.width) == tuple(cut.shape[-2:])
    points = torch.tensor([[0.1, 0.2, 0.3]]) + whole.centers[:, None] + 2 * whole.world_to_camera[:, None, 2, :3]
    before, after = whole.project(points)[0], cropped.project(points)[0]
    torch.testing.assert_close(after + cut[:, :, 0, 0][:, None] - 0.5, before, atol=1e-3, rtol=1e-4)


def test_crops_lie_everywhere_and_follow_the_seed() -> None:
    corners = draw_corners(2000, (20, 33), 16, torch.Generator().manual_seed(0))
    assert corners.amin(0).tolist() == [0, 0]
    assert corners.amax(0).tolist() == [4, 17]
    assert torch.equal(corners, draw_corners(2000, (20, 33), 16, torch.Generator().manual_seed(0)))


def test_crops_pass_gradients_on() -> None:
    x = images(2, 24, 24).requires_grad_()
    corners = draw_corners(2, (24, 24), 16, torch.Generator().manual_seed(0))
    crop(x, corners, 16).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 2 * 3 * 16 * 16
