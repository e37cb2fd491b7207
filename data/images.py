"""Encoded images to pixels: bounded, scaled while decoding, fitted to the wanted size with intrinsics to match."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from configs.errors import UserError

Bytes = NDArray[np.uint8]
Encoded = bytes | memoryview
MAX_PIXELS = 64 * 2**20  # 8192 x 8192; a larger image in a shard is a mistake or an attack
SUFFIXES = ("jpg", "png", "webp", "avif")
_READERS = {"png": "PNG", "webp": "WEBP", "avif": "AVIF"}


@dataclass(frozen=True)
class ImageHeader:
    """What an encoded image says of itself: `suffix` (one of `SUFFIXES`) and its size in pixels."""

    suffix: str
    height: int
    width: int


@dataclass(frozen=True)
class Fit:
    """Centre crop of an image that has the wanted aspect, in pixels of the full image.

    Images are covered, never padded: every pixel that a model sees was seen by a camera. What sticks out on the two
    longer sides is cut off, the same amount on each side.
    """

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def of(cls, size: tuple[int, int], wanted: tuple[int, int]) -> Fit:
        """The largest centred crop of `size` with the aspect of `wanted`; both are (height, width)."""
        scale = min(size[0] / wanted[0], size[1] / wanted[1])
        height, width = wanted[0] * scale, wanted[1] * scale
        # Rounding must not put the crop a hair outside of the image.
        return cls(max(0.0, (size[1] - width) / 2), max(0.0, (size[0] - height) / 2), width, height)

    def intrinsics(self, K: NDArray[np.float64], wanted: tuple[int, int]) -> NDArray[np.float64]:
        """`K` `[..., 3, 3]` of the full image, for the crop resampled to `wanted` (height, width)."""
        crop = np.array([[1.0, 0, -self.left], [0, 1, -self.top], [0, 0, 1]])
        return np.diag([wanted[1] / self.width, wanted[0] / self.height, 1.0]) @ crop @ K


def read_header(data: Encoded) -> ImageHeader:
    """Format and size without decoding.

    Raises:
        ValueError: unknown format, truncated header or more than `MAX_PIXELS` pixels.
    """
    suffix = _suffix(data)
    try:
        if suffix == "jpg":
            height, width = (int(size) for size in simplejpeg.decode_jpeg_header(data)[:2])  # type: ignore[arg-type]
        else:
            with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=[_READERS[suffix]]) as image:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image header cannot be read ({error})") from None
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels is over the limit of {MAX_PIXELS} pixels")
    return ImageHeader(suffix, height, width)


def decode(
    data: Encoded, channels: int = 3, smallest: tuple[int, int] | None = None, header: ImageHeader | None = None
) -> Bytes:
    """Pixels of an encoded image.

    Args:
        data: JPEG, PNG, WebP or AVIF.
        channels: 3 for sRGB (an alpha channel is dropped), 1 for a mask, 4 for sRGB with alpha.
        smallest: (height, width) that suffice; a JPEG is then decoded at the smallest scale n/8 that covers them.
        header: what `read_header` said, where it was asked before.

    Returns:
        uint8 `[h, w, channels]`, or `[h, w]` for one channel.

    Raises:
        ValueError: truncated, broken or too large.
    """
    header = header or read_header(data)
    if header.suffix == "jpg" and channels != 4:
        height, width = smallest or (header.height, header.width)
        scale = {"min_height": min(height, header.height), "min_width": min(width, header.width)} if smallest else {}
        colors = "RGB" if channels == 3 else "GRAY"
        pixels = simplejpeg.decode_jpeg(data, colors, strict=True, **scale)  # type: ignore[arg-type]
        return pixels[..., 0] if channels == 1 else pixels
    formats = [_READERS.get(header.suffix, "JPEG")]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            return np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image cannot be decoded ({error})") from None


def load(data: Encoded, wanted: tuple[int, int], channels: int = 3, size: tuple[int, int] | None = None) -> Bytes:
    """Decode and fit to `wanted` (height, width) by `Fit`, low-pass filtered where it shrinks.

    Args:
        data: as in `decode`.
        wanted: (height, width).
        channels: as in `decode`.
        size: (height, width) that the image must have.

    Returns:
        uint8 `[height, width, 3]`, or `[height, width]` for one channel.

    Raises:
        ValueError: truncated, broken, too large or of another size.
    """
    header = _header_of(data, size)
    full = (header.height, header.width)
    if full == wanted:
        return decode(data, channels, header=header)
    fit = Fit.of(full, wanted)
    smallest = (math.ceil(full[0] * wanted[0] / fit.height), math.ceil(full[1] * wanted[1] / fit.width))
    pixels = decode(data, channels, smallest, header)
    # libjpeg scales by n/8 and rounds the size up, so the factor is not the ratio of the sizes.
    scale = 1.0 if pixels.shape[:2] == full else round(8 * pixels.shape[0] / full[0]) / 8
    return resample(pixels, fit, wanted, scale)


def load_into(data: Encoded, out: Bytes, size: tuple[int, int] | None = None) -> None:
    """`load` an image into `out`, contiguous uint8 `[height, width, 3]`; a JPEG of that size without a copy."""
    wanted = (out.shape[0], out.shape[1])
    header = _header_of(data, size)
    if header.suffix == "jpg" and (header.height, header.width) == wanted:
        simplejpeg.decode_jpeg(data, "RGB", buffer=out, strict=True)  # type: ignore[arg-type]
    else:
        out[:] = load(data, wanted)


def _header_of(data: Encoded, size: tuple[int, int] | None) -> ImageHeader:
    header = read_header(data)
    if size not in (None, (header.height, header.width)):
        raise ValueError(f"it is {header.width} x {header.height} pixels, its camera says {size[1]} x {size[0]}")
    return header


def resample(pixels: Bytes, fit: Fit, wanted: tuple[int, int], scale: float = 1.0) -> Bytes:
    """Cut `fit` out of `pixels` (an image that is `scale` times the one `fit` speaks of) and resample to `wanted`.

    Shrinking uses Pillow's Hamming filter (an antialiased area filter without the jaggedness of a box), growing is
    bilinear.
    """
    left, top = fit.left * scale, fit.top * scale
    right = min(left + fit.width * scale, pixels.shape[1])
    bottom = min(top + fit.height * scale, pixels.shape[0])
    shrinks = bottom - top >= wanted[0]
    method = Image.Resampling.HAMMING if shrinks else Image.Resampling.BILINEAR
    image = Image.fromarray(pixels).resize((wanted[1], wanted[0]), method, box=(left, top, right, bottom))
    return np.asarray(image)


def encode_png(pixels: Bytes) -> bytes:
    """Lossless PNG of uint8 `[h, w]`, `[h, w, 3]` or `[h, w, 4]`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def encode_jpeg(pixels: Bytes, quality: int = 92) -> bytes:
    """Baseline JPEG of uint8 `[h, w, 3]` without chroma subsampling."""
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(f"a JPEG holds [h, w, 3] pixels, not {list(pixels.shape)}")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="444"
    )


def _suffix(data: Encoded) -> str:
    if data[:2] == b"\xff\xd8":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    raise ValueError("neither JPEG, PNG, WebP nor AVIF" if data else "empty")
