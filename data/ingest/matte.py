"""A rough mask from a picture of the empty studio."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Bytes = NDArray[np.uint8]

_DIFFERENT = 24.0  # of 255, in the channel that differs most, after blurring


def difference_mask(pixels: Bytes, background: Bytes) -> Bytes:
    """255 where an image differs from the same view without a person: the largest such region, its holes filled.

    Args:
        pixels: `[h, w, 3]`.
        background: the same size.

    Returns:
        `[h, w]`, 0 or 255; all 0 where nothing differs. Clothes of the background's colour are lost.
    """
    blur = max(1.0, max(pixels.shape) / 500)
    change = np.abs(pixels.astype(np.float32) - background).max(axis=2)
    near = ndimage.gaussian_filter(change, blur) > _DIFFERENT
    regions, count = cast(tuple[NDArray[np.int32], int], ndimage.label(near))
    if not count:
        return np.zeros(near.shape, np.uint8)
    sizes = np.bincount(regions.ravel())[1:]
    filled = np.asarray(ndimage.binary_fill_holes(regions == 1 + int(np.argmax(sizes))), bool)
    return np.where(filled, 255, 0).astype(np.uint8)
