"""How heads of people that a model never saw agree from view to view: what benchmarks/consistency.py measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import Dataset
from data.order import digest
from data.viewpoints import Viewpoints, draw_views
from data.views import Cameras, Views
from models.render import Rendering, render
from models.system import Forward, composite, predict
from trainer.objectives.losses import psnr

SOURCES, TARGETS = 4, 4
NEAR = 0.01
"""Metres between a point and what the neighbour sees there, at most, for it to count as seen."""
COVERED = 0.9
"""Alpha from which a pixel shows the head."""

Measures = dict[str, float]


@dataclass(frozen=True)
class Person:
    """One unseen person: photos to make two heads from, four to compare with, and the nearest other photo to each."""

    sources: tuple[Views, Views]
    targets: Views
    neighbours: Views


def person(unseen: Dataset, name: str, size: tuple[int, int]) -> Person:
    """A capture's views, the same ones every time: two times four spread sources, no camera in both, four others."""
    cameras, rig = unseen.cameras(name), Viewpoints(unseen.centers(name))
    sources, targets = draw_views(rig, 2 * SOURCES, TARGETS, method="spread", key=digest("consistency", name))
    nearest = [int(rig.neighbours[target][0]) for target in targets]
    parts = (sources[::2], sources[1::2], targets, nearest)
    one, other, shown, beside = (unseen.views(name, [cameras[view] for view in part], size) for part in parts)
    return Person((one, other), shown, beside)


@torch.no_grad()
def measure(forward: Forward, people: Sequence[Person]) -> Measures:
    """`psnr`, `agreement` and `warped` in dB and `seen`, the share of pixels that `warped` is about; means over people.

    What they are: benchmarks/consistency.py.
    """
    rows = [_of_person(forward, one) for one in people]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _of_person(forward: Forward, one: Person) -> Measures:
    heads = [predict(forward, source) for source in one.sources]
    images = [composite(head, one.targets.cameras).images.clamp(0, 1) for head in heads]
    warps = []
    for head, image in zip(heads, images, strict=True):
        here, there = (render(head.foreground, views.cameras, depth=True) for views in (one.targets, one.neighbours))
        warps.append(warped_error(image, here, one.targets.cameras, there, one.neighbours))
    squared, seen = (torch.stack(values).mean() for values in zip(*warps, strict=True))
    return {
        "psnr": torch.stack([psnr(image, one.targets.images) for image in images]).mean().item(),
        "agreement": psnr(images[0], images[1]).mean().item(),
        "warped": -10 * squared.log10().item(),
        "seen": seen.item(),
    }


def warped_error(
    images: Tensor, here: Rendering, cameras: Cameras, there: Rendering, neighbours: Views
) -> tuple[Tensor, Tensor]:
    """Mean squared error between renderings and neighbouring photos, pixels carried over by the rendered depth.

    Args:
        images: `[1, v, 3, h, w]`, rendered at `cameras`.
        here: depths and alphas at `cameras`.
        there: the same at the neighbours' cameras, which tells what is hidden from them.
        neighbours: `[1, v]` photos, one for each rendering.

    Returns:
        the error over all pixels that the head covers and whose neighbour sees them, and their share of all pixels.
    """
    assert here.depths is not None
    assert there.depths is not None
    points = _points(here.depths, cameras)
    pixels, depths = neighbours.cameras.project(points)
    size = torch.tensor([neighbours.cameras.width, neighbours.cameras.height])
    grid = (2 * pixels / size - 1).unflatten(2, images.shape[-2:]).flatten(0, 1)
    looked_up = torch.cat([neighbours.images, there.depths, there.alphas], dim=2).flatten(0, 1)
    found = F.grid_sample(looked_up, grid, align_corners=False).unflatten(0, images.shape[:2])
    colours, surface, alphas = found.split([3, 1, 1], dim=2)
    hit = (depths.reshape(surface.shape) - surface).abs() < NEAR
    valid = hit & (here.alphas > COVERED) & (alphas > COVERED)
    squared = (images - colours).square().mean(dim=2, keepdim=True)
    return squared[valid].mean(), valid.float().mean()


def _points(depths: Tensor, cameras: Cameras) -> Tensor:
    """World points `[1, v, h * w, 3]` of depths `[1, v, 1, h, w]`."""
    height, width = depths.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    homogeneous = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)
    local = homogeneous @ torch.linalg.inv(cameras.K).mT * depths.flatten(2)[..., None]
    rotation, translation = cameras.world_to_camera[..., :3, :3], cameras.world_to_camera[..., None, :3, 3]
    return (local - translation) @ rotation
