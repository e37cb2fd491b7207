"""NeRSemble v2: 16 cameras before the face, one video for each, colour charts for all.

Traps: K is for images of 3208 x 2200, one for all cameras in the data set, one for each in the benchmark; colours of
the cameras differ and are corrected by a polynomial in linear light; sequences have names with `+`; there is no head
pose but where the benchmark's FLAME tracking lies beside the images.
Source: https://github.com/tobias-kirschstein/nersemble-data and nersemble-benchmark
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from configs.errors import UserError
from data.capture import Capture, check_intrinsics
from data.images import Fit, decode, encode_jpeg, encode_png, resample
from data.ingest.canonical import Similarity, find_canonical
from data.ingest.colour import check_matrix, correct
from data.ingest.job import Selection, Unit, choose
from data.ingest.matte import difference_mask
from data.ingest.parse import Floats, matrix, read_json, rigid, scale_intrinsics, stamp, word
from data.ingest.source import Entry, Source
from data.ingest.video import Bytes, Video, common_length

NATIVE = (3208, 2200)  # height and width that K speaks of
_BYTES_PER_FRAME = 60_000  # of one camera's video; only steers what shares a shard
_VIDEO = re.compile(r"^cam_([A-Za-z0-9]+)\.mp4$")


@dataclass(frozen=True)
class Nersemble:
    """Captures of `ID/calibration/` and `ID/sequences/NAME/images/cam_SERIAL.mp4`.

    Attributes:
        sequences: names or patterns of sequences, such as `EXP-*`; empty for all.
        colour: correct colours where a calibration is there.
        masks: `alpha` maps where they are there; `background` for a rough difference to the empty studio otherwise;
            or `none`.
        downscale: images are so many times smaller, a whole number.
        quality: of the JPEGs.
    """

    sequences: tuple[str, ...] = ()
    colour: bool = True
    masks: Literal["alpha", "background", "none"] = "alpha"
    downscale: int = 1
    quality: int = 95
    name: ClassVar[str] = "nersemble"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.downscale < 1:
            raise UserError(f"{self.downscale} is not 1 or more", where="downscale")

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """One sequence of one person each."""
        people = [folder for folder in source.list()[0] if folder.isdigit()]
        if not people:
            hint = "017/calibration/camera_params.json, 017/sequences/EXP-1-head/images/cam_222200037.mp4"
            raise UserError("there is no folder of a participant in it", where=source.where(), hint=hint)
        for subject in select.choose_subjects(people, source.where()):
            files = source.files(subject)
            found = sorted({parts[2] for entry in files if _is_video(parts := entry.path.split("/"))})
            for sequence in choose(found, self.sequences, "sequence", source.where(f"{subject}/sequences")):
                root = f"{subject}/sequences/{sequence}"
                about = [
                    e for e in files if e.path.startswith((f"{root}/", f"{subject}/calibration/", _empty(subject)))
                ]
                details = {"root": root, "calibration": f"{subject}/calibration"}
                expected = len(select.choose_frames(range(_guess(about, root))))
                yield Unit(f"{subject}-{word(sequence)}", subject, expected, stamp(about), details)

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """Captures of the chosen frames; all videos are read forward together."""
        with contextlib.ExitStack() as stack:
            sequence = _Sequence(self, source, unit, select, stack)
            similarity: Similarity | None = None
            for frame in select.choose_frames(range(common_length(list(sequence.videos.values())))):
                capture, said = sequence.capture(frame)
                if sequence.tracking is not None:
                    similarity, how = sequence.tracking.head(frame)
                elif similarity is None:
                    similarity, how = find_canonical(capture)
                meta = sequence.meta(frame, said + how)
                yield replace(similarity.apply(capture), meta=meta)


@dataclass(frozen=True)
class _Lens:
    K: Floats
    world_to_camera: Floats
    colours: Floats | None
    background: Bytes | None
    notes: tuple[str, ...]


class _Sequence:
    """Open videos of a sequence and what belongs to them."""

    def __init__(
        self, form: Nersemble, source: Source, unit: Unit, select: Selection, stack: contextlib.ExitStack
    ) -> None:
        self._form, self._source, self.subject = form, source, unit.subject
        self._root, self._calibration = unit.details["root"], unit.details["calibration"]
        self.name = word(self._root.rsplit("/", 1)[-1])
        entries = source.list(f"{self._root}/images")[1]
        serials = [found[1] for entry in entries if (found := _VIDEO.match(entry.path.rsplit("/", 1)[-1]))]
        where = f"subject {self.subject}, sequence {self.name}"
        self.cameras = select.choose_cameras(serials, where)
        if not self.cameras:
            raise UserError("has no videos cam_SERIAL.mp4", where=source.where(f"{self._root}/images"))
        self.videos = {serial: self._open(stack, "images", serial) for serial in self.cameras}
        self.alpha = {} if form.masks == "none" else self._open_alpha(stack)
        self.lenses = self._read_lenses()
        self.tracking = self._read_tracking()
        lengths = {video.frames for video in self.videos.values()}
        self._uneven = [f"videos: {min(lengths)} to {max(lengths)} frames; the first {min(lengths)} were taken"]
        self._uneven = self._uneven if len(lengths) > 1 else []

    def capture(self, frame: int) -> tuple[Capture, list[str]]:
        """A frame in the data set's own world, and what was done to it."""
        views = [self._view(serial, frame) for serial in self.cameras]
        capture = Capture(
            subject=self.subject,
            frame=f"{self.name}_{frame:05d}",
            cameras=tuple(self.cameras),
            world_to_camera=np.stack([self.lenses[serial].world_to_camera for serial in self.cameras]),
            K=np.stack([view[0] for view in views]),
            sizes=tuple(view[1] for view in views),
            images=tuple(view[2] for view in views),
            masks=tuple(view[3] for view in views),
        )
        said = list(dict.fromkeys(note for serial in self.cameras for note in self.lenses[serial].notes))
        return capture, [*said, *self._uneven]

    def meta(self, frame: int, said: list[str]) -> dict[str, Any]:
        """Where a frame comes from, and its tracked parameters."""
        meta: dict[str, Any] = {"source": self._form.name, "ingest": said, "sequence": self.name, "frame_id": frame}
        if self.tracking is not None:
            meta["flame"] = self.tracking.parameters(frame)
        return meta

    def _open(self, stack: contextlib.ExitStack, kind: str, serial: str) -> Video:
        path = f"{self._root}/{kind}/cam_{serial}.mp4"
        local = stack.enter_context(self._source.local(path))
        return stack.enter_context(Video(local, self._source.where(path)))

    def _open_alpha(self, stack: contextlib.ExitStack) -> dict[str, Video]:
        there = [s for s in self.cameras if self._source.is_file(f"{self._root}/alpha_maps/cam_{s}.mp4")]
        found = {serial: self._open(stack, "alpha_maps", serial) for serial in there}
        for serial, video in found.items():
            if video.size != self.videos[serial].size or video.frames != self.videos[serial].frames:
                raise UserError("the alpha map is of another size or length than the images", where=video.where)
        return found

    def _read_lenses(self) -> dict[str, _Lens]:
        path = f"{self._calibration}/camera_params.json"
        where, tree = self._source.where(path), read_json(self._source, path)
        poses, intrinsics = tree.get("world_2_cam"), tree.get("intrinsics")
        if not isinstance(poses, dict) or not isinstance(intrinsics, dict | list):
            hint = '{"world_2_cam": {serial: 4 x 4}, "intrinsics": 3 x 3 or {serial: 3 x 3}}'
            raise UserError("holds no world_2_cam and intrinsics", where=where, hint=hint)
        colours = self._read_colours()
        shared = isinstance(intrinsics, list)
        lenses = {}
        for serial in self.cameras:
            at = f"{where}, camera {serial}"
            K = matrix(intrinsics if shared else intrinsics.get(serial), at, "intrinsics", (3, 3))
            check_intrinsics(K, at)
            K, how = _fit_intrinsics(K, self.videos[serial].size, at)
            pose = rigid(matrix(poses.get(serial), at, "world_2_cam", (4, 4), (3, 4)), at)
            notes = (f"cameras: world-to-camera as it is, {'one K for all' if shared else 'a K for each'}{how}",)
            mat, background, more = colours.get(serial), self._read_background(serial), ()
            if mat is not None:
                more = ("colour: corrected by the chart's polynomial in linear light",)
            elif colours:
                more = (f"colour: camera {serial} has no correction, left as it is",)
            lenses[serial] = _Lens(K, pose, mat, background, (*notes, *more, self._mask_note(serial, background)))
        return lenses

    def _mask_note(self, serial: str, background: Bytes | None) -> str:
        if serial in self.alpha:
            return "masks: from the alpha maps"
        return "masks: none" if background is None else "masks: ROUGH, from the difference to the empty studio"

    def _read_colours(self) -> dict[str, Floats]:
        path = f"{self._calibration}/color_calibration.json"
        if not self._form.colour or not self._source.is_file(path):
            return {}
        found = {}
        for serial, value in read_json(self._source, path).items():
            at = f"{self._source.where(path)}, camera {serial}"
            columns = len(value[0]) if isinstance(value, list) and value and isinstance(value[0], list) else 3
            found[serial] = check_matrix(matrix(value, at, "the colour matrix", (3, columns)), at)
        return found

    def _read_background(self, serial: str) -> Bytes | None:
        path = f"{_empty(self.subject)}image_{serial}.jpg"
        if self._form.masks != "background" or serial in self.alpha or not self._source.is_file(path):
            return None
        where, size = self._source.where(path), self.videos[serial].size
        try:
            pixels = decode(self._source.read(path))
        except ValueError as error:
            raise UserError(f"broken image: {error}", where=where) from None
        full = pixels.shape[:2]
        return pixels if full == size else resample(pixels, Fit.of((full[0], full[1]), size), size)

    def _read_tracking(self) -> _Tracking | None:
        folder = f"{self._root}/tracking"
        folders = self._source.list(self._root)[0]
        names = [e.path for e in self._source.list(folder)[1]] if "tracking" in folders else []
        # The newest of flame2023_tracking.npz and flame2023_tracking_v2.npz.
        chosen = sorted(name for name in names if re.search(r"/flame2023_tracking(_v\d+)?\.npz$", name))
        return _Tracking(self._source.read(chosen[-1]), self._source.where(chosen[-1])) if chosen else None

    def _view(self, serial: str, frame: int) -> tuple[Floats, tuple[int, int], bytes, bytes | None]:
        """K, size, image and mask."""
        lens, pixels = self.lenses[serial], self.videos[serial].frame(frame)
        mask = None
        if serial in self.alpha:
            mask = self.alpha[serial].frame(frame).max(axis=2)
        elif lens.background is not None:
            mask = difference_mask(pixels, lens.background)
        size = (pixels.shape[0] // self._form.downscale, pixels.shape[1] // self._form.downscale)
        K = lens.K
        if self._form.downscale > 1:
            # What does not divide is cut off, the same on both sides.
            fit = Fit.of((pixels.shape[0], pixels.shape[1]), size)
            K = fit.intrinsics(K, size)
            pixels = resample(pixels, fit, size)
            mask = None if mask is None else resample(mask, fit, size)
        if lens.colours is not None:
            pixels = correct(pixels, lens.colours)
        return K, size, encode_jpeg(pixels, self._form.quality), None if mask is None else encode_png(mask)


class _Tracking:
    """The benchmark's FLAME tracking of a sequence: x_world = rotation (scale x_flame) + translation."""

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                self._arrays = {key: np.asarray(archive[key], np.float64) for key in archive.files}
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"no arrays of numbers ({error})", where=where) from None
        self._rows = {int(number): row for row, number in enumerate(self._array("frames").ravel())}
        count = len(self._rows)
        self._rotation = self._checked("rotation_matrices", (count, 3, 3))
        self._translation = self._checked("translation", (count, 3))

    def head(self, frame: int) -> tuple[Similarity, list[str]]:
        """From the world to FLAME's head frame, in metres: its scale is a property of the person."""
        row = self._row(frame)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self._rotation[row], self._translation[row]
        pose = rigid(pose, f"{self._where}, frame {frame}")
        rotation = pose[:3, :3].T
        said = "frame: by the FLAME tracking of the moment; origin and axes are FLAME's, its neck's turn is left out"
        return Similarity(rotation, rotation @ pose[:3, 3]), [said]

    def parameters(self, frame: int) -> dict[str, Any]:
        """Everything that was tracked for a frame."""
        row, count = self._row(frame), len(self._rows)
        found = {}
        for key, values in self._arrays.items():
            if key not in ("frames", "rotation_matrices"):
                value = values[row] if len(values) == count and count > 1 else values.ravel()
                if not np.isfinite(value).all():
                    raise UserError(f"NaN or infinity in {key}", where=f"{self._where}, frame {frame}")
                found[key] = value.ravel().tolist()
        return found

    def _row(self, frame: int) -> int:
        if frame not in self._rows:
            raise UserError(f"has no frame {frame}", where=self._where)
        return self._rows[frame]

    def _array(self, key: str) -> Floats:
        if key not in self._arrays:
            raise UserError(f"holds no {key}", where=self._where)
        return self._arrays[key]

    def _checked(self, key: str, shape: tuple[int, ...]) -> Floats:
        return matrix(self._array(key), self._where, key, shape)


