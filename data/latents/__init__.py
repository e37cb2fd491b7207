"""Latents of captures in shards of their own, with what whitens them, and their stream.

Names are imported when they are first used, as in `data`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.latents.batch import LatentBatch
    from data.latents.dataset import LatentSet
    from data.latents.manifest import Base, LatentInfo, Origin, commit_latents
    from data.latents.shards import Latent, LatentPart, existing_latents, write_latents
    from data.latents.stream import LatentStream

_HOMES = {
    "data.latents.batch": ("LatentBatch",),
    "data.latents.dataset": ("LatentSet",),
    "data.latents.manifest": ("Base", "LatentInfo", "Origin", "commit_latents"),
    "data.latents.shards": ("Latent", "LatentPart", "existing_latents", "write_latents"),
    "data.latents.stream": ("LatentStream",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Base",
    "Latent",
    "LatentBatch",
    "LatentInfo",
    "LatentPart",
    "LatentSet",
    "LatentStream",
    "Origin",
    "commit_latents",
    "existing_latents",
    "write_latents",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'data.latents' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
