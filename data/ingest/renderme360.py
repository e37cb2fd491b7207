"""RenderMe-360: 60 cameras around the head; pairs of HDF5 files, `ID_PART_raw.smc` and `ID_PART_anno.smc`.

Traps: whether RT is world-to-camera or camera-to-world differs between readers, so both are tried on the keypoints;
the data set's readers decode images to BGR, the bytes themselves are plain JPEG; images, keypoints and FLAME are
missing here and there; FLAME exists for expression parts only.
Source: https://github.com/RenderMe-360/RenderMe-360
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.capture import Capture, check_intrinsics
from data.images import decode, encode_jpeg, encode_png, read_header
from data.ingest.canonical import PLAUSIBLE, UNITS, Similarity, find_canonical
from data.ingest.extrinsics import find_direction
from data.ingest.hdf5 import Hdf5, open_hdf5
from data.ingest.job import Selection, Unit, choose, split
from data.ingest.lens import undistort
from data.ingest.parse import Floats, inverse, matrix, rigid, scale_intrinsics, stamp
from data.ingest.source import Source

FRAMES_PER_UNIT = 32
_FILE = re.compile(r"^(?:.*/)?([A-Za-z0-9]+)_([A-Za-z0-9-]+(?:_[A-Za-z0-9-]+)*)_raw\.smc$")
_FLAME = ("global_pose", "neck_pose", "jaw_pose", "left_eye_pose", "right_eye_pose", "trans", "shape", "exp")
_FACTS = ("age", "height", "weight")


@dataclass(frozen=True)
class RenderMe360:
    """Captures of pairs of SMC files, anywhere beneath the source.

    Attributes:
        parts: names or patterns of performance parts, such as `e*` for expressions; empty for all.
        extrinsics: what RT is; `auto` asks the keypoints.
        lenses: `undistort` resamples every image to a pinhole's; `ignore` keeps bytes and error.
        quality: of the JPEGs that are written where bytes cannot be kept.
    """

    parts: tuple[str, ...] = ()
    extrinsics: Literal["auto", "world_to_camera", "camera_to_world"] = "auto"
    lenses: Literal["undistort", "ignore"] = "undistort"
    quality: int = 95
    name: ClassVar[str] = "renderme360"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """32 frames of one person's part each."""
        entries = {entry.path: entry for entry in source.files()}
        pairs = {(m[1], m[2]): path for path in entries if (m := _FILE.match(path))}
        if not pairs:
            hint = "0026_e0_raw.smc beside 0026_e0_anno.smc"
            raise UserError("there is no file *_raw.smc in it", where=source.where(), hint=hint)
        subjects = set(select.choose_subjects([subject for subject, _ in pairs], source.where()))
        parts = set(choose(sorted({part for _, part in pairs}), self.parts, "part", source.where()))
        for (subject, part), raw in sorted(pairs.items()):
            if subject not in subjects or part not in parts:
                continue
            anno = raw.removesuffix("_raw.smc") + "_anno.smc"
            mark = stamp(entries[path] for path in (raw, anno) if path in entries)
            with open_hdf5(source, raw) as file:
                frames = select.choose_frames(range(_frame_count(file)))
            for number, chosen in enumerate(split(frames, FRAMES_PER_UNIT)):
                details = {"raw": raw, "anno": anno, "part": part, "frames": list(chosen), "first": frames[0]}
                yield Unit(f"{subject}-{part}-{number:04d}", subject, len(chosen), mark, details)

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """Captures in the frame of the FLAME fit where there is one, else in the one that masks and rig tell."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open_hdf5(source, unit.details[kind])) for kind in ("anno", "raw")]
            part = _Part(self, unit.subject, unit.details["part"], files, select)
            frames, gone = part.tracked(unit.details["frames"])
            similarity, how = (None, []) if gone is not None else find_canonical(part.capture(unit.details["first"])[0])
            for frame in frames:
                capture, said = part.capture(frame)
                if gone is not None:
                    similarity, how = part.head(frame)
                    said = said + gone
                assert similarity is not None
                meta = part.meta(frame, similarity)
                yield replace(similarity.apply(capture), meta={**meta, "ingest": [*said, *how]})


@dataclass(frozen=True)
class _Lens:
    K: Floats
    world_to_camera: Floats
    distortion: Floats


class _Part:
    """One person's performance: both files, the cameras that are wanted."""

    def __init__(self, form: RenderMe360, subject: str, part: str, files: list[Hdf5], select: Selection) -> None:
        self.form, self.subject, self.part, self._files = form, subject, part, files
        self.resolution = self._resolution()
        found = self.names("Calibration")
        if not found:
            raise UserError("holds no Calibration", where=files[0].where)
        K, RT, D = zip(*(self._calibration(camera) for camera in found), strict=True)
        forward, self.said = self._direction(found, np.stack(K), np.stack(RT))
        self.lenses = {camera: _Lens(K[i], forward[i], D[i]) for i, camera in enumerate(found)}
        self.cameras = select.choose_cameras(found, f"subject {subject}, part {part}")

    def names(self, path: str) -> list[str]:
        """What a group holds, in whichever file it is."""
        return next((names for file in self._files if (names := file.names(path))), [])

    def tracked(self, frames: list[int]) -> tuple[list[int], list[str] | None]:
        """Those frames that have a FLAME fit, and what to say of the others; all and None where no frame has one."""
        if not self.names("FLAME"):
            return frames, None
        good = [frame for frame in frames if self._has(f"FLAME/{frame}/verts")]
        lost = [str(frame) for frame in frames if frame not in good]
        if not good:
            where = f"subject {self.subject}, part {self.part}, frames {lost[0]} to {lost[-1]}"
            raise UserError("not one of them has a FLAME fit, but others do", where=where)
        return good, [f"frames without a FLAME fit were left out: {', '.join(lost)}"] if lost else []

    def capture(self, frame: int) -> tuple[Capture, list[str]]:
        """A frame in the data set's own world, and what was done to it."""
        where = f"capture {self.subject}_{self.part}_{frame:04d}"
        present = [camera for camera in self.cameras if self._has(f"Camera/{camera}/color/{frame}")]
        missing = [camera for camera in self.cameras if camera not in present]
        if not present:
            raise UserError("not one of the cameras has an image", where=where)
        views = [self._view(camera, frame, f"{where}, camera {camera}") for camera in present]
        notes = list(dict.fromkeys(note for view in views for note in view[4]))
        gone = [f"images missing: {', '.join(missing)}"] if missing else []
        capture = Capture(
            subject=self.subject,
            frame=f"{self.part}_{frame:04d}",
            cameras=tuple(present),
            world_to_camera=np.stack([self.lenses[camera].world_to_camera for camera in present]),
            K=np.stack([view[1] for view in views]),
            sizes=tuple(view[2] for view in views),
            images=tuple(view[0] for view in views),
            masks=tuple(view[3] for view in views),
        )
        return capture, [*self.said, *notes, *gone]

    def head(self, frame: int) -> tuple[Similarity, list[str]]:
        """Into the canonical frame by the FLAME fit of a frame."""
        path = f"FLAME/{frame}"
        where = self._where(path)
        turn = [Rotation.from_rotvec(self._numbers(f"{path}/{key}", (3,))) for key in ("global_pose", "neck_pose")]
        rotation = (turn[0] * turn[1]).as_matrix().T
        vertices = self._numbers(f"{path}/verts", (5023, 3)) @ rotation.T
        # FLAME's ears stick out farthest; the neck, which may be wider, is in the lower half.
        upper = vertices[vertices[:, 1] >= (vertices[:, 1].min() + vertices[:, 1].max()) / 2]
        ears = upper[[int(np.argmin(upper[:, 0])), int(np.argmax(upper[:, 0]))]]
        width = float(ears[1, 0] - ears[0, 0])
        for unit, factor in UNITS.items():
            if PLAUSIBLE[0] <= width * factor <= PLAUSIBLE[1]:
                apart = f"{width * factor:.3f} m apart"
                said = f"frame: by the FLAME fit of the moment, in {unit}; origin between its ears, {apart}"
                return Similarity(rotation, ears.mean(axis=0), factor), [said]
        raise UserError(f"the FLAME head is {width:.4g} units wide, which no unit of length explains", where=where)

    def meta(self, frame: int, similarity: Similarity) -> dict[str, Any]:
        """What the data set knows of a frame: facts of the person, FLAME, keypoints in the canonical frame."""
        facts = {key: _plain(self._files[-1].attribute("", key)) for key in _FACTS}
        meta: dict[str, Any] = {"source": self.form.name, "part": self.part, "frame_id": frame}
        meta["person"] = {key: value for key, value in facts.items() if value is not None}
        if found := self.names(f"FLAME/{frame}"):
            flame = {key: self._array(f"FLAME/{frame}/{key}").ravel().astype(float) for key in _FLAME if key in found}
            if not all(np.isfinite(value).all() for value in flame.values()):
                raise UserError("NaN or infinity in the FLAME fit", where=self._where(f"FLAME/{frame}"))
            meta["flame"] = {key: value.tolist() for key, value in flame.items()}
        meta["world_to_head"] = {
            "rotation": similarity.rotation.tolist(),
            "center": similarity.center.tolist(),
            "scale": similarity.scale,
        }
        if (points := self._keypoints3d(frame)) is not None:
            meta["keypoints"] = {"ids": list(range(len(points))), "points": _rounded(similarity.points(points))}
        return meta

    def _file(self, path: str) -> Hdf5 | None:
        return next((file for file in self._files if path in file), None)

    def _has(self, path: str) -> bool:
        # Where nothing was detected there may be nothing, an empty group or an empty array.
        return any(file.holds_array(path) for file in self._files)

    def _where(self, path: str) -> str:
        return f"{(self._file(path) or self._files[0]).where}, {path}"

    def _array(self, path: str) -> Any:
        return (self._file(path) or self._files[0]).array(path)

    def _numbers(self, path: str, *shapes: tuple[int, ...]) -> Floats:
        found = self._array(path)
        found = found.reshape(shapes[0]) if found.size == np.prod(shapes[0]) else found
        return matrix(found, self._where(path), "it", *shapes)

    def _resolution(self) -> tuple[int, int] | None:
        """The two sides that the file states for its images."""
        stated = next((v for file in self._files if (v := file.attribute("Camera", "resolution")) is not None), None)
        if stated is None:
            return None
        found = matrix(stated, self._files[-1].where, "the attribute resolution of Camera", (2,))
        return round(found[0]), round(found[1])

    def _calibration(self, camera: str) -> tuple[Floats, Floats, Floats]:
        path = f"Calibration/{camera}"
        where = f"{self._where(path)}, camera {camera}"
        K = self._numbers(f"{path}/K", (3, 3))
        check_intrinsics(K, where)
        RT = self._numbers(f"{path}/RT", (4, 4), (3, 4))
        has_lens = self._file(f"{path}/D") is not None
        D = self._array(f"{path}/D").ravel() if has_lens else np.zeros(5)
        return K, rigid(RT, where), matrix(D, where, "D", (5,), (4,))

    def _direction(self, cameras: list[str], K: Floats, RT: Floats) -> tuple[Floats, list[str]]:
        if self.form.extrinsics != "auto":
            forward = RT if self.form.extrinsics == "world_to_camera" else np.stack([inverse(one) for one in RT])
            return forward, [f"cameras: RT was taken as {self.form.extrinsics.replace('_', '-')}, as told"]
        for name in self.names("Keypoints3d"):
            points = self._keypoints3d(int(name)) if name.isdigit() else None
            if points is not None:
                seen = {camera: self._keypoints2d(camera, int(name), len(points)) for camera in cameras}
                seen = {camera: pixels for camera, pixels in seen.items() if pixels is not None}
                where = f"subject {self.subject}, part {self.part}"
                return find_direction(cameras, K, RT, points, seen, where)
        hint = "say what RT is: the option extrinsics"
        raise UserError("there are no Keypoints3d that tell what RT is", where=self._files[0].where, hint=hint)

    def _keypoints3d(self, frame: int) -> Floats | None:
        path = f"Keypoints3d/{frame}"
        if not self._has(path) or not (found := self._array(path)).size:
            return None
        if found.ndim != 2 or found.shape[1] not in (3, 4):
            raise UserError(f"keypoints are {list(found.shape)}, not K x 3", where=self._where(path))
        return matrix(found[:, :3], self._where(path), "it", (len(found), 3))

    def _keypoints2d(self, camera: str, frame: int, count: int) -> Floats | None:
        path = f"Keypoints2d/{camera}/{frame}"
        if not self._has(path) or not (found := self._array(path)).size:
            return None
        return self._numbers(path, (count, 2)) if found.shape == (count, 2) else None

    def _view(
        self, camera: str, frame: int, where: str
    ) -> tuple[bytes, Floats, tuple[int, int], bytes | None, list[str]]:
        """Encoded image, K for it, its size, mask, and what was done."""
        lens, data = self.lenses[camera], self._array(f"Camera/{camera}/color/{frame}").astype(np.uint8).tobytes()
        bent = bool(np.any(lens.distortion))
        try:
            header = read_header(data)
            pixels = decode(data)
            mask = self._mask(camera, frame)
        except ValueError as error:
            raise UserError(f"broken image or mask: {error}", where=where) from None
        size, notes, K = (header.height, header.width), [], lens.K
        if self.resolution is not None and sorted(size) != sorted(self.resolution):
            # The order of the attribute is not documented; the image knows whether it is upright.
            short, long = min(self.resolution), max(self.resolution)
            stated = (short, long) if size[0] < size[1] else (long, short)
            K = scale_intrinsics(K, stated, size, where)
            notes.append(f"intrinsics: scaled from {stated[1]} x {stated[0]} to {size[1]} x {size[0]}")
        if bent and self.form.lenses == "undistort":
            data = encode_jpeg(undistort(pixels, K, lens.distortion), self.form.quality)
            mask = None if mask is None else undistort(mask, K, lens.distortion)
            notes.append(f"lenses: undistorted, and written as JPEG of quality {self.form.quality}")
        elif bent:
            notes.append("lenses: distortion was ignored, images are as they were")
        return data, K, size, None if mask is None else encode_png(mask), notes

    def _mask(self, camera: str, frame: int) -> np.ndarray | None:
        path = f"Camera/{camera}/mask/{frame}"
        if self._file(path) is None:
            return None
        # The data set's reader takes the largest channel.
        return decode(self._array(path).astype(np.uint8).tobytes(), 3).max(axis=2)


def _frame_count(file: Hdf5) -> int:
    count = file.attribute("Camera", "num_frame")
    if count is None:
        cameras = file.names("Camera")
        count = len(file.names(f"Camera/{cameras[0]}/color")) if cameras else 0
    found = int(matrix(np.ravel(count)[:1], file.where, "the attribute num_frame of Camera", (1,))[0])
    if not 0 < found < 10**6:
        raise UserError(f"{found} frames in Camera", where=file.where)
    return found


def _rounded(points: Floats) -> list[list[float]]:
    return np.round(points, 5).tolist()


def _plain(value: Any) -> float | None:
    """An attribute as a JSON number."""
    found = np.asarray(value, np.float64) if value is not None else np.zeros(0)
    return float(found.ravel()[0]) if found.size == 1 and np.isfinite(found).all() else None