def _fit_intrinsics(K: Floats, size: tuple[int, int], where: str) -> tuple[Floats, str]:
    """K for images of `size`; whether it speaks of them or of the native ones is told by its principal point."""
    for stated in (size, NATIVE):
        middle = 2 * K[0, 2] / stated[1], 2 * K[1, 2] / stated[0]
        if all(0.7 < part < 1.4 for part in middle):
            if stated == size:
                return K, ""
            return scale_intrinsics(K, NATIVE, size, where), f" scaled from 2200 x 3208 to {size[1]} x {size[0]}"
    what = f"K's principal point ({K[0, 2]:.0f}, {K[1, 2]:.0f}) is in the middle of neither {size[1]} x {size[0]}"
    raise UserError(f"{what} nor 2200 x 3208", where=where)


def _is_video(parts: list[str]) -> bool:
    return len(parts) == 5 and parts[1] == "sequences" and parts[3] == "images" and bool(_VIDEO.match(parts[4]))


def _empty(subject: str) -> str:
    return f"{subject}/sequences/BACKGROUND/"


def _guess(entries: list[Entry], root: str) -> int:
    """About how many frames the videos hold, from their sizes."""
    videos = [entry.size for entry in entries if entry.path.startswith(f"{root}/images/")]
    return max(1, max(videos) // _BYTES_PER_FRAME)
