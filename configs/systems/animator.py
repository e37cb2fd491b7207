"""Animation (HeadsUp, page 14): neutral latent and blendshape coefficients to the latent of an expression."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.schema import SystemConfig
from configs.section import Section
from configs.systems.headsup import HEAD_DIM, TemplateConfig

Positive = Annotated[int, Field(gt=0)]
SCHEMA = "AnimatorConfig"


class BaseConfig(Section):
    """The frozen system whose latents are animated."""

    path: str | None = Field(default=None, description="its checkpoint; none takes the one that the latents name")


class AnimatorConfig(SystemConfig):
    """The paper gives no size; all numbers are ours. `capacity` derives width, depth and heads as in headsup."""

    system: Literal["animator"] = "animator"
    base: BaseConfig = BaseConfig()
    channels: Positive = Field(default=512, description="of the base's latents")
    latent_size: Positive = Field(default=64, description="side of the base's latent grid")
    coefficients: Positive = Field(default=52, description="expression coefficients: ARKit's")
    patch: Positive = Field(default=2, description="side of the square of latents that makes one token")
    capacity: float = Field(default=8, gt=0, le=128, description="the one dial; width = 64 c, blocks = c, heads = c")
    width: Positive = Field(default=512, description="token channels; derived from capacity")
    blocks: Positive = Field(default=8, description="transformer blocks; derived from capacity")
    heads: Positive = Field(default=8, description="attention heads; derived from capacity")
    expression_tokens: Positive = Field(default=8, description="tokens that the coefficients become")
    change_scale: float = Field(
        default=0.1, gt=0, description="of the last layer: faces move whitened latents by hundredths"
    )
    template: TemplateConfig = TemplateConfig()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            depth = max(1, round(float(values.get("capacity", 8))))
            width = int(values.get("width", HEAD_DIM * depth))
        except (TypeError, ValueError):
            return values
        return {"width": width, "blocks": depth, "heads": max(1, width // HEAD_DIM), **values}

    @model_validator(mode="after")
    def _shapes_fit(self) -> AnimatorConfig:
        if self.latent_size % self.patch:
            raise ValueError(f"model.patch: {self.patch} does not divide latent_size {self.latent_size}")
        if self.width % self.heads:
            raise ValueError(f"model.heads: width {self.width} is not a multiple of {self.heads} heads")
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of Z."""
        return (self.channels, self.latent_size, self.latent_size)
