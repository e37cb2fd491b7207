"""An open dataset: what it holds, and its captures as views or whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.arkit import coefficients
from data.capture import Capture, camera_centers
from data.images import Fit, load, load_into
from data.index import Index
from data.manifest import DatasetInfo, describe, open_index
from data.store import BadMember, Buffer, Range, Store
from data.stored import StoredSet
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


class Dataset(StoredSet[Index, DatasetInfo]):
    """Captures in a store. Make one with `Dataset.open`.

    Attributes:
        index: every capture and member.
        info: the numbers, licence and provenance.
    """

    def __init__(self, store: Store, index: Index, info: DatasetInfo, verify: bool = True) -> None:
        super().__init__(store, index, info, verify)
        self._calibrations: dict[tuple[int, tuple[int, int]], Calibration] = {}

    @staticmethod
    def read(store: Store) -> tuple[Index, DatasetInfo]:
        """See `StoredSet`."""
        index, manifest = open_index(store)
        return index, describe(index, manifest, store.url)

    @property
    def captures(self) -> list[str]:
        """Names of all captures by row; a list of them all, so not for inner loops."""
        return self.index.names.to_pylist()

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
