"""Captures made smaller: fewer views, smaller images, another format; intrinsics follow."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from configs.errors import UserError, nearest
from data.capture import Capture
from data.images import SUFFIXES, Bytes, Fit, encode_jpeg, encode_png, load, read_header
from data.index import Rig

QUALITY = {"jpg": 92, "webp": 90, "avif": 80}


@dataclass(frozen=True)
class Recoding:
    """What is done to each capture; nothing by default, then images keep their bytes.

    Attributes:
        image_size: (height, width) that images and masks are fitted to (`data.images.Fit`); None keeps sizes.
        format: `jpg`, `webp`, `avif` or `png`; None keeps each image's own.
        quality: 1 to 100 of what is encoded; None for `QUALITY`.
        cameras: names of the views that are kept; empty for all.
        first_views: at most so many views, the first of the rig.
    """

    image_size: tuple[int, int] | None = None
    format: str | None = None
    quality: int | None = None
    cameras: tuple[str, ...] = ()
    first_views: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and min(self.image_size) < 1:
            raise UserError("an image has at least one pixel", where="image_size")
        if self.format is not None and self.format not in SUFFIXES:
            raise UserError(f"no format is called '{self.format}'", where="format", hint=nearest(self.format, SUFFIXES))
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UserError(f"{self.quality} is not in 1..100", where="quality")
        if self.quality is not None and self.format is None and self.image_size is None:
            raise UserError("nothing is encoded anew", where="quality", hint="give a size or a format as well")
        if self.first_views is not None and self.first_views < 1:
            raise UserError(f"{self.first_views} is not 1 or more", where="first_views")

    @property
    def keeps_bytes(self) -> bool:
        """Whether images and masks stay as they are."""
        return self.image_size is None and self.format is None

    def views(self, rig: Rig, where: str) -> list[int]:
        """Numbers of the views of a rig that are kept.

        Raises:
            UserError: a camera that the rig does not have.
        """
        chosen = rig.views(self.cameras, where) if self.cameras else list(range(len(rig.cameras)))
        return chosen[: self.first_views]

    def apply(self, capture: Capture) -> Capture:
        """The capture with its images encoded anew where that is asked for.

        Raises:
            UserError: an image that does not decode, by name.
        """
        if self.keeps_bytes:
            return capture
        images, masks, K, sizes = [], [], [], []
        for view, camera in enumerate(capture.cameras):
            size = capture.sizes[view]
            wanted = self.image_size or size
            try:
                images.append(self._image(capture.images[view], size, wanted))
                masks.append(_mask(capture.masks[view], size, wanted))
            except ValueError as error:
                raise UserError(f"broken image or mask: {error}", where=f"capture {capture.name}, {camera}") from None
            K.append(Fit.of(size, wanted).intrinsics(capture.K[view], wanted))
            sizes.append(wanted)
        parts = {"images": tuple(images), "masks": tuple(masks), "K": np.stack(K), "sizes": tuple(sizes)}
        return dataclasses.replace(capture, **parts)

    def _image(self, data: bytes, size: tuple[int, int], wanted: tuple[int, int]) -> bytes:
        format = read_header(data).suffix
        if wanted == size and self.format in (None, format) and self.quality is None:
            return data
        return encode(load(data, wanted), self.format or format, self.quality)


def encode(pixels: Bytes, format: str, quality: int | None = None) -> bytes:
    """uint8 `[h, w, 3]` in one of `data.images.SUFFIXES`; the same bytes for the same pixels."""
    if format == "png":
        return encode_png(pixels)
    quality = quality or QUALITY[format]
    if format == "jpg":
        return encode_jpeg(pixels, quality)
    buffer = io.BytesIO()
    # Colour at full resolution, as our JPEGs have it; WebP knows half only.
    options = {"method": 4} if format == "webp" else {"max_threads": 1, "subsampling": "4:4:4"}
    Image.fromarray(pixels).save(buffer, format.upper(), quality=quality, **options)
    return buffer.getvalue()


def _mask(data: bytes | None, size: tuple[int, int], wanted: tuple[int, int]) -> bytes | None:
    return data if data is None or wanted == size else encode_png(load(data, wanted, channels=1))
