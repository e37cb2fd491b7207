"""The optimiser follows what a module says of its size; the coordinate check shows what that is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from configs import Config, UserError, load_config
from configs.schema import OptimizerConfig
from data.synth.rig import rig_cameras
from data.views import Batch, Cameras, Views
from models.system import build
from trainer.coordinates import coordinates
from trainer.optimizer import MULTIPLIER, build_optimizer, parameter_groups


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 4)
        self.maps = nn.Parameter(torch.zeros(2, 2))

    def learning_rate_factors(self) -> Mapping[str, float]:
        return {"hidden.weight": 0.25}


def settings(**changes: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate(changes)


def group_of(groups: list[dict[str, Any]], parameter: nn.Parameter) -> dict[str, Any]:
    return next(group for group in groups if any(p is parameter for p in group["params"]))


def test_a_module_s_own_factor_is_multiplied_with_the_config_s() -> None:
    module = Wide()
    groups = parameter_groups(module, settings(multipliers={"hidden": 8.0}))
    assert group_of(groups, module.hidden.weight)[MULTIPLIER] == 2.0
    assert group_of(groups, module.maps)[MULTIPLIER] == 1.0


def test_adamw_decays_as_much_per_step_at_every_size() -> None:
    module = Wide()
    decoupled = parameter_groups(module, settings(name="adamw", weight_decay=0.1))
    group = group_of(decoupled, module.hidden.weight)
    assert group["weight_decay"] * group[MULTIPLIER] == pytest.approx(0.1)
    assert group_of(decoupled, module.maps)["weight_decay"] == 0.1
    coupled = parameter_groups(module, settings(name="adam", weight_decay=0.1))
    assert group_of(coupled, module.hidden.weight)["weight_decay"] == 0.1


def test_sgd_is_refused_where_the_rule_does_something() -> None:
    with pytest.raises(UserError, match="is Adam's") as caught:
        build_optimizer(Wide(), settings(name="sgd"))
    assert "model.base_capacity=null" in str(caught.value)
    build_optimizer(build(load_config("headsup-nano").model), settings(name="sgd"))


def test_few_groups_whatever_the_size() -> None:
    with torch.device("meta"):
        system = build(load_config("headsup-base", ["model.capacity=32"]).model)
    assert len(parameter_groups(system, settings())) <= 6


PARTS = {"tokens": "encoder.levels.1.0", "decoder": "decoder.levels.2", "maps": "decoder.head"}


def tiny(capacity: int, base: str, blocks: int) -> Config:
    changes = [
        f"model.capacity={capacity}",
        f"model.base_capacity={base}",
        f"model.blocks={blocks}",
        "model.latent_size=8",
        "model.uv_size=32",
        "model.pixel_grid=16",
        "model.color_skip=false",
        "optimizer.multipliers={}",
        "optimizer.learning_rate=5e-4",
    ]
    return load_config("headsup-nano", changes)


def batch() -> Batch:
    matrices, K = (torch.from_numpy(a).float()[None, 5:9] for a in rig_cameras(16, (48, 48)))
    images = torch.rand(1, 4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    views = Views(images, torch.ones(1, 4, 1, 48, 48), Cameras(matrices, K, 48, 48))
    return Batch(source=views[:, :2], target=views[:, 2:], names=("noise",), consumed=1)


def growth(first: tuple[int, int], second: tuple[int, int], base: str) -> dict[str, float]:
    """How much larger everything is, after five steps, in the second model; models are (capacity, blocks)."""
    found = []
    for capacity, blocks in (first, second):
        parts = {**PARTS, "latents": f"fusion.blocks.{blocks - 1}"}
        found.append(coordinates(tiny(capacity, base, blocks), batch(), parts, steps=5)[-1])
    return {name: found[1][name] / found[0][name] for name in found[0] if name != "loss"}


def test_the_coordinate_check_along_the_width() -> None:
    with_rule, without = (growth((1, 1), (4, 1), base) for base in ("1", "null"))
    maps = with_rule.pop("maps"), with_rule.pop("change.maps")
    assert all(1 / 1.6 < ratio < 1.6 for ratio in with_rule.values()), with_rule
    assert all(1 / 2.5 < ratio < 1.6 for ratio in maps), (
        "an output starts smaller the wider the network, and catches up"
    )
    assert without["maps"] > 3, without
    assert without["change.decoder"] > 2, without


def test_the_coordinate_check_along_the_depth() -> None:
    with_rule, without = (growth((1, 2), (1, 8), base) for base in ("1", "null"))
    assert all(1 / 1.6 < ratio < 1.6 for ratio in with_rule.values()), with_rule
    assert without["latents"] > 2, without


def test_a_part_that_never_speaks_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"not called in the forward pass: encoder\.levels\.1"):
        coordinates(tiny(1, "null", 1), batch(), {"tokens": "encoder.levels.1"}, steps=0)
