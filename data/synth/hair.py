"""Hair, hats and beards as geometry: how far and where to they lift the surface; centimetres."""

from __future__ import annotations

import numpy as np

from data.synth.fields import Array, bump, smoothstep, waves
from data.synth.places import AXIS_Z, Places
from data.synth.regions import lips
from data.synth.subject import NOISE, Hair, Hat, Subject

LEAD = 0.35
"""How far a colour's border lies before its geometry's, so that no step in the surface shows skin."""


def above_hairline(places: Places, hair: Hair) -> Array:
    """Distance above the lower border of the hair, `[n]`."""
    front, burn = hair.hairline, hair.sideburn
    if hair.style in ("bob", "long"):
        degrees = (0.0, 30.0, 52.0, 66.0, 78.0, 180.0)
        return places.above(degrees, (front, front - 0.3, 4.6, 1.5, hair.length, hair.length))
    degrees = (0.0, 30.0, 52.0, 66.0, 76.0, 83.0, 90.0, 106.0, 118.0, 135.0, 180.0)
    nape = -7.2 if hair.style != "buzz" else -6.2
    return places.above(degrees, (front, front - 0.3, 5.2, 3.8, burn, burn, 4.4, 4.6, 0.5, -5.5, nape))


def hair_cover(places: Places, subject: Subject, lead: float = 0.0) -> Array:
    """1 where hair grows or hangs, 0 on skin, `[n]`; soft over the hairline, which `lead` moves outwards."""
    hair = subject.hair
    if hair.style == "bald":
        return np.zeros(len(places.points), places.points.dtype)
    ragged = 0.22 * waves(places.shell, subject.rng(NOISE, 1), 6, 0.9)
    cover = smoothstep(-0.45, 0.35, above_hairline(places, hair) + ragged + lead * (1.0 + (hair.length < 0)))
    if hair.style in ("bob", "long"):
        # What hangs stops where the shoulders stand out of it.
        free = smoothstep(0.9, -0.3, places.radius - _curtain(places, hair))
        return cover * np.where(places.shell[:, 1] < -8.0, free, 1.0)
    return cover * (1.0 - places.ears * smoothstep(2.0, 0.8, hair.side))


def hair_surface(places: Places, normals: Array, shell: Array, subject: Subject) -> Array:
    """Where the hair's surface lies above each place, `[n, 3]`.

    Args:
        places: of the vertices.
        normals: `[n, 3]` of the shell.
        shell: `[n, 3]` this subject's own shell.
        subject: whose hair it is.
    """
    hair = subject.hair
    y = places.shell[:, 1]
    above = above_hairline(places, hair)
    root = smoothstep(-0.5, 0.9 + 0.45 * hair.top, above)
    thickness = (hair.side + (hair.top - hair.side) * smoothstep(3.0, 9.5, y)) * root
    thickness *= 1.0 + hair.wave * waves(places.shell, subject.rng(NOISE, 2), 8, hair.wave_frequency)
    if hair.parting is not None:
        front = smoothstep(-5.0, 2.0, places.shell[:, 2]) * smoothstep(5.0, 8.0, y)
        thickness *= 1.0 - 0.62 * front * np.exp(-(((places.shell[:, 0] - hair.parting) / 0.6) ** 2))
        thickness *= 1.0 + 0.25 * front * np.tanh((places.shell[:, 0] - hair.parting) / -np.copysign(2.0, hair.parting))
    if hair.style == "bun":
        thickness += 4.2 * bump(places.shell, (0.0, 8.5, -8.0), (1.7, 1.7, 2.2)) ** 0.7
    surface = shell + normals * thickness[:, None]
    return _hang(places, surface, hair) if hair.length < 0 else surface


def _curtain(places: Places, hair: Hair) -> Array:
    """Distance of hanging hair from the vertical axis at each azimuth and height, `[n]`."""
    angle = np.deg2rad(places.azimuth)
    y = places.shell[:, 1]
    flare = 0.06 * np.maximum(-2.0 - y, 0.0)
    side, back = 7.1 + hair.side + flare, 8.2 + hair.side + 0.3 * flare
    curl_in = 0.9 * smoothstep(hair.length + 3.0, hair.length, y)
    return 1.0 / np.sqrt((np.sin(angle) / side) ** 2 + (np.cos(angle) / back) ** 2) - curl_in


