"""Where the seconds of a step go, and how much arithmetic the model does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from models.system import Forward


class Stopwatch:
    """Adds up the time of named sections; on a GPU by events, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the body under `name`."""
        if self._cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """Seconds by section since the last reading; starts afresh."""
        if self._events:
            torch.cuda.synchronize()
        for name, start, end in self._events:
            self._seconds[name] += start.elapsed_time(end) / 1000
        seconds = dict(self._seconds)
        self._events.clear()
        self._seconds.clear()
        return seconds


def _attention(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch counts the attention kernels of GPUs only.
CPU_ATTENTION: Any = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class CountedForward:
    """Counts the floating-point operations of a forward, once for every shape of its inputs.

    Attributes:
        flops: of the latest forward; none before the first.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.flops: int | None = None
        self._counted: dict[tuple[Any, ...], int] = {}
        self._sum = self._calls = 0

    def __call__(self, *args: Any) -> Mapping[str, torch.Tensor]:
        """Forward."""
        shapes = tuple(getattr(arg, "shape", None) for arg in args)
        if shapes in self._counted:
            outputs = self._forward(*args)
        else:
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                outputs = self._forward(*args)
            self._counted[shapes] = counter.get_total_flops()
        self.flops = self._counted[shapes]
        self._sum, self._calls = self._sum + self.flops, self._calls + 1
        return outputs

    def training_flops(self) -> int:
        """Of the mean batch since this was last asked: three times the forward (Kaplan et al. 2020), render excluded.

        A mean, since batches differ where their number of views is drawn.
        """
        mean = self._sum / max(1, self._calls)
        self._sum = self._calls = 0
        return round(3 * mean)
