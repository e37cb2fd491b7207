"""An open dataset: what it holds, and its captures as views or whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import UserError
from data.cache import PixelCache
from data.capture import Capture, camera_centers
from data.images import Fit, load
from data.index import Index, Range
from data.manifest import DatasetInfo, describe, open_index
from data.store import BadMember, Store
from data.views import Cameras, Views

Pixels = NDArray[np.uint8]


class Dataset:
    """Captures in a store. Safe to share between threads, to fork and to pickle (it travels as its URL).

    Make one with `Dataset.open`.

    Attributes:
        index: every capture and member.
        info: the numbers, licence and provenance.
    """

    def __init__(self, store: Store, index: Index, info: DatasetInfo, verify: bool = True) -> None:
        self._store, self._verify = store, verify
        self.index, self.info = index, info

    @classmethod
    def open(cls, url: str, *, verify: bool = True, fingerprint: str | None = None) -> Dataset:
        """Read the index.

        Args:
            url: a folder, `file://`, `s3://` or `memory://`.
            verify: compare every member read with its checksum.
            fingerprint: what the dataset's must be.

        Raises:
            UserError: no dataset there, or another one; both fingerprints are named.
        """
        store = Store(url)
        index, manifest = open_index(store)
        found = manifest["fingerprint"]
        if fingerprint not in (None, found):
            raise UserError(f"the dataset has fingerprint {found}, not {fingerprint}", where=store.url)
        return cls(store, index, describe(index, manifest, store.url), verify)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self._verify, self.fingerprint)

    def __len__(self) -> int:
        """How many captures there are."""
        return len(self.index)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.info.url

    @property
    def fingerprint(self) -> str:
        """Names the content, whatever the place."""
        return self.info.fingerprint

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody in it."""
        return self.index.subjects

    @property
    def captures(self) -> list[str]:
        """Names of all captures by row; a list of them all, so not for inner loops."""
        return self.index.names.to_pylist()

    def captures_of(self, subject: str) -> list[str]:
        """Names of one subject's captures."""
        if subject not in self.subjects:
            raise UserError(f"no subject is called '{subject}'", where=self.url)
        return [self.index.text("name", int(row)) for row in self.index.rows_of(self.subjects.index(subject))]

    def cameras(self, capture: str) -> tuple[str, ...]:
        """Names of the cameras that saw a capture."""
        return self.index.rig(self.index.row(capture)).cameras

    def centers(self, capture: str) -> NDArray[np.float64]:
        """Camera centres of a capture `[v, 3]`, metres."""
        return camera_centers(self.index.rig(self.index.row(capture)).world_to_camera)

    def views(self, capture: str, cameras: Sequence[str], image_size: tuple[int, int]) -> Views:
        """Some views of a capture as a batch of one.

        Args:
            capture: its name, or that of a subject with one capture.
            cameras: names, in the order wanted.
            image_size: (height, width) to fit to (`data.images.Fit`).

        Raises:
            UserError: an unknown name, or a member that cannot be read.
        """
        row = self.index.row(capture)
        chosen = self.index.rig(row).views(tuple(cameras), f"{self.url}, capture {capture}")
        images, masks = self.pixels(row, chosen, image_size)
        return as_views(images[None], masks[None], [self.calibration(row, chosen, image_size)], image_size)

    def capture(self, name: str) -> Capture:
        """A whole capture with its images still encoded; `name` as in `views`."""
        row = self.index.row(name)
        rig = self.index.rig(row)
        images, masks = self._members(row, list(range(len(rig.cameras))), rig.cameras)
        described = json.loads(self._store.read_ranges([self.index.sample_range(row)], self._verify)[0])
        return Capture(
            subject=self.index.text("subject", row),
            frame=self.index.text("frame", row),
            cameras=rig.cameras,
            world_to_camera=rig.world_to_camera,
            K=rig.K,
            sizes=rig.sizes,
            images=tuple(images),
            masks=tuple(masks),
            expression=described["expression"],
            meta=described["meta"],
        )

    def pixels(
        self, row: int, views: list[int], image_size: tuple[int, int], cache: PixelCache | None = None
    ) -> tuple[Pixels, Pixels]:
        """Decoded views: uint8 images `[v, 3, h, w]` and masks `[v, h, w]`; a view without a mask is all person."""
        hits = ((view, cache.get((row, view, image_size))) for view in views) if cache is not None else ()
        found = {view: hit for view, hit in hits if hit is not None}
        if missing := [view for view in views if view not in found]:
            cameras = self.index.rig(row).cameras
            for view, image, mask in zip(missing, *self._members(row, missing, cameras), strict=True):
                where = f"capture {self.index.text('name', row)}, camera {cameras[view]}"
                found[view] = _decode(image, mask, image_size, where)
                if cache is not None:
                    cache.put((row, view, image_size), found[view])
        pairs = [found[view] for view in views]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def calibration(
        self, row: int, views: list[int], image_size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`world_to_camera` `[v, 4, 4]` and `K` `[v, 3, 3]` for images fitted to `image_size`."""
        rig = self.index.rig(row)
        K = [Fit.of(rig.sizes[view], image_size).intrinsics(rig.K[view], image_size) for view in views]
        return rig.world_to_camera[views], np.stack(K)

    def close(self) -> None:
        """Drop this process's connections; the dataset may be used again."""
        self._store.close()

    def _members(self, row: int, views: list[int], cameras: tuple[str, ...]) -> tuple[list[bytes], list[bytes | None]]:
        """Encoded images and masks, in one go."""
        images = self.index.image_ranges(row, views, cameras)
        masks = self.index.mask_ranges(row, views, cameras)
        wanted: list[Range] = [*images, *(mask for mask in masks if mask is not None)]
        data = iter(self._store.read_ranges(wanted, self._verify))
        return [next(data) for _ in images], [None if mask is None else next(data) for mask in masks]


def as_views(
    images: Pixels,
    masks: Pixels,
    calibrations: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    image_size: tuple[int, int],
) -> Views:
    """uint8 images `[b, v, 3, h, w]`, masks `[b, v, h, w]` and b calibrations as tensors."""
    colors = np.divide(images, np.float32(255), dtype=np.float32)
    coverage = np.divide(masks[:, :, None], np.float32(255), dtype=np.float32)
    world_to_camera, K = (np.stack(part).astype(np.float32) for part in zip(*calibrations, strict=True))
    cameras = Cameras(torch.from_numpy(world_to_camera), torch.from_numpy(K), width=image_size[1], height=image_size[0])
    return Views(torch.from_numpy(colors), torch.from_numpy(coverage), cameras)


def capture_views(capture: Capture, cameras: Sequence[str], image_size: tuple[int, int]) -> Views:
    """Some views of a capture that is in memory, as `Dataset.views` gives them."""
    chosen = [capture.cameras.index(camera) for camera in cameras]
    where = f"capture {capture.name}"
    pairs = [
        _decode(capture.images[v], capture.masks[v], image_size, f"{where}, camera {capture.cameras[v]}")
        for v in chosen
    ]
    K = [Fit.of(capture.sizes[v], image_size).intrinsics(capture.K[v], image_size) for v in chosen]
    images, masks = (np.stack(part)[None] for part in zip(*pairs, strict=True))
    return as_views(images, masks, [(capture.world_to_camera[chosen], np.stack(K))], image_size)


def _decode(image: bytes, mask: bytes | None, size: tuple[int, int], where: str) -> tuple[Pixels, Pixels]:
    try:
        pixels = np.ascontiguousarray(load(image, size).transpose(2, 0, 1))
        coverage = np.full(size, 255, np.uint8) if mask is None else load(mask, size, channels=1)
    except ValueError as error:
        raise BadMember(f"broken image or mask: {error}", where=where) from None
    return pixels, coverage


def _reopen(url: str, verify: bool, fingerprint: str) -> Dataset:
    return Dataset.open(url, verify=verify, fingerprint=fingerprint)
