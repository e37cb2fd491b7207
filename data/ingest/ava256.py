"""Ava-256: a dome of 80 cameras; zips of AVIF images, read in place.

Traps, as found in the data set's own loader: K and T are stored transposed, T is world-to-camera in millimetres, K is
for images of 4096 x 2668, the lenses bend (k1 about -0.07) although that loader takes no notice, one image in a
thousand is missing, and the segmentation has no class for skin, so that no mask can be made of it.
Source: https://github.com/facebookresearch/ava-256
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from configs.errors import UserError
from data.capture import Capture, camera_centers, check_intrinsics
from data.images import ImageHeader, decode, encode_jpeg, read_header
from data.ingest.archive import Zip, open_zip
from data.ingest.job import Selection, Unit, choose, split
from data.ingest.lens import undistort
from data.ingest.parse import Floats, matrix, read_json, read_npy, rigid, scale_intrinsics, stamp, word
from data.ingest.source import Source

NATIVE = (4096, 2668)  # height and width that K speaks of
FRAMES_PER_UNIT = 64
_FOLDER = re.compile(r"^m--\d{8}--\d{4}--([A-Za-z0-9]+)--GHS$")
_FLIP = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Ava256:
    """Captures of `m--DATE--TIME--SUBJECT--GHS/decoder/`.

    Attributes:
        segments: names or patterns of segments, such as `EXP_*`; empty for all.
        lenses: `undistort` resamples every image to a pinhole's; `ignore` keeps the AVIF bytes, and the error.
        quality: of the JPEGs that are written where bytes cannot be kept.
    """

    segments: tuple[str, ...] = ()
    lenses: Literal["undistort", "ignore"] = "undistort"
    quality: int = 95
    name: ClassVar[str] = "ava256"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """64 frames of one person each."""
        folders: dict[str, str] = {}
        for folder in source.list()[0]:
            if found := _FOLDER.match(folder):
                if found[1] in folders:
                    what = f"two captures of subject {found[1]}: {folders[found[1]]} and {folder}"
                    raise UserError(what, where=source.where(), hint="convert them to datasets of their own")
                folders[found[1]] = folder
        if not folders:
            hint = "m--20210817--0000--ABC123--GHS/decoder/camera_calibration.json and so on"
            raise UserError("there is no folder of a capture in it", where=source.where(), hint=hint)
        for subject in select.choose_subjects(folders, source.where()):
            root = f"{folders[subject]}/decoder"
            frames = select.choose_frames(self._frames(source, root))
            mark = stamp(source.files(root))
            for number, chosen in enumerate(split(frames, FRAMES_PER_UNIT)):
                details = {"root": root, "frames": [list(frame) for frame in chosen]}
                yield Unit(f"{subject}-{number:04d}", subject, len(chosen), mark, details)

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """Captures whose cameras are relative to the head of the moment."""
        root = unit.details["root"]
        calibration = _read_calibration(source, f"{root}/camera_calibration.json")
        cameras = select.choose_cameras(calibration, f"subject {unit.subject}")
        with contextlib.ExitStack() as stack:
            poses = stack.enter_context(open_zip(source, f"{root}/head_pose/head_pose.zip"))
            keypoints = _optional(stack, source, f"{root}/keypoints_3d/keypoints_3d.zip")
            found = {name: _optional(stack, source, f"{root}/image/cam{name}.zip") for name in cameras}
            images = {name: archive for name, archive in found.items() if archive is not None}
            if not images:
                raise UserError("not one of the cameras has images", where=source.where(f"{root}/image"))
            without = [name for name in cameras if name not in images]
            common = [f"cameras without images were left out: {_few(without)}"] if without else []
            for segment, frame in unit.details["frames"]:
                reader = _Moment(self, unit.subject, segment, frame, calibration, images)
                yield reader.capture(poses, keypoints, common)

    def _frames(self, source: Source, root: str) -> list[tuple[str, int]]:
        """(segment, frame) of the wanted segments, in the list's order."""
        path = f"{root}/frame_list.csv"
        where = source.where(path)
        try:
            text = source.read(path).decode()
            rows = [(row["seg_id"].strip(), int(row["frame_id"])) for row in csv.DictReader(io.StringIO(text))]
        except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise UserError(f"not a table of seg_id,frame_id ({error!r})", where=where) from None
        names = list(dict.fromkeys(segment for segment, _ in rows))
        wanted = set(choose(names, self.segments, "segment", where))
        chosen = [row for row in rows if row[0] in wanted]
        if len({frame for _, frame in chosen}) < len(chosen) or any(not 0 <= frame < 10**6 for _, frame in chosen):
            raise UserError("a frame comes twice or is not in 0..999999", where=where)
        return chosen


