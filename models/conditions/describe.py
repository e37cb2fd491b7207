"""People, as their attributes or captions tell, and prompts, as the tensors that a generator takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from configs.systems.generator import GeneratorConfig
from models.conditions.prompt import WHERE, parse_prompt
from models.conditions.text import TextEncoder
from models.conditions.vocabulary import Vocabulary

Condition = tuple[Tensor, ...]


class Describer:
    """Makes conditions for one generator; a text encoder is loaded where it wants one."""

    def __init__(self, config: GeneratorConfig, device: torch.device) -> None:
        self.kind, self.device = config.condition, device
        self.vocabulary = Vocabulary(config.attributes)
        self._text = TextEncoder(config.text, device) if config.condition == "text" else None

    def people(
        self, attributes: Sequence[Mapping[str, Any]], captions: Sequence[str], names: Sequence[str]
    ) -> Condition:
        """What is known of some people, `[b, ...]`."""
        if self.kind == "attributes":
            known = zip(attributes, names, strict=True)
            return (torch.stack([self.vocabulary.encode(a, where=name) for a, name in known]).to(self.device),)
        return self._text(captions) if self._text is not None else ()

    def prompt(self, prompt: str, count: int) -> Condition:
        """The same wish `count` times; an empty one is the null condition.

        Raises:
            UserError: words that the generator does not know, or any where it knows no condition.
        """
        if self.kind == "none" and prompt.strip():
            raise UserError("this generator was trained without a condition", where=WHERE, hint="leave it out")
        if self.kind == "attributes":
            known = self.vocabulary.encode(parse_prompt(prompt, self.vocabulary), where=WHERE)
            return (known.expand(count, -1).to(self.device),)
        return self._text([prompt] * count) if self._text is not None else ()

    def drop(self, condition: Condition, dropped: Tensor, partial: Tensor, keep: Tensor) -> Condition:
        """Forget: the whole condition of some samples, single attributes of others.

        Args:
            condition: of `people`.
            dropped: `[b]` bool, these become the null condition.
            partial: `[b]` bool, these keep each attribute where `keep` says so; a text is whole or nothing.
            keep: `[b, number of attributes]` bool.
        """
        forgotten = tuple(part * ~dropped.view(-1, *(1,) * (part.dim() - 1)) for part in condition)
        if self.kind != "attributes":
            return forgotten
        widths = torch.tensor([block.stop - block.start for block in self.vocabulary.blocks.values()])
        kept = (keep | ~partial[:, None]).repeat_interleave(widths.to(keep.device), dim=1)
        return (forgotten[0] * kept,)
