"""Reconstruction: render the prediction where the target cameras are and compare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from configs.errors import UserError
from configs.objectives.reconstruction import ReconstructionConfig
from data.views import Batch
from models.system import Composite, Forward, Prediction, System, composite, predict
from models.template import ExpressionOffsets, Template, load_template
from trainer.objectives import base
from trainer.objectives.base import Clock, Losses
from trainer.objectives.losses import dissimilarity, lpips_distance, perceptual, psnr, total_variation
from trainer.objectives.regions import RegionLosses


class Objective(base.Objective):
    """Weighted sum of L1, SSIM, LPIPS, mask, total variation, regions and an early pull towards the tracked mesh."""

    def __init__(self, config: ReconstructionConfig, system: System, device: torch.device) -> None:
        self.config = config
        network = perceptual(config.lpips) if config.lpips.weight > 0 else None
        self.lpips = None if network is None else network.to(device)
        self.anchors = getattr(system, "anchors", None)
        self.regions: RegionLosses | None = None
        if config.regions.eyes or config.regions.mouth:
            self.regions = RegionLosses(config.regions, _template_of(system, "objective.regions"), self.lpips)
        self.expressions: ExpressionOffsets | None = None
        if config.position and config.position_target == "tracked" and self.anchors is not None:
            template = _template_of(system, "objective.position_target")
            self.expressions = ExpressionOffsets(template, math.isqrt(len(self.anchors.positions)))

    def __call__(self, forward: Forward, batch: Batch, step: int, clock: Clock) -> Losses:
        """See `trainer.objectives.base.Objective`; the position term fades with `step`."""
        with clock("model"):
            prediction = predict(forward, batch.source)
        with clock("render"):
            rendered = composite(prediction, batch.target.cameras)
        terms = self._image_terms(rendered, batch) | self._map_terms(prediction, batch)
        weights = self._weights(step)
        total = torch.stack([weights[name] * terms[name] for name in terms]).sum()
        detached = {name: term.detach() for name, term in terms.items()}
        detached["psnr"] = psnr(rendered.images.detach(), batch.target.images).mean()
        return Losses(total, detached, rendered)

    def _weights(self, step: int) -> dict[str, float]:
        config = self.config
        left = max(0.0, 1 - step / config.position_steps) if config.position_steps else 0.0
        return {
            "l1": config.l1,
            "ssim": config.ssim,
            "mask": config.mask,
            "lpips": config.lpips.weight,
            "total_variation": config.total_variation,
            "position": config.position * left,
        } | (self.regions.weights if self.regions else {})

    def _image_terms(self, rendered: Composite, batch: Batch) -> dict[str, Tensor]:
        images, target = rendered.images, batch.target
        terms = {"l1": (images - target.images).abs().mean()}
        if self.config.ssim:
            terms["ssim"] = dissimilarity(images, target.images)
        if self.config.mask:
            terms["mask"] = (rendered.alphas - target.masks).abs().mean()
        if self.lpips is not None:
            terms["lpips"] = lpips_distance(self.lpips, images, target.images).mean()
        if self.regions is not None:
            terms |= self.regions(images, target)
        return terms

    def _map_terms(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        if self.config.total_variation and "maps" in prediction.extras:
            terms["total_variation"] = total_variation(prediction.extras["maps"][:, :6].float())
        if self.config.position and self.anchors is not None:
            means = prediction.foreground.means
            target = self.anchors.to(means.device).positions
            if self.expressions is not None:
                # The target's instant, which every other term compares with; the source's may be another one.
                assert batch.target.coefficients is not None, "streams give them"
                target = target + self.expressions(batch.target.coefficients)
            offsets = (means - target) * 100
            terms["position"] = offsets.square().sum(-1).mean()
        return terms


def _template_of(system: System, where: str) -> Template:
    config = getattr(getattr(system, "config", None), "template", None)
    if config is None:
        raise UserError("the system has no template", where=where, hint="leave it out for this system")
    return load_template(config.name, config.path)
