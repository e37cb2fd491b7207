"""How far the template's surface moves with a face: the part of a tracked mesh that captures tell."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from configs.errors import UserError
from data.arkit import ARKIT
from models.template.template import Template


class ExpressionOffsets:
    """ARKit coefficients -> offsets from the neutral template, texel by texel.

    Args:
        template: one with ARKit's blendshapes; those that it lacks move nothing.
        size: side of the UV map.

    Raises:
        UserError: the template has none of ARKit's blendshapes.
    """

    def __init__(self, template: Template, size: int) -> None:
        known = [number for number, name in enumerate(ARKIT) if name in template.mesh.expression_names]
        if not known:
            raise UserError(
                "the template has none of ARKit's blendshapes, so expressions cannot move it",
                where="model.template",
                hint="set objective.position_target=neutral, model.anchor=neutral, or take the template headway or ict",
            )
        maps = template.expression_maps(size, [ARKIT[number] for number in known])
        self._known, self._basis = known, maps.flatten(1, 2)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """Offsets `[b, size * size, 3]` in metres of coefficients `[b, 52]` in the order of `ARKIT`."""
        device = coefficients.device
        if self._basis.device != device:
            self._basis = self._basis.to(device)
        # Autocast, which the meta device does not know, would round centimetres to bf16.
        with nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False):
            return torch.einsum("bk,knc->bnc", coefficients[:, self._known].float(), self._basis)
