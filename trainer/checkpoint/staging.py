"""The copy of a run in host memory that a background save writes: begun at the save, made beside the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Stalled = Callable[[], AbstractContextManager[object]]


class Copy:
    """Tensors being copied into memory that training does not touch.

    A stream beside the one that computes copies from a GPU; whoever calls `make` copies what lies in host memory.

    Args:
        sources: what is copied; it must not change before `wait` has returned.
        targets: where to, under the same keys; pinned where the source is on a GPU.
        stalled: entered while `wait` makes its caller wait.
    """

    def __init__(self, sources: Tensors, targets: Tensors, stalled: Stalled = nullcontext) -> None:
        self._sources: list[Tensor] = [tensor for tensor in sources.values() if not tensor.is_cuda]
        self._targets = [targets[key] for key, tensor in sources.items() if not tensor.is_cuda]
        self._of_gpu = {key: tensor for key, tensor in sources.items() if tensor.is_cuda}
        self._on_host, self._stalled = threading.Event(), stalled
        self._on_gpu = _copy_beside(self._of_gpu, targets) if self._of_gpu else None
        if not self._sources:
            self._on_host.set()

    def make(self) -> None:
        """Copy what lies in host memory, and return when all is there. Call it once, from the thread that writes."""
        try:
            if self._sources:
                with torch.no_grad():
                    # One call: between tensors a thread that computes would hold the interpreter for milliseconds.
                    torch._foreach_copy_(self._targets, self._sources)  # pyright: ignore[reportPrivateImportUsage]
        finally:
            self._on_host.set()
        if self._on_gpu is not None:
            self._on_gpu.synchronize()
        self._sources, self._of_gpu = [], {}

    def wait(self) -> None:
        """The sources may change after this; on a GPU, by what its present stream is given next."""
        if not self._on_host.is_set():
            with self._stalled():
                self._on_host.wait()
        if self._on_gpu is not None:
            torch.cuda.current_stream().wait_event(self._on_gpu)


class Staging:
    """Host memory that is copied into; kept from save to save, as fresh memory costs several times the copy.

    Args:
        stalled: entered while the training waits for a copy.
    """

    def __init__(self, stalled: Stalled = nullcontext) -> None:
        self._kept: Tensors = {}
        self._stalled = stalled

    def begin(self, early: Tensors, late: Tensors) -> tuple[Tensors, Copy]:
        """Begin to copy; the copy before is overwritten.

        Args:
            early: what may change at any moment; copied before this returns, on a GPU to elsewhere on it at first.
            late: what stays as it is until the copy's `wait`.

        Returns:
            where all of it goes, and the copy of `late`.
        """
        sources = early | late
        self._kept = {key: self._room(key, tensor) for key, tensor in sources.items()}
        of_gpu = {key: tensor.detach().clone() for key, tensor in early.items() if tensor.is_cuda}
        for key in early.keys() - of_gpu.keys():
            self._kept[key].copy_(early[key].detach())
        return self._kept, Copy(late | of_gpu, self._kept, self._stalled)

    def _room(self, key: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is not None and (kept.shape, kept.dtype) == (tensor.shape, tensor.dtype):
            return kept
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _copy_beside(sources: Tensors, targets: Tensors) -> torch.cuda.Event:
    """Copies on a stream of their own, after what the present stream was given; their end."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for key, tensor in sources.items():
            targets[key].copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record(stream)
    return event
