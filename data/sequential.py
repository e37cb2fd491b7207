"""Whole shards through webdataset itself: the same captures, read from end to end."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import webdataset

from configs.errors import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.images import SUFFIXES
from data.store import Store


def read_sequential(dataset: Dataset) -> Iterator[Capture]:
    """Every capture of a dataset in the order of its shards.

    Raises:
        UserError: a shard whose members do not make captures, by name. No member is ever unpickled.
    """
    store = Store(dataset.url)
    try:
        for shard in dataset.index.shards:
            yield from read_shard(io.BytesIO(store.read(shard.path)), f"{dataset.url}/{shard.path}")
    finally:
        store.close()


def read_shard(file: IO[bytes], where: str) -> Iterator[Capture]:
    """Captures of one open tar; `where` names it in messages."""
    members = webdataset.tariterators.tar_file_expander([{"url": where, "stream": file}])
    for sample in webdataset.tariterators.group_by_keys(members):
        yield capture_of(sample, where)


def capture_of(sample: dict[str, Any], where: str) -> Capture:
    """A capture of webdataset's sample: bytes by suffix, beside `__key__`."""
    where = f"{where}, sample {sample.get('__key__')}"
    members = {name: data for name, data in sample.items() if not name.startswith("__")}
    if "json" not in members:
        raise UserError("the sample has no json", where=where, hint="data.shards.sample_json says what is in it")
    try:
        about = json.loads(members.pop("json"))
        cameras = [_text(camera["name"]) for camera in about["cameras"]]
        images, masks = zip(*(_pair(members, camera, where) for camera in cameras), strict=True)
        capture = Capture(
            subject=_text(about["subject"]),
            frame=_text(about["frame"]),
            cameras=tuple(cameras),
            world_to_camera=np.array([camera["world_to_camera"] for camera in about["cameras"]], np.float64),
            K=np.array([camera["K"] for camera in about["cameras"]], np.float64),
            sizes=tuple((int(camera["size"][0]), int(camera["size"][1])) for camera in about["cameras"]),
            images=images,
            masks=masks,
            expression={_text(name): float(value) for name, value in about["expression"].items()},
            meta=dict(about["meta"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"the sample is no capture ({error!r})", where=where) from None
    if members:
        raise UserError(f"odd members: {', '.join(sorted(members))}", where=where, hint="none of them was opened")
    return capture


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _pair(members: dict[str, bytes], camera: str, where: str) -> tuple[bytes, bytes | None]:
    """A camera's image and mask, taken out of `members`; webdataset lowers their names."""
    stem = camera.lower()
    images = [f"{stem}.{suffix}" for suffix in SUFFIXES if f"{stem}.{suffix}" in members]
    if len(images) != 1:
        raise UserError(f"missing camera: {len(images)} images instead of one", where=f"{where}, camera {camera}")
    return members.pop(images[0]), members.pop(f"{stem}.mask.png", None)
