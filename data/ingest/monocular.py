"""Clips of one moving head before a fixed camera, with tracked FLAME parameters (CelebV-HQ, VFHQ, VHAP, ...).

Every frame becomes a capture of one view: the head stands still in its own frame, and the camera moves about it. That
camera is world-to-camera times the head's pose (`data.ingest.flame`). Clips of one person are one subject, so that a
split never has a person on both sides: VFHQ's and CelebV-HQ's names tell.

The camera is, in this order: `K` and `world_to_camera` (OpenCV axes) of the npz; VHAP's `focal_length` in shares of the
image's longer side, its camera a metre from the origin on +z with OpenGL axes; a field of view that is given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from configs.errors import UserError
from data.capture import Capture, check_intrinsics
from data.images import encode_jpeg
from data.ingest.clips import Clip, find_clips
from data.ingest.flame import Tracking, Vector, read_tracking
from data.ingest.job import Selection, Unit, split
from data.ingest.parse import Floats, matrix, rigid, stamp
from data.ingest.pixels import read_mask, split_alpha
from data.ingest.source import Source
from data.ingest.video import Video

FRAMES_PER_UNIT = 128
VHAP_CAMERA = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]])
"""World-to-camera with OpenCV axes of VHAP's camera for videos without calibration."""
_NEAREST, _FARTHEST = 0.1, 20.0  # metres from the camera to a head
_OUTSIDE = 0.5  # of the image: how far beyond its border the head's middle may lie
Views = Callable[[int], tuple[bytes, bytes | None, tuple[int, int], list[str]]]


@dataclass(frozen=True)
class Monocular:
    """Clips beneath the source: `CLIP.mp4` beside `CLIP.npz`, or folders of frames with an npz.

    Attributes:
        fov: horizontal field of view in degrees, for clips whose npz holds no camera; 0 for none.
        origin: the point of FLAME, in its units, that becomes the origin of the head frame.
        root_joint, neck_joint: FLAME's joints; the npz's, or our estimates, where they are not given.
        quality: of the JPEGs that frames of videos become.
    """

    fov: float = 0.0
    origin: Vector = (0.0, 0.0, 0.0)
    root_joint: Vector | None = None
    neck_joint: Vector | None = None
    quality: int = 95
    name: ClassVar[str] = "monocular"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """128 frames of one clip each."""
        if not 0 <= self.fov < 180:
            raise UserError(f"a field of view of {self.fov:g} degrees", where="fov")
        clips = list(find_clips(source.files(), source.where()))
        if not clips:
            hint = "CLIP.mp4 beside CLIP.npz, or CLIP/tracking.npz with CLIP/images/*.png"
            raise UserError("there is no clip with tracked parameters in it", where=source.where(), hint=hint)
        subjects = set(select.choose_subjects([clip.person for clip in clips], source.where()))
        for clip in sorted(clips, key=lambda one: (one.person, one.part)):
            if clip.person in subjects:
                tracking = self._tracking(source, clip.tracking)
                rows = select.choose_frames(range(len(tracking.frames)))
                for number, chosen in enumerate(split(rows, FRAMES_PER_UNIT)):
                    details = {**asdict(clip), "rows": list(chosen)}
                    del details["entries"]
                    name = f"{clip.tracking.removesuffix('.npz')}-{number:04d}"
                    yield Unit(name, clip.person, len(chosen), stamp(clip.entries), details)

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """One capture per frame."""
        details = unit.details
        clip = Clip(**{key: value for key, value in details.items() if key != "rows"}, entries=())
        tracking = self._tracking(source, clip.tracking)
        with self._opened(source, clip) as (views, count):
            last = max(tracking.frames[row] for row in details["rows"])
            if last >= count:
                what = f"tracks frame {last}, the clip has {count} frames"
                raise UserError(what, where=tracking.where, hint="frames count from 0")
            for row in details["rows"]:
                yield self._capture(clip, tracking, row, views)

    def _tracking(self, source: Source, path: str) -> Tracking:
        return read_tracking(source.read(path), source.where(path), self.root_joint, self.neck_joint)

    def _capture(self, clip: Clip, tracking: Tracking, row: int, views: Views) -> Capture:
        number = tracking.frames[row]
        frame = f"{clip.part}-{number:06d}" if clip.part else f"{number:06d}"
        where = f"capture {clip.person}_{frame}"
        image, mask, size, said = views(number)
        K, world_to_camera, how = _camera(tracking, size, self.fov, where)
        head = tracking.pose(row, np.array(self.origin))
        seen = world_to_camera @ head
        _check_head(seen, K, size, where)
        form = "scale (rotation x) + translation" if tracking.separated else "rotation about FLAME's root joint"
        frame_said = f"frame: FLAME's head, by {form}, and the neck's turn; the camera moves about it"
        return Capture(
            subject=clip.person,
            frame=frame,
            cameras=("cam",),
            world_to_camera=seen[None],
            K=K[None],
            sizes=(size,),
            images=(image,),
            masks=(mask,),
            meta={
                "source": self.name,
                "clip": clip.name,
                "frame_id": number,
                "flame": tracking.parameters(row),
                "ingest": [how, frame_said, *said],
            },
        )

    @contextlib.contextmanager
    def _opened(self, source: Source, clip: Clip) -> Iterator[tuple[Views, int]]:
        """A function from a frame's number to its picture, mask, size and notes, and how many frames there are."""
        if not clip.video:
            yield _Frames(source, clip).view, len(clip.frames)
            return
        with source.local(clip.video) as path, Video(path, source.where(clip.video)) as video:

            def view(number: int) -> tuple[bytes, bytes | None, tuple[int, int], list[str]]:
                return encode_jpeg(video.frame(number), self.quality), None, video.size, []

            yield view, video.frames


