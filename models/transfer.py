"""One learning rate for every width and depth: what a parameter gets beside the base network (docs/capacity.md).

Maximal update parametrisation for Adam (Yang et al. 2022, Tensor Programs V, table 3) along the width, and CompleteP
(Dey et al. 2025, alpha = 1) along the depth. Multipliers of activations are folded into the weights behind them, which
Adam cannot tell apart: the forward pass and its checkpoints know nothing of the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn


class Scale(NamedTuple):
    """What a parameter has beside the network in which the learning rate was chosen.

    Attributes:
        initial: factor of its initial values; the layers' own rule, one over the root of the fan-in, is counted in.
        learning_rate: factor of Adam's learning rate.
    """

    initial: float = 1.0
    learning_rate: float = 1.0


@runtime_checkable
class Transferring(Protocol):
    """A network that says how its learning rate follows its size; the optimiser asks (trainer/optimizer.py)."""

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Factor by parameter name; 1 for those that are not named."""
        ...


def scales(network: nn.Module, base: nn.Module, branches: Mapping[str, float]) -> dict[str, Scale]:
    """Scales by parameter name, of those that are not 1.

    With m the fan-in over that of the base, weights of linear layers and convolutions learn at 1/m. Their initial
    values go by 1/sqrt(m) where outputs grow too, which the layers' own rule does already, and by 1/m where they do
    not. Everything else (biases, norms, queries, maps) is as in the base.

    Args:
        network: the network that is to be trained, initialised by torch's rules.
        base: the same network at its base widths, on any device; layers that it does not have are left as they are.
        branches: factor of what residual branches add, by name of the module that ends the branch.
    """
    fans, base_fans = _fans(network), _fans(base)
    found = {}
    for name, _ in network.named_parameters():
        ratio = outputs = 1.0
        if name in fans and name in base_fans:
            ratio = fans[name][0] / base_fans[name][0]
            outputs = fans[name][1] / base_fans[name][1]
        branch = branches.get(name.rpartition(".")[0], 1.0)
        scale = Scale(branch * (ratio**-0.5 if outputs == 1 else 1.0), branch / ratio)
        if scale != Scale():
            found[name] = scale
    return found


@torch.no_grad()
def initialise(network: nn.Module, found: Mapping[str, Scale]) -> None:
    """Apply the factors of the initial values."""
    for name, scale in found.items():
        if scale.initial != 1:
            network.get_parameter(name).mul_(scale.initial)


def _fans(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs of every output, and outputs, of the weights of linear layers and convolutions."""
    return {
        f"{name}.weight": (module.weight[0].numel(), module.weight.shape[0])
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
