"""How far made people are from those who were learned, beside how far real ones are from each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.latents import LatentSet

CHUNK = 32
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Spread:
    """Distances of some people to the nearest of the learned ones.

    Attributes:
        names: of the nearest, for each.
        distances: to it.
    """

    names: tuple[str, ...]
    distances: tuple[float, ...]

    @property
    def quantiles(self) -> dict[str, float]:
        """`least`, `5 %`, `median`, `95 %` and `greatest`."""
        found = np.quantile(self.distances, QUANTILES).tolist()
        return dict(zip(("least", "5 %", "median", "95 %", "greatest"), found, strict=True))


def neutral_names(latents: LatentSet) -> list[str]:
    """The neutral capture of every subject, in the set's order."""
    rows = dict.fromkeys(latents.index.neutral_rows.tolist())
    return [latents.index.text("name", row) for row in rows]


def whitened(latents: LatentSet, names: Sequence[str]) -> Tensor:
    """Whitened latents `[n, c, h, w]` of some captures."""
    return latents.whiten(latents.latents(names))


def latent_distances(
    people: Tensor,
    latents: LatentSet,
    names: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Root mean square differences `[p, n]` between whitened latents; only a few of the set are held at a time.

    Args:
        people: `[p, c, h, w]`, whitened.
        latents: the learned set.
        names: of its captures to compare with, n.
        progress: told how many of the n are done.
    """
    columns = []
    for first in range(0, len(names), CHUNK):
        columns.append(rms_distances(people, whitened(latents, names[first : first + CHUNK])))
        progress(min(first + CHUNK, len(names)), len(names))
    return torch.cat(columns, dim=1)


def rms_distances(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of every pair: `[p, ...]` and `[n, ...]` -> `[p, n]`."""
    flat = first.flatten(1)
    return torch.cdist(flat, second.flatten(1)) / flat.shape[1] ** 0.5


def nearest(distances: Tensor, names: Sequence[str], themselves: Sequence[str] | None = None) -> Spread:
    """The nearest of each row.

    Args:
        distances: `[p, n]`.
        names: of the columns.
        themselves: names of the rows; a column of the same name is passed over.
    """
    if themselves is not None:
        same = torch.tensor([[one == other for other in names] for one in themselves])
        distances = distances.masked_fill(same, torch.inf)
    found = distances.min(dim=1)
    return Spread(tuple(names[int(place)] for place in found.indices.tolist()), tuple(found.values.tolist()))


def pairs(distances: Tensor) -> Tensor:
    """The distances between different people of `[n, n]`, each pair once."""
    above = torch.triu_indices(*distances.shape, offset=1)
    return distances[above[0], above[1]]
