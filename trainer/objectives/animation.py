"""Animation: the predicted latent of an expression against the encoded one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from configs import Config, UserError
from configs.objectives.animation import AnimationConfig
from data.latents import LatentBatch, LatentSet
from data.order import words
from models.animator import Model
from models.system import Prediction, composite, prediction_of
from trainer.distributed import Distributed
from trainer.evaluation import Evaluation
from trainer.latents import FrozenBase, open_base
from trainer.objectives import base
from trainer.objectives.base import Clock, Forward, Losses
from trainer.viewing import frontal_cameras

TURN = math.radians(40)  # to either side, for the render loss
LEAST_CHANGE = 1e-3  # of whitened latents, squared: a batch of neutral faces alone divides by no less


class Objective(base.Objective):
    """Supervised losses on whitened latents (HeadsUp, page 14; which ones is ours), optionally on their renderings."""

    def __init__(self, config: AnimationConfig, system: Model, device: torch.device) -> None:
        if not isinstance(system, Model):
            raise UserError("trains animators only", where="objective: animation", hint="set model.system=animator")
        self.config, self.animator, self._device = config, system, device
        self._base: FrozenBase | None = None
        if config.render.weight:
            if system.config.base.path is None:
                hint = "the checkpoint that `headway latents` was given"
                raise UserError("objective.render needs the base's decoder", where="model.base.path", hint=hint)
            self._base = open_base(system.config.base.path)
            self._base.system.to(device)

    def __call__(self, forward: Forward, batch: LatentBatch, step: int, clock: Clock) -> Losses:
        """See `trainer.objectives.base.Objective`; `copy_l1` is what copying the neutral latent would give."""
        self._check(batch)
        self.animator.adopt(batch.mean, batch.std)
        with clock("model"):
            predicted = forward(batch.neutral, batch.coefficients).float()
        terms = {
            "l1": (predicted - batch.latents).abs().mean(),
            "cosine": 1 - F.cosine_similarity(predicted, batch.latents, dim=1).mean(),
            "unexplained": _unexplained(predicted, batch),
        }
        config = self.config
        weights = {name: getattr(config, name) for name in terms} | {"render": config.render.weight}
        if self._base is not None and self.config.render.weight:
            with clock("render"):
                terms["render"] = self._render_loss(self._base, batch, predicted, step)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        detached = {name: term.detach() for name, term in terms.items()}
        return Losses(total, detached | {"copy_l1": (batch.neutral - batch.latents).abs().mean()})

    def evaluate(self, forward: Forward, held_out: LatentSet, config: Config, world: Distributed) -> Evaluation:
        """See `trainer.animation.evaluate_animation`."""
        from trainer.animation import HeldOut, evaluate_animation  # it measures with the losses of this package

        if not isinstance(held_out, LatentSet):
            hint = "`headway latents CHECKPOINT DATA` makes latents of captures"
            raise UserError("animation is measured on latents", where="data.test", hint=hint)
        found = HeldOut.open(held_out, self._base, self.animator.config.base.path)
        self._base = found.base
        try:
            return evaluate_animation(forward, self.animator, found, config, world)
        finally:
            found.captures.close()

    def _check(self, batch: LatentBatch) -> None:
        wanted = (*self.animator.config.latent_shape, self.animator.config.coefficients)
        if not isinstance(batch, LatentBatch):
            hint = "`headway latents CHECKPOINT DATA` makes latents of captures"
            raise UserError("animation trains on latents, not on captures", where="data.train", hint=hint)
        found = (*batch.latents.shape[1:], batch.coefficients.shape[1])
        if found != wanted:
            what = f"latents and coefficients are {list(found)}, the animator is made for {list(wanted)}"
            raise UserError(what, where="data.train", hint="set model.channels, latent_size and coefficients")

    def _render_loss(self, frozen: FrozenBase, batch: LatentBatch, predicted: Tensor, step: int) -> Tensor:
        """L1 between the decoded prediction and the decoded truth from random cameras in front."""
        settings = self.config.render
        unit = words(step, settings.views).astype(float) / 2.0**64
        azimuths = [TURN * (2 * u - 1) for u in unit.tolist()]
        one = frontal_cameras(azimuths, (settings.size, settings.size), device=predicted.device)
        cameras = one.map(lambda tensor: tensor.expand(len(predicted), *tensor.shape[1:]))
        with torch.no_grad():
            true = prediction_of(frozen.system.decode(batch.unwhiten(batch.latents))).foreground
            wanted = composite(Prediction(true, None, {}), cameras).images
        heads = prediction_of(frozen.system.decode(batch.unwhiten(predicted))).foreground
        return (composite(Prediction(heads, None, {}), cameras).images - wanted).abs().mean()


def _unexplained(predicted: Tensor, batch: LatentBatch) -> Tensor:
    """Squared error over what copying the neutral latent gives: 1 is a copy, 0 is perfect."""
    change = (batch.neutral - batch.latents).square().mean()
    return (predicted - batch.latents).square().mean() / change.clamp(min=LEAST_CHANGE)
