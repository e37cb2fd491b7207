"""Attributes of people as numbers that a network reads; what is not known is zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError, nearest
from configs.systems.generator import AttributeConfig

LARGEST_CATEGORY = 64  # words; an attribute of more is a name or a note, and nothing to generate by


class Vocabulary:
    """Turns `{"hair": "long", "nose_width": 0.4}` into features `[size]` and says what it knows.

    A word is one-hot; a number is itself, scaled from its range to [-1, 1], beside a 1. An attribute that is not
    mentioned is all zeros, so that the empty description is the null condition of classifier-free guidance.
    """

    def __init__(self, attributes: Iterable[AttributeConfig]) -> None:
        self.attributes = {attribute.name: attribute for attribute in attributes}
        self.blocks: dict[str, slice] = {}
        self.size = 0
        for name, attribute in self.attributes.items():
            width = len(attribute.values) or 2
            self.blocks[name] = slice(self.size, self.size + width)
            self.size += width

    def encode(self, described: Mapping[str, Any], where: str = "attributes") -> Tensor:
        """Features `[size]` of what is known of a person; attributes that this vocabulary lacks are left aside.

        Args:
            described: value by name; a mapping inside lends its own names (`{"shape": {"nose_width": 0.4}}`).
            where: whom to name in an error.

        Raises:
            UserError: a word that the vocabulary does not know, or something that is no number.
        """
        features = torch.zeros(self.size)
        for name, value in flattened(described).items():
            if name in self.attributes and value is not None:
                features[self.blocks[name]] = self._block(self.attributes[name], value, where)
        return features

    def _block(self, attribute: AttributeConfig, value: Any, where: str) -> Tensor:
        if attribute.range is not None:
            low, high = attribute.range
            return torch.tensor([2 * (number(attribute, value, where) - low) / (high - low) - 1, 1.0])
        if value not in attribute.values:
            raise UserError(
                f"'{value}' is no {attribute.name} that the generator knows",
                where=where,
                hint=nearest(str(value), attribute.values),
            )
        return torch.eye(len(attribute.values))[attribute.values.index(value)]

    def describe(self) -> str:
        """Every attribute with its words or its range, a line each."""
        return "\n".join(f"  {name}: {choices(attribute)}" for name, attribute in self.attributes.items())


def choices(attribute: AttributeConfig) -> str:
    """`long, short, bald` or `a number from -2 to 2`."""
    if attribute.range is not None:
        return f"a number from {attribute.range[0]:g} to {attribute.range[1]:g}"
    return ", ".join(attribute.values)


def number(attribute: AttributeConfig, value: Any, where: str) -> float:
    """The value of a numeric attribute.

    Raises:
        UserError: it is no number.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{attribute.name} is a number, not '{value}'", where=where) from None


def flattened(described: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings inside give up their names to the outside."""
    found: dict[str, Any] = {}
    for name, value in described.items():
        found |= flattened(value) if isinstance(value, Mapping) else {name: value}
    return found


def learn_vocabulary(people: Iterable[Mapping[str, Any]], numbers: bool = False) -> tuple[AttributeConfig, ...]:
    """What can be said of some people: every attribute that more than one of its values is seen of.

    Args:
        people: what is known of each.
        numbers: take numeric attributes too; their range is the 5 % to 95 % of what was seen.
    """
    seen: dict[str, list[Any]] = {}
    for described in people:
        for name, value in flattened(described).items():
            seen.setdefault(name, []).append(value)
    learned = (_learn(name, values, numbers) for name, values in sorted(seen.items()))
    return tuple(attribute for attribute in learned if attribute is not None)


def _learn(name: str, values: list[Any], numbers: bool) -> AttributeConfig | None:
    if all(isinstance(value, str) for value in values):
        words = tuple(sorted(set(values)))
        return AttributeConfig(name=name, values=words) if 1 < len(words) <= LARGEST_CATEGORY else None
    if numbers and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95]).double()).tolist()
        return AttributeConfig(name=name, range=(round(low, 4), round(high, 4))) if high > low else None
    return None
