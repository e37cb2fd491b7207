"""How long requests take: the recent ones, their quantiles, and when a second request is worth it."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

_WINDOW, _LEAST, _EVERY = 512, 32, 64
_SLOW = 1.5  # times the p95


class Latency:
    """Durations of the latest requests of one process; quantiles are renewed every so many."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._p95 = float("inf")
        self._since = 0

    def add(self, seconds: float) -> None:
        """A request that was answered."""
        self._recent.append(seconds)
        self._since += 1
        if self._since >= _EVERY or len(self._recent) == _LEAST:
            self._p95, self._since = self.quantile(0.95), 0

    def quantile(self, share: float) -> float:
        """Seconds within which `share` of the recent requests were answered; infinite before the first."""
        return float(np.quantile(self._recent, share)) if self._recent else float("inf")

    @property
    def p95(self) -> float:
        """Of the recent requests, seconds; infinite until there are enough of them."""
        return self._p95


class HedgePolicy:
    """When to ask a second time: after one and a half times the p95, and never for more than a share of all requests.

    Source: Dean and Barroso, "The tail at scale", 2013, who wait for the p95 and find a few per cent of extra load
    enough. Half as long again leaves the budget to the requests that are stuck, not to those that are a little late.

    Args:
        share: most second requests per first request, over time.
        burst: most second requests that may be saved up.
    """

    def __init__(self, latency: Latency, share: float = 0.05, burst: float = 16.0) -> None:
        self._latency, self._share, self._burst = latency, share, burst
        self._saved, self._looked = burst, time.monotonic()

    @property
    def delay(self) -> float:
        """Seconds after which a second request is worth it; infinite until p95 is known."""
        return max(_SLOW * self._latency.p95, 0.02)

    def begin(self) -> None:
        """A first request begins; it adds to the budget."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Take one second request from the budget, if there is one; it also grows by one a second.

        Otherwise a reader whose window is full of what is stuck would make no requests, and so never save any up.
        """
        now = time.monotonic()
        self._saved, self._looked = min(self._burst, self._saved + now - self._looked), now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
