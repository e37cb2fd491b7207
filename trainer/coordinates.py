"""The coordinate check: do activations keep their size along the dial while a model learns? (docs/capacity.md)

Yang et al. 2022, appendix D.1: under the right parametrisation the mean absolute value of every activation depends on
the step but not on the width; under the standard one some grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from configs import Config
from data.views import Batch
from models.system import build
from trainer.objectives import build_objective
from trainer.optimizer import build_optimizer, set_learning_rate


def coordinates(config: Config, batch: Batch, parts: dict[str, str], steps: int) -> list[dict[str, float]]:
    """Train on one batch, over and over, with a constant learning rate, and look inside.

    Args:
        config: of the model, the objective and the optimiser; `run.seed` seeds the weights.
        batch: what is learned.
        parts: name of a module by the name that it gets in the result.
        steps: optimiser steps.

    Returns:
        for every step from 0 to `steps`, before it is taken: mean |output| of every part, `loss`, and as
        `change.<part>` mean |output - its output at step 0|.

    Raises:
        ValueError: a part is not called in the forward pass.
    """
    torch.manual_seed(config.run.seed)
    system = build(config.model)
    objective = build_objective(config.objective, system, torch.device("cpu"))
    optimizer = build_optimizer(system, config.optimizer)
    set_learning_rate(optimizer.param_groups, config.optimizer.learning_rate)
    seen: list[dict[str, float]] = []
    first: dict[str, Tensor] = {}
    for step in range(steps + 1):
        with _outputs(system, parts) as outputs:
            losses = objective(system, batch, step, lambda _: nullcontext())
        if len(outputs) < len(parts):
            raise ValueError(
                f"not called in the forward pass: {', '.join(parts[name] for name in parts if name not in outputs)}"
            )
        first = first or outputs
        means = {name: output.abs().mean().item() for name, output in outputs.items()}
        changes = {f"change.{name}": (output - first[name]).abs().mean().item() for name, output in outputs.items()}
        seen.append({"loss": losses.total.item(), **means, **changes})
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    return seen


@contextmanager
def _outputs(system: nn.Module, parts: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the named modules during the body's forward pass."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output.detach().float()

        return system.get_submodule(parts[name]).register_forward_hook(hook)

    handles = [keep(name) for name in parts]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
