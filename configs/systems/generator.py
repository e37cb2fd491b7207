"""Identity generation: a diffusion transformer over the latents of a frozen base, told who is wanted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.schema import SystemConfig
from configs.section import Section

Positive = Annotated[int, Field(gt=0)]
HEAD_DIM = 64
SCHEMA = "GeneratorConfig"


class AttributeConfig(Section):
    """Something that is known of people: one of some words, or a number."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="as the latents' attributes call it")
    values: tuple[str, ...] = Field(default=(), description="the words it may be; none for a number")
    range: tuple[float, float] | None = Field(default=None, description="least and greatest of a number")
    nouns: tuple[str, ...] = Field(
        default=(), description="words of a prompt that speak of it; given any, one is needed"
    )
    words: dict[str, str] = Field(default_factory=dict, description="further words of a prompt -> one of `values`")

    @model_validator(mode="after")
    def _words_or_a_number(self) -> AttributeConfig:
        if bool(self.values) == (self.range is not None):
            raise ValueError(f"{self.name}: give either the words it may be, or the range of a number")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"{self.name}: the least number comes first, for example [-2, 2]")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.name}: a value is named twice")
        unknown = sorted(set(self.words.values()) - set(self.values))
        if unknown:
            raise ValueError(f"{self.name}: words stand for {', '.join(unknown)}, which is none of its values")
        return self

    @property
    def spoken_of(self) -> tuple[str, ...]:
        """Every word of a prompt that says that this attribute is meant."""
        return tuple(dict.fromkeys([*self.nouns, *re.split("_", self.name), self.name]))


class TextConfig(Section):
    """A text encoder by the `transformers` package; it stays frozen and is no part of the checkpoint."""

    encoder: Literal["clip", "t5"] = "clip"
    hub: str = Field(default="openai/clip-vit-large-patch14", description="repository that it is fetched from")
    path: str | None = Field(default=None, description="local folder to load instead, as `save_pretrained` writes it")
    width: Positive = Field(default=768, description="channels of its tokens")
    tokens: Positive = Field(default=77, description="tokens that a prompt is padded or cut to")


class GeneratorConfig(SystemConfig):
    """`capacity` derives width, depth and heads: 64 c, 1.5 c, c; 16 is DiT-L (Peebles and Xie 2023)."""

    system: Literal["generator"] = "generator"
    latent: tuple[Positive, Positive, Positive] = Field(
        default=(512, 64, 64), description="channels, height and width of Z; of headsup-base at first"
    )
    patch: Positive = Field(default=2, description="side of the square of latents that makes a token")
    capacity: float = Field(default=16, gt=0, le=64, description="the one dial: width 64 c, blocks 1.5 c, heads c")
    width: Positive = Field(default=1024, description="derived from capacity")
    blocks: Positive = Field(default=24, description="derived from capacity")
    heads: Positive = Field(default=16, description="derived from capacity")
    condition: Literal["none", "attributes", "text"] = "attributes"
    attributes: tuple[AttributeConfig, ...] = Field(
        default=(), description="what `condition: attributes` knows; `headway vocabulary` learns it from latents"
    )
    text: TextConfig = TextConfig()
    activation_checkpointing: bool = False

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        try:
            capacity = float(values.get("capacity", 16))
            width = int(values.get("width", HEAD_DIM * max(1, round(capacity))))
        except (TypeError, ValueError):
            return values
        derived = {"width": width, "blocks": max(1, round(1.5 * capacity)), "heads": max(1, width // HEAD_DIM)}
        return {**derived, **values}

    @model_validator(mode="after")
    def _shapes_fit(self) -> GeneratorConfig:
        if self.width % self.heads:
            raise ValueError(f"model.heads: width {self.width} is not a multiple of {self.heads} heads")
        if self.latent[1] % self.patch or self.latent[2] % self.patch:
            raise ValueError(f"model.patch: {self.patch} does not divide the {self.latent[1]}x{self.latent[2]} latents")
        return self

    @model_validator(mode="after")
    def _attributes_are_known(self) -> GeneratorConfig:
        if self.condition == "attributes" and not self.attributes:
            raise ValueError("model.attributes: none are known; `headway vocabulary LATENTS` learns them")
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) < len(names):
            raise ValueError("model.attributes: one is named twice")
        return self