@dataclass(frozen=True)
class _Lens:
    """A camera as the data set calibrated it: K for native images, `[4, 4]` world-to-camera in millimetres."""

    K: Floats
    world_to_camera: Floats
    distortion: Floats


@dataclass
class _Moment:
    """One frame of one person, camera by camera."""

    format: Ava256
    subject: str
    segment: str
    frame: int
    calibration: dict[str, _Lens]
    images: dict[str, Zip]

    @property
    def where(self) -> str:
        return f"capture {self.subject}_{self.frame:06d}"

    def capture(self, poses: Zip, keypoints: Zip | None, said: list[str]) -> Capture:
        head_to_world = _read_pose(poses, self.frame)
        names = [name for name, archive in self.images.items() if self._member(name) in archive]
        missing = [name for name in self.images if name not in names]
        if not names:
            raise UserError("not one of the cameras has an image", where=self.where)
        # The head's own frame is what x_world = head_to_world x_head makes of it, in millimetres.
        relative = np.stack([self.calibration[name].world_to_camera @ head_to_world for name in names])
        relative[:, :3, 3] /= 1000
        axes, how = _axes(relative, self.where)
        relative[:, :3, :3] = relative[:, :3, :3] @ axes.T
        views = [self._view(name) for name in names]
        done = [
            "cameras: K and T transposed, millimetres to metres, relative to the head by its pose",
            *how,
            "origin: that of the head pose, not moved",
            *dict.fromkeys(note for view in views for note in view[3]),
            *said,
            *([f"images missing: {_few(missing)}"] if missing else []),
            "masks: none; the segmentation has no class for skin",
        ]
        meta: dict[str, Any] = {
            "source": self.format.name,
            "ingest": done,
            "segment": self.segment,
            "frame_id": self.frame,
            "head_to_world_mm": head_to_world[:3].tolist(),
        }
        if keypoints is not None and f"{self.frame:06d}.npy" in keypoints:
            meta["keypoints"] = _keypoints(keypoints, self.frame, head_to_world, axes)
        return Capture(
            subject=self.subject,
            frame=f"{self.frame:06d}",
            cameras=tuple(word(name) for name in names),
            world_to_camera=relative,
            K=np.stack([view[1] for view in views]),
            sizes=tuple(view[2] for view in views),
            images=tuple(view[0] for view in views),
            masks=(None,) * len(views),
            meta=meta,
        )

    def _member(self, name: str) -> str:
        return f"cam{name}/{self.frame:06d}.avif"

    def _view(self, name: str) -> tuple[bytes, Floats, tuple[int, int], list[str]]:
        """Encoded image, K for it, its size, and what was done."""
        where = f"{self.where}, camera {name}"
        lens, data = self.calibration[name], self.images[name].read(self._member(name))
        bent = bool(np.any(lens.distortion)) and self.format.lenses == "undistort"
        header = _header(data, where)
        size = (header.height, header.width)
        K = scale_intrinsics(lens.K, NATIVE, size, where)
        notes = (
            [] if size == NATIVE else [f"intrinsics: scaled from {NATIVE[1]} x {NATIVE[0]} to {size[1]} x {size[0]}"]
        )
        if not bent:
            left = ["lenses: distortion was ignored, images are as they were"] if np.any(lens.distortion) else []
            return data, K, size, notes + left
        try:
            pixels = undistort(decode(data), K, lens.distortion)
        except ValueError as error:
            raise UserError(f"broken image: {error}", where=where) from None
        notes.append(f"lenses: undistorted, and written as JPEG of quality {self.format.quality}")
        return encode_jpeg(pixels, self.format.quality), K, size, notes


