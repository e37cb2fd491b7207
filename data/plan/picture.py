"""The order in a picture: which capture is read at which step by which rank, and how subsets are nested."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.order import Captures, SampleOrder, nested_subjects
from data.shares import Shares

_PEOPLE, _BATCH, _STEPS, _SUBSETS = 48, 8, 12, (6, 12, 24, 48)
_CELL, _STEP, _COLUMN, _GAP = 18, 44, 76, 72  # pixels
_LEFT, _TOP, _BOTTOM = 92, 132, 128
_INK, _FAINT, _GRID, _EMPTY = (36, 40, 48), (112, 118, 130), (255, 255, 255), (240, 242, 246)
_RANKS = ((43, 95, 172), (229, 126, 45), (58, 156, 108), (172, 62, 116))
_SHADES = ((20, 62, 92), (47, 117, 150), (110, 171, 193), (183, 215, 224))


def draw_order(seed: int = 0) -> Image.Image:
    """Two epochs of 48 captures on two and on four ranks, and four nested subsets of the 48 people.

    The cells of the two left parts are the same: the ranks share one sequence, and only who reads what differs.
    """
    widths = [_STEPS * _STEP, _STEPS * _STEP, len(_SUBSETS) * _COLUMN]
    size = (_LEFT + sum(widths) + 2 * _GAP + 40, _TOP + _PEOPLE * _CELL + _BOTTOM)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_LEFT - 22, _TOP + _PEOPLE * _CELL / 2), "capture", 26, _FAINT, turned=sheet)
    left = _LEFT
    for world in (2, 4):
        _ranks(draw, left, seed, world)
        left += _STEPS * _STEP + _GAP
    _subsets(draw, left)
    return sheet


def _ranks(draw: ImageDraw.ImageDraw, left: int, seed: int, world: int) -> None:
    """One column per step, one row per capture; a cell has the colour of the rank that reads it."""
    captures = Captures(np.array([0]), np.array([_PEOPLE]), range(_PEOPLE + 1))
    order, shares = SampleOrder(captures, "a picture", seed), Shares(_BATCH, world)
    _heading(draw, left, f"{world} ranks", f"a column is a step: {_BATCH} captures, {_BATCH // world} to each rank")
    _field(draw, left, _STEPS, _STEP)
    for step in range(_STEPS):
        for rank in range(world):
            part = shares.micro_batch(rank, step)
            for row in order.at(np.arange(part.first, part.first + part.count)).tolist():
                _cell(draw, left + step * _STEP, row, _STEP, _RANKS[rank])
    base = _TOP + _PEOPLE * _CELL
    seam = left + _PEOPLE // _BATCH * _STEP
    draw.line([(seam, _TOP - 10), (seam, base + 10)], _INK, 3)
    for number, middle in enumerate((left + (seam - left) / 2, seam + (seam - left) / 2)):
        _text(draw, (middle, base + 26), f"epoch {number}", 24, _INK)
    for rank in range(world):
        x = left + 132 * rank
        draw.rounded_rectangle([x, base + 64, x + 26, base + 88], 5, _RANKS[rank])
        _text(draw, (x + 38, base + 76), f"rank {rank}", 24, _FAINT, anchor="lm")


def _subsets(draw: ImageDraw.ImageDraw, left: int) -> None:
    """One column per subset; a cell has the shade of the smallest subset that holds its person."""
    ranked = nested_subjects([f"person {number}" for number in range(_PEOPLE)])
    _heading(draw, left, "data.subjects", "each holds the smaller ones")
    _field(draw, left, len(_SUBSETS), _COLUMN)
    for column, count in enumerate(_SUBSETS):
        for place, person in enumerate(ranked[:count]):
            shade = next(number for number, size in enumerate(_SUBSETS) if place < size)
            _cell(draw, left + column * _COLUMN, person, _COLUMN, _SHADES[shade])
        _text(draw, (left + (column + 0.5) * _COLUMN, _TOP + _PEOPLE * _CELL + 26), str(count), 24, _INK)


def _heading(draw: ImageDraw.ImageDraw, left: int, title: str, subtitle: str) -> None:
    _text(draw, (left, 44), title, 36, _INK, anchor="lm")
    _text(draw, (left, 88), subtitle, 24, _FAINT, anchor="lm")


def _field(draw: ImageDraw.ImageDraw, left: int, columns: int, width: int) -> None:
    draw.rectangle([left, _TOP, left + columns * width - 1, _TOP + _PEOPLE * _CELL - 1], _EMPTY)
    for column in range(1, columns):
        x = left + column * width
        draw.line([(x, _TOP), (x, _TOP + _PEOPLE * _CELL - 1)], _GRID, 2)


def _cell(draw: ImageDraw.ImageDraw, left: int, row: int, width: int, color: tuple[int, int, int]) -> None:
    top = _TOP + row * _CELL
    draw.rounded_rectangle([left + 3, top + 2, left + width - 4, top + _CELL - 3], 5, color)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    color: tuple[int, int, int],
    anchor: str = "mm",
    turned: Image.Image | None = None,
) -> None:
    """Text at a place; upright on its side where a sheet to turn it on is given."""
    font = ImageFont.load_default(size)
    if turned is None:
        draw.text(place, text, color, font, anchor)
        return
    width, height = int(draw.textlength(text, font)) + 8, size + 12
    tile = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(tile).text((width / 2, height / 2), text, color, font, "mm")
    tile = tile.rotate(90, expand=True)
    turned.paste(tile, (int(place[0] - tile.width / 2), int(place[1] - tile.height / 2)))
