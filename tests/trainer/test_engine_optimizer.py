"""Parameter groups and the learning rate as a function of the step."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import SmallNet
from torch import nn

from configs import UserError
from configs.schema import OptimizerConfig
from trainer.optimizer import MULTIPLIER, build_optimizer, learning_rate_factor, parameter_groups, set_learning_rate


def config(**changes: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate(changes)


schedules = st.builds(
    config,
    schedule=st.sampled_from(["cosine", "constant"]),
    warmup_steps=st.integers(0, 50),
    final_fraction=st.floats(0, 1),
)


@given(schedules, st.integers(1, 200), st.integers(0, 400))
def test_the_factor_stays_between_its_ends(settings: OptimizerConfig, steps: int, step: int) -> None:
    factor = learning_rate_factor(settings, steps, step)
    assert 0 <= factor <= 1
    if step >= settings.warmup_steps:
        assert factor >= settings.final_fraction - 1e-12


@given(schedules, st.integers(1, 200))
def test_it_rises_then_never_rises_again(settings: OptimizerConfig, steps: int) -> None:
    factors = [learning_rate_factor(settings, steps, step) for step in range(steps + 5)]
    peak = min(settings.warmup_steps, len(factors))
    assert all(a < b for a, b in pairwise(factors[:peak]))
    assert all(a >= b - 1e-12 for a, b in pairwise(factors[peak:]))


def test_known_values() -> None:
    settings = config(warmup_steps=4, final_fraction=0.1)
    factors = [learning_rate_factor(settings, 14, step) for step in range(14)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[8] == pytest.approx(0.55)
    assert factors[13] == pytest.approx(0.1)
    assert learning_rate_factor(settings, 14, 99) == pytest.approx(0.1)


def test_it_depends_on_nothing_but_the_step() -> None:
    settings = config(warmup_steps=10)
    forward = [learning_rate_factor(settings, 60, step) for step in range(60)]
    backward = [learning_rate_factor(settings, 60, step) for step in reversed(range(60))]
    assert forward == backward[::-1]


def test_groups_hold_every_trained_parameter_once() -> None:
    network = SmallNet()
    groups = parameter_groups(network, config(weight_decay=0.1, multipliers={"positions": 5.0, "wide": 0.5}))
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    by_parameter = {id(p): group for group in groups for p in group["params"]}
    assert by_parameter[id(network.positions)][MULTIPLIER] == 5.0
    assert by_parameter[id(network.wide.weight)] == by_parameter[id(network.wide.weight)] | {MULTIPLIER: 0.5}
    assert by_parameter[id(network.wide.weight)]["weight_decay"] == 0.1
    assert by_parameter[id(network.wide.bias)]["weight_decay"] == 0.0
    assert by_parameter[id(network.norm.weight)]["weight_decay"] == 0.0


def test_the_first_pattern_wins() -> None:
    groups = parameter_groups(nn.Linear(2, 2), config(multipliers={"bias": 3.0, ".*": 2.0}))
    factors = {p.ndim: group[MULTIPLIER] for group in groups for p in group["params"]}
    assert factors == {1: 3.0, 2: 2.0}


def test_groups_follow_the_rate() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), config(multipliers={"bias": 3.0}))
    set_learning_rate(optimizer.param_groups, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03])


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_every_optimiser_learns(name: str, kind: type) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 1)
    optimizer = build_optimizer(layer, config(name=name, learning_rate=0.1, betas=(0.9, 0.95), momentum=0.5))
    assert type(optimizer) is kind
    inputs = torch.randn(32, 4)
    losses = []
    for _ in range(30):
        loss = (layer(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_mistakes_name_the_pattern() -> None:
    with pytest.raises(UserError, match=re.escape("optimizer.multipliers: 'absent'")) as caught:
        parameter_groups(nn.Linear(2, 2), config(multipliers={"absent": 2.0}))
    assert "weight, bias" in str(caught.value)
    with pytest.raises(UserError, match="not a regular expression"):
        parameter_groups(nn.Linear(2, 2), config(multipliers={"(": 2.0}))
    with pytest.raises(UserError, match="no parameter that trains"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), config())
