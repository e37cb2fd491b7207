"""HeadsUp (Apple, arXiv 2605.04035): multi-view encoder, UV latents, UV Gaussians on a neutral template."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.schema import SystemConfig
from configs.section import Section

Positive = Annotated[int, Field(gt=0)]
HEAD_DIM = 64  # channels per unit of capacity, and of an attention head unless said otherwise
STRIDE = 8  # pixels per token side before pooling
SCHEMA = "HeadsUpConfig"


class TemplateConfig(Section):
    """The neutral head that anchors the Gaussians."""

    name: Literal["headway", "ict", "flame"] = "headway"
    path: str | None = Field(default=None, description="file of the ICT-FaceKit or FLAME template; ours needs none")


class BackgroundConfig(Section):
    """Gaussians on a sphere around the rig, decoded from one small latent."""

    enabled: bool = True
    latent: Positive = Field(default=32, description="paper: 32")
    height: Positive = Field(default=64, description="rows of the equirectangular map (ours)")
    width: Positive = 128
    channels: Positive = 64
    radius: float = Field(default=3.0, gt=0, description="metres (the paper fits it to the rig)")


class HeadsUpConfig(SystemConfig):
    """`capacity` derives width, depth and heads together: 64 x c, c, c; 8 is the paper's width."""

    system: Literal["headsup"] = "headsup"
    capacity: float = Field(default=8, gt=0, le=128, description="the one dial; width = 64 c, blocks = c, heads = c")
    base_capacity: float | None = Field(
        default=None,
        gt=0,
        le=128,
        description="where optimizer.learning_rate was chosen: other capacities train with it carried over by maximal "
        "update parametrisation (docs/capacity.md); none takes it as it is",
    )
    head_dim: Positive = Field(default=HEAD_DIM, description="channels of an attention head; the same along the dial")
    width: Positive = Field(default=512, description="latent and token channels; derived from capacity")
    blocks: Positive = Field(default=8, description="transformer blocks; derived from capacity")
    heads: Positive = Field(default=8, description="attention heads; derived from width and head_dim")
    encoder_channels: tuple[Positive, ...] = Field(
        default=(64, 128, 256, 512), description="per level; derived from width, as many as make a stride of 8"
    )
    encoder_blocks: Positive = Field(default=2, description="residual blocks per level")
    decoder_channels: tuple[Positive, ...] = Field(default=(512, 256, 128), description="per level; derived from width")
    patch: Positive = Field(default=1, description="pixel-unshuffle factor before the encoder")
    token_pool: Positive = Field(default=1, description="average pooling of the encoder output; 2 at full resolution")
    latent_size: Positive = Field(default=64, description="side of the UV latent grid (paper: 64)")
    uv_size: Positive = Field(default=256, description="side of the UV Gaussian map; its square is the Gaussian count")
    sh_degree: Literal[0, 1, 2, 3] = Field(default=1, description="paper: 1")
    anchor: Literal["neutral", "tracked"] = Field(
        default="neutral",
        description="what offsets start from: the neutral template, or the template moved by the source's ARKit "
        "coefficients (paper: the fixed one wins)",
    )
    offset_range: float = Field(default=0.05, gt=0, description="largest offset from the anchor, metres (ours)")
    pixel_features: bool = Field(default=False, description="ours: sample image features where template points project")
    pixel_grid: Positive = Field(default=32, description="side of the grid of template points that sample features")
    pixel_channels: Positive = Field(default=48, description="channels of the sampled features after fusion")
    color_skip: bool = Field(default=False, description="ours: gated skip from the reprojected source colours")
    template: TemplateConfig = TemplateConfig()
    background: BackgroundConfig = BackgroundConfig()
    activation_checkpointing: bool = Field(
        default=False, description="compute the transformer blocks again in the backward pass instead of keeping them"
    )
    encoder_checkpointing: bool = Field(
        default=False, description="the encoder's blocks too: a sixth more arithmetic for most of what memory is left"
    )

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            depth = _depth(float(values.get("capacity", 8)))
            width = int(values.get("width", HEAD_DIM * depth))
            head_dim, patch = int(values.get("head_dim", HEAD_DIM)), int(values.get("patch", 1))
            heads = int(values.get("heads", max(1, width // head_dim)))
            levels = max(1, int(math.log2(STRIDE / patch)) + 1)
            head_dim = width // heads
        except (TypeError, ValueError, ZeroDivisionError):
            return values
        derived = {
            "width": width,
            "blocks": depth,
            "heads": heads,
            "encoder_channels": _encoder_channels(width, levels),
            "decoder_channels": _decoder_channels(width, 3),
        }
        return {**derived, **values, **({"head_dim": head_dim} if head_dim else {})}

    @model_validator(mode="after")
    def _shapes_fit(self) -> HeadsUpConfig:
        if self.width % self.heads:
            raise ValueError(f"model.heads: width {self.width} is not a multiple of {self.heads} heads")
        factor = 2 ** (len(self.decoder_channels) - 1)
        if self.uv_size != self.latent_size * factor:
            raise ValueError(
                f"model.uv_size: {len(self.decoder_channels)} decoder levels turn latent_size {self.latent_size} "
                f"into {self.latent_size * factor}, not {self.uv_size}"
            )
        if self.pixel_features and (self.pixel_grid % self.latent_size or self.uv_size % self.pixel_grid):
            raise ValueError("model.pixel_grid: must be a multiple of latent_size and divide uv_size")
        return self

    @property
    def base(self) -> HeadsUpConfig:
        """The same model with the widths and the depth that `base_capacity` derives; all else stays."""
        if self.base_capacity is None:
            return self
        depth = _depth(self.base_capacity)
        width = HEAD_DIM * depth
        return self.model_copy(
            update={
                "capacity": self.base_capacity,
                "width": width,
                "blocks": depth,
                "heads": max(1, width // self.head_dim),
                "encoder_channels": _encoder_channels(width, len(self.encoder_channels)),
                "decoder_channels": _decoder_channels(width, len(self.decoder_channels)),
            }
        )

    @property
    def stride(self) -> int:
        """Pixels per token side."""
        return self.patch * 2 ** (len(self.encoder_channels) - 1) * self.token_pool

    @property
    def gaussians(self) -> int:
        """How many Gaussians a head has, whatever its number of views."""
        background = self.background.height * self.background.width if self.background.enabled else 0
        return self.uv_size**2 + background


def _depth(capacity: float) -> int:
    return max(1, round(capacity))


def _encoder_channels(width: int, levels: int) -> tuple[int, ...]:
    return tuple(max(8, width // 2**level) for level in reversed(range(levels)))


def _decoder_channels(width: int, levels: int) -> tuple[int, ...]:
    return tuple(max(8, width // 2**level) for level in range(levels))
