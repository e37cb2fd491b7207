"""The C++ rasteriser against the float64 reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_scenes import assert_same_as_reference, orbit_cameras, random_gaussians

from models.render import rasterizer


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("count", "width", "height", "degree"), [(400, 64, 48, 0), (300, 70, 50, 3), (900, 96, 96, 1)])
def test_images_and_gradients(count: int, width: int, height: int, degree: int, antialiased: bool) -> None:
    gaussians = random_gaussians(count, count, batch=2, degree=degree)
    cameras = orbit_cameras(count, width, height, batch=2, views=2)
    assert_same_as_reference(gaussians, cameras, antialiased=antialiased, depth=True)


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(name: str) -> None:
    best = rasterizer.instruction_set()
    try:
        rasterizer.use_instruction_set(name)
    except ValueError:
        pytest.skip(f"this build or machine lacks {name}")
    try:
        assert rasterizer.instruction_set() == name
        assert_same_as_reference(random_gaussians(7, 200, degree=2), orbit_cameras(7, 37, 53), antialiased=True)
    finally:
        rasterizer.use_instruction_set(best)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 60),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    degree=st.integers(0, 3),
    size=st.sampled_from([0.0005, 0.01, 0.05]),
    distance=st.sampled_from([0.25, 0.6, 3.0]),
    antialiased=st.booleans(),
)
def test_any_scene(
    seed: int, count: int, width: int, height: int, degree: int, size: float, distance: float, antialiased: bool
) -> None:
    gaussians = random_gaussians(seed, count, degree=degree, size=size)
    cameras = orbit_cameras(seed, width, height, distance=distance)
    # A few pixels average less rounding away than an image does.
    assert_same_as_reference(gaussians, cameras, tolerance=1e-4, antialiased=antialiased, depth=True)


def test_outside_the_field_of_view_the_jacobian_is_clamped() -> None:
    """Large Gaussians beside the image reach into it with the covariance of its margin."""
    gaussians = random_gaussians(3, 80, size=0.08)
    cameras = orbit_cameras(3, 48, 40)
    narrow = cameras.K.clone()
    narrow[..., :2, :2] *= 4
    cameras = type(cameras)(cameras.world_to_camera, narrow, 48, 40)
    assert_same_as_reference(gaussians, cameras)
