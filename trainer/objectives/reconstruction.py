"""Reconstruction: render the prediction where the target cameras are and compare."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.objectives.reconstruction import ReconstructionConfig
from data.views import Batch
from models.system import Composite, Forward, Prediction, System, composite, predict
from trainer.objectives import base
from trainer.objectives.base import Clock, Losses
from trainer.objectives.losses import dissimilarity, lpips_distance, perceptual, psnr, total_variation


class Objective(base.Objective):
    """Weighted sum of L1, SSIM, LPIPS, mask, total variation and an early pull towards the template."""

    def __init__(self, config: ReconstructionConfig, system: System, device: torch.device) -> None:
        self.config = config
        network = perceptual(config.lpips) if config.lpips.weight > 0 else None
        self.lpips = None if network is None else network.to(device)
        self.anchors = getattr(system, "anchors", None)

    def __call__(self, forward: Forward, batch: Batch, step: int, clock: Clock) -> Losses:
        """See `trainer.objectives.base.Objective`; the position term fades with `step`."""
        with clock("model"):
            prediction = predict(forward, batch.source)
        with clock("render"):
            rendered = composite(prediction, batch.target.cameras)
        terms = self._image_terms(rendered, batch) | self._map_terms(prediction)
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
        }

    def _image_terms(self, rendered: Composite, batch: Batch) -> dict[str, Tensor]:
        images, target = rendered.images, batch.target
        terms = {"l1": (images - target.images).abs().mean()}
        if self.config.ssim:
            terms["ssim"] = dissimilarity(images, target.images)
        if self.config.mask:
            terms["mask"] = (rendered.alphas - target.masks).abs().mean()
        if self.lpips is not None:
            terms["lpips"] = lpips_distance(self.lpips, images, target.images).mean()
        return terms

    def _map_terms(self, prediction: Prediction) -> dict[str, Tensor]:
        terms = {}
        if self.config.total_variation and "maps" in prediction.extras:
            terms["total_variation"] = total_variation(prediction.extras["maps"][:, :6].float())
        if self.config.position and self.anchors is not None:
            offsets = (
                prediction.foreground.means - self.anchors.to(prediction.foreground.means.device).positions
            ) * 100
            terms["position"] = offsets.square().sum(-1).mean()
        return terms
