"""Pictures that people look at instead of reading numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

GAP = 4
LARGEST = 256


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
    """`[n, 3, h, w]` as an endless animated WebP."""
    first, *rest = [to_image(frame) for frame in frames]
    first.save(
        path, save_all=True, append_images=rest, duration=round(1000 * seconds / len(frames)), loop=0, quality=88
    )


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
