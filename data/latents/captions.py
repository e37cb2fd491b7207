"""One English sentence made of what is known about a person; the text that a text-conditioned model learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HAIR = {
    "bald": "a bald head",
    "buzz": "{colour}buzz-cut hair",
    "short": "short {colour}hair",
    "side": "{colour}hair combed to the side",
    "fringe": "{colour}hair with a fringe",
    "curly": "curly {colour}hair",
    "bun": "{colour}hair in a bun",
    "bob": "{colour}hair in a bob",
    "long": "long {colour}hair",
}
_BEARD = {"stubble": "stubble", "full": "a full beard", "goatee": "a goatee", "moustache": "a moustache"}
_HAT = {"beanie": "a beanie", "cap": "a cap"}
_CLOTHES = {
    "crew": "a {pattern}crew-neck top",
    "vneck": "a {pattern}v-neck top",
    "shirt": "a {pattern}shirt",
    "turtleneck": "a {pattern}turtleneck",
    "hoodie": "a {pattern}hoodie",
}
_PATTERN = {"stripes": "striped ", "yoke": "two-coloured "}


def caption(attributes: Mapping[str, Any]) -> str:
    """`A person with tan skin, grey eyes, brown hair in a bob, wearing a beanie and a striped crew-neck top.`

    Args:
        attributes: a capture's meta; what is absent, "none" or unknown is not spoken of.
    """

    def text(key: str) -> str:
        value = attributes.get(key)
        return value if isinstance(value, str) and value != "none" else ""

    colour = f"{text('hair_colour')} " if text("hair_colour") else ""
    pattern = _PATTERN.get(text("clothes_pattern"), "")
    has = [
        f"{text('skin')} skin" if text("skin") else "",
        f"{text('eyes')} eyes" if text("eyes") else "",
        _HAIR.get(text("hair"), "").format(colour=colour),
        _BEARD.get(text("beard"), ""),
    ]
    wears = [_HAT.get(text("hat"), ""), _CLOTHES.get(text("clothes"), "").format(pattern=pattern)]
    having, wearing = _listed([part for part in has if part]), " and ".join(part for part in wears if part)
    return "A person" + (f" with {having}" if having else "") + (f", wearing {wearing}" if wearing else "") + "."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