def _hang(places: Places, surface: Array, hair: Hair) -> Array:
    """Hair below the temples hangs straight down instead of following the neck."""
    offset = surface[:, [0, 2]] - [0.0, AXIS_Z]
    radius = np.maximum(np.hypot(offset[:, 0], offset[:, 1]), 1e-6)
    hanging = smoothstep(5.0, 1.0, places.shell[:, 1]) * smoothstep(62.0, 84.0, places.azimuth)
    wanted = radius + hanging * np.maximum(_curtain(places, hair) - radius, 0.0)
    moved = surface.copy()
    moved[:, [0, 2]] = offset * (wanted / radius)[:, None] + [0.0, AXIS_Z]
    return moved


def above_rim(places: Places, hat: Hat) -> Array:
    """Distance above the hat's rim, `[n]`."""
    heights = {"beanie": (4.9, 4.2, 3.0, 1.0, -0.5), "cap": (5.4, 4.9, 4.9, 3.2, 1.4)}[hat.kind]
    return places.above((0.0, 55.0, 95.0, 130.0, 180.0), tuple(height + hat.height for height in heights))


def hat_cover(places: Places, hat: Hat, lead: float = 0.0) -> Array:
    """1 under the hat, `[n]`; `lead` moves its rim outwards."""
    if hat.kind == "none":
        return np.zeros(len(places.points), places.points.dtype)
    return smoothstep(-0.12, 0.12, above_rim(places, hat) + lead)


def hat_band(places: Places, hat: Hat) -> Array:
    """1 on the cuff of a beanie or the visor of a cap, `[n]`."""
    above = above_rim(places, hat)
    if hat.kind == "cap":
        return smoothstep(1.7, 1.5, above) * smoothstep(62.0, 56.0, places.azimuth)
    return smoothstep(3.6, 3.4, above)


def hat_surface(places: Places, normals: Array, shell: Array, subject: Subject) -> Array:
    """Where the hat's surface lies above each place, `[n, 3]`; arguments as for `hair_surface`."""
    hat, hair = subject.hat, subject.hair
    above = above_rim(places, hat)
    under = 0.35 * min(hair.top, 2.0) + 0.25
    thickness = under + 0.45 * smoothstep(0.0, 4.0, above)
    if hat.kind == "beanie":
        thickness += 0.45 * smoothstep(3.7, 3.3, above) + 0.9 * bump(places.shell, (0, 12.5, -3.0), (4.5, 3.0, 4.5))
        return shell + normals * thickness[:, None]
    thickness += 0.7 * smoothstep(3.0, 7.0, above) * smoothstep(-4.0, 4.0, places.shell[:, 2])
    surface = shell + normals * thickness[:, None]
    along = np.clip(1.0 - (places.azimuth / 58.0) ** 2, 0.0, 1.0) ** 0.6
    reach = hat.visor * along * np.clip(1.0 - np.abs(above - 0.8) / 0.8, 0.0, 1.0)
    return surface + reach[:, None] * [0.0, -0.22, 1.0]


def beard_lift(places: Places, subject: Subject) -> Array:
    """How far the beard lifts the surface, centimetres, `[n]`; thin at its borders."""
    cover = beard_cover(places, subject.face.beard)
    deep = smoothstep(-6.0, -9.5, places.points[:, 1])
    return subject.face.beard_length * cover**2 * (0.25 + 0.75 * deep)


def beard_cover(places: Places, style: str) -> Array:
    """1 where a beard of this style grows, `[n]`."""
    p = places.points
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    chin = smoothstep(3.4, 2.4, x) * smoothstep(-7.0, -7.7, y) * smoothstep(-12.0, -10.8, y)
    lip = smoothstep(-4.1, -4.7, y) * smoothstep(-6.3, -5.9, y) * smoothstep(3.2, 2.5, x)
    corners = smoothstep(-5.5, -6.3, y) * smoothstep(-8.5, -7.5, y) * np.exp(-(((x - 2.9) / 0.5) ** 2))
    border = -1.2 - 4.2 * smoothstep(2.0, 7.5, z)
    cheeks = smoothstep(border + 0.8, border - 1.0, y) * smoothstep(-12.6, -10.9, y + 0.25 * np.maximum(3.0 - z, 0.0))
    cover = {
        "none": np.zeros_like(x),
        "moustache": lip,
        "goatee": np.maximum.reduce([chin, lip, corners]),
        "stubble": np.maximum(cheeks, lip),
        "full": np.maximum(cheeks, lip),
    }[style]
    return cover * smoothstep(0.2, 1.8, z) * (1.0 - lips(p, 0.12)) * (1.0 - places.ears)
