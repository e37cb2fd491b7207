"""Reconstruction with critics: an image discriminator (HeadsUp) and a critic of sets of views (MVCHead)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.critics import ImageCriticConfig, SetCriticConfig
from configs.objectives.reconstruction import ReconstructionConfig
from configs.schema import OptimizerConfig
from configs.section import Section

SCHEMA = "AdversarialConfig"
Positive = Annotated[int, Field(gt=0)]
PAPER_START = 240_000


class CriticTraining(Section):
    """How one critic and the system are trained against each other."""

    weight: float = Field(
        default=0.0, ge=0, description="of its verdict in the system's loss (ours); 0: no such critic"
    )
    start: int = Field(
        default=PAPER_START, ge=0, description="training steps before it begins to learn and to judge (paper: 240,000)"
    )
    ramp: int = Field(default=0, ge=0, description="steps after `start` over which `weight` rises from 0 (ours)")
    every: Positive = Field(default=1, description="the system's updates to each round of the critic's")
    updates: Positive = Field(
        default=1, description="of the critic in each round, on the same captures; n to m is every: n, updates: m"
    )
    loss: Literal["logistic", "hinge"] = Field(default="logistic", description="non-saturating logistic, or hinge")
    penalty: Literal["none", "r1", "gradient"] = Field(
        default="r1", description="none, R1 on real images, or WGAN-GP's between real and made ones"
    )
    penalty_weight: float = Field(default=1.0, ge=0, description="gamma of R1 (its half is used), lambda of WGAN-GP")
    penalty_every: Positive = Field(
        default=16, description="lazily, on every k-th update and with k times the weight (StyleGAN2: 16)"
    )
    optimizer: OptimizerConfig = OptimizerConfig(betas=(0.0, 0.99), schedule="constant", warmup_steps=0)
    zero_stage: Literal[0, 1, 2] = Field(
        default=1, description="of its own; ZeRO 3 cut its weights up, and then no penalty can be differentiated"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_clip: float = Field(default=1.0, ge=0, description="largest L2 norm of its gradient; 0 is no limit")


class ImageCriticTraining(CriticTraining):
    """The image discriminator."""

    network: ImageCriticConfig = ImageCriticConfig()


class SetCriticTraining(CriticTraining):
    """The multi-view critic. What is made counts as false, and so do the sets that these shares ask for."""

    network: SetCriticConfig = SetCriticConfig()
    mixed: float = Field(default=1.0, ge=0, description="weight of sets mixed from the heads of a micro-batch (paper)")
    hard: float = Field(
        default=1.0,
        ge=0,
        description="weight of hard negatives: half of it for photos whose cameras are off (paper), half for photos of "
        "which some are replaced by renderings at the same cameras (ours)",
    )
    hard_degrees: float = Field(default=6.0, gt=0, description="how far cameras turn around the head in those (ours)")
    hard_metres: float = Field(default=0.02, gt=0, description="how far they move in those (ours)")


class AdversarialConfig(ReconstructionConfig):
    """All of `reconstruction`, and critics."""

    objective: Literal["adversarial"] = "adversarial"
    image: ImageCriticTraining = ImageCriticTraining(weight=0.05)
    views: SetCriticTraining = SetCriticTraining()

    @model_validator(mode="after")
    def _somebody_judges(self) -> AdversarialConfig:
        if not self.image.weight and not self.views.weight:
            raise ValueError("image.weight, views.weight: both are 0; objective: reconstruction has no critics")
        if self.views.weight and self.views.penalty == "gradient":
            raise ValueError("views.penalty: a set has no middle between a real and a made one; take r1 or none")
        return self
