"""Pictures that people look at instead of reading numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs import UserError

GAP = 4
LARGEST = 256
ANIMATIONS = (".webp", ".mp4")


@dataclass(frozen=True)
class Row:
    """One subject: `[view, 3, h, w]` tensors in [0, 1]."""

    source: Tensor
    target: Tensor
    prediction: Tensor

    @staticmethod
    def small(source: Tensor, target: Tensor, prediction: Tensor) -> Row:
        """On the CPU and at most `LARGEST` pixels high, so that a sheet of large images stays a picture."""
        return Row(*(_shrink(images.detach().float().cpu()) for images in (source, target, prediction)))


def contact_sheet(rows: Sequence[Row], errors: bool = True) -> Image.Image:
    """Sources on the left, then target, prediction and four times the absolute error for every target view."""
    return to_image(torch.cat([_line(row, errors) for row in rows], dim=1))


def wrapped(row: Row, columns: int = 4) -> list[Row]:
    """One subject with many target views as several rows of a sheet, the last filled up with white."""
    missing = -len(row.target) % columns
    target, prediction = (
        torch.cat([images, torch.ones(missing, *images.shape[1:])]) for images in (row.target, row.prediction)
    )
    parts = zip(target.split(columns), prediction.split(columns), strict=True)
    return [Row(row.source, *part) for part in parts]


def to_image(picture: Tensor) -> Image.Image:
    """`[3, h, w]` in [0, 1] to 8 bits."""
    array = (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).numpy())


def save_animation(frames: Tensor, path: Path, seconds: float = 4.0) -> None:
    """`[n, 3, h, w]` as an endless animated WebP, or as a video (VP9) where `path` ends in .mp4.

    Raises:
        UserError: another ending, or a video without the package that writes it.
    """
    check_animation(path)
    if path.suffix == ".mp4":
        _save_video(frames, path, len(frames) / seconds)
        return
    first, *rest = [to_image(frame) for frame in frames]
    first.save(
        path, save_all=True, append_images=rest, duration=round(1000 * seconds / len(frames)), loop=0, quality=88
    )


def check_animation(path: Path) -> None:
    """Refuse what `save_animation` cannot write, before anything is rendered.

    Raises:
        UserError: an ending that is neither .webp nor .mp4, or a video without the package that writes it.
    """
    if path.suffix not in ANIMATIONS:
        raise UserError(f"is no {' or '.join(ANIMATIONS)} file", where=str(path))
    if path.suffix == ".mp4" and find_spec("cv2") is None:
        hint = "install headway[ingest], or write a .webp"
        raise UserError("videos are written by OpenCV, which is not installed", where=str(path), hint=hint)


def _save_video(frames: Tensor, path: Path, fps: float) -> None:
    import cv2

    # VP9 is what OpenCV's wheels can encode and browsers play; MPEG-4 part 2 is not played, H.264 is not there.
    height, width = frames.shape[-2:]
    code = cv2.VideoWriter.fourcc(*"vp09")
    video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
    if not video.isOpened():
        raise UserError("OpenCV cannot write it", where=str(path), hint="write a .webp")
    for frame in frames:
        video.write(np.asarray(to_image(frame))[:, :, ::-1].copy())
    video.release()


def _shrink(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    if height <= LARGEST:
        return images
    return torch.nn.functional.interpolate(images, size=(LARGEST, round(width * LARGEST / height)), mode="area")


def _line(row: Row, errors: bool) -> Tensor:
    gap = torch.ones(3, row.source.shape[-2], GAP).to(row.source)
    parts = [*row.source, gap]
    for target, prediction in zip(row.target, row.prediction, strict=True):
        parts += [target, prediction.clamp(0, 1)]
        if errors:
            parts.append(_heat((prediction - target).abs().mean(dim=0) * 4))
        parts.append(gap)
    return torch.cat(parts[:-1], dim=-1)


def _heat(error: Tensor) -> Tensor:
    """Black to red to yellow to white, `[h, w]` -> `[3, h, w]`."""
    return torch.stack([(3 * error).clamp(0, 1), (3 * error - 1).clamp(0, 1), (3 * error - 2).clamp(0, 1)])
