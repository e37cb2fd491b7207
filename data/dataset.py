"""An open dataset: what it holds, and its captures as views or whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import UserError
from configs.store import StoreConfig
from data.arkit import coefficients
from data.capture import Capture, camera_centers
from data.images import Fit, load, load_into
from data.index import Index
from data.manifest import DatasetInfo, describe, open_index
from data.store import BadMember, Buffer, Range, Store, Traffic
from data.views import Cameras, PackedViews, Views

Pixels = NDArray[np.uint8]
Calibration = tuple[NDArray[np.float32], NDArray[np.float32]]

_RIGS_KEPT = 512  # calibrations in memory; a rig of 80 cameras takes 8 kB


class Members(NamedTuple):
    """Where one view lies, and the (height, width) that its camera states."""

    image: Range
    mask: Range | None
    size: tuple[int, int]

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The image's and, where there is one, the mask's."""
        return (self.image,) if self.mask is None else (self.image, self.mask)


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
        self._calibrations: dict[tuple[int, tuple[int, int]], Calibration] = {}

    @classmethod
    def open(
        cls, url: str, *, verify: bool = True, fingerprint: str | None = None, settings: StoreConfig | None = None
    ) -> Dataset:
        """Read the index.

        Args:
            url: a folder, `file://`, `s3://` or `memory://`.
            verify: compare every member read with its checksum.
            fingerprint: what the dataset's must be.
            settings: patience with the store and speed.

        Raises:
            UserError: no dataset there, or another one; both fingerprints are named.
        """
        store = Store(url, settings)
        try:
            index, manifest = open_index(store)
            found = manifest["fingerprint"]
            if fingerprint not in (None, found):
                raise UserError(f"the dataset has fingerprint {found}, not {fingerprint}", where=store.url)
        except BaseException:
            store.close()
            raise
        return cls(store, index, describe(index, manifest, store.url), verify)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self._verify, self.fingerprint, self._store.settings)

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
        images, masks = empty_pixels((1, len(chosen)), image_size)
        members = self.members(row, chosen)
        for place, (one, data) in enumerate(zip(members, self._read(members), strict=True)):
            decode_view(*data, images[0, place], masks[0, place], one.size, one.image.where)
        world_to_camera, K = (part[chosen][None] for part in self.calibration(row, image_size))
        face = torch.from_numpy(self.coefficients(row))[None]
        return pack_views(images, masks, (world_to_camera, K), image_size).unpack(face)

    def capture(self, name: str) -> Capture:
        """A whole capture with its images still encoded; `name` as in `views`."""
        row = self.index.row(name)
        rig = self.index.rig(row)
        read = self._read(self.members(row, range(len(rig.cameras))))
        described = json.loads(self._store.read_ranges([self.index.sample_range(row)], self._verify)[0])
        return Capture(
            subject=self.index.text("subject", row),
            frame=self.index.text("frame", row),
            cameras=rig.cameras,
            world_to_camera=rig.world_to_camera,
            K=rig.K,
            sizes=rig.sizes,
            images=tuple(bytes(image) for image, _ in read),
            masks=tuple(None if mask is None else bytes(mask) for _, mask in read),
            expression=described["expression"],
            meta=described["meta"],
        )

    def members(self, row: int, views: Sequence[int]) -> list[Members]:
        """Where some views of a row lie."""
        rig, chosen = self.index.rig(row), list(views)
        images = self.index.image_ranges(row, chosen, rig.cameras)
        masks = self.index.mask_ranges(row, chosen, rig.cameras)
        pairs = zip(images, masks, chosen, strict=True)
        return [Members(image, mask, rig.sizes[view]) for image, mask, view in pairs]

    def fetch(self, ranges: Sequence[Range]) -> Future[list[Buffer]]:
        """Encoded members, verified unless the dataset was opened otherwise; as `Store.fetch`."""
        return self._store.fetch(ranges, self._verify)

    def calibration(self, row: int, image_size: tuple[int, int]) -> Calibration:
        """`world_to_camera` `[v, 4, 4]` and `K` `[v, 3, 3]` of all cameras of a row, for images fitted to a size."""
        key = int(self.index.rig_numbers[row]), image_size
        found = self._calibrations.get(key)
        if found is None:
            rig = self.index.rig(row)
            K = [
                Fit.of(size, image_size).intrinsics(matrix, image_size)
                for size, matrix in zip(rig.sizes, rig.K, strict=True)
            ]
            found = rig.world_to_camera.astype(np.float32), np.stack(K).astype(np.float32)
            if len(self._calibrations) >= _RIGS_KEPT:
                self._calibrations = {}
            self._calibrations[key] = found
        return found

    def coefficients(self, row: int) -> NDArray[np.float32]:
        """ARKit coefficients `[52]` of the expression of a row, 0 where it names none (`data.arkit`)."""
        return coefficients(self.index.expression(row))

    def _read(self, members: Sequence[Members]) -> list[tuple[Buffer, Buffer | None]]:
        """Encoded images and masks, in one go."""
        data = iter(self.fetch([part for one in members for part in one.ranges]).result())
        return [(next(data), None if one.mask is None else next(data)) for one in members]

    @property
    def traffic(self) -> Traffic:
        """What this process has asked of the store."""
        return self._store.traffic

    def close(self) -> None:
        """Drop this process's connections; the dataset may be used again."""
        self._store.close()


