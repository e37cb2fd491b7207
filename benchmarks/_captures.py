"""Sets of captures for benchmarks: textured 256x256 JPEGs of about 54 KB, as our shards and in litdata's own format."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import Capture
from data.images import encode_jpeg
from data.manifest import commit
from data.shards import write_shard

SIZE, POOL, NOISE = 256, 512, 11.0
SHARD_BYTES = 32 * 2**20  # small for webdataset, whose shards are whole files; its readers loop over them
LITDATA_AHEAD = 32  # chunks that each worker of litdata fetches ahead, so they are small here
LITDATA_CHUNK = 2 * 2**20


@dataclass(frozen=True)
class CaptureSet:
    """The same captures in three places.

    Attributes:
        name: of the set and of its folders.
        captures, views: how many, and of how many views each.
        local: our shards on disk.
        remote: our shards in the server.
        optimized: litdata's format in the server.
        image_bytes: mean size of a JPEG.
    """

    name: str
    captures: int
    views: int
    local: str
    remote: str
    optimized: str
    image_bytes: float


def make_set(folder: Path, bucket: str, captures: int, views: int) -> CaptureSet:
    """Write a set below `folder`; `upload` brings it into the bucket."""
    name = f"views{views}"
    local = str(folder / "shards" / name)
    per_shard = max(1, round(SHARD_BYTES / (views * image_bytes())))
    for shard, first in enumerate(range(0, captures, per_shard)):
        write_shard(local, shard, _captures(range(first, min(first + per_shard, captures)), views))
    commit(local, licence="CC0-1.0", provenance={"made by": "a benchmark"})
    places = (f"{bucket}/shards/{name}", f"{bucket}/optimized/{name}")
    return CaptureSet(name, captures, views, local, *places, image_bytes=image_bytes())


def optimize_set(folder: Path, made: CaptureSet) -> None:
    """The same JPEGs in litdata's format, below `folder`."""
    # litdata takes over the signals of the process that it writes in.
    arguments = (str(folder / "optimized" / made.name), made.captures, made.views)
    writing = multiprocessing.get_context("spawn").Process(target=_optimize, args=arguments)
    writing.start()
    try:
        writing.join()
    finally:
        writing.kill()
    if writing.exitcode:
        raise SystemExit("litdata could not write its format; its messages are above")


def upload(folder: Path, bucket: str, environment: dict[str, str]) -> None:
    """Everything below `folder` into the bucket."""
    from s3fs import S3FileSystem

    files = S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        skip_instance_cache=True,
    )
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.put_file(str(path), f"{bucket}/{path.relative_to(folder)}")
    files.close_session(files.loop, files._s3)


def check_sample(name: str, images: NDArray[np.uint8], views: int) -> None:
    """Refuse a sample `[v, h, w, 3]` that is not v different views of the capture `name`."""
    _, colors = pool()
    capture = int(name.partition("_")[0].removeprefix("person"))
    wanted = colors[[_place(capture, view, views) for view in range(views)]]
    distances = np.abs(images.mean(axis=(1, 2))[:, None] - wanted).max(axis=-1)
    if distances.min(axis=1).max() > 1.0 or len(set(distances.argmin(axis=1))) != len(images):
        raise UserError("a reader delivered other images than were written", where=f"capture {name}")


@cache
def pool() -> tuple[list[bytes], NDArray[np.float64]]:
    """JPEGs, and the mean colour `[n, 3]` by which each is known; the same in every process."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    noise = rng.normal(0, NOISE, (2 * SIZE, 2 * SIZE, 3)).astype(np.float32)
    encoded, colors = [], []
    for base in rng.uniform(70, 180, (POOL, 3)).astype(np.float32):
        top, left = rng.integers(SIZE, size=2)
        waves = 30 * np.sin(x / rng.uniform(20, 60) + y / rng.uniform(20, 60)).astype(np.float32)
        image = base + waves[..., None] + noise[top : top + SIZE, left : left + SIZE]
        pixels = image.clip(0, 255).astype(np.uint8)
        encoded.append(encode_jpeg(pixels))
        colors.append(pixels.mean(axis=(0, 1)))
    return encoded, np.stack(colors)


def image_bytes() -> float:
    """Mean size of an image in bytes."""
    return float(np.mean([len(data) for data in pool()[0]]))


def capture_images(number: int, views: int) -> list[bytes]:
    """The encoded images of a capture."""
    encoded = pool()[0]
    return [encoded[_place(number, view, views)] for view in range(views)]


def _place(number: int, view: int, views: int) -> int:
    return (number * views + view) * 7919 % POOL


def _optimize(output: str, captures: int, views: int) -> None:
    import litdata

    item, numbers = partial(_item, views=views), list(range(captures))
    litdata.optimize(item, numbers, output, chunk_bytes=LITDATA_CHUNK, num_workers=1, start_method="spawn")


def _item(number: int, views: int) -> dict[str, object]:
    images = capture_images(number, views)
    return {"name": f"person{number:05d}_0", **{f"cam_{view:02d}": image for view, image in enumerate(images)}}


def _captures(numbers: range, views: int) -> Iterator[Capture]:
    angles = 2 * np.pi * np.arange(views) / views
    world_to_camera = np.tile(np.eye(4), (views, 1, 1))
    world_to_camera[:, 0, 0], world_to_camera[:, 0, 2] = np.cos(angles), -np.sin(angles)
    world_to_camera[:, 2, 0], world_to_camera[:, 2, 2] = np.sin(angles), np.cos(angles)
    world_to_camera[:, 2, 3] = 1.0
    K = np.tile(np.array([[500.0, 0, SIZE / 2], [0, 500, SIZE / 2], [0, 0, 1]]), (views, 1, 1))
    for number in numbers:
        yield Capture(
            subject=f"person{number:05d}",
            frame="0",
            cameras=tuple(f"cam_{view:02d}" for view in range(views)),
            world_to_camera=world_to_camera,
            K=K,
            sizes=((SIZE, SIZE),) * views,
            images=tuple(capture_images(number, views)),
            masks=(None,) * views,
        )
