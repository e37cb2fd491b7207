"""Reconstruction against critics: what HeadsUp calls its discriminator, and MVCHead's critic of sets of views.

The loop knows nothing of it: the critics are `networks`, and `updates` says when each of them learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from configs.objectives.adversarial import AdversarialConfig, CriticTraining
from configs.schema import EngineConfig
from data.views import Batch
from models.system import System
from trainer.engine import MODEL
from trainer.objectives import reconstruction
from trainer.objectives.base import Clock, Forward, Losses, Network, Update
from trainer.objectives.judges import ImageJudge, Judge, SetJudge


class Objective(reconstruction.Objective):
    """All terms of reconstruction, and each critic's verdict from its start on."""

    def __init__(self, config: AdversarialConfig, system: System, device: torch.device) -> None:
        super().__init__(config, system, device)
        judges = {"image": (ImageJudge, config.image), "views": (SetJudge, config.views)}
        self.judges: dict[str, Judge] = {name: kind(of) for name, (kind, of) in judges.items() if of.weight > 0}
        self.networks = {name: _network(judge) for name, judge in self.judges.items()}
        self._made: dict[int, Tensor] = {}

    def __call__(self, forward: Forward, batch: Batch, step: int, clock: Clock) -> Losses:
        """Reconstruction's losses and the critics' verdicts on the rendered targets."""
        losses = super().__call__(forward, batch, step, clock)
        assert losses.rendered is not None
        made, total, terms = losses.rendered.images, losses.total, dict(losses.terms)
        with clock("critics"):
            for name, judge in self.judges.items():
                weight = _weight(judge.config, step)
                if weight:
                    reward = judge.reward(made, batch, step)
                    terms[f"{name}_reward"] = reward.detach()
                    total = total + weight * reward
        self._made[batch.consumed] = made.detach()
        return replace(losses, total=total, terms=terms)

    def updates(self, step: int) -> Sequence[Update]:
        """The system's update, then those of the critics that are due, on what the system has just made."""
        self._made.clear()
        due = [Update(MODEL, self)]
        for name, judge in self.judges.items():
            first = _updates_before(judge.config, step)
            last = _updates_before(judge.config, step + 1)
            due += [Update(name, partial(self._of_critic, judge, update)) for update in range(first, last)]
        return due

    def _of_critic(self, judge: Judge, update: int, forward: Forward, batch: Batch, step: int, clock: Clock) -> Losses:
        # Not through `forward`: DeepSpeed's does not take part in the second derivative that a penalty needs.
        with clock("critics"):
            key = step if update == _updates_before(judge.config, step) else -update
            return judge.losses(self._made[batch.consumed], batch, key, update)


def _network(judge: Judge) -> Network:
    config = judge.config
    engine = EngineConfig(zero_stage=config.zero_stage, precision=config.precision, gradient_clip=config.gradient_clip)
    return Network(judge.module, config.optimizer, engine, lambda steps: _updates_before(config, steps))


def _weight(config: CriticTraining, step: int) -> float:
    """Of the verdict in the training step that follows `step` done ones."""
    if step < config.start:
        return 0.0
    return config.weight * min(1.0, (step - config.start + 1) / config.ramp if config.ramp else 1.0)


def _updates_before(config: CriticTraining, step: int) -> int:
    """How many updates a critic has had when `step` training steps are done."""
    return max(0, step - config.start) // config.every * config.updates
