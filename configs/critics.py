"""Critics: an image discriminator and a critic of sets of views (docs/critics.md). Parts of objectives' settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from configs.section import Section

Positive = Annotated[int, Field(gt=0)]


class ImageCriticConfig(Section):
    """StyleGAN2-like residual discriminator of single images."""

    channels: Positive = Field(
        default=64, description="at full resolution, doubled by every level (paper: StyleGAN2, 64 at 512 pixels)"
    )
    max_channels: Positive = Field(default=512, description="paper: StyleGAN2, 512")
    levels: int = Field(
        default=6, ge=1, le=10, description="halvings of the side (paper: down to 4 pixels; ours fixed)"
    )
    grid: Positive = Field(default=4, description="side that the last features are pooled to (paper: 4, unpooled)")
    camera: bool = Field(default=False, description="whether it also judges if the image fits its camera (projection)")
    camera_layers: Positive = Field(default=2, description="of the camera's embedding (ours; StyleGAN2-ADA: 8)")
    camera_unit: float = Field(default=1.0, gt=0, description="metres that count as 1 in a camera's translation (ours)")
    stddev_group: int = Field(
        default=0,
        ge=0,
        description="images per group of the minibatch standard deviation, 0 is off (paper: 4). Off by default, for a "
        "system that reconstructs cannot collapse to one mode, and the groups would depend on the number of workers",
    )
    patch: int | None = Field(
        default=None, ge=16, description="side of the random crops it sees, pixels; none shows whole images (ours)"
    )


class SetCriticConfig(Section):
    """SE(3) multi-view critic of MVCHead: a ViT over sets of views with geometric transform attention.

    The paper's text names ViT, patches, GTA, poses relative to the first view and a scalar logit; sizes are ours.
    """

    patch: Positive = Field(default=16, description="side of a token's patch, pixels (ours)")
    stem_channels: tuple[Positive, ...] = Field(
        default=(),
        description="ours: channels of convolutions of stride 2 that make the tokens; none embeds patches linearly",
    )
    width: Positive = Field(default=384, description="channels of a token (ours)")
    blocks: Positive = Field(default=6, description="layers of attention and MLP (ours)")
    heads: Positive = Field(default=6, description="heads of attention; GTA's 64 channels each at width 384")
    se3_channels: Positive = Field(
        default=32,
        description="channels of a head that turn with the camera; the rest with the pixel (paper: GTA, half)",
    )
    translation_init: float = Field(
        default=0.01, gt=0, description="factor on translations in metres, learned per block (paper: GTA, 0.01)"
    )
    max_frequency: float = Field(default=1.0, gt=0, description="turns across the image of the fastest channel (GTA)")

    @model_validator(mode="after")
    def _channels_split(self) -> SetCriticConfig:
        if self.width % self.heads:
            raise ValueError(f"heads: width {self.width} is not a multiple of {self.heads} heads")
        head = self.width // self.heads
        if self.se3_channels % 4 or not 0 < self.se3_channels < head or (head - self.se3_channels) % 4:
            raise ValueError(
                f"se3_channels: a head's {head} channels are not two multiples of 4 when {self.se3_channels} go to "
                f"the camera; try {head // 8 * 4}"
            )
        if self.stem_channels and self.patch != 2 ** len(self.stem_channels):
            raise ValueError(
                f"patch: {len(self.stem_channels)} stem convolutions make tokens of {2 ** len(self.stem_channels)} "
                f"pixels, not {self.patch}"
            )
        return self

    @property
    def so2_channels(self) -> int:
        """Channels of a head that turn with the pixel."""
        return self.width // self.heads - self.se3_channels
