"""Small real captures and datasets for the data room's tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from data.capture import Capture
from data.dataset import Dataset
from data.images import encode_jpeg, encode_png
from data.manifest import commit
from data.shards import write_shard
from tests.data.s3 import bucket, proxied, s3_server  # noqa: F401 - fixtures

MakeCapture = Callable[..., Capture]
MakeDataset = Callable[..., Dataset]


def look_at_origin(center: np.ndarray) -> np.ndarray:
    """OpenCV world-to-camera of an upright camera at `center` that looks at the origin."""
    forward = -center / np.linalg.norm(center)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ center
    return matrix


def ring_of(count: int, first: float = 0.0, last: float = 2 * np.pi) -> np.ndarray:
    """Camera centres on a circle of 1 m around the head, from azimuth `first` to `last`."""
    angles = first + (last - first) * np.arange(count) / count
    return np.stack([np.sin(angles), 0.1 * np.cos(3 * angles), np.cos(angles)], axis=1)


def capture_of(number: int, views: int = 6, size: tuple[int, int] = (48, 40), **changes: Any) -> Capture:
    """A capture whose pixels, cameras and expression are a function of its number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 255, (views, 6, 5, 3)).astype(np.uint8)
    images = [np.kron(block, np.ones((size[0] // 6, size[1] // 5, 1), np.uint8)) for block in blocks]
    masks = [np.where(image.mean(axis=2) > 128, 255, 0).astype(np.uint8) for image in images]
    fields: dict[str, Any] = {
        "subject": f"person{number:03d}",
        "frame": "0",
        "cameras": tuple(f"Cam{view}" for view in range(views)),
        "world_to_camera": np.stack([look_at_origin(c) for c in ring_of(views) * rng.uniform(0.9, 1.1)]),
        "K": np.stack([np.array([[90.0, 0, size[1] / 2], [0, 90, size[0] / 2], [0, 0, 1]])] * views),
        "sizes": (size,) * views,
        "images": tuple(encode_jpeg(image) for image in images),
        "masks": tuple(encode_png(mask) for mask in masks),
        "expression": {"jawOpen": 0.1 * (number % 10), "eyeBlinkLeft": 1.0},
        "meta": {"number": number},
    }
    return Capture(**{**fields, **changes})


@pytest.fixture(scope="session")
def ring() -> Callable[..., np.ndarray]:
    return ring_of


@pytest.fixture(scope="session")
def make_capture() -> MakeCapture:
    return capture_of


@pytest.fixture
def make_dataset(tmp_path: Path) -> Iterator[MakeDataset]:
    """Writes and opens datasets of `count` captures, a few to each shard."""
    numbers, opened = itertools.count(), []

    def make(count: int = 6, url: str | None = None, per_shard: int = 4, views: int = 6, **changes: Any) -> Dataset:
        url = url or str(tmp_path / f"dataset{next(numbers)}")
        for shard, first in enumerate(range(0, count, per_shard)):
            members = range(first, min(first + per_shard, count))
            write_shard(url, shard, (capture_of(number, views, **changes) for number in members))
        commit(url, licence="CC0-1.0", provenance={"made by": "a test"})
        opened.append(Dataset.open(url))
        return opened[-1]

    yield make
    for dataset in opened:
        dataset.close()
    memory = fsspec.filesystem("memory")
    memory.store.clear()
