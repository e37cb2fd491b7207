"""Where DeepSpeed keeps the fp32 master weights: one view of ZeRO 0 to 3 for the average and for checkpoints.

DeepSpeed 0.19 keeps one flat tensor of masters per group and rank (ZeRO 1, 2, 3) or whole tensors on every rank
(ZeRO 0). A `Fragment` says which slice of which parameter lies where in them; nothing here talks to another rank
except `published`, which refreshes the weights that the model computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Fragment:
    """One rank's slice of one parameter, in the parameter's own flattened coordinates.

    Attributes:
        name, shape: the parameter's.
        start, numel: the slice.
        owner: index of the tensor that holds it (`Masters.owners`), or None where the parameter is frozen.
        offset: where the slice begins in its owner.
        frozen: the slice itself, of a frozen parameter.
        replicated: whether every rank holds this same slice.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    owner: int | None
    offset: int = 0
    frozen: Tensor | None = None
    replicated: bool = False


@dataclass
class Masters:
    """The fp32 master weights of one engine on this rank.

    Attributes:
        optimizer: torch's optimiser; its state is keyed by the owners.
        owners: the tensors it updates: flat partitions, or whole parameters at ZeRO 0.
        fragments: which slice of which parameter lies where.
    """

    optimizer: torch.optim.Optimizer
    owners: list[Tensor]
    fragments: list[Fragment]
    _before: Callable[[], None] = field(default=lambda: None, repr=False)
    _publish: Callable[[], None] = field(default=lambda: None, repr=False)

    def flats(self) -> list[Tensor]:
        """The owners as 1-D fp32 tensors that share their memory."""
        return [owner.detach().view(-1) for owner in self.owners]

    def slice_of(self, fragment: Fragment, flats: list[Tensor]) -> Tensor:
        """The fragment's part of `flats` (masters, moments or averages), 1-D, sharing memory."""
        if fragment.owner is None:
            assert fragment.frozen is not None
            return fragment.frozen
        return flats[fragment.owner].narrow(0, fragment.offset, fragment.numel)

    @contextmanager
    def published(self) -> Iterator[None]:
        """Change masters inside; afterwards the model computes with them. Collective."""
        with torch.no_grad():
            self._before()
            yield
            self._publish()


def find_masters(engine: Any, module: nn.Module) -> Masters:
    """Locate the masters of a DeepSpeed engine.

    Args:
        engine: a `DeepSpeedEngine` over `module`.
        module: the model whose parameter names are wanted.
    """
    zero = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return _partitioned_parameters(zero, module)
    if stage:
        return _partitioned_masters(zero, module)
    return _replicated(zero, module)


def _replicated(zero: Any, module: nn.Module) -> Masters:
    """ZeRO 0: the parameters themselves, or fp32 copies of them beside bf16 ones."""
    copies: dict[Tensor, Tensor] = {}
    if hasattr(zero, "fp32_groups"):
        for low, high in zip(zero.fp16_groups, zero.fp32_groups, strict=True):
            copies.update(zip(low, high, strict=True))
    owners, fragments = [], []
    for name, parameter in module.named_parameters():
        shape, numel = tuple(parameter.shape), parameter.numel()
        if parameter.requires_grad:
            fragments.append(Fragment(name, shape, 0, numel, len(owners), replicated=True))
            owners.append(copies.get(parameter, parameter))
        else:
            fragments.append(_frozen(name, parameter))

    def publish() -> None:
        for low, high in copies.items():
            low.data.copy_(high.data)

    return Masters(getattr(zero, "optimizer", zero), owners, fragments, _publish=publish)


def _frozen(name: str, parameter: nn.Parameter) -> Fragment:
    flat = parameter.detach().view(-1)
    return Fragment(name, tuple(parameter.shape), 0, flat.numel(), None, frozen=flat, replicated=True)


def _partitioned_masters(zero: Any, module: nn.Module) -> Masters:
    """ZeRO 1 and 2: one flat partition of fp32 masters per group and rank, whole weights on every rank."""
    flat_groups = getattr(zero, "fp32_groups_flat_partition", None)  # bf16 with fp32 accumulation at stage 1
    owners = list(zero.single_partition_of_fp32_groups if flat_groups is None else flat_groups)
    fragments = []
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        if not parameter.requires_grad:
            fragments.append(_frozen(name, parameter))
            continue
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:
            low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
            fragments.append(Fragment(name, shape, low.start, low.numel, mapping.param_group_index, high.start))
    return Masters(zero.optimizer, owners, fragments, _publish=zero.update_lp_params)


def _partitioned_parameters(zero: Any, module: nn.Module) -> Masters:
    """ZeRO 3: every parameter is cut into equal slices, padded at the end, one for each rank."""
    owners = list(zero.fp32_partitioned_groups_flat)
    rank = dist.get_rank()
    fragments = []
    named: list[tuple[str, Any]] = list(module.named_parameters())
    for name, parameter in named:
        shape, total, part = tuple(parameter.ds_shape), parameter.ds_numel, parameter.ds_tensor
        width = part.ds_numel
        start = min(rank * width, total)
        numel = min(width, total - start)
        if not parameter.requires_grad:
            fragments.append(Fragment(name, shape, start, numel, None, frozen=part.data.view(-1)[:numel]))
        elif numel:
            owner, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            fragments.append(Fragment(name, shape, start, numel, owner, offset))

    def publish() -> None:
        for index in range(len(owners)):
            zero._reassign_or_swap_out_partitioned_parameters(index)
        zero.checkpoint_event_epilogue()

    return Masters(zero.optimizer, owners, fragments, _before=zero.checkpoint_event_prologue, _publish=publish)