class _Frames:
    """Pictures and masks of a folder."""

    def __init__(self, source: Source, clip: Clip) -> None:
        self._source, self._clip = source, clip

    def view(self, number: int) -> tuple[bytes, bytes | None, tuple[int, int], list[str]]:
        """A frame's picture and mask as they are stored."""
        path = self._clip.frames[number]
        image, mask, size, said = split_alpha(self._source.read(path), self._source.where(path))
        if mask is None and self._clip.masks:
            path = self._clip.masks[number]
            mask = read_mask(self._source.read(path), size, self._source.where(path))
        return image, mask, size, said


def _camera(tracking: Tracking, size: tuple[int, int], fov: float, where: str) -> tuple[Floats, Floats, str]:
    """K, world-to-camera with OpenCV axes, and where they come from."""
    given: dict[str, Any] = tracking.arrays
    world_to_camera = np.eye(4)
    if "world_to_camera" in given:
        found = matrix(given["world_to_camera"], tracking.where, "world_to_camera", (4, 4), (3, 4))
        world_to_camera = rigid(found, tracking.where)
    if "K" in given:
        K, how = matrix(given["K"], tracking.where, "K", (3, 3)), "camera: K of the tracking"
    elif "focal_length" in given:
        focal = float(given["focal_length"].ravel()[0]) * max(size)
        K, how = _centred(focal, size), "camera: VHAP's focal length, times the image's longer side"
        world_to_camera = world_to_camera if "world_to_camera" in given else VHAP_CAMERA
    elif fov:
        K, how = (
            _centred(size[1] / 2 / np.tan(np.radians(fov) / 2), size),
            f"camera: a field of view of {fov:g} degrees",
        )
    else:
        hint = "K or focal_length in the npz, or the option fov"
        raise UserError("nothing tells the focal length", where=tracking.where, hint=hint)
    check_intrinsics(K, where)
    if not (0 < K[0, 2] < size[1] and 0 < K[1, 2] < size[0]):
        what = f"K's principal point ({K[0, 2]:.0f}, {K[1, 2]:.0f}) lies outside the image of {size[1]} x {size[0]}"
        raise UserError(what, where=where, hint="K must be in pixels of these images")
    return K, world_to_camera, how


def _centred(focal: float, size: tuple[int, int]) -> Floats:
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])


def _check_head(seen: Floats, K: Floats, size: tuple[int, int], where: str) -> None:
    """The head must be before the camera, near, and about in the image: wrong axes and units show here."""
    x, y, depth = seen[:3, 3]
    hint = "wrong axes (OpenGL?), unit (millimetres?) or camera of the tracking"
    if not _NEAREST < depth < _FARTHEST:
        raise UserError(f"the head is {depth:.3g} m before the camera", where=where, hint=hint)
    column, row = K[0, 0] * x / depth + K[0, 2], K[1, 1] * y / depth + K[1, 2]
    away = max(abs(column / size[1] - 0.5), abs(row / size[0] - 0.5))
    if away > 0.5 + _OUTSIDE:
        what = f"the head's middle is at pixel ({column:.0f}, {row:.0f}) of an image of {size[1]} x {size[0]}"
        raise UserError(what, where=where, hint=hint)
