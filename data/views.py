"""Cameras, views and batches: the words that every other file speaks (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class Tensors:
    """Moves every tensor of a dataclass at once."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor, nested ones too."""
        changed = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value)
            elif isinstance(value, Tensors):
                changed[field.name] = value.map(function)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device, without waiting where the memory is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class Cameras(Tensors):
    """Calibrated pinhole cameras: OpenCV axes, metres, pixel intrinsics, pixel centres at +0.5.

    Attributes:
        world_to_camera: `[..., 4, 4]` rigid transforms.
        K: `[..., 3, 3]` intrinsics in pixels of a `width` x `height` image.
        width, height: image size in pixels, the same for all cameras of one object.
    """

    world_to_camera: Tensor
    K: Tensor
    width: int
    height: int

    @property
    def shape(self) -> torch.Size:
        """Leading dimensions, for example `[batch, view]`."""
        return self.K.shape[:-2]

    @property
    def centers(self) -> Tensor:
        """Camera centres in the world, `[..., 3]`, metres."""
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        return -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]

    def __getitem__(self, index: object) -> Cameras:
        return replace(self, world_to_camera=self.world_to_camera[index], K=self.K[index])  # type: ignore[index]

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras for images resampled to another size."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0]).to(self.K)
        return replace(self, K=self.K * scale[:, None], height=height, width=width)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates and depth of world points.

        Args:
            points: `[..., n, 3]` in metres; leading dimensions broadcast against `shape`.

        Returns:
            pixels `[..., n, 2]` (x right, y down) and depth `[..., n]` in metres, positive in front.
        """
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        local = points @ rotation.transpose(-1, -2) + translation[..., None, :]
        image = local @ self.K.transpose(-1, -2)
        return image[..., :2] / image[..., 2:], local[..., 2]

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origin `[..., 3]` and unit direction `[..., height, width, 3]` of the ray through every pixel centre."""
        ys = torch.arange(self.height, device=self.K.device, dtype=self.K.dtype) + 0.5
        xs = torch.arange(self.width, device=self.K.device, dtype=self.K.dtype) + 0.5
        fx, fy = self.K[..., 0, 0, None, None], self.K[..., 1, 1, None, None]
        cx, cy = self.K[..., 0, 2, None, None], self.K[..., 1, 2, None, None]
        x, y = torch.broadcast_tensors((xs[None, :] - cx) / fx, (ys[:, None] - cy) / fy)
        local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        world = (local.flatten(-3, -2) @ self.world_to_camera[..., :3, :3]).unflatten(-2, (self.height, self.width))
        return self.centers, torch.nn.functional.normalize(world, dim=-1)


@dataclass(frozen=True)
class Views(Tensors):
    """Images with their masks and cameras.

    Attributes:
        images: `[batch, view, 3, height, width]`, sRGB in [0, 1].
        masks: `[batch, view, 1, height, width]`, coverage of the person in [0, 1].
        cameras: `[batch, view]` cameras.
        coefficients: `[batch, 52]` the expression at the instant that all these views show, in the order of
            `data.arkit.ARKIT`, 0 where a capture names none; datasets and streams always give them.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras
    coefficients: Tensor | None = None

    def __getitem__(self, index: Any) -> Views:
        of_batch = index[0] if isinstance(index, tuple) else index
        coefficients = None if self.coefficients is None else self.coefficients[of_batch]
        return Views(self.images[index], self.masks[index], self.cameras[index], coefficients)


@dataclass(frozen=True)
class PackedViews(Tensors):
    """Views as they were decoded: a quarter of the bytes, which is what crosses to a GPU.

    Attributes:
        images: uint8 `[batch, view, height, width, 3]`, sRGB.
        masks: uint8 `[batch, view, height, width]`, 255 where the person is.
        cameras: `[batch, view]` cameras.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras

    def unpack(self, coefficients: Tensor) -> Views:
        """The same as floats, on the device they are on; `coefficients` `[batch, 52]` as `Views` keeps them."""
        colors = self.images.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        masks = self.masks[..., None, :, :].to(torch.float32).div_(255)
        return Views(colors, masks, self.cameras, coefficients)

    def __getitem__(self, index: object) -> PackedViews:
        return PackedViews(self.images[index], self.masks[index], self.cameras[index])  # type: ignore[index]


@dataclass(frozen=True)
class PackedBatch(Tensors):
    """One rank's part of one global batch on its way to a device.

    Attributes:
        views: source views, then target views, in the order of `Batch`.
        sources: how many of the views are source views.
        coefficients: `[batch, 2, 52]` the expressions that the source views and the target views show; they differ
            where the two are from different frames (`data.other_frame`).
        names, consumed: as in `Batch`.
    """

    views: PackedViews
    sources: int
    coefficients: Tensor
    names: tuple[str, ...]
    consumed: int

    def pin_memory(self) -> PackedBatch:
        """Page-locked copy for asynchronous transfer to a GPU; `torch.utils.data.DataLoader` calls it too."""
        return self.map(lambda tensor: tensor.pin_memory())

    def unpack(self) -> Batch:
        """Source and target as floats, on the device they are on."""
        whole = slice(None)
        source = self.views[whole, : self.sources].unpack(self.coefficients[:, 0])
        target = self.views[whole, self.sources :].unpack(self.coefficients[:, 1])
        return Batch(source, target, self.names, self.consumed)


@dataclass(frozen=True)
class Batch(Tensors):
    """One rank's part of one global batch.

    Attributes:
        source: what the network sees. The views are the first `n` of it for any n in 1..source views.
        target: what supervises it; disjoint from the source unless the config says otherwise.
        names: name of every sample's target capture, in order.
        consumed: samples consumed by **all** ranks once this batch is done: the only data state in a checkpoint.
    """

    source: Views
    target: Views
    names: tuple[str, ...]
    consumed: int
