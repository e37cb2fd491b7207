"""An open set of latents: what it holds, and its latents whitened or as they are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.store import StoreConfig
from data.latents.index import LatentIndex
from data.latents.manifest import LatentInfo, open_latents
from data.latents.shards import decode_npy
from data.store import BadMember, Buffer, Range, Store, Traffic


class LatentSet:
    """Latents in a store. Safe to share between threads, to fork and to pickle. Make one with `LatentSet.open`.

    Attributes:
        index: every latent.
        info: where they come from and what whitens them.
        mean, std: `[c]` of every channel, float32.
    """

    def __init__(self, store: Store, index: LatentIndex, info: LatentInfo, verify: bool = True) -> None:
        self._store, self._verify = store, verify
        self.index, self.info = index, info
        self.mean, self.std = torch.tensor(info.mean), torch.tensor(info.std)

    @classmethod
    def open(
        cls, url: str, *, verify: bool = True, fingerprint: str | None = None, settings: StoreConfig | None = None
    ) -> LatentSet:
        """Read the index; arguments as those of `Dataset.open`.

        Raises:
            UserError: no set of latents there, or another one than `fingerprint` names.
        """
        store = Store(url, settings)
        try:
            index, info = open_latents(store)
            if fingerprint not in (None, info.fingerprint):
                raise UserError(f"the set has fingerprint {info.fingerprint}, not {fingerprint}", where=store.url)
        except BaseException:
            store.close()
            raise
        return cls(store, index, info, verify)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self._verify, self.fingerprint, self._store.settings)

    def __len__(self) -> int:
        """How many latents there are."""
        return len(self.index)

    def __enter__(self) -> LatentSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.info.url

    @property
    def fingerprint(self) -> str:
        """Names the content, whatever the place."""
        return self.info.fingerprint

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every latent."""
        return self.info.shape

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody in it."""
        return self.index.subjects

    def captures_of(self, subject: str) -> list[str]:
        """Names of one subject's captures."""
        if subject not in self.subjects:
            raise UserError(f"no subject is called '{subject}'", where=self.url)
        return [self.index.text("name", int(row)) for row in self.index.rows_of(self.subjects.index(subject))]

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

    def fetch(self, ranges: Sequence[Range]) -> Future[list[Buffer]]:
        """Members' bytes, verified unless the set was opened otherwise; as `Store.fetch`."""
        return self._store.fetch(ranges, self._verify)

    def decode(self, part: Range, data: Buffer) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Z `[c, h, w]` of a member's bytes.

        Raises:
            BadMember: it is no latent of the set's shape.
        """
        try:
            return decode_npy(data, self.shape)
        except (ValueError, SyntaxError) as error:
            raise BadMember(f"broken latent: {error}", where=part.where) from None

    @property
    def traffic(self) -> Traffic:
        """What this process has asked of the store."""
        return self._store.traffic

    def close(self) -> None:
        """Drop this process's connections; the set may be used again."""
        self._store.close()


def _reopen(url: str, verify: bool, fingerprint: str, settings: StoreConfig) -> LatentSet:
    return LatentSet.open(url, verify=verify, fingerprint=fingerprint, settings=settings)
