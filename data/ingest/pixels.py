"""Image files as captures want them: no alpha, formats that shards hold, masks of one channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.images import decode, encode_png, read_header

Bytes = NDArray[np.uint8]
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


def split_alpha(data: bytes, where: str) -> tuple[bytes, bytes | None, tuple[int, int], list[str]]:
    """An encoded image without alpha, and its alpha as a mask; the bytes themselves where there is none.

    Straight alpha, as PNG has it; what lies behind becomes white.

    Returns:
        image, mask or None, (height, width), and what was done in sentences.

    Raises:
        UserError: broken, or of a format that shards do not hold.
    """
    try:
        header = read_header(data)
        size = (header.height, header.width)
        if header.suffix == "jpg":
            decode(data, 3)
            return data, None, size, []
        pixels = decode(data, 4)
    except ValueError as error:
        raise UserError(f"broken image: {error}", where=where) from None
    alpha = pixels[..., 3:]
    if alpha.min() == 255:
        return data, None, size, []
    weight = alpha.astype(np.uint16)
    color = (pixels[..., :3] * weight + 255 * (255 - weight) + 127) // 255
    said = ["images: alpha was taken as the mask and the background made white"]
    return encode_png(color.astype(np.uint8)), encode_png(np.ascontiguousarray(alpha[..., 0])), size, said


def read_mask(data: bytes, size: tuple[int, int], where: str) -> bytes:
    """A mask file as an 8-bit PNG of one channel; of colours the brightest channel counts, 0 and 1 are 0 and 255.

    Raises:
        UserError: broken, or of another size than its image.
    """
    try:
        coverage = decode(data, 3).max(axis=2)
    except ValueError as error:
        raise UserError(f"broken mask: {error}", where=where) from None
    if coverage.shape != size:
        found = f"{coverage.shape[1]} x {coverage.shape[0]}"
        raise UserError(f"the mask is {found}, the image {size[1]} x {size[0]}", where=where)
    return encode_png(coverage * np.uint8(255) if coverage.max() == 1 else coverage)
