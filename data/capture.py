"""A capture: one subject at one frame, seen by the whole rig, with its images still encoded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.images import decode, read_header

Floats = NDArray[np.float64]

# webdataset splits a member's name at its first dot and lowers the rest; tar holds 100 characters.
_WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
MAX_NAME, MAX_CAMERA = 60, 30


@dataclass(frozen=True)
class Capture:
    """One subject at one frame: encoded images and masks of every camera, and the calibration.

    Attributes:
        subject: the person; letters, digits, `_` and `-`.
        frame: the moment; the same characters.
        cameras: v camera names; the same characters, different from each other whatever their case.
        world_to_camera: `[v, 4, 4]` rigid, OpenCV axes, metres, canonical head frame.
        K: `[v, 3, 3]` intrinsics in pixels, pixel centres at +0.5.
        sizes: (height, width) of every image in pixels.
        images: encoded JPEG, PNG or WebP, sRGB.
        masks: encoded PNG with one channel, 255 where the person is; None where there is no mask.
        expression: blendshape coefficients by name, 0 where absent.
        meta: whatever else is known; JSON values only.
    """

    subject: str
    frame: str
    cameras: tuple[str, ...]
    world_to_camera: Floats
    K: Floats
    sizes: tuple[tuple[int, int], ...]
    images: tuple[bytes, ...] = field(repr=False)
    masks: tuple[bytes | None, ...] = field(repr=False)
    expression: dict[str, float] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`{subject}_{frame}`: the sample's key in its shard."""
        return f"{self.subject}_{self.frame}"

    @property
    def centers(self) -> Floats:
        """Camera centres in the world, `[v, 3]`, metres."""
        return camera_centers(self.world_to_camera)

    def validate(self, pixels: bool = False) -> None:
        """Check everything that a shard promises.

        Args:
            pixels: also decode every image and mask, which finds data cut off behind a good header.

        Raises:
            UserError: naming the capture and the camera.
        """
        self._check_names()
        self._check_counts()
        for view, camera in enumerate(self.cameras):
            where = f"capture {self.name}, camera {camera}"
            check_extrinsics(self.world_to_camera[view], where)
            check_intrinsics(self.K[view], where)
            self._check_image(view, where, pixels)
        if not all(np.isfinite(value) for value in self.expression.values()):
            raise UserError("an expression coefficient is not a finite number", where=f"capture {self.name}")

    def _check_names(self) -> None:
        for kind, word in (("subject", self.subject), ("frame", self.frame)):
            if not _WORD.match(word):
                raise UserError(f"{word!r} is no {kind} name", where=f"capture {self.name}", hint=_NAME_HINT)
        if len(self.name) > MAX_NAME:
            raise UserError(f"the name is longer than {MAX_NAME} characters", where=f"capture {self.name}")
        if not self.cameras:
            raise UserError("has no cameras", where=f"capture {self.name}")
        seen: set[str] = set()
        for camera in self.cameras:
            where = f"capture {self.name}, camera {camera}"
            if not _WORD.match(camera) or len(camera) > MAX_CAMERA:
                raise UserError(f"{camera!r} is no camera name", where=where, hint=_NAME_HINT)
            if camera.lower() in seen:
                raise UserError("two cameras have this name", where=where, hint="case does not tell cameras apart")
            seen.add(camera.lower())

    def _check_counts(self) -> None:
        count = len(self.cameras)
        for kind in ("images", "masks", "sizes", "world_to_camera", "K"):
            have = len(getattr(self, kind))
            if have < count:
                where = f"capture {self.name}, camera {self.cameras[have]}"
                raise UserError(f"missing camera: {count} cameras but {have} of {kind}", where=where)
            if have > count:
                raise UserError(f"{have} of {kind} for {count} cameras", where=f"capture {self.name}")
        for kind, shape in (("world_to_camera", (count, 4, 4)), ("K", (count, 3, 3))):
            if getattr(self, kind).shape != shape:
                found = list(getattr(self, kind).shape)
                raise UserError(f"{kind} is {found}, not {list(shape)}", where=f"capture {self.name}")

    def _check_image(self, view: int, where: str, pixels: bool) -> None:
        image, mask, size = self.images[view], self.masks[view], tuple(self.sizes[view])
        if not image:
            raise UserError("missing camera: it has no image", where=where)
        try:
            header = read_header(image)
        except ValueError as error:
            raise UserError(f"broken image: {error}", where=where) from None
        if (header.height, header.width) != size:
            found = f"{header.width} x {header.height}"
            raise UserError(f"the image is {found}, the camera says {size[1]} x {size[0]}", where=where)
        if mask is not None:
            _check_mask(mask, (header.height, header.width), where)
        if pixels:
            for kind, data in (("image", image), ("mask", mask)):
                try:
                    if data is not None:
                        decode(data, 3 if kind == "image" else 1)
                except ValueError as error:
                    raise UserError(f"broken {kind}: {error}", where=where) from None


_NAME_HINT = f"letters, digits, '_' and '-'; a camera has at most {MAX_CAMERA} characters"


def camera_centers(world_to_camera: Floats) -> Floats:
    """Camera centres `[..., 3]` of rigid transforms `[..., 4, 4]`."""
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    return -(np.swapaxes(rotation, -1, -2) @ translation[..., None])[..., 0]


def check_extrinsics(matrix: Floats, where: str) -> None:
    """Refuse a `[4, 4]` that is not finite, not rigid or mirrored."""
    if not np.isfinite(matrix).all():
        raise UserError("NaN or infinity in the camera's transform", where=where)
    rotation = matrix[:3, :3]
    if abs(np.linalg.det(rotation)) < 1e-6:
        raise UserError("the camera's rotation is singular", where=where)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        hint = "R R^T must be 1 and the last row 0 0 0 1: no scale or shear in a camera"
        raise UserError("the camera's transform is not rigid", where=where, hint=hint)
    if np.linalg.det(rotation) < 0:
        raise UserError("the camera's rotation mirrors", where=where, hint="one axis too many is flipped")


def check_intrinsics(K: Floats, where: str) -> None:
    """Refuse a `[3, 3]` that is no pinhole camera."""
    if not np.isfinite(K).all():
        raise UserError("NaN or infinity in K", where=where)
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise UserError(f"focal length {K[0, 0]:g}, {K[1, 1]:g} is not positive", where=where)
    if np.abs(K[2] - [0, 0, 1]).max() > 1e-9 or K[1, 0] != 0:
        hint = "K is [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]; is it transposed?"
        raise UserError("K is not an upper triangular pinhole matrix", where=where, hint=hint)


def _check_mask(mask: bytes, size: tuple[int, int], where: str) -> None:
    try:
        header = read_header(mask)
    except ValueError as error:
        raise UserError(f"broken mask: {error}", where=where) from None
    if header.suffix != "png":
        raise UserError("a mask is a PNG", where=where)
    if (header.height, header.width) != size:
        found = f"{header.width} x {header.height}"
        raise UserError(f"the mask is {found}, the image {size[1]} x {size[0]}", where=where)
