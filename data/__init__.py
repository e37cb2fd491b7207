"""Captures to shards to batches: cameras and views, the store, the sample order, importers.

Names are imported when they are first used: a process that only writes shards never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.lazy import lazily

if TYPE_CHECKING:
    from data.capture import Capture
    from data.dataset import Dataset
    from data.loader import open_datasets, open_stream
    from data.locate import open_capture
    from data.manifest import DatasetInfo, commit, stats
    from data.mesh import HeadMesh
    from data.shards import ShardPart, existing_shards, write_shard
    from data.store import BadMember, Store
    from data.stream import CaptureStream
    from data.views import Batch, Cameras, PackedBatch, Views

_HOMES = {
    "data.capture": ("Capture",),
    "data.dataset": ("Dataset",),
    "data.locate": ("open_capture",),
    "data.manifest": ("DatasetInfo", "commit", "stats"),
    "data.mesh": ("HeadMesh",),
    "data.shards": ("ShardPart", "existing_shards", "write_shard"),
    "data.store": ("BadMember", "Store"),
    "data.loader": ("open_datasets", "open_stream"),
    "data.stream": ("CaptureStream",),
    "data.views": ("Batch", "Cameras", "PackedBatch", "Views"),
}

__all__ = [
    "BadMember",
    "Batch",
    "Cameras",
    "Capture",
    "CaptureStream",
    "Dataset",
    "DatasetInfo",
    "HeadMesh",
    "PackedBatch",
    "ShardPart",
    "Store",
    "Views",
    "commit",
    "existing_shards",
    "open_capture",
    "open_datasets",
    "open_stream",
    "stats",
    "write_shard",
]

__getattr__ = lazily(__name__, _HOMES)
