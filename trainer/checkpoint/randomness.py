"""The state of every random generator of a process as tensors, so that nothing has to be pickled."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

PREFIX = "random/"


def capture() -> dict[str, Tensor]:
    """Where torch (CPU, and this process's GPU), numpy's global generator and `random` stand."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one, which dependencies draw from
    assert isinstance(state, dict)
    version, internal, gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(state["state"]["key"].astype(np.int64)),
        "numpy.position": torch.tensor([state["state"]["pos"], state["has_gauss"]]),
        "numpy.gauss": torch.tensor([state["gauss"]], dtype=torch.float64),
        "python": torch.tensor([version, *internal]),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return {PREFIX + name: tensor for name, tensor in tensors.items()}


def restore(tensors: dict[str, Tensor]) -> None:
    """Go on where `capture` stood."""
    state = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    torch.set_rng_state(state["torch"])
    position, has_gauss = state["numpy.position"].tolist()
    np.random.set_state(  # noqa: NPY002
        {
            "bit_generator": "MT19937",
            "state": {"key": state["numpy"].numpy().astype(np.uint32), "pos": position},
            "has_gauss": has_gauss,
            "gauss": state["numpy.gauss"].item(),
        }
    )
    version, *internal = state["python"].tolist()
    gauss = state["python.gauss"].tolist()
    random.setstate((version, tuple(internal), gauss[0] if gauss else None))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