def pack_views(images: Pixels, masks: Pixels, calibration: Calibration, image_size: tuple[int, int]) -> PackedViews:
    """uint8 images `[b, v, h, w, 3]`, masks `[b, v, h, w]` and calibrations `[b, v, ...]` as tensors."""
    world_to_camera, K = (torch.from_numpy(part) for part in calibration)
    cameras = Cameras(world_to_camera, K, width=image_size[1], height=image_size[0])
    return PackedViews(torch.from_numpy(images), torch.from_numpy(masks), cameras)


def capture_views(capture: Capture, cameras: Sequence[str], image_size: tuple[int, int]) -> Views:
    """Some views of a capture that is in memory, as `Dataset.views` gives them."""
    chosen = [capture.cameras.index(camera) for camera in cameras]
    images, masks = empty_pixels((1, len(chosen)), image_size)
    for place, view in enumerate(chosen):
        where = f"capture {capture.name}, camera {capture.cameras[view]}"
        size = capture.sizes[view]
        decode_view(capture.images[view], capture.masks[view], images[0, place], masks[0, place], size, where)
    K = [Fit.of(capture.sizes[v], image_size).intrinsics(capture.K[v], image_size) for v in chosen]
    calibration = capture.world_to_camera[chosen][None].astype(np.float32), np.stack(K)[None].astype(np.float32)
    face = torch.from_numpy(coefficients(capture.expression))[None]
    return pack_views(images, masks, calibration, image_size).unpack(face)


def empty_pixels(shape: tuple[int, ...], image_size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Room for images `[*shape, h, w, 3]` and masks `[*shape, h, w]`."""
    return np.empty((*shape, *image_size, 3), np.uint8), np.empty((*shape, *image_size), np.uint8)


def decode_view(
    image: Buffer, mask: Buffer | None, pixels: Pixels, coverage: Pixels, size: tuple[int, int] | None, where: str
) -> None:
    """Decode into `pixels` `[h, w, 3]` and `coverage` `[h, w]`; a view without a mask is all person.

    Args:
        size: (height, width) that the camera states, which K belongs to; None asks for none.

    Raises:
        BadMember: what does not decode or has another size, although it is what was written.
    """
    try:
        load_into(image, pixels, size)
        coverage[:] = 255 if mask is None else load(mask, (coverage.shape[0], coverage.shape[1]), 1, size)
    except ValueError as error:
        raise BadMember(f"broken image or mask: {error}", where=where) from None


def _reopen(url: str, verify: bool, fingerprint: str, settings: StoreConfig) -> Dataset:
    return Dataset.open(url, verify=verify, fingerprint=fingerprint, settings=settings)
