"""What a model is and costs, found without memory for its weights: everything runs on torch's meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from configs.schema import SystemConfig
from data.arkit import ARKIT
from models.layers import Attention
from models.system import System, build

Outputs = Mapping[str, Tensor]

# Counted in the template's own Gaussians on the rig of `headway data synth`: 10 to 17 splats of the person reach an
# average pixel before it is opaque, at 128x128 as at 1000x750, since they are as large as their spacing; the sphere's
# should be about 15 by theirs. A splat costs a quadratic form, an exponential and the blending of three colours per
# pixel; projecting one costs two 3x3 products, the Jacobian and the harmonics. The backward pass is about twice that.
SPLATS_PER_PIXEL = 14
BLEND_FLOPS = 20
PROJECT_FLOPS = 250


def outline(config: SystemConfig) -> nn.Module:
    """The model without its weights: every parameter is on the meta device."""
    with torch.device("meta"):
        return build(config)


def parameters_by_part(module: nn.Module) -> dict[str, int]:
    """Parameters of every child, and of the module itself as `(own)`; parts without any are left out."""
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()}
    own = sum(p.numel() for p in module.parameters(recurse=False))
    return {name: count for name, count in {**counts, "(own)": own}.items() if count}


def source_inputs(batch: int, views: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `System.forward` takes, on the meta device."""
    shapes = ((batch, views, 3, height, width), (batch, views, 4, 4), (batch, views, 3, 3), (batch, len(ARKIT)))
    images, world_to_camera, K, coefficients = (torch.empty(shape, device="meta") for shape in shapes)
    return images, world_to_camera, K, coefficients


def gaussians_by_layer(outputs: Outputs) -> dict[str, int]:
    """Gaussians of every `<layer>.means` that a system's forward gives."""
    return {name.partition(".")[0]: t.shape[1] for name, t in outputs.items() if name.endswith(".means")}


def render_flops(gaussians: Mapping[str, int], views: int, height: int, width: int) -> int:
    """Arithmetic of drawing one sample forward: an estimate, see SPLATS_PER_PIXEL."""
    blending = len(gaussians) * height * width * SPLATS_PER_PIXEL * BLEND_FLOPS
    return views * (blending + sum(gaussians.values()) * PROJECT_FLOPS)


def activation_bytes(system: System, inputs: tuple[Tensor, ...]) -> int:
    """Largest memory that a forward and backward pass of the model holds in fp32, beside weights and their gradients.

    Every tensor that an operation makes is counted from its birth to its death; attention is taken for a fused kernel
    that keeps no matrix. Rendering, losses and what an allocator wastes are not in it.

    Args:
        system: on the meta device.
        inputs: as from `source_inputs`.
    """
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        for parameter in system.parameters()
        if parameter.requires_grad
    ]
    attentions = [module for module in system.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.kernel = _fused_attention
    try:
        with Live([*system.parameters(), *system.buffers(), *inputs]) as live:
            outputs = system(*inputs)
            torch.stack([t.sum() for t in outputs.values() if t.requires_grad]).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        for attention in attentions:
            del attention.kernel
    return live.peak


class Live(TorchDispatchMode):
    """Adds up the storages that are made inside of it, while they live.

    Args:
        there: tensors whose memory was there before: a view of one is nothing new.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in there}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            self._known[key] = weakref.finalize(storage, self._forget, key, storage.nbytes())
        return tensor

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key)
        self.now -= size


def _fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As the fused kernels do it; left alone, the meta device would spell out the matrix."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
