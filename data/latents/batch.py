"""What a model of latents is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.views import Tensors


@dataclass(frozen=True)
class LatentBatch(Tensors):
    """One rank's part of one global batch of latents.

    Attributes:
        latents: `[b, c, h, w]` whitened Z of the drawn captures.
        neutral: `[b, c, h, w]` whitened Z of the same subjects' neutral captures.
        coefficients: `[b, k]` expressions in [0, 1], in the order of the set's coefficient names.
        mean, std: `[c]` what was taken from, and divided out of, every channel.
        captions: a sentence about each person.
        attributes: of each capture, as its maker knew them.
        names: of the captures.
        consumed: samples consumed by **all** ranks once this batch is done.
    """

    latents: Tensor
    neutral: Tensor
    coefficients: Tensor
    mean: Tensor
    std: Tensor
    captions: tuple[str, ...]
    attributes: tuple[Mapping[str, Any], ...]
    names: tuple[str, ...]
    consumed: int

    def pin_memory(self) -> LatentBatch:
        """Page-locked copy for asynchronous transfer to a GPU."""
        return self.map(lambda tensor: tensor.pin_memory())

    def unpack(self) -> LatentBatch:
        """Itself: nothing is packed."""
        return self

    def unwhiten(self, latents: Tensor) -> Tensor:
        """Z `[..., c, h, w]` as the decoder takes it, of whitened ones."""
        return latents * self.std[:, None, None] + self.mean[:, None, None]
