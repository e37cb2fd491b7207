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


class RegionsConfig(Section):
    """Eyes and mouth once more, enlarged: crops around the template's regions as each target camera sees them."""

    eyes: float = Field(default=0.0, ge=0, description="weight of both eyes' crops (stage 2: paper; how much: ours)")
    mouth: float = Field(default=0.0, ge=0, description="weight of the mouth's crop (stage 2: paper; how much: ours)")
    lpips: float = Field(default=1.0, ge=0, description="LPIPS over L1 of a crop, where objective.lpips has weights")
    size: int = Field(default=64, ge=32, description="side that the crops are resized to, pixels")
    padding: float = Field(default=0.2, ge=0, description="added on each side, over the region's size in the image")


class ReconstructionConfig(ObjectiveConfig):
    """Weights of the terms; 0 switches a term off."""

    objective: Literal["reconstruction", "adversarial"] = "reconstruction"
    l1: float = Field(default=1.0, ge=0)
    ssim: float = Field(default=0.1, ge=0, description="on 1 - SSIM")
    mask: float = Field(default=0.1, ge=0, description="L1 between foreground alpha and mask")
    total_variation: float = Field(default=0.0, ge=0, description="of position and scale maps in UV")
    position: float = Field(
        default=0.0, ge=0, description="squared distance from the position target in cm, fading to 0"
    )
    position_steps: int = Field(default=100_000, ge=0, description="steps over which the position term fades")
    position_target: Literal["neutral", "tracked"] = Field(
        default="neutral",
        description="the neutral template, or the template moved by the capture's ARKit coefficients (paper: an early "
        "loss against the tracked mesh); the same where a capture has none",
    )
    regions: RegionsConfig = RegionsConfig()
    lpips: LpipsConfig = LpipsConfig()
