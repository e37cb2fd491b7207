"""The gsplat backend: its arguments everywhere, its images where there is a GPU."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from render_scenes import orbit_cameras, random_gaussians
from torch import Tensor

from models.render import gsplat_backend, reference, render

SETTINGS = {"width": 20, "height": 16, "near": 0.02, "antialiased": True, "depth": True}


def tensors_of(batch: int, views: int) -> list[Tensor]:
    gaussians, cameras = random_gaussians(0, 30, batch, degree=2), orbit_cameras(0, 20, 16, batch, views)
    fields = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh]
    return [*fields, cameras.world_to_camera, cameras.K, torch.zeros(batch, views, 3).double()]


def test_arguments_are_gsplats() -> None:
    from gsplat import rasterization

    call = gsplat_backend.arguments(*tensors_of(2, 3), **SETTINGS)
    inspect.signature(rasterization).bind(**call)
    assert call["means"].shape == (2, 30, 3)
    assert call["colors"].shape == (2, 3, 30, 3)
    assert call["viewmats"].shape == (2, 3, 4, 4)
    assert call["backgrounds"].shape == (2, 3, 3)
    assert call["near_plane"] == 0.02
    assert (call["render_mode"], call["rasterize_mode"]) == ("RGB+D", "antialiased")


def test_activations() -> None:
    tensors = tensors_of(1, 2)
    call = gsplat_backend.arguments(*tensors, **SETTINGS)
    torch.testing.assert_close(call["scales"], tensors[2].exp())
    torch.testing.assert_close(call["opacities"], tensors[3].sigmoid())
    center = -tensors[5][0, 1, :3, :3].T @ tensors[5][0, 1, :3, 3]
    torch.testing.assert_close(call["colors"][0, 1], reference.sh_colors(tensors[0][0], tensors[4][0], center))


@pytest.mark.parametrize(("version", "expected"), [("1.5.3", 0.999), ("1.6.0", 0.99), ("2.0", 0.99)])
def test_largest_alpha_by_version(monkeypatch, version: str, expected: float) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    gsplat_backend.built_in_max_alpha.cache_clear()
    assert gsplat_backend.built_in_max_alpha() == expected
    monkeypatch.undo()
    gsplat_backend.built_in_max_alpha.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("antialiased", [False, True])
def test_images_on_a_gpu(antialiased: bool) -> None:
    gaussians, cameras = random_gaussians(3, 500, 2), orbit_cameras(3, 64, 48, 2, 2)
    limit = gsplat_backend.built_in_max_alpha()
    expected = render(gaussians, cameras, antialiased=antialiased, depth=True, backend="reference", max_alpha=limit)
    on_gpu = gaussians.map(lambda tensor: tensor.float().cuda()), cameras.map(Tensor.float).to("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = render(*on_gpu, antialiased=antialiased, depth=True, max_alpha=limit)
    error = (drawn.images.double().cpu() - expected.images).abs().amax(2)
    assert (error > 1e-4).double().mean() < 1e-2
    assert drawn.depths is not None
