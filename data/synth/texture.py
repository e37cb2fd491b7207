"""What colour a subject is: a linear RGB map over the template's UV square."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.synth.clothes import cloth_colour, clothes_cover
from data.synth.fields import Array, bump, smoothstep, waves
from data.synth.hair import LEAD, beard_cover, hair_cover, hat_band, hat_cover
from data.synth.places import Places, texel_places
from data.synth.regions import (
    brow_distance,
    eye_offset,
    eye_opening,
    front,
    left_side,
    lips,
    mouth_interior,
)
from data.synth.subject import NOISE, Face, Subject

IRIS, PUPIL = 0.58, 0.24
SCLERA = np.array([0.70, 0.66, 0.63])
MOUTH = np.array([0.055, 0.012, 0.012])


def albedo(subject: Subject, size: int, opening: float = 0.0) -> NDArray[np.float32]:
    """The subject's colours without light, linear RGB `[size, size, 3]`, row 0 at v = 0.

    Args:
        subject: whose.
        size: texels per side.
        opening: how far the mouth is open, 0 to 1.
    """
    places = texel_places(size)
    colour = _skin(places, subject)
    colour = _lay(colour, lips(places.points), subject.face.lips)
    colour = _lay(colour, mouth_interior(places.points, opening), MOUTH)
    colour = _beard_and_brows(colour, places, subject)
    colour = _eyes(colour, places, subject.face)
    colour = _lay(colour, clothes_cover(places, subject.clothes), cloth_colour(places, subject.clothes))
    colour = _lay(colour, hair_cover(places, subject, LEAD), _hair_colour(places, subject))
    if subject.hat.kind != "none":
        band = hat_band(places, subject.hat)[:, None]
        cloth = subject.hat.colour + (subject.hat.band - subject.hat.colour) * band
        colour = _lay(colour, hat_cover(places, subject.hat, LEAD), cloth)
    return np.clip(colour, 0.0, 1.0).astype(np.float32).reshape(size, size, 3)


def _lay(below: Array, cover: Array, above: Array) -> Array:
    cover = cover[:, None].astype(below.dtype)
    return below + (np.asarray(above, below.dtype) - below) * cover


def _skin(places: Places, subject: Subject) -> Array:
    face, p = subject.face, places.points
    folded = left_side(p)
    tone = 1.0 + face.blotch * waves(p, subject.rng(NOISE, 3), 8, 0.45)
    colour = tone[:, None] * face.skin.astype(p.dtype)
    red = bump(folded, (4.0, -2.6, 7.5), (1.6, 1.5, 2.0)) + 0.8 * bump(p, (0, -2.8, 11), (1.2, 1.0, 1.8))
    red += 0.7 * places.ears + 0.5 * bump(p, (0, -9.3, 9.4), (1.6, 1.0, 1.6))
    colour *= 1.0 + face.flush * red[:, None] * np.array([0.10, -0.26, -0.22], p.dtype)
    socket = bump(folded, (2.9, 1.0, 8.2), (1.7, 1.1, 1.4)) * (1.0 - eye_opening(p))
    colour *= 1.0 - socket[:, None] * np.array([0.20, 0.28, 0.24], p.dtype)
    if face.freckles:
        spots = smoothstep(0.9, 1.9, waves(p, subject.rng(NOISE, 4), 14, 3.0))
        spots *= bump(folded, (2.6, -1.2, 9.0), (2.4, 1.5, 2.6))
        colour *= 1.0 - face.freckles * spots[:, None] * np.array([0.18, 0.32, 0.38], p.dtype)
    nostril = bump(folded, (0.62, -3.75, 10.2), (0.30, 0.28, 0.7))
    return colour * (1.0 - 0.75 * nostril[:, None])


def _beard_and_brows(colour: Array, places: Places, subject: Subject) -> Array:
    face = subject.face
    if face.beard != "none":
        grain = 1.0 + 0.10 * waves(places.points, subject.rng(NOISE, 5), 8, 1.2)
        cover = face.beard_strength * np.clip(1.25 * beard_cover(places, face.beard) * grain, 0.0, 1.0)
        colour = _lay(colour, cover, np.minimum(subject.hair.colour, 0.6) * 0.8)
    distance, along = brow_distance(places.points, face.brow_arch)
    half = face.brow_thickness * (0.75 + 0.5 * along) * (1.0 - 0.75 * smoothstep(0.55, 1.0, along))
    brow = smoothstep(0.14, -0.14, distance - half) * front(places.points)
    return _lay(colour, face.brow_strength * brow, face.brow)


def _eyes(colour: Array, places: Places, face: Face) -> Array:
    p = places.points
    x, y = eye_offset(p)
    r = np.hypot(x, y - 0.04)
    white = (
        SCLERA * (1.0 - 0.35 * smoothstep(0.7, 1.5, np.abs(x)))[:, None] + [0.06, 0.0, 0.0] * (np.abs(x) > 1.1)[:, None]
    )
    rim = smoothstep(IRIS - 0.22, IRIS, r)
    iris = face.eye * (1.15 - 0.7 * rim)[:, None]
    ball = _lay(white.astype(p.dtype), smoothstep(IRIS + 0.05, IRIS - 0.05, r), iris)
    ball = _lay(ball, smoothstep(PUPIL + 0.05, PUPIL - 0.05, r), np.full(3, 0.01))
    ball = _lay(
        ball, smoothstep(0.16, 0.08, np.hypot(p[:, 0] - np.sign(p[:, 0]) * 3.15 + 0.2, y - 0.25)), np.full(3, 0.85)
    )
    ball *= (1.0 - 0.55 * smoothstep(0.05, 0.5, y))[:, None]  # the upper lid's shadow
    opened = eye_opening(p)
    colour = _lay(colour, opened, ball)
    lash = 4.0 * opened * (1.0 - opened) * smoothstep(-0.1, 0.25, y)
    return _lay(colour, 0.85 * np.clip(lash, 0.0, 1.0), np.full(3, 0.015))


def _hair_colour(places: Places, subject: Subject) -> Array:
    hair = subject.hair
    strands = waves(places.shell * np.array([1.0, 0.35, 1.0], places.shell.dtype), subject.rng(NOISE, 6), 10, 1.1)
    crown = smoothstep(-6.0, 10.0, places.shell[:, 1])
    shade = (0.86 + 0.2 * crown) * (1.0 + 0.12 * strands)
    if hair.style == "buzz":
        return _lay(shade[:, None] * hair.colour, np.full(len(shade), 0.35), subject.face.skin * 0.7)
    return shade[:, None] * hair.colour
