"""Reconstruction of target views: the paper's losses with weights of ours (the paper gives none)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema import ObjectiveConfig
from configs.section import Section

SCHEMA = "ReconstructionConfig"


class LpipsConfig(Section):
    """Perceptual loss (Zhang et al. 2018) by the `lpips` package."""

    weight: float = Field(default=0.0, ge=0)
    network: Literal["vgg", "alex", "squeeze"] = "vgg"
    weights: Literal["off", "download", "file", "random"] = Field(
        default="off",
        description="backbone: off, torchvision's download, a local state dict, or random (for tests only)",
    )
    path: str | None = Field(default=None, description="backbone state dict for weights=file")


class ReconstructionConfig(ObjectiveConfig):
    """Weights of the terms; 0 switches a term off."""

    objective: Literal["reconstruction"] = "reconstruction"
    l1: float = Field(default=1.0, ge=0)
    ssim: float = Field(default=0.1, ge=0, description="on 1 - SSIM")
    mask: float = Field(default=0.1, ge=0, description="L1 between foreground alpha and mask")
    total_variation: float = Field(default=0.0, ge=0, description="of position and scale maps in UV")
    position: float = Field(default=0.0, ge=0, description="squared offset from the template in cm, fading to 0")
    position_steps: int = Field(default=100_000, ge=0, description="steps over which the position term fades")
    lpips: LpipsConfig = LpipsConfig()