def _read_calibration(source: Source, path: str) -> dict[str, _Lens]:
    where = source.where(path)
    entries = read_json(source, path).get("KRT")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError("holds no list KRT of cameras", where=where)
    found: dict[str, _Lens] = {}
    for entry in entries:
        name = str(entry.get("cameraId", ""))
        at = f"{where}, camera {name}"
        if not name or name in found or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError("a camera's cameraId is missing, odd or comes twice", where=at)
        K = matrix(entry.get("K"), at, "K", (3, 3)).T
        check_intrinsics(K, at)
        T = matrix(entry.get("T"), at, "T", (4, 4), (4, 3))[:4, :3].T
        distortion = matrix(entry.get("distortion", [0.0] * 4), at, "distortion", (4,), (5,))
        found[name] = _Lens(K, rigid(T, at), distortion)
    distance = float(np.median(np.linalg.norm([lens.world_to_camera[:3, 3] for lens in found.values()], axis=1)))
    if not 200 < distance < 10_000:
        what = f"cameras are {distance:.4g} units from the dome's origin, which are no millimetres"
        raise UserError(what, where=where, hint="the data set's own file has about 1400")
    return found


def _read_pose(poses: Zip, frame: int) -> Floats:
    name = f"{frame:06d}.txt"
    where = f"{poses.where}, member {name}"
    try:
        values = np.array([line.split() for line in poses.read(name, 10_000).decode().splitlines() if line.strip()])
    except ValueError as error:
        raise UserError(f"is no matrix ({error})", where=where) from None
    return rigid(matrix(values, where, "the head pose", (3, 4)), where)


def _axes(relative: Floats, where: str) -> tuple[Floats, list[str]]:
    """Rotation from the head pose's axes to ours, by where the cameras' up is; and what it means."""
    up = -relative[:, 1, :3].mean(axis=0)
    if abs(up[1]) < 0.5:
        raise UserError("the head pose's y axis is neither up nor down to the cameras", where=where)
    axes = np.eye(3) if up[1] > 0 else _FLIP
    front = float((camera_centers(relative) @ axes.T)[:, 2].mean())
    said = [
        "axes: the head pose has y up, kept" if up[1] > 0 else "axes: y down and z into the head were turned about x"
    ]
    if front < 0:
        said.append("front: DOUBTFUL, the cameras see the back of the head more than the face; look at it")
    return axes, said


def _keypoints(keypoints: Zip, frame: int, head_to_world: Floats, axes: Floats) -> dict[str, Any]:
    """Ids and places in the canonical frame, metres."""
    name = f"{frame:06d}.npy"
    where = f"{keypoints.where}, member {name}"
    table = read_npy(keypoints.read(name), where)
    if table.size % 6:
        raise UserError(f"keypoints are {list(table.shape)}, not K x 6", where=where)
    table = table.reshape(-1, 6).astype(np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    local = (table[:, 1:4] - head_to_world[:3, 3]) @ head_to_world[:3, :3] / 1000 @ axes.T
    return {"ids": [int(i) for i in table[:, 0]], "points": np.round(local, 5).tolist()}


def _optional(stack: contextlib.ExitStack, source: Source, path: str) -> Zip | None:
    return stack.enter_context(open_zip(source, path)) if source.is_file(path) else None


def _header(data: bytes, where: str) -> ImageHeader:
    try:
        header = read_header(data)
    except ValueError as error:
        raise UserError(f"broken image: {error}", where=where) from None
    if header.suffix != "avif":
        raise UserError(f"broken image: {header.suffix}, not AVIF", where=where)
    return header


def _few(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
