"""The set critic: any number of views in any order and any world, and only how they fit together."""

from __future__ import annotations

import pydantic
import pytest
import torch
from critic_scenes import rigid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.critics import SetCriticConfig
from data.views import Cameras
from models.critics import SetCritic
from models.critics.losses import r1

SMALL = {"patch": 4, "width": 32, "heads": 2, "blocks": 2, "se3_channels": 8, "translation_init": 1.0}


def critic(**settings: object) -> SetCritic:
    torch.manual_seed(0)
    return SetCritic(SetCriticConfig(**{**SMALL, **settings}))  # type: ignore[arg-type]


def images(b: int, v: int, height: int = 8, width: int = 12) -> Tensor:
    return torch.rand(b, v, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()


def cameras(b: int, v: int, height: int = 8, width: int = 12, dtype: torch.dtype = torch.float32) -> Cameras:
    K = torch.tensor([[3.0 * height, 0, width / 2], [0, 3.0 * height, height / 2], [0, 0, 1]], dtype=dtype)
    poses = rigid(torch.Generator().manual_seed(2), b, v, dtype=dtype)
    return Cameras(poses, K.expand(b, v, 3, 3), width, height)


def moved(seen: Cameras, motion: Tensor) -> Cameras:
    poses = (seen.world_to_camera.double() @ motion).to(seen.world_to_camera)
    return Cameras(poses, seen.K, seen.width, seen.height)


@settings(max_examples=10, deadline=None)
@given(views=st.integers(2, 6), height=st.integers(1, 20), width=st.integers(1, 20), stem=st.booleans())
def test_any_number_of_views_of_any_size(views: int, height: int, width: int, stem: bool) -> None:
    network = critic(stem_channels=(8, 16) if stem else ())
    logits = network(images(2, views, height, width), cameras(2, views, height, width))
    assert logits.shape == (2,)
    assert logits.isfinite().all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), views=st.integers(2, 5))
def test_a_rigid_motion_of_all_cameras_changes_nothing(seed: int, views: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for dtype, tolerance, metres in ((torch.float64, 1e-12, 2.0), (torch.float32, 1e-5, 2.0)):
        network, x = critic().to(dtype), images(2, views).to(dtype)
        seen = cameras(2, views, dtype=dtype)
        before = network(x, seen)
        after = network(x, moved(seen, rigid(generator, 2, 1, metres=metres)))
        torch.testing.assert_close(before, after, rtol=0, atol=tolerance)


def test_the_order_of_views_does_not_matter() -> None:
    network, x, seen = critic().double(), images(2, 4).double(), cameras(2, 4, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(x, seen), network(x[:, order], seen[:, order]), rtol=0, atol=1e-12)


def test_poses_matter_and_belong_to_their_images() -> None:
    network, x, seen = critic().double(), images(2, 3).double(), cameras(2, 3, dtype=torch.float64)
    swapped = network(x, seen[:, torch.tensor([1, 0, 2])])
    assert (network(x, seen) - swapped).abs().max() > 1e-5


def test_a_token_knows_where_in_its_image_it_lies() -> None:
    network, seen = critic(), cameras(1, 2, 12, 12)
    network.blocks = torch.nn.ModuleList()  # attention knows places too, but only from each other
    logits = []
    for row, column in ((0, 0), (4, 8)):
        spotted = torch.zeros(1, 2, 3, 12, 12)
        spotted[..., row : row + 4, column : column + 4] = 1
        logits.append(network(spotted, seen))
    assert (logits[0] - logits[1]).abs() > 1e-4


def test_intrinsics_do_not() -> None:
    seen = cameras(1, 2)
    zoomed = Cameras(seen.world_to_camera, seen.K * 2, seen.width, seen.height)
    assert torch.equal(critic()(images(1, 2), seen), critic()(images(1, 2), zoomed))


def test_sets_of_a_batch_do_not_mix() -> None:
    network, x, seen = critic(), images(3, 2), cameras(3, 2)
    torch.testing.assert_close(network(x, seen)[1:2], network(x[1:2], seen[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stem", [(), (8, 16)])
def test_r1_reaches_every_weight(stem: tuple[int, ...]) -> None:
    network = critic(stem_channels=stem)
    penalty = r1(network, images(2, 3), cameras(2, 3))
    penalty.backward()
    weights = {name: p.grad for name, p in network.named_parameters() if p.dim() > 1 or "translation" in name}
    assert [name for name, grad in weights.items() if grad is None or not grad.abs().sum() > 0] == []


def test_the_derivative_of_r1_is_that_of_finite_differences() -> None:
    network, x, seen = critic(blocks=1).double(), images(2, 2).double(), cameras(2, 2, dtype=torch.float64)
    weight, step = network.blocks[0].attention.translation, 1e-5  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(r1(network, x, seen), weight)  # type: ignore[arg-type]
    values = []
    for sign in (1, -1):
        weight.data += sign * step  # type: ignore[operator]
        values.append(r1(network, x, seen).item())
        weight.data -= sign * step  # type: ignore[operator]
    assert gradient.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-12)


def test_bfloat16_autocast_keeps_the_invariance_of_its_attention() -> None:
    network, x, seen = critic(), images(2, 3), cameras(2, 3)
    plain = network(x, seen)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x, seen)
        penalty = r1(network, x, seen)
    assert logits.dtype == penalty.dtype == torch.float32
    penalty.backward()
    torch.testing.assert_close(logits, plain, atol=0.05, rtol=0.05)
    assert critic().bfloat16()(x, seen).dtype == torch.float32


def test_every_block_learns_how_far_translations_count() -> None:
    network = critic(blocks=3)
    network(images(2, 3), cameras(2, 3)).sum().backward()
    factors = [p for name, p in network.named_parameters() if name.endswith("translation")]
    assert len(factors) == 3
    assert all(p.grad is not None and p.grad.abs() > 0 for p in factors)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="two views or more"):
        critic()(images(1, 1), cameras(1, 1))
    with pytest.raises(ValueError, match="two views or more"):
        critic()(images(1, 2)[0], cameras(1, 2)[0])
    with pytest.raises(ValueError, match="cameras have shape"):
        critic()(images(1, 2), cameras(1, 3))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"heads": 3}, "not a multiple of 3"),
        ({"se3_channels": 6}, "try 8"),
        ({"se3_channels": 16}, "try 8"),
        ({"stem_channels": (8, 8, 8)}, "tokens of 8 pixels, not 4"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], told: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        critic(**settings)


def test_the_defaults_are_gta_s_split_of_a_head() -> None:
    config = SetCriticConfig()
    assert config.width // config.heads == 64
    assert config.se3_channels == config.so2_channels == 32
