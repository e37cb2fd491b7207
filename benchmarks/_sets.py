"""Synthetic people as Gaussians, and the sets of views that the set critic is trained and tested on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from data.mesh import vertex_normals
from data.synth.body import Body
from data.synth.grid import COLUMNS
from data.synth.head import template
from data.synth.palette import to_srgb
from data.synth.rig import DISTANCE, FIELD, TARGET, look_at
from data.synth.studio import irradiance
from data.synth.subject import draw_subject
from data.synth.texture import albedo
from data.views import Cameras
from models.critics.sets import mixed_gaussians, motions, perturbed_gaussians, render_each, swapped_views
from models.gaussians import Gaussians
from models.render import render

VIEWS = 4
KINDS = ("mixed", "bent", "turned")
WAVELENGTH = 0.15
"""Metres over which a head bends."""
SPREAD = 10.0
"""Degrees to either side of a set's direction within which its cameras stand."""


@dataclass(frozen=True)
class Strength:
    """Root mean square of what makes a head inconsistent: degrees that it turns, metres that it bends in space."""

    degrees: float = 30.0
    metres: float = 0.015

    def times(self, factor: float) -> Strength:
        """More of it, or less."""
        return Strength(self.degrees * factor, self.metres * factor)


def head(number: int, stride: int = 3) -> Gaussians:
    """A synthetic person as `[1]` Gaussians on every `stride`-th node of the template's chart, lit, no background."""
    grid, mesh, subject = template().grid, template().mesh, draw_subject(0, number)
    vertices = Body(subject).vertices({})
    texture = albedo(subject, 256)
    normals = vertex_normals(vertices, mesh.faces)
    uv = np.zeros((len(vertices), 2))
    uv[mesh.faces.ravel()] = mesh.uvs[mesh.uv_faces.ravel()]
    column, row = (np.clip(uv * 256, 0, 255).astype(int)).T
    colours = to_srgb((texture[row, column] * irradiance(normals, np.ones(len(vertices)))).astype(np.float32))
    picked = np.unique(grid.index[::stride, : COLUMNS + 1 : stride])
    n = len(picked)
    spacing = KDTree(vertices[picked]).query(vertices[picked], k=5)[0][:, 1:].mean(1)
    return Gaussians(
        means=torch.from_numpy(vertices[picked])[None],
        quats=torch.tensor([1.0, 0, 0, 0]).expand(1, n, 4),
        scales=torch.from_numpy(np.log(0.75 * spacing)).float()[None, :, None].expand(1, n, 3),
        opacities=torch.full((1, n), 3.0),
        sh=((torch.from_numpy(colours[picked]).float() - 0.5) / 0.28209479)[None, :, None],
    )


def stack(heads: list[Gaussians]) -> Gaussians:
    """`[n]` heads of `[1]` each."""
    return Gaussians(*(torch.cat([getattr(h, name) for h in heads]) for name in vars(heads[0])))


def cameras(sets: int, size: int, generator: torch.Generator, spread: float = SPREAD) -> Cameras:
    """`[sets, VIEWS]` cameras in front of the head, at the distance of the synthetic rig.

    A set's cameras stand within `spread` degrees to either side of a direction of its own, and half of that above and
    below; all of them within 75 degrees to either side of the face, 30 up and 14 down.
    """
    around = 2 * torch.rand(sets, 2, generator=generator).numpy().repeat(VIEWS, axis=0) - 1
    numbers = 2 * torch.rand(sets * VIEWS, 6, generator=generator).numpy() - 1
    reach = np.array([min(spread, 75.0), min(spread / 2, 22.0)])
    angles = np.radians([0.0, 8.0] + (np.array([75.0, 22.0]) - reach) * around + reach * numbers[:, :2])
    matrices = []
    for (a, e), (roll, *shift) in zip(angles, numbers[:, 2:], strict=True):
        target = TARGET + 0.002 * np.array(shift)
        center = target + DISTANCE * np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
        matrices.append(look_at(center, target, math.radians(5 * roll)))
    focal = size * DISTANCE / FIELD
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).expand(sets, VIEWS, 3, 3)
    poses = torch.from_numpy(np.stack(matrices)).float().unflatten(0, (sets, VIEWS))
    return Cameras(poses, K, size, size)


