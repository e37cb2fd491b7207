"""Folders in the nerfstudio and Blender convention: transforms.json beside images and masks.

The files' cameras are OpenGL camera-to-world (x right, y up, z backwards); captures hold OpenCV world-to-camera.
Source: https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import MAX_CAMERA, Capture
from data.images import decode, encode_png, read_header
from data.ingest.canonical import find_canonical
from data.ingest.job import Selection, Unit
from data.ingest.parse import inverse, matrix, read_json, rigid, word
from data.ingest.pixels import split_alpha
from data.ingest.source import Source

FILE = "transforms.json"
SPLITS = re.compile(r"^transforms_[A-Za-z0-9]+\.json$")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Nerfstudio:
    """Captures of `transforms.json` (nerfstudio) or `transforms_*.json` (Blender; the splits are one capture).

    Attributes:
        front: a camera that looks straight at the face, where the files' +z is not the front.
    """

    front: str | None = None
    name: ClassVar[str] = "nerfstudio"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """The source itself where it is a capture, else the folders in it that are."""
        folders = captures_in(source)
        words = {word(Path(folder or source.where()).name): folder for folder in folders}
        if len(words) < len(folders):
            raise UserError("two folders would be the same subject", where=source.where())
        for subject in select.choose_subjects(words, source.where()):
            folder = words[subject]
            content = hashlib.sha256()
            for name in _json_files(source, folder):
                content.update(source.read(_join(folder, name)))
            moments = len(_moments(_read_tree(source, folder)))
            moments = len(select.choose_frames(range(moments)))
            yield Unit(subject, subject, moments, content.hexdigest(), {"folder": folder})

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """One capture per moment (`timestep_index`), all moved alike into the canonical head frame."""
        folder, subject = unit.details["folder"], unit.subject
        tree = _read_tree(source, folder)
        moments = _moments(tree)
        similarity = None
        for frame in select.choose_frames(sorted(moments)):
            wanted = select.choose_cameras([name for name, _ in moments[frame]], f"capture {subject}_{frame}")
            entries = [(name, entry) for name, entry in moments[frame] if name in wanted]
            capture, said = _read_capture(source, folder, tree, entries, subject, frame)
            if similarity is None:
                similarity, how = find_canonical(capture, self.front)
            yield replace(similarity.apply(capture), meta={"source": self.name, "ingest": [*said, *how]})


def read_nerfstudio(
    folder: str | Path, *, subject: str | None = None, frame: str | None = None, front: str | None = None
) -> Capture:
    """Read a folder as one capture in the canonical head frame; `meta["ingest"]` says what was done.

    Args:
        folder: holds transforms.json or transforms_*.json.
        subject: the person's name; the folder's by default.
        frame: the moment, where there are several.
        front: a camera that looks straight at the face, where the file's +z is not the front.

    Raises:
        UserError: anything that is missing, broken or not a pinhole camera, naming capture and camera.
    """
    source = Source(folder)
    moments = _moments(_read_tree(source, ""))
    if frame is None and len(moments) > 1:
        hint = f"headway data ingest nerfstudio {folder} --out DATASET"
        raise UserError(f"holds {len(moments)} moments, not one capture", where=f"capture {folder}", hint=hint)
    if frame is not None and frame not in moments:
        raise UserError(f"has no moment {frame!r}", where=f"capture {folder}")
    subject = subject or word(Path(source.where()).name)
    unit = Unit(subject, subject, details={"folder": ""})
    found = Nerfstudio(front).captures(source, unit, Selection())
    return next(capture for capture in found if frame in (None, capture.frame))


def read_as_given(folder: str | Path) -> Capture:
    """A folder's first moment in the file's own frame, its cameras believed: to look at (`headway data check-cameras`).

    Raises:
        UserError: as `read_nerfstudio`, but for cameras and images that do not fit together.
    """
    source = Source(folder)
    tree = _read_tree(source, "")
    frame, named = next(iter(_moments(tree).items()))
    return _read_capture(source, "", tree, named, word(Path(source.where()).name), frame)[0]


def captures_in(source: Source) -> list[str]:
    """The source itself (as an empty path) where it holds transforms, else the folders in it that do."""
    if _json_files(source, ""):
        return [""]
    found = [folder for folder in source.list()[0] if _json_files(source, folder)]
    if not found:
        hint = "or folders that hold one each"
        raise UserError(f"there is no {FILE} in it", where=f"capture {source.where()}", hint=hint)
    return found


def is_capture(folder: str | Path) -> bool:
    """Whether a folder holds transforms."""
    return Path(folder).is_dir() and bool(_json_files(Source(folder), ""))


def _json_files(source: Source, folder: str) -> list[str]:
    """`transforms.json`, or else Blender's splits."""
    names = [entry.path.rsplit("/", 1)[-1] for entry in source.list(folder)[1]]
    return [FILE] if FILE in names else [name for name in names if SPLITS.match(name)]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _read_tree(source: Source, folder: str) -> dict[str, Any]:
    """The file's mapping; of several files one, whose frames hold what each file says for all of its own."""
    names = _json_files(source, folder)
    if not names:
        where = f"capture {source.where(folder)}"
        raise UserError(f"there is no {FILE} in it", where=where, hint="a nerfstudio folder holds one")
    trees = [_read_file_of_frames(source, _join(folder, name)) for name in names]
    if len(trees) == 1:
        return trees[0]
    frames = []
    for tree in trees:
        rest = {key: value for key, value in tree.items() if key != "frames"}
        frames += [{**rest, **frame} for frame in tree["frames"]]
    # A train, a validation and a test file may name the same picture.
    return {"frames": list({posixpath.normpath(str(frame.get("file_path"))): frame for frame in frames}.values())}


