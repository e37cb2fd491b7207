"""From settings to an optimiser: parameter groups, and a learning rate that is a pure function of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from configs import UserError
from configs.schema import OptimizerConfig
from models.transfer import Transferring

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

    Each group carries `multiplier`, the factor of the learning rate that its members have: what `config.multipliers`
    gives, times what the module asks for at its size (`models.transfer.Transferring`).

    Raises:
        UserError: nothing to train, a pattern that is no regular expression or matches no parameter, or SGD for a
            module whose learning rate follows its size by Adam's rule.
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
    not decayed. AdamW's decay per step, learning rate times weight decay, stays what it is at the base size.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    multipliers = _multipliers([name for name, _ in named], config.multipliers)
    factors = _size_factors(module, config)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        factor = factors.get(name, 1.0)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        decay = decay / factor if config.name == "adamw" else decay
        multiplier = multipliers[name] * factor
        group = groups.setdefault((multiplier, decay), {"params": [], "weight_decay": decay, MULTIPLIER: multiplier})
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


def _size_factors(module: nn.Module, config: OptimizerConfig) -> Mapping[str, float]:
    factors = module.learning_rate_factors() if isinstance(module, Transferring) else {}
    if config.name == "sgd" and any(factor != 1 for factor in factors.values()):
        raise UserError(
            "the rule that carries the learning rate along the dial is Adam's",
            where="optimizer.name",
            hint="adam, adamw, or model.base_capacity=null to take the learning rate as it is",
        )
    return factors
