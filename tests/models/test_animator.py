"""The animator: copies until it has learned, keeps shapes, reads the expression, knows what whitens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from configs.systems.animator import AnimatorConfig
from models.animator import Model
from models.system import build


def config_of(**changes: object) -> AnimatorConfig:
    small = {"channels": 6, "latent_size": 8, "patch": 2, "capacity": 1, "width": 32, "heads": 2, "coefficients": 5}
    return AnimatorConfig.model_validate({**small, "expression_tokens": 3, **changes})


def test_it_is_built_by_its_name() -> None:
    assert isinstance(build(config_of()), Model)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_an_untrained_animator_copies(patch: int, batch: int) -> None:
    model = Model(config_of(patch=patch))
    neutral = torch.randn(batch, 6, 8, 8)
    assert torch.equal(model(neutral, torch.rand(batch, 5)), neutral)


def learned() -> Model:
    torch.manual_seed(0)
    model = Model(config_of())
    nn.init.normal_(model.change.weight, std=0.1)
    return model


def test_the_expression_matters_and_everybody_is_on_their_own() -> None:
    model = learned()
    neutral, face = torch.randn(2, 6, 8, 8), torch.rand(2, 5)
    both = model(neutral, face)
    assert not torch.allclose(both, model(neutral, face.flip(0)), atol=1e-3)
    torch.testing.assert_close(model(neutral[:1], face[:1]), both[:1])


def test_every_parameter_learns() -> None:
    model = learned()
    model(torch.randn(2, 6, 8, 8), torch.rand(2, 5)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_moments_belong_to_the_model() -> None:
    model = learned()
    mean, std = torch.arange(6.0), torch.arange(1, 7.0)
    model.to(torch.bfloat16).adopt(mean, std)
    assert (model.mean.dtype, model.std.dtype) == (torch.float32, torch.float32)
    other = Model(config_of())
    other.load_state_dict(model.state_dict())
    latents = torch.randn(3, 6, 8, 8)
    torch.testing.assert_close(other.whiten(latents)[:, 2], (latents[:, 2] - 2) / 3)
    torch.testing.assert_close(other.unwhiten(other.whiten(latents)), latents)


def test_one_neutral_serves_many_expressions() -> None:
    model = learned()
    model.adopt(torch.ones(6), torch.full([6], 2.0))
    neutral, faces = torch.randn(1, 6, 8, 8), torch.rand(3, 5)
    found = model.animate(neutral, faces)
    white = model((neutral - 1) / 2, faces[1:2])
    torch.testing.assert_close(found[1:2], white * 2 + 1)


@pytest.mark.parametrize("changes", [{"patch": 3}, {"heads": 5}, {"capacity": 0}])
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        config_of(**changes)


def test_the_dial_sets_width_depth_and_heads() -> None:
    config = AnimatorConfig(capacity=3)
    assert (config.width, config.blocks, config.heads) == (192, 3, 3)