@torch.no_grad()
def draw(
    heads: Gaussians,
    kind: str,
    strength: Strength,
    generator: torch.Generator,
    size: int = 64,
    spread: float = SPREAD,
) -> tuple[Tensor, Cameras]:
    """Sets of one kind, to test on: negatives differ in every view.

    Args:
        heads: `[n]`.
        kind: "one" for positives, or one of KINDS.
        strength: how far heads are bent and turned, in positives once for all views.
        generator: draws cameras, shapes and poses, the cameras first.
        size: of the images, pixels.
        spread: of the cameras, degrees.

    Returns:
        images `[n, VIEWS, 3, size, size]`, and the cameras that the critic is told.
    """
    told = cameras(len(heads.means), size, generator, spread)
    views = mixed_gaussians(heads, VIEWS) if kind == "mixed" else heads.map(lambda t: t.repeat_interleave(VIEWS, 0))
    each = 1 if kind == "bent" else VIEWS
    bends = bend(views[::each], strength, generator).repeat_interleave(each, 0)
    poses = turned(told, VIEWS if kind == "turned" else 1, strength, generator)
    return render_each(replace(views, means=views.means + bends), poses, torch.full((3,), 0.5)).images, told


@torch.no_grad()
def pairs(
    heads: Gaussians, kind: str, strength: Strength, generator: torch.Generator, size: int = 64
) -> tuple[Tensor, Tensor, Cameras]:
    """Sets of one kind, to train on: two consistent ones of a head, or of two, and the same with views swapped.

    Args:
        heads: `[n]`, two or more for "mixed".
        kind: one of KINDS.
        strength, generator, size: as for `draw`.

    Returns:
        positives and negatives `[2 n, VIEWS, 3, size, size]` and the cameras of either.
    """
    told = cameras(len(heads.means), size, generator)
    bends, poses = bend(heads, strength, generator), turned(told, 1, strength, generator)
    assert kind != "mixed" or len(heads.means) > 1, "a head cannot be mixed with itself"
    others = heads.map(lambda tensor: tensor.roll(1, 0)) if kind == "mixed" else heads
    other_bends = bend(heads, strength, generator) if kind == "bent" else bends
    other_poses = turned(told, 1, strength, generator) if kind == "turned" else poses
    first, second = (
        render(replace(person, means=person.means + offsets), seen, background=torch.full((3,), 0.5)).images
        for person, offsets, seen in ((heads, bends, poses), (others, other_bends, other_poses))
    )
    negatives = swapped_views(first, second, generator)
    return torch.cat([first, second]), torch.cat(negatives), joined([told, told])


def bend(heads: Gaussians, strength: Strength, generator: torch.Generator) -> Tensor:
    """Offsets of the means of `[n]` heads, another bend for each."""
    return perturbed_gaussians(heads, 1, generator, strength.metres, WAVELENGTH).means - heads.means


def displacement(heads: Gaussians, strength: Strength, generator: torch.Generator, size: int = 64) -> float:
    """Root mean square of how far a bend moves a Gaussian in the image, pixels."""
    seen = cameras(len(heads.means), size, generator)
    straight, bent = (
        seen.project(means[:, None].expand(-1, VIEWS, -1, -1))[0]
        for means in (heads.means, heads.means + bend(heads, strength, generator))
    )
    return (bent - straight).square().sum(-1).mean().sqrt().item()


def turned(told: Cameras, views: int, strength: Strength, generator: torch.Generator) -> Cameras:
    """Cameras that see the heads turned: once for a set with `views` 1, else in every view."""
    moves = motions((told.shape[0], views), generator, strength.degrees, 0.0, told.world_to_camera)
    return replace(told, world_to_camera=told.world_to_camera @ moves)


def joined(parts: list[Cameras]) -> Cameras:
    """Cameras of all sets."""
    poses, K = (torch.cat([getattr(part, name) for part in parts]) for name in ("world_to_camera", "K"))
    return replace(parts[0], world_to_camera=poses, K=K)


def some(heads: Gaussians, count: int, generator: torch.Generator) -> Gaussians:
    """`[count]` different heads at random."""
    chosen = torch.randperm(len(heads.means), generator=generator)[:count]
    return heads.map(lambda tensor: tensor[chosen])
