"""Colour correction by polynomials of linear RGB, as measured with a colour chart.

Source: Cheung, Westland, Connah, Ripamonti, "A comparative study of the characterisation of colour cameras by means of
neural networks and polynomial transforms", Coloration Technology 120(1), 2004; terms in the order of colour-science.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Powers of R, G, B. The expansions are prefixes of two lists, but for what is said below.
_FIRST = ["r", "g", "b", "rg", "rb", "gb"]
_SQUARES = [*_FIRST, "rr", "gg", "bb"]
_CUBES = ["rrr", "ggg", "bbb"]
_CYCLE = ["rrg", "ggb", "bbr"]
_MIXED = [*_CYCLE, "rrb", "ggr", "bbg"]
_FOURTH = ["rrrg", "rrrb", "gggr", "gggb", "bbbr", "bbbg", "rrgb", "rggb", "rgbb", "rrgg", "rrbb", "ggbb"]
TERMS: dict[int, list[str]] = {
    3: ["r", "g", "b"],
    4: ["r", "g", "b", ""],
    5: ["r", "g", "b", "rgb", ""],
    7: [*_FIRST, ""],
    8: [*_FIRST, "rgb", ""],
    10: [*_SQUARES, ""],
    11: [*_SQUARES, "rgb", ""],
    14: [*_SQUARES, "rgb", *_CUBES, ""],
    16: [*_SQUARES, "rgb", *_CYCLE, *_CUBES],
    17: [*_SQUARES, "rgb", *_CYCLE, *_CUBES, ""],
    19: [*_SQUARES, "rgb", *_MIXED, *_CUBES],
    20: [*_SQUARES, "rgb", *_MIXED, *_CUBES, ""],
    22: [*_SQUARES, "rgb", *_MIXED, *_CUBES, "rrgb", "rggb", "rgbb"],
    35: [*_SQUARES, "rgb", *_MIXED, *_CUBES, *_FOURTH, "rrrr", "gggg", "bbbb", ""],
}
"""Products of the channels by number of terms; the empty product is 1."""
_ROWS = 128


def check_matrix(matrix: Floats, where: str) -> Floats:
    """A colour matrix `[3, n]` with n one of `TERMS`.

    Raises:
        UserError: another shape.
    """
    if matrix.ndim != 2 or matrix.shape[0] != 3 or matrix.shape[1] not in TERMS:
        known = ", ".join(map(str, TERMS))
        raise UserError(f"a colour matrix is 3 x n, not {list(matrix.shape)}", where=where, hint=f"n is one of {known}")
    return matrix


def correct(pixels: Bytes, matrix: Floats) -> Bytes:
    """Decode sRGB, apply the matrix to the expanded linear colour, encode.

    Args:
        pixels: sRGB `[h, w, 3]`.
        matrix: `[3, n]`, see `check_matrix`.
    """
    corrected = np.empty_like(pixels)
    for start in range(0, len(pixels), _ROWS):
        linear = _LINEAR[pixels[start : start + _ROWS]]
        channels = dict(zip("rgb", np.moveaxis(linear, -1, 0), strict=True))
        total = np.zeros(linear.shape, np.float32)
        for weights, term in zip(matrix.T.astype(np.float32), TERMS[matrix.shape[1]], strict=True):
            product = np.ones(linear.shape[:2], np.float32)
            for channel in term:
                product *= channels[channel]
            total += product[..., None] * weights
        corrected[start : start + _ROWS] = _ENCODED[
            np.rint(np.clip(total, 0, 1) * (len(_ENCODED) - 1)).astype(np.int64)
        ]
    return corrected


def decode_srgb(value: Floats) -> Floats:
    """Linear light of sRGB values in 0..1 (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: Floats) -> Floats:
    """sRGB values of linear light in 0..1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


_LINEAR = decode_srgb(np.arange(256) / 255).astype(np.float32)
_ENCODED = np.rint(255 * encode_srgb(np.arange(2**16) / (2**16 - 1))).astype(np.uint8)
