"""Latents of captures in shards of their own, with what whitens them, and their stream.

Names are imported when they are first used, as in `data`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.lazy import lazily

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

__getattr__ = lazily(__name__, _HOMES)
