"""Animation: supervised losses on whitened latents, as the paper says; the weights are ours (it gives none)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema import ObjectiveConfig
from configs.section import Section

SCHEMA = "AnimationConfig"


class RenderLossConfig(Section):
    """Optional: predicted and true latent, decoded and rendered from in front, in L1."""

    weight: float = Field(default=0.0, ge=0, description="0 is off; the base's decoder is loaded otherwise")
    views: int = Field(default=1, gt=0, description="cameras drawn anew in every step")
    size: int = Field(default=128, gt=0, description="side of the pictures, pixels")


class AnimationConfig(ObjectiveConfig):
    """Weights of the terms; 0 switches a term off."""

    objective: Literal["animation"] = "animation"
    l1: float = Field(default=1.0, ge=0, description="on whitened latents")
    cosine: float = Field(default=0.1, ge=0, description="on 1 - cosine of the channels, place by place")
    unexplained: float = Field(
        default=1.0, ge=0, description="on the squared error over that of copying the neutral latent"
    )
    render: RenderLossConfig = RenderLossConfig()
