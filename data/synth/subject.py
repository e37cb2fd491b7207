"""Who a synthetic subject is: everything about a person as a pure function of (seed, number)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.synth.identity import IDENTITY_NAMES
from data.synth.palette import CLOTH, EYES, GREY_HAIR, HAIR, SKIN, Colour, Palette, jitter, mix_palette

Array = NDArray[np.float64]

# Every aspect draws from its own stream, so that a change to one leaves the others as they were.
SHAPE, SKIN_STREAM, HAIR_STREAM, HAT_STREAM, CLOTHES_STREAM, EXPRESSION, CAMERAS, NOISE, STUDIO = range(9)

FAIR = 0.2
"""Mean linear lightness of skin above which all colours of hair and eyes occur."""
DARK_HAIR, DARK_EYES = 3, 2
"""How many of the palettes' first entries occur otherwise."""

# How a broad latent "build" shows: standard deviations of these modes per unit of build.
BUILD = {
    "jaw_width": 0.8,
    "brow_ridge": 0.9,
    "chin_width": 0.7,
    "neck_width": 0.9,
    "head_size": 0.6,
    "shoulder_width": 0.9,
    "nose_length": 0.4,
    "lip_upper": -0.4,
    "lip_lower": -0.3,
    "eye_size": -0.4,
    "jaw_length": 0.5,
}


@dataclass(frozen=True)
class Hair:
    """Hair; centimetres and linear RGB."""

    style: str
    colour_name: str
    colour: Colour
    top: float
    side: float
    hairline: float
    sideburn: float
    length: float
    parting: float | None
    wave: float
    wave_frequency: float


@dataclass(frozen=True)
class Hat:
    """A hat; `band` is the colour of its cuff or visor."""

    kind: str
    colour: Colour
    band: Colour
    height: float
    visor: float


@dataclass(frozen=True)
class Face:
    """Colours and markings of the face; linear RGB."""

    skin: Colour
    skin_name: str
    flush: float
    blotch: float
    freckles: float
    lips: Colour
    eye: Colour
    eye_name: str
    brow: Colour
    brow_thickness: float
    brow_strength: float
    brow_arch: float
    beard: str
    beard_strength: float
    beard_length: float


@dataclass(frozen=True)
class Clothes:
    """What the bust wears; linear RGB."""

    kind: str
    colour: Colour
    trim: Colour
    pattern: str
    pitch: float


@dataclass(frozen=True)
class Subject:
    """A person.

    Attributes:
        seed, number: what it is a function of.
        shape: `[k]` coefficients of the template's identity modes.
        hair, hat, face, clothes: looks.
        exposure: of the whole picture, about 1.
    """

    seed: int
    number: int
    shape: NDArray[np.float32]
    hair: Hair
    hat: Hat
    face: Face
    clothes: Clothes
    exposure: float

    @property
    def name(self) -> str:
        """Like `s000042`."""
        return f"s{self.number:06d}"

    def rng(self, stream: int, frame: int = 0) -> np.random.Generator:
        """Random numbers of one aspect of this subject."""
        return np.random.default_rng((self.seed, self.number, stream, frame))

    @property
    def attributes(self) -> dict[str, Any]:
        """What a person would say of this one; JSON values."""
        return {
            "skin": self.face.skin_name,
            "eyes": self.face.eye_name,
            "hair": self.hair.style,
            "hair_colour": self.hair.colour_name,
            "hat": self.hat.kind,
            "beard": self.face.beard,
            "clothes": self.clothes.kind,
            "clothes_pattern": self.clothes.pattern,
            "shape": {name: round(float(value), 4) for name, value in zip(IDENTITY_NAMES, self.shape, strict=True)},
        }


def draw_subject(seed: int, number: int) -> Subject:
    """The subject `number` of the population `seed`."""

    def rng(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, number, stream, 0))

    shaping = rng(SHAPE)
    build = float(np.clip(shaping.normal(), -1.8, 1.8))
    shape = np.clip(shaping.normal(0.0, 0.95, len(IDENTITY_NAMES)), -2.2, 2.2)
    for mode, share in BUILD.items():
        index = IDENTITY_NAMES.index(mode)
        shape[index] = np.clip(shape[index] * (1.0 - 0.35 * abs(share)) + share * build, -2.4, 2.4)
    old = bool(shaping.uniform() < 0.18)
    skinning = rng(SKIN_STREAM)
    skin = mix_palette(skinning, SKIN, 0.05)
    fair = float(skin[1].mean()) > FAIR
    hair = _draw_hair(rng(HAIR_STREAM), build, GREY_HAIR if old else HAIR if fair else HAIR[:DARK_HAIR])
    return Subject(
        seed=seed,
        number=number,
        shape=shape.astype(np.float32),
        hair=hair,
        hat=_draw_hat(rng(HAT_STREAM)),
        face=_draw_face(skinning, hair, build, skin, EYES if fair else EYES[:DARK_EYES]),
        clothes=_draw_clothes(rng(CLOTHES_STREAM)),
        exposure=float(np.exp(np.clip(rng(STUDIO).normal(0.0, 0.05), -0.12, 0.12))),
    )


