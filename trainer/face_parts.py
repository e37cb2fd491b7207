"""Where a face is in pictures, and where in it expressions move: what metrics of parts are measured over."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from data.mesh import HeadMesh, vertex_normals
from data.views import Cameras
from models.template import face_regions
from trainer.objectives.regions import GROUPS, Boxes, region_boxes

MOVES = 0.003  # metres: what a blendshape moves by more than that is the face
FACING, VISIBLE, MARGIN = 0.2, 0.3, 0.1


def part_masks(mesh: HeadMesh, cameras: Cameras) -> dict[str, Tensor]:
    """`face`, `eyes` and `mouth`, each `[b, v, 1, h, w]`; empty where a camera does not see the part.

    Eyes and mouth are the squares that region losses compare, without their padding; a template in which neither can
    be found has the face alone.

    Args:
        mesh: the neutral template.
        cameras: `[b, v]`.
    """
    masks = {"face": face_boxes(mesh, cameras)}
    with contextlib.suppress(UserError):
        regions = face_regions(mesh)
        for part, names in GROUPS.items():
            boxes = region_boxes([regions[name] for name in names], cameras, padding=0.0)
            masks[part] = box_masks(boxes, cameras).any(dim=2)
    return masks


def box_masks(boxes: Boxes, cameras: Cameras) -> Tensor:
    """Pixels whose centres lie in boxes, `[b, v, region, 1, h, w]`; none of a region that is not seen."""
    low, high = boxes.corners.split(2, dim=-1)
    return _inside(low, high, boxes.seen, cameras)


def face_boxes(mesh: HeadMesh, cameras: Cameras) -> Tensor:
    """Boxes around what expressions move, `[b, v, 1, h, w]`; empty where a camera does not see the face.

    Args:
        mesh: the neutral template; people differ, so the box has a margin of a tenth.
        cameras: `[b, v]`.
    """
    moved = np.linalg.norm(mesh.expressions, axis=-1).max(axis=0) > MOVES
    points, normals = mesh.vertices[moved], vertex_normals(mesh.vertices, mesh.faces)[moved]
    points, normals = (torch.from_numpy(part).to(cameras.K) for part in (points, normals))
    towards = torch.nn.functional.normalize(cameras.centers[..., None, :] - points, dim=-1)
    facing = (towards * normals).sum(-1) > FACING
    pixels = cameras.project(points)[0]
    least = pixels.masked_fill(~facing[..., None], torch.inf).amin(dim=-2)
    most = pixels.masked_fill(~facing[..., None], -torch.inf).amax(dim=-2)
    margin = MARGIN * (most - least)
    return _inside(least - margin, most + margin, facing.float().mean(-1) > VISIBLE, cameras)


def _inside(low: Tensor, high: Tensor, seen: Tensor, cameras: Cameras) -> Tensor:
    """`[..., 1, h, w]` between the corners `[..., 2]` (x, y), where `seen` `[...]`."""
    sides = [torch.arange(size, device=low.device) + 0.5 for size in (cameras.width, cameras.height)]
    (left, top), (right, bottom) = low.unbind(-1), high.unbind(-1)
    across = (sides[0] >= left[..., None]) & (sides[0] <= right[..., None])
    down = (sides[1] >= top[..., None]) & (sides[1] <= bottom[..., None])
    return (down[..., :, None] & across[..., None, :] & seen[..., None, None])[..., None, :, :]


def masked_psnr(images: Tensor, photos: Tensor, masks: Tensor) -> float:
    """PSNR in dB over the pixels of `masks` `[b, v, 1, h, w]`, mean over the views that have some."""
    pixels = masks.sum(dim=(-3, -2, -1)).float()
    error = ((images - photos).square() * masks).sum(dim=(-3, -2, -1)) / (images.shape[-3] * pixels.clamp(min=1))
    return (-10 * torch.log10(error[pixels > 0].clamp(min=1e-10))).mean().item()
