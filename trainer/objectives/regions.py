"""Region losses: eyes and mouth compared once more in crops, where the template's regions project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.objectives.reconstruction import RegionsConfig
from data.views import Cameras, Views
from models.layers import sample
from models.template import Region, Template, face_regions
from trainer.objectives.losses import lpips_distance

GROUPS = {"eyes": ("left_eye", "right_eye"), "mouth": ("mouth",)}
FACING = (
    0.2  # cosine between a region's normal and the way to the camera, below which it is seen too much from the side
)
INSIDE = 0.5  # share of a box that lies in the image, below which the box is dropped


@dataclass(frozen=True)
class Boxes:
    """Squares around regions in the images of cameras.

    Attributes:
        corners: `[..., region, 4]` left, top, right, bottom in pixels; they may lie outside of the image.
        seen: `[..., region]` whether the region faces the camera and lies in its image.
    """

    corners: Tensor
    seen: Tensor


def region_boxes(regions: Sequence[Region], cameras: Cameras, padding: float) -> Boxes:
    """Where regions are in images.

    Args:
        regions: of the template, which is in the frame that the cameras are in.
        cameras: `[...]`.
        padding: added on each side, over the side of the square.
    """
    most = max(len(region.points) for region in regions)
    repeated = [torch.from_numpy(region.points)[torch.arange(most) % len(region.points)] for region in regions]
    points, centers, normals = (
        torch.stack(parts).to(cameras.K)
        for parts in (
            repeated,
            [torch.from_numpy(region.center) for region in regions],
            [torch.from_numpy(region.normal) for region in regions],
        )
    )
    pixels, depths = (each.unflatten(len(cameras.shape), (-1, most)) for each in cameras.project(points.flatten(0, 1)))
    low, high = pixels.amin(dim=-2), pixels.amax(dim=-2)
    middle, half = (low + high) / 2, (high - low).amax(dim=-1, keepdim=True) * (0.5 + padding)
    size = torch.tensor([cameras.width, cameras.height]).to(pixels)
    inside = ((middle + half).clamp(min=0).minimum(size) - (middle - half).clamp(min=0).minimum(size)).prod(dim=-1)
    toward = F.normalize(cameras.centers[..., None, :] - centers, dim=-1)
    seen = ((toward * normals).sum(dim=-1) > FACING) & (depths.amin(dim=-1) > 0)
    seen &= inside > INSIDE * (2 * half[..., 0]) ** 2
    # Points behind a camera project anywhere, even to infinity: boxes that do not count are the image.
    whole = torch.cat([torch.zeros_like(size), size])
    return Boxes(torch.where(seen[..., None], torch.cat([middle - half, middle + half], dim=-1), whole), seen)


def crop(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cut boxes out and resize them, bilinearly.

    Args:
        images: `[b, v, c, h, w]`.
        corners: `[b, v, r, 4]`, as in `Boxes`.
        size: side of the crops in pixels.

    Returns:
        `[b, v, r, c, size, size]`; zero outside of the image.
    """
    batch, views, regions = corners.shape[:3]
    steps = (torch.arange(size, device=corners.device) + 0.5) / size
    low, high = corners[..., None, :2], corners[..., None, 2:]
    x, y = (low + (high - low) * steps[:, None]).unbind(dim=-1)
    shape = (batch, views, regions, size, size)
    pixels = torch.stack([x[..., None, :].expand(shape), y[..., :, None].expand(shape)], dim=-1)
    found = sample(images.flatten(0, 1), pixels.flatten(0, 1).flatten(1, 3), *images.shape[-2:])
    return found.unflatten(0, (batch, views)).unflatten(2, (regions, size, size)).movedim(-1, 3)


class RegionLosses:
    """L1, and LPIPS where there is a backbone, of eyes and mouth.

    Args:
        config: groups of weight 0 are left out.
        template: whose regions say where eyes and mouth are.
        lpips: the backbone, or none.
    """

    def __init__(self, config: RegionsConfig, template: Template, lpips: nn.Module | None) -> None:
        self.config, self.lpips = config, lpips if config.lpips > 0 else None
        regions = face_regions(template.mesh)
        groups = {name: parts for name, parts in GROUPS.items() if getattr(config, name) > 0}
        self.regions = [regions[part] for parts in groups.values() for part in parts]
        self._counts = {name: len(parts) for name, parts in groups.items()}

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        weights = {name: getattr(self.config, name) for name in self._counts}
        return weights | {f"{name}_lpips": weight * self.config.lpips for name, weight in weights.items()}

    def __call__(self, images: Tensor, target: Views) -> dict[str, Tensor]:
        """`eyes` and `mouth`, and the same with `_lpips`: means over all views and regions, 0 where one is not seen.

        Dividing by what there could be to see, not by what is seen, keeps a batch's loss the mean of its samples',
        however ranks and micro-batches share it.

        Args:
            images: `[b, v, 3, h, w]` rendered.
            target: what they should be.
        """
        boxes = region_boxes(self.regions, target.cameras, self.config.padding)
        ours, theirs = (crop(each, boxes.corners, self.config.size) for each in (images, target.images))
        terms = self._groups((ours - theirs).abs().mean(dim=(-3, -2, -1)) * boxes.seen)
        if self.lpips is not None:
            distances = lpips_distance(self.lpips, ours.flatten(1, 2), theirs.flatten(1, 2))
            by_region = distances.unflatten(1, boxes.seen.shape[1:]) * boxes.seen
            terms |= {f"{name}_lpips": term for name, term in self._groups(by_region).items()}
        return terms

    def _groups(self, by_region: Tensor) -> dict[str, Tensor]:
        parts = by_region.split(list(self._counts.values()), dim=-1)
        return {name: part.mean() for name, part in zip(self._counts, parts, strict=True)}
