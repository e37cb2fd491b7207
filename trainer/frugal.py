"""What DeepSpeed imports and a run never calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def frugal() -> Iterator[None]:
    """Import and start DeepSpeed without MLflow and without the compiler.

    Its autotuner imports MLflow, its Muon decorates a function with `torch.compile`, which imports the compiler: 3.5
    seconds of a processor together, on every rank, at every restart. What is imported already stays.
    """
    compile_, had_mlflow = torch.compile, "mlflow" in sys.modules
    torch.compile = _as_it_is  # pyright: ignore[reportAttributeAccessIssue]
    if not had_mlflow:
        sys.modules["mlflow"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        torch.compile = compile_
        if not had_mlflow:
            del sys.modules["mlflow"]


def _as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    return function if function is not None else lambda decorated: decorated
