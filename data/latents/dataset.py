"""An open set of latents: what it holds, and its latents whitened or as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.latents.index import LatentIndex
from data.latents.manifest import LatentInfo, open_latents
from data.latents.shards import decode_npy
from data.store import BadMember, Buffer, Range, Store
from data.stored import StoredSet


class LatentSet(StoredSet[LatentIndex, LatentInfo]):
    """Latents in a store. Make one with `LatentSet.open`.

    Attributes:
        index: every latent.
        info: where they come from and what whitens them.
        mean, std: `[c]` of every channel, float32.
    """

    def __init__(self, store: Store, index: LatentIndex, info: LatentInfo, verify: bool = True) -> None:
        super().__init__(store, index, info, verify)
        self.mean, self.std = torch.tensor(info.mean), torch.tensor(info.std)

    @staticmethod
    def read(store: Store) -> tuple[LatentIndex, LatentInfo]:
        """See `StoredSet`."""
        return open_latents(store)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every latent."""
        return self.info.shape

    def neutral_of(self, name: str) -> str:
        """The capture of the same subject whose coefficients have the least sum."""
        return self.index.text("name", int(self.index.neutral_rows[self.index.row(name)]))

    def coefficients(self, name: str) -> Tensor:
        """Expression coefficients `[k]` of a capture, in [0, 1]."""
        return torch.tensor(self.index.coefficients[self.index.row(name)])

    def latents(self, names: Sequence[str]) -> Tensor:
        """Z `[n, c, h, w]` of some captures, not whitened.

        Raises:
            UserError: an unknown name, or a member that cannot be read.
        """
        ranges = [self.index.range(self.index.row(name)) for name in names]
        read = zip(ranges, self.fetch(ranges).result(), strict=True)
        return torch.from_numpy(np.stack([self.decode(part, data) for part, data in read]))

    def whiten(self, latents: Tensor) -> Tensor:
        """Every channel of `[..., c, h, w]` to mean 0 and deviation 1 over the set."""
        return (latents - self.mean.to(latents)[:, None, None]) / self.std.to(latents)[:, None, None]

    def unwhiten(self, latents: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return latents * self.std.to(latents)[:, None, None] + self.mean.to(latents)[:, None, None]

    def decode(self, part: Range, data: Buffer) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Z `[c, h, w]` of a member's bytes.

        Raises:
            BadMember: it is no latent of the set's shape.
        """
        try:
            return decode_npy(data, self.shape)
        except (ValueError, SyntaxError) as error:
            raise BadMember(f"broken latent: {error}", where=part.where) from None