def _draw_hair(rng: np.random.Generator, build: float, palette: Palette) -> Hair:
    weights = {"bald": 0.09 + 0.05 * (build > 0.5), "buzz": 0.12, "short": 0.20, "side": 0.13, "fringe": 0.12}
    weights |= {"curly": 0.10, "bun": 0.07, "bob": 0.10 - 0.05 * (build > 0.5), "long": 0.11 - 0.06 * (build > 0.5)}
    names, chances = list(weights), np.array(list(weights.values()))
    style = str(rng.choice(names, p=chances / chances.sum()))
    colour_name, colour = mix_palette(rng, palette)
    top, side, length = {
        "bald": (0.0, 0.0, 0.0),
        "buzz": (0.35, 0.3, 0.0),
        "short": (rng.uniform(1.0, 2.2), rng.uniform(0.5, 1.0), 0.0),
        "side": (rng.uniform(1.4, 2.6), rng.uniform(0.6, 1.1), 0.0),
        "fringe": (rng.uniform(1.1, 1.9), rng.uniform(0.8, 1.4), 0.0),
        "curly": (rng.uniform(2.2, 4.2), rng.uniform(1.6, 3.2), 0.0),
        "bun": (rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.8), 0.0),
        "bob": (rng.uniform(1.1, 1.9), rng.uniform(1.2, 1.9), rng.uniform(-9.5, -6.0)),
        "long": (rng.uniform(1.0, 1.8), rng.uniform(1.1, 1.9), rng.uniform(-19.0, -13.5)),
    }[style]
    line = rng.uniform(4.6, 5.4) if style == "fringe" else rng.uniform(6.4, 8.6 if build > 0 else 7.8)
    parted = style in ("side", "bob", "long") and rng.uniform() < 0.75
    parting = float(rng.choice([-1, 1]) * rng.uniform(0.0, 3.2)) if parted else None
    curly = style == "curly"
    return Hair(
        style=style,
        colour_name="none" if style == "bald" else colour_name,
        colour=colour,
        top=float(top),
        side=float(side),
        hairline=float(line),
        sideburn=float(rng.uniform(-1.0, 2.0)),
        length=float(length),
        parting=parting,
        wave=float(rng.uniform(0.12, 0.2) if curly else rng.uniform(0.02, 0.12)),
        wave_frequency=float(rng.uniform(1.0, 1.6) if curly else rng.uniform(0.3, 0.7)),
    )


def _draw_hat(rng: np.random.Generator) -> Hat:
    kind = str(rng.choice(["none", "beanie", "cap"], p=[0.84, 0.09, 0.07]))
    _, colour = mix_palette(rng, CLOTH)
    band = mix_palette(rng, CLOTH)[1] if rng.uniform() < 0.4 else jitter(rng, colour, 0.25)
    return Hat(kind, colour, band, float(rng.uniform(-0.5, 0.7)), float(rng.uniform(3.8, 5.4)))


def _draw_face(
    rng: np.random.Generator, hair: Hair, build: float, named_skin: tuple[str, Colour], eyes: Palette
) -> Face:
    skin_name, skin = named_skin
    eye_name, eye = mix_palette(rng, eyes)
    redness = rng.uniform(0.55, 1.0)
    lips = skin * (1.0 - redness * np.array([0.12, 0.58, 0.50])) + redness * np.array([0.03, 0.0, 0.006])
    likely = 0.12 if build < 0 else 0.62
    beard = "none"
    if rng.uniform() < likely:
        beard = str(rng.choice(["stubble", "full", "goatee", "moustache"], p=[0.38, 0.32, 0.18, 0.12]))
    return Face(
        skin=skin,
        skin_name=skin_name,
        flush=float(rng.uniform(0.1, 0.6)),
        blotch=float(rng.uniform(0.02, 0.07)),
        freckles=float(rng.uniform(0.3, 1.0)) if float(skin.mean()) > 0.4 and rng.uniform() < 0.15 else 0.0,
        lips=lips,
        eye=eye,
        eye_name=eye_name,
        brow=np.minimum(hair.colour, skin * 0.7) * 0.7,
        brow_thickness=float(rng.uniform(0.26, 0.52) + 0.05 * build),
        brow_strength=float(rng.uniform(0.45, 0.95)),
        brow_arch=float(rng.normal(0.0, 0.16)),
        beard=beard,
        beard_strength=float({"stubble": rng.uniform(0.25, 0.5)}.get(beard, rng.uniform(0.88, 0.99))),
        beard_length=float({"full": rng.uniform(0.5, 1.9), "goatee": rng.uniform(0.3, 1.0)}.get(beard, 0.15)),
    )


def _draw_clothes(rng: np.random.Generator) -> Clothes:
    kind = str(rng.choice(["crew", "vneck", "shirt", "turtleneck", "hoodie"], p=[0.36, 0.2, 0.18, 0.12, 0.14]))
    _, colour = mix_palette(rng, CLOTH)
    trim = mix_palette(rng, CLOTH)[1] if rng.uniform() < 0.5 else np.clip(colour * rng.uniform(0.6, 1.3), 0.01, 0.9)
    pattern = str(rng.choice(["plain", "stripes", "yoke"], p=[0.62, 0.2, 0.18]))
    return Clothes(kind, colour, trim, pattern, float(rng.uniform(2.8, 4.5)))
