"""Losses of critics against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.critics.losses import (
    critic_hinge,
    critic_logistic,
    generator_hinge,
    generator_logistic,
    gradient_penalty,
    r1,
)

logits = st.lists(st.floats(-30, 30), min_size=1, max_size=5).map(lambda x: torch.tensor(x, dtype=torch.float64))


class Quadratic(torch.nn.Module):
    """D(x) = |w x|² of every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).square().sum(1)


@settings(max_examples=30, deadline=None)
@given(real=logits, fake=logits)
def test_the_logistic_losses_are_cross_entropies(real: Tensor, fake: Tensor) -> None:
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        critic_logistic(real, fake), bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    )
    torch.testing.assert_close(generator_logistic(fake), bce(fake, torch.ones_like(fake)))


@settings(max_examples=30, deadline=None)
@given(real=logits, fake=logits)
def test_hinges_stop_at_the_margin(real: Tensor, fake: Tensor) -> None:
    expected = sum(max(0, 1 - x) for x in real.tolist()) / len(real) + sum(max(0, 1 + x) for x in fake.tolist()) / len(
        fake
    )
    assert critic_hinge(real, fake).item() == pytest.approx(expected)
    assert generator_hinge(fake).item() == pytest.approx(-fake.mean().item())


def test_an_undecided_critic_pays_two_bits() -> None:
    nothing = torch.zeros(4)
    assert critic_logistic(nothing, nothing).item() == pytest.approx(2 * math.log(2))
    assert generator_logistic(nothing).item() == pytest.approx(math.log(2))


def test_penalties_of_a_linear_critic() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    x = torch.rand(5, 2)
    assert r1(lambda x: x @ weight, x).item() == pytest.approx(25)
    between = gradient_penalty(lambda x: x @ weight, x, torch.rand(5, 2), torch.Generator().manual_seed(0))
    assert between.item() == pytest.approx(16)
    r1(lambda x: x @ weight, x).backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_r1_is_a_mean_over_samples() -> None:
    x = torch.rand(4, 3, dtype=torch.float64)
    critic = Quadratic()
    torch.testing.assert_close(r1(critic, x), (2 * critic.weight**2 * x).square().sum(1).mean())
    halves = (r1(critic, x[:2]) + r1(critic, x[2:])) / 2
    torch.testing.assert_close(r1(critic, x), halves)


def test_the_derivative_of_r1_is_that_of_finite_differences() -> None:
    x, critic, step = torch.rand(4, 3, dtype=torch.float64), Quadratic(), 1e-6
    (gradient,) = torch.autograd.grad(r1(critic, x), critic.weight)
    for i in range(3):
        values = []
        for sign in (1, -1):
            moved = Quadratic()
            moved.weight.data[i] += sign * step
            values.append(r1(moved, x).item())
        assert gradient[i].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_the_gradient_penalty_looks_between_the_two() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum((1, 2))

    generator = torch.Generator().manual_seed(0)
    gradient_penalty(critic, torch.zeros(64, 2, 3), torch.ones(64, 2, 3), generator)
    (points,) = seen
    assert torch.equal(points, points[:, :1, :1].expand_as(points)), "one place per sample"
    assert points.min() >= 0
    assert points.max() <= 1
    assert points.std() > 0.2


def test_further_arguments_reach_the_critic() -> None:
    weights = torch.tensor([1.0, 2.0])
    assert r1(lambda x, w: x.sum(1) * w, torch.rand(2, 3), weights).item() == pytest.approx(3 * (1 + 4) / 2)
    penalty = gradient_penalty(
        lambda x, w: x.sum(1) * w, torch.rand(2, 1), torch.rand(2, 1), torch.Generator().manual_seed(0), weights
    )
    assert penalty.item() == pytest.approx(0.5)


def test_a_dead_critic_does_not_spoil_the_penalty() -> None:
    weight = torch.zeros(2, requires_grad=True)
    gradient_penalty(lambda x: x @ weight, torch.rand(3, 2), torch.rand(3, 2), torch.Generator()).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="real has shape"):
        gradient_penalty(lambda x: x.sum(1), torch.rand(3, 2), torch.rand(2, 2), torch.Generator())
