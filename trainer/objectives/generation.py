"""Generation: flow matching on latents, measured by the loss on people held out and by how new samples are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import Config, UserError
from configs.objectives.generation import GenerationConfig
from data.latents import LatentBatch, LatentSet
from data.order import digest
from models.conditions.describe import Describer
from models.generator import Model
from models.generator.flow import Condition, between, noise_like, sample
from trainer.distributed import Distributed, broadcast_object, gather_objects
from trainer.evaluation import Evaluation
from trainer.nearest import latent_distances, neutral_names
from trainer.objectives.base import Clock, Forward, Losses
from trainer.objectives.base import Objective as Base

TIMES = (0.03, 0.1, 0.3, 0.5)  # later ones measure fine detail alone, and outweigh all others
COMPARED = 256  # learned people at an evaluation; `headway sample` takes them all


class Objective(Base):
    """Mean squared error of the velocity (Lipman et al. 2023, equation 23), over a batch of `LatentBatch`."""

    def __init__(self, config: GenerationConfig, system: Any, device: torch.device) -> None:
        if not isinstance(system, Model):
            raise UserError("learns a generator", where="objective: generation", hint="model: {system: generator, ...}")
        self.config, self.device = config, device
        self.describer = Describer(system.config, device)
        self.shape = system.config.latent

    def __call__(self, forward: Forward, batch: LatentBatch, step: int, clock: Clock) -> Losses:
        """See `trainer.objectives.base.Objective`; noise, time and what is forgotten follow from name and step."""
        latents = batch.neutral if self.config.frames == "neutral" else batch.latents
        if tuple(latents.shape[1:]) != self.shape:
            shape = list(latents.shape[1:])
            raise UserError(f"the latents are {shape}", where="model.latent", hint=f"model.latent={shape}")
        seeds = [digest("generation", step, name) for name in batch.names]
        condition = self.describer.people(batch.attributes, batch.captions, batch.names)
        condition = self._forgetful(condition, seeds)
        times = draw_times(self.config, seeds).to(self.device)
        noise = noise_like(self.shape, seeds).to(self.device)
        with clock("model"):
            error = _squared_error(forward, noise, latents, times, condition)
        return Losses(error.mean(), {"flow": error.detach().mean()})

    def evaluate(self, forward: Forward, held_out: LatentSet, config: Config, world: Distributed) -> Evaluation:  # type: ignore[override]
        """The loss on people held out at fixed times and noise, and how far samples are from the learned people.

        Metrics: `flow`, mean over `TIMES`; `nearest_sample` and `nearest_held_out`, the mean distance to the nearest of
        the first `COMPARED` learned people (root mean square of whitened latents), of samples with the held-out
        people's attributes and of those people themselves. Collective.
        """
        names = neutral_names(held_out)[: config.evaluation.subjects]
        turns = -(-len(names) // world.world_size)
        made = -(-min(self.config.evaluation_samples, len(names)) // world.world_size)
        found: dict[str, dict[str, float]] = {}
        with LatentSet.open(config.data.train, settings=config.data.store) as learned:
            known = neutral_names(learned)[:COMPARED]
            for turn in range(turns):
                # Sharded forwards are collective: every rank makes as many, so the short ones repeat somebody.
                name = names[(turn * world.world_size + world.rank) % len(names)]
                person = learned.whiten(held_out.latents([name])).to(self.device)
                condition = self._known_of(held_out, name)
                metrics = {"flow": self._flow(forward, name, person, condition)}
                people = {"nearest_held_out": person}
                if turn < made:
                    people["nearest_sample"] = self._sample(forward, name, condition)
                distances = latent_distances(torch.cat(list(people.values())).cpu(), learned, known).amin(dim=1)
                found[name] = metrics | dict(zip(people, distances.tolist(), strict=True))
        everybody = {n: one for part in broadcast_object(gather_objects(found)) or [] for n, one in part.items()}
        protocol = f"flow-heldout-{len(names)}people-{self.config.guidance:g}guidance-nearest-of-{len(known)}"
        return Evaluation(protocol, _means(everybody), {name: everybody[name] for name in names})

    def _forgetful(self, condition: Condition, seeds: list[int]) -> Condition:
        """Some samples forget everything, some a part of what is known."""
        if not condition:
            return condition
        count = 3 + len(self.describer.vocabulary.blocks)
        draws = np.stack([np.random.default_rng((seed, 1)).random(count) for seed in seeds])
        chance = torch.from_numpy(draws).to(self.device)
        dropped = chance[:, 0] < self.config.condition_dropout
        partial = chance[:, 1] < self.config.partial
        return self.describer.drop(condition, dropped, partial, chance[:, 3:] < chance[:, 2:3])

    def _known_of(self, people: LatentSet, name: str) -> Condition:
        row = people.index.row(name)
        return self.describer.people([people.index.attributes(row)], [people.index.text("caption", row)], [name])

    def _flow(self, forward: Forward, name: str, person: Tensor, condition: Condition) -> float:
        times = torch.tensor(TIMES, device=self.device)
        noise = noise_like(self.shape, [digest("evaluation", name, time) for time in TIMES]).to(self.device)
        repeated = tuple(part.expand(len(times), *part.shape[1:]) for part in condition)
        with torch.no_grad():
            return _squared_error(forward, noise, person.expand_as(noise), times, repeated).mean().item()

    def _sample(self, forward: Forward, name: str, condition: Condition) -> Tensor:
        noise = noise_like(self.shape, [digest("sample", name)]).to(self.device)
        steps, guidance, shift = self.config.evaluation_steps, self.config.guidance, self.config.shift
        return sample(forward, noise, condition, steps=steps, guidance=guidance, shift=shift)


def draw_times(config: GenerationConfig, seeds: list[int]) -> Tensor:
    """A time `[b]` for each seed: uniform, or the sigmoid of a normal number (Esser et al. 2024, section 3.1)."""
    draws = [np.random.default_rng((seed, 0)) for seed in seeds]
    if config.times == "uniform":
        return torch.tensor([draw.random() for draw in draws], dtype=torch.float32)
    logits = torch.tensor([draw.normal(config.time_mean, config.time_std) for draw in draws], dtype=torch.float32)
    return torch.sigmoid(logits)


def _squared_error(forward: Forward, noise: Tensor, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """Of every sample, `[b]`."""
    noisy, velocity = between(noise, latents, times)
    return (forward(noisy, times, *condition)["velocity"] - velocity).square().flatten(1).mean(dim=1)


def _means(everybody: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the people who have it."""
    kinds = dict.fromkeys(kind for metrics in everybody.values() for kind in metrics)
    values = {kind: [metrics[kind] for metrics in everybody.values() if kind in metrics] for kind in kinds}
    return {kind: sum(found) / len(found) for kind, found in values.items()}