def _read_file_of_frames(source: Source, path: str) -> dict[str, Any]:
    tree = read_json(source, path)
    entries = tree.get("frames")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError("has no frames", where=source.where(path), hint='"frames": [{"file_path": ...}, ...]')
    return tree


def _moments(tree: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Entries with their camera names by moment: all at one, unless every entry has a `timestep_index`."""
    entries = tree["frames"]
    steps = [entry.get("timestep_index") for entry in entries]
    if not all(isinstance(step, int) and step >= 0 for step in steps):
        return {"0": _named(entries)}
    grouped: dict[int, list[dict[str, Any]]] = {}
    for step, entry in zip(steps, entries, strict=True):
        grouped.setdefault(step, []).append(entry)
    width = len(str(max(grouped)))
    return {f"{step:0{width}d}": _named(grouped[step]) for step in sorted(grouped)}


def _read_capture(
    source: Source, folder: str, tree: dict[str, Any], named: list[tuple[str, dict[str, Any]]], subject: str, frame: str
) -> tuple[Capture, list[str]]:
    """Entries as a capture in the file's own frame, and what was done to them."""
    views = [_read_view(source, folder, tree, entry, name, subject) for name, entry in named]
    capture = Capture(
        subject=subject,
        frame=frame,
        cameras=tuple(view["camera"] for view in views),
        world_to_camera=np.stack([view["world_to_camera"] for view in views]),
        K=np.stack([view["K"] for view in views]),
        sizes=tuple(view["size"] for view in views),
        images=tuple(view["image"] for view in views),
        masks=tuple(view["mask"] for view in views),
    )
    capture.validate(pixels=True)
    return capture, ["cameras: OpenGL camera-to-world turned into OpenCV world-to-camera", *_notes(views)]


def _named(entries: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """A camera name for every frame: its file's, numbered where that is not enough to tell them apart."""
    names = [word(str(entry.get("camera_id") or Path(str(entry.get("file_path", ""))).stem)) for entry in entries]
    names = [name[:MAX_CAMERA] for name in names]
    if len({name.lower() for name in names}) < len(names):
        names = [f"cam_{number:03d}" for number in range(len(entries))]
    return list(zip(names, entries, strict=True))


def _read_view(
    source: Source, folder: str, tree: dict[str, Any], entry: dict[str, Any], name: str, subject: str
) -> dict[str, Any]:
    where = f"capture {subject}, camera {name}"
    settings = {**tree, **entry}
    _refuse_lenses(settings, where)
    image = _read_file(source, folder, entry.get("file_path"), where, ("", ".png", ".jpg", ".jpeg", ".webp"))
    given = entry.get("mask_path") or entry.get("fg_mask_path")
    mask = _read_file(source, folder, given, where, ("",)) if given else None
    image, mask, notes = _pixels(image, mask, where)
    header = read_header(image)
    size = (header.height, header.width)
    K, scaled = _intrinsics(settings, size, where)
    return {
        "camera": name,
        "image": image,
        "mask": mask,
        "size": size,
        "K": K,
        "world_to_camera": _extrinsics(entry.get("transform_matrix"), where),
        "notes": notes + scaled,
    }


def _refuse_lenses(settings: dict[str, Any], where: str) -> None:
    model = settings.get("camera_model", "OPENCV")
    hint = "undistort the images first, for example with `colmap image_undistorter`"
    if model not in PINHOLES:
        raise UserError(f"camera model {model!r} is not a pinhole", where=where, hint=hint)
    bent = [key for key in DISTORTION if settings.get(key)]
    if bent:
        raise UserError(f"the lens distorts ({', '.join(f'{k}={settings[k]}' for k in bent)})", where=where, hint=hint)


def _extrinsics(value: Any, where: str) -> NDArray[np.float64]:
    """OpenCV world-to-camera of an OpenGL camera-to-world matrix, made exactly rigid."""
    return inverse(rigid(matrix(value, where, "transform_matrix", (4, 4), (3, 4)), where) @ _FLIP)


def _intrinsics(settings: dict[str, Any], size: tuple[int, int], where: str) -> tuple[NDArray[np.float64], list[str]]:
    """K for the image as it is; the file's may speak of a larger or smaller one."""
    height, width = _number(settings, "h", size[0], where), _number(settings, "w", size[1], where)
    if abs(width / height * size[0] / size[1] - 1) > 0.01 or min(width, height) < 1:
        raise UserError(f"the image is {size[1]} x {size[0]}, the file says {width:g} x {height:g}", where=where)
    fx = _focal(settings, "x", width, where)
    if fx is None:
        raise UserError("has neither fl_x nor camera_angle_x", where=where)
    fy = _focal(settings, "y", height, where) or fx
    cx, cy = _number(settings, "cx", width / 2, where), _number(settings, "cy", height / 2, where)
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if (height, width) == size:
        return K, []
    scale = np.diag([size[1] / width, size[0] / height, 1.0])
    return scale @ K, [f"intrinsics: scaled from {width:g} x {height:g} to {size[1]} x {size[0]} pixels"]


def _focal(settings: dict[str, Any], axis: str, extent: float, where: str) -> float | None:
    if f"fl_{axis}" in settings:
        return _number(settings, f"fl_{axis}", 0.0, where)
    if f"camera_angle_{axis}" not in settings:
        return None
    angle = _number(settings, f"camera_angle_{axis}", 0.0, where)
    if not 0 < angle < np.pi:
        raise UserError(f"camera_angle_{axis} of {angle:g} is not an angle in radians", where=where)
    return float(extent / 2 / np.tan(angle / 2))


def _number(settings: dict[str, Any], key: str, default: float, where: str) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(f"{key} is {value!r}, not a number", where=where)
    return float(value)


def _read_file(source: Source, folder: str, name: Any, where: str, suffixes: Sequence[str]) -> bytes:
    """A file that the JSON names, inside the folder."""
    if not isinstance(name, str) or not name:
        raise UserError("missing camera: it names no file", where=where, hint='"file_path": "images/..."')
    clean = posixpath.normpath(name)
    if clean.startswith(("/", "..")):
        raise UserError(f"{name!r} leads out of the folder", where=where)
    for suffix in suffixes:
        if source.is_file(_join(folder, clean + suffix)):
            return source.read(_join(folder, clean + suffix))
    raise UserError(f"missing camera: there is no file {name!r}", where=where)


def _pixels(image: bytes, mask: bytes | None, where: str) -> tuple[bytes, bytes | None, list[str]]:
    """Image without alpha and mask as one-channel PNG; untouched where they are so already."""
    image, alpha, _, notes = split_alpha(image, where)
    mask = mask or alpha
    if mask is None:
        return image, None, notes
    try:
        mask, changed = _gray(mask)
    except ValueError as error:
        raise UserError(f"broken mask: {error}", where=where) from None
    return image, mask, notes + changed


def _gray(mask: bytes) -> tuple[bytes, list[str]]:
    """A mask as 8-bit one-channel PNG, the file itself where it is that already; and what was done."""
    coverage = decode(mask, 1)
    if coverage.max() == 1:
        return encode_png(coverage * np.uint8(255)), ["masks: 0 and 1 were taken as 0 and 255"]
    # A PNG's header holds bit depth and colour type at these places.
    plain = read_header(mask).suffix == "png" and mask[24:26] == b"\x08\x00"
    return mask if plain else encode_png(coverage), []


def _notes(views: list[dict[str, Any]]) -> list[str]:
    """Every note once, in order."""
    return list(dict.fromkeys(note for view in views for note in view["notes"]))
