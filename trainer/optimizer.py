"""From settings to an optimiser: parameter groups, and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from configs import UserError
from configs.schema import OptimizerConfig

MULTIPLIER = "multiplier"


def learning_rate_factor(config: OptimizerConfig, steps: int, step: int) -> float:
    """Factor of the peak learning rate for the update that follows `step` done updates.

    Linear warm-up that reaches 1 at `warmup_steps`, then constant, or a half cosine that ends at `final_fraction` with
    the last update (Loshchilov and Hutter 2017).

    Args:
        config: schedule, warm-up and final fraction.
        steps: updates of the whole run.
        step: updates done so far, from 0.

    Returns:
        A number in (0, 1], or 0 where `final_fraction` is 0 and the run is over.
    """
    done = step + 1
    if done <= config.warmup_steps:
        return done / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (done - config.warmup_steps) / max(1, steps - config.warmup_steps))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or SGD over the parameters that train.

    Each group carries `multiplier`, the factor of the learning rate that `config.multipliers` gives its members.

    Raises:
        UserError: nothing to train, or a pattern that is no regular expression or matches no parameter.
    """
    groups = parameter_groups(module, config)
    if not groups:
        raise UserError("the model has no parameter that trains", where="model")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of equal learning-rate multiplier and weight decay, in order of first appearance.

    The first pattern found in a parameter's name gives its multiplier; biases and norms (one dimension or none) are
    not decayed.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    multipliers = _multipliers([name for name, _ in named], config.multipliers)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        key = (multipliers[name], decay)
        group = groups.setdefault(key, {"params": [], "weight_decay": decay, MULTIPLIER: multipliers[name]})
        group["params"].append(parameter)
    return list(groups.values())


def set_learning_rate(groups: Iterable[dict[str, Any]], rate: float) -> None:
    """Give every group `rate` times its multiplier."""
    for group in groups:
        group["lr"] = rate * group[MULTIPLIER]


def _multipliers(names: list[str], patterns: dict[str, float]) -> dict[str, float]:
    found = dict.fromkeys(names, 1.0)
    taken: set[str] = set()
    for pattern, factor in patterns.items():
        where = f"optimizer.multipliers: '{pattern}'"
        try:
            matches = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise UserError(f"not a regular expression: {error}", where=where) from None
        if not matches:
            raise UserError(
                "matches no parameter that trains", where=where, hint=f"for example: {', '.join(names[:5])}"
            )
        found.update({name: factor for name in matches if name not in taken})
        taken.update(matches)
    return found
