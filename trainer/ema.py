"""Exponential moving average of the weights, sharded exactly like the fp32 masters it follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.masters import Masters


class MovingAverage:
    """`average = decay * average + (1 - decay) * weights` after every optimiser step.

    Costs one more copy of this rank's masters and no communication.
    """

    def __init__(self, masters: Masters, decay: float) -> None:
        self.decay = decay
        self._masters = masters
        self.flats: list[Tensor] = [flat.clone() for flat in masters.flats()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of this step."""
        torch._foreach_lerp_(self.flats, self._masters.flats(), 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the present weights."""
        for average, master in zip(self.flats, self._masters.flats(), strict=True):
            average.copy_(master)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model computes with the average inside, and with exactly its own weights afterwards. Collective."""
        kept = [flat.clone() for flat in self._masters.flats()]
        self._write(self.flats)
        try:
            yield
        finally:
            self._write(kept)

    def _write(self, source: list[Tensor]) -> None:
        with self._masters.published():
            for master, flat in zip(self._masters.flats(), source, strict=True):
                master.copy_(flat)
