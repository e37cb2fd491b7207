"""Flow matching on latents, for a generator of identities."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from configs.schema import ObjectiveConfig

SCHEMA = "GenerationConfig"
Share = Annotated[float, Field(ge=0, le=1)]


class GenerationConfig(ObjectiveConfig):
    """What is learned, and how it is measured on people held out."""

    objective: Literal["generation"] = "generation"
    frames: Literal["neutral", "all"] = Field(
        default="neutral", description="learn the subjects' neutral latents, or those of every expression"
    )
    times: Literal["logit_normal", "uniform"] = Field(
        default="logit_normal", description="how the time of a training sample is drawn (Esser et al. 2024)"
    )
    time_mean: float = Field(
        default=0.0, description="of the logit; below 0 favours noise, and the sampler's steps move with it"
    )
    time_std: float = Field(default=1.0, gt=0)
    condition_dropout: Share = Field(
        default=0.1, description="share of samples that learn without any condition, for classifier-free guidance"
    )
    partial: Share = Field(
        default=0.5, description="share of the other samples that know a random part of their attributes only"
    )
    evaluation_samples: int = Field(default=16, gt=0, description="people made at each evaluation")
    evaluation_steps: int = Field(default=20, gt=0, description="steps of the sampler at evaluation")
    guidance: float = Field(default=2.0, ge=0, description="at evaluation, and what `headway sample` takes by itself")

    @property
    def shift(self) -> float:
        """Of the sampler's steps (`models.generator.flow.step_times`), so that they go where it was learned."""
        return math.exp(-self.time_mean) if self.times == "logit_normal" else 1.0
