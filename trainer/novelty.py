"""Whether made people are new: each one's nearest learned person, against how near real people are to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from trainer.nearest import Spread, latent_distances, nearest, neutral_names, pairs, rms_distances, whitened
from trainer.people import People
from trainer.pictures import to_image

REAL, REAL_VALUES = 512, 2**28  # real people, and values of their latents, that are held and compared with all others
CHUNK = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Distances:
    """One way to compare people.

    Attributes:
        unit: what a distance is.
        made: of the made people, to the nearest learned one.
        real: of learned people, to the nearest other one.
        apart: between any two learned people, `[pairs]`.
    """

    unit: str
    made: Spread
    real: Spread
    apart: Tensor

    @property
    def copies(self) -> list[int]:
        """Which made people are nearer to a learned one than any two learned ones are to each other."""
        least = min(self.real.distances)
        return [number for number, distance in enumerate(self.made.distances) if distance < least]

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "unit": self.unit,
            "made_to_nearest_learned": self.made.quantiles,
            "real_to_nearest_other": self.real.quantiles,
            "real_pairs_median": float(self.apart.median()),
            "copies": self.copies,
        }


@dataclass(frozen=True)
class Novelty:
    """Made people beside learned ones.

    Attributes:
        learned: how many people were compared with.
        latents: root mean square differences of whitened latents.
        portraits: root mean square differences of frontal portraits, decoded from latents on both sides.
        faces: the nearest learned people by portrait, `[n, 3, FACE, FACE]`.
    """

    learned: int
    latents: Distances
    portraits: Distances
    faces: Tensor


def measure_novelty(people: People, made: Tensor, progress: Progress = lambda done, total: None) -> Novelty:
    """Compare whitened latents `[p, c, h, w]` with every learned person's neutral latent.

    Args:
        people: the generator and what it learned.
        made: of `People.make`.
        progress: told how many learned people are done, of how many.
    """
    names = neutral_names(people.learned)
    some = names[: max(2, min(REAL, REAL_VALUES // made[0].numel()))]
    everybody = torch.cat([made, whitened(people.learned, some)])
    far = latent_distances(everybody, people.learned, names)
    learned_faces = _faces(people, names, progress)
    made_faces = torch.cat([people.faces(part) for part in made.split(CHUNK)])
    seen = rms_distances(torch.cat([made_faces, learned_faces[: len(some)]]), learned_faces)
    count = len(made)
    portraits = _distances("RMS of frontal portraits, sRGB in [0, 1]", seen, count, names, some)
    places = [names.index(name) for name in portraits.made.names]
    return Novelty(
        learned=len(names),
        latents=_distances("RMS of whitened latents", far, count, names, some),
        portraits=portraits,
        faces=learned_faces[places],
    )


def draw_novelty(novelty: Novelty, path: Path) -> None:
    """Histograms of the distances: made to learned, real to real, any two real."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for panel, found in zip(panels, (novelty.latents, novelty.portraits), strict=True):
        values = {
            "any two real people": found.apart.numpy(),
            "real, to the nearest other": np.array(found.real.distances),
            "made, to the nearest learned": np.array(found.made.distances),
        }
        bins = np.linspace(0, max(float(v.max()) for v in values.values()) * 1.02, 41)
        for (label, numbers), colour in zip(values.items(), ("0.75", "tab:blue", "tab:orange"), strict=True):
            weights = np.full(len(numbers), 1 / len(numbers))
            panel.hist(numbers, bins, weights=weights, label=label, color=colour, alpha=0.65)
        panel.set(xlabel=found.unit, ylabel="share")
    panels[0].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def sample_sheet(people: Tensor, nearest_faces: Tensor, columns: int = 2) -> Image.Image:
    """Each made person from three sides, then the nearest learned one; `columns` people in a row.

    Args:
        people: `[n, 3 views, 3, h, h]`.
        nearest_faces: `[n, 3, FACE, FACE]`.
    """
    side = people.shape[-1]
    beside = F.interpolate(nearest_faces, size=(side, side), mode="bilinear", antialias=True)
    line = torch.ones(len(people), 3, side, 2)
    gap = torch.ones(len(people), 3, side, side // 4)
    strips = torch.cat([*people.unbind(1), line * 0.6, beside, gap], dim=-1)
    missing = torch.ones(-len(people) % columns, *strips.shape[1:])
    rows = torch.cat([strips, missing]).unflatten(0, (-1, columns))
    return to_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2))


def _faces(people: People, names: list[str], progress: Progress) -> Tensor:
    faces = []
    for first in range(0, len(names), CHUNK):
        faces.append(people.faces(whitened(people.learned, names[first : first + CHUNK])))
        progress(min(first + CHUNK, len(names)), len(names))
    return torch.cat(faces)


def _distances(unit: str, distances: Tensor, made: int, names: list[str], some: list[str]) -> Distances:
    return Distances(
        unit=unit,
        made=nearest(distances[:made], names),
        real=nearest(distances[made:], names, themselves=some),
        apart=pairs(distances[made:, : len(some)]),
    )
