"""Mean and variance of every channel in one pass, exact enough for any number of latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What has been seen so far of c channels, in float64.

    Merging is Chan, Golub and LeVeque's pairwise update (1979), so shards may be summed up apart.

    Attributes:
        count: values of each channel.
        mean: `[c]`.
        squares: `[c]` sums of squared deviations from the mean.
    """

    count: int
    mean: Array
    squares: Array

    @staticmethod
    def of(latents: NDArray[np.floating]) -> Moments:
        """Of one latent `[c, h, w]`."""
        values = latents.astype(np.float64).reshape(len(latents), -1)
        mean = values.mean(axis=1)
        return Moments(values.shape[1], mean, np.square(values - mean[:, None]).sum(axis=1))

    def merged(self, other: Moments) -> Moments:
        """Of both together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + np.square(apart) * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def std(self) -> Array:
        """Population standard deviation `[c]`; 1 where a channel never changes, so that it can be divided by."""
        std = np.sqrt(self.squares / self.count)
        return np.where(std > 1e-12 * np.maximum(1.0, np.abs(self.mean)), std, 1.0)
