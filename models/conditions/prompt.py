"""From words to attributes: small, literal, and it says which words it knows."""

from __future__ import annotations

import re
from collections.abc import Iterable

from configs.errors import UserError, nearest
from configs.systems.generator import AttributeConfig
from models.conditions.vocabulary import Vocabulary, choices, number

FILLERS = frozenset(
    ["a", "an", "the", "of", "in", "has", "having", "who", "is", "wears", "person", "somebody", "someone"]
)
_PARTS = re.compile(r"[,;]|\bwith\b|\band\b|\bwearing\b")
WHERE = "--prompt"


def parse_prompt(prompt: str, vocabulary: Vocabulary) -> dict[str, str | float]:
    """What a prompt says of a person, as `Vocabulary.encode` takes it.

    Phrases are divided by commas, "and" and "with". The nouns of a phrase (`long red hair`) say which attributes its
    other words may be about; without one (`bald`), those that need no noun are asked. `name=value` sets one directly,
    which is how numbers are given: `long hair, dark skin, nose_width=1.5`. "no hat" is the value `none`.

    Raises:
        UserError: a word that is not known, that may mean several things, or that contradicts another.
    """
    found: dict[str, str | float] = {}
    for phrase in _PARTS.split(prompt.lower()):
        for name, value in _phrase(phrase.strip(), vocabulary):
            if found.get(name, value) != value:
                raise UserError(f"says that {name} is both '{found[name]}' and '{value}'", where=WHERE)
            found[name] = value
    return found


def _phrase(phrase: str, vocabulary: Vocabulary) -> list[tuple[str, str | float]]:
    if "=" in phrase:
        return [_assignment(phrase, vocabulary)]
    words = [word for word in re.findall(r"[\w'-]+", phrase) if word not in FILLERS]
    meant = [a for a in vocabulary.attributes.values() if a.values and set(words) & set(a.spoken_of)]
    nouns = {noun for attribute in meant for noun in attribute.spoken_of}
    among = meant or [a for a in vocabulary.attributes.values() if a.values and not a.nouns]
    found: list[tuple[str, str | float]] = []
    rest = words
    while rest:
        said, attributes = _longest(rest, among)
        if not attributes:
            if rest[0] not in nouns:
                raise _unknown(rest[0], meant or vocabulary.attributes.values())
            rest = rest[1:]
            continue
        if len(attributes) > 1:
            named = " or ".join(attribute.name for attribute in attributes)
            raise UserError(f"'{said}' may be {named}", where=WHERE, hint=f"for example {attributes[0].name}={said}")
        found.append((attributes[0].name, _means(attributes[0])[said]))
        rest = rest[len(said.split()) :]
    if words and not found:
        options = "; ".join(f"{attribute.name}: {choices(attribute)}" for attribute in meant)
        raise UserError(f"'{phrase}' does not say which", where=WHERE, hint=options)
    return found


def _longest(words: list[str], among: list[AttributeConfig]) -> tuple[str, list[AttributeConfig]]:
    """The most words from the beginning that are a value together, and of which attributes."""
    for count in range(len(words), 0, -1):
        said = " ".join(words[:count])
        attributes = [attribute for attribute in among if said in _means(attribute)]
        if attributes:
            return said, attributes
    return words[0], []


def _means(attribute: AttributeConfig) -> dict[str, str]:
    """What each word of a prompt stands for."""
    meaning = {value.lower(): value for value in attribute.values} | attribute.words
    return meaning | {"no": "none"} if "none" in attribute.values else meaning


def _assignment(phrase: str, vocabulary: Vocabulary) -> tuple[str, str | float]:
    name, _, value = (part.strip() for part in phrase.partition("="))
    attribute = vocabulary.attributes.get(name)
    if attribute is None:
        raise UserError(f"no attribute is called '{name}'", where=WHERE, hint=nearest(name, vocabulary.attributes))
    if attribute.range is not None:
        return name, number(attribute, value, WHERE)
    if value not in _means(attribute):
        raise _unknown(value, [attribute])
    return name, _means(attribute)[value]


def _unknown(word: str, among: Iterable[AttributeConfig]) -> UserError:
    lines = "\n".join(f"    {_example(attribute)}: {choices(attribute)}" for attribute in among)
    return UserError(f"the generator does not know the word '{word}' here", where=WHERE, hint=f"it knows\n{lines}")


def _example(attribute: AttributeConfig) -> str:
    return f"... {attribute.nouns[0]}" if attribute.nouns else attribute.name
