"""Folders in the nerfstudio and Blender convention: transforms.json beside images and masks.

The file's cameras are OpenGL camera-to-world (x right, y up, z backwards); captures hold OpenCV world-to-camera.
Source: https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import MAX_CAMERA, Capture, check_extrinsics
from data.images import decode, encode_png, read_header
from data.ingest.canonical import canonical
from data.manifest import DatasetInfo, commit
from data.shards import ShardPart, existing_shards, write_shard

FILE = "transforms.json"
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

Report = Callable[[str], object]


def read_nerfstudio(
    folder: str | Path, *, subject: str | None = None, frame: str = "0", front: str | None = None
) -> Capture:
    """Read a folder as one capture in the canonical head frame; `meta["ingest"]` says what was done.

    Args:
        folder: holds transforms.json.
        subject: the person's name; the folder's by default.
        frame: the moment's name.
        front: a camera that looks straight at the face, where the file's +z is not the front.

    Raises:
        UserError: anything that is missing, broken or not a pinhole camera, naming capture and camera.
    """
    folder = Path(folder)
    tree = _read_tree(folder)
    entries = tree.get("frames")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError("has no frames", where=f"{folder / FILE}", hint='"frames": [{"file_path": ...}, ...]')
    subject = subject or _word(folder.resolve().name)
    views = [_read_view(folder, tree, entry, name, subject) for name, entry in _named(entries)]
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
    capture, said = canonical(capture, front)
    said = ["cameras: OpenGL camera-to-world turned into OpenCV world-to-camera", *_notes(views), *said]
    return replace(capture, meta={"source": "nerfstudio", "ingest": said})


def ingest(
    folders: Sequence[str | Path],
    url: str,
    report: Report = print,
    *,
    licence: str = "unknown",
    per_shard: int = 64,
    front: str | None = None,
) -> DatasetInfo:
    """Convert nerfstudio folders to a dataset; goes on where an interrupted call stopped.

    Args:
        folders: each a capture, or a folder of captures.
        url: the dataset to write.
        report: is told, line by line, what was found and done.
        licence: travels with the dataset.
        per_shard: captures per shard.
        front: as in `read_nerfstudio`, for all of them.

    Raises:
        UserError: the first folder that cannot be converted; what was written before it stays.
    """
    found = [capture for folder in folders for capture in captures_in(Path(folder))]
    done, parts = existing_shards(url), []
    for number, start in enumerate(range(0, len(found), per_shard)):
        group = found[start : start + per_shard]
        note = _note(group, front)
        old = done.get(number)
        if old is not None and old.note == note:
            report(f"shard {number}: {len(group)} captures are there already")
            parts.append(old)
            continue
        parts.append(_write(url, number, group, note, front, report))
    sources = [folder.resolve().name for folder in found]
    return commit(url, parts, licence, {"made by": "headway data ingest nerfstudio", "folders": sources})


def captures_in(folder: Path) -> list[Path]:
    """The folder itself where it holds transforms.json, else its children that do."""
    if (folder / FILE).is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder))
    found = sorted(child for child in folder.iterdir() if (child / FILE).is_file())
    if not found:
        raise UserError(f"there is no {FILE} in it", where=f"capture {folder}", hint="or folders that hold one each")
    return found


def _write(url: str, number: int, group: list[Path], note: str, front: str | None, report: Report) -> ShardPart:
    def captures() -> Iterator[Capture]:
        for folder in group:
            capture = read_nerfstudio(folder, front=front)
            report(f"{folder}: capture {capture.name}, {len(capture.cameras)} cameras")
            for line in capture.meta["ingest"]:
                report(f"  {line}")
            yield capture

    return write_shard(url, number, captures(), note)


def _note(group: list[Path], front: str | None) -> str:
    """Changes whenever the folders or their cameras do."""
    content = hashlib.sha256(repr(front).encode())
    for folder in group:
        content.update(str(folder.resolve()).encode() + (folder / FILE).read_bytes())
    return content.hexdigest()


def _read_tree(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder))
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"there is no {FILE} in it", where=f"capture {folder}", hint="a nerfstudio folder holds one")
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", where=str(path)) from None
    if not isinstance(tree, dict):
        raise UserError("is no mapping", where=str(path))
    return tree


def _named(entries: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """A camera name for every frame: its file's, numbered where that is not enough to tell them apart."""
    names = [_word(Path(str(entry.get("file_path", ""))).stem)[:MAX_CAMERA] for entry in entries]
    if len({name.lower() for name in names}) < len(names):
        names = [f"cam_{number:03d}" for number in range(len(entries))]
    return list(zip(names, entries, strict=True))


def _read_view(folder: Path, tree: dict[str, Any], entry: dict[str, Any], name: str, subject: str) -> dict[str, Any]:
    where = f"capture {subject}, camera {name}"
    settings = {**tree, **entry}
    _refuse_lenses(settings, where)
    image = _read_file(folder, entry.get("file_path"), where, ("", ".png", ".jpg", ".jpeg", ".webp"))
    mask = _read_file(folder, entry["mask_path"], where, ("",)) if entry.get("mask_path") else None
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


def _extrinsics(matrix: Any, where: str) -> NDArray[np.float64]:
    """OpenCV world-to-camera of an OpenGL camera-to-world matrix, made exactly rigid."""
    try:
        camera_to_world = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        camera_to_world = np.zeros(0)
    if camera_to_world.shape == (3, 4):
        camera_to_world = np.vstack([camera_to_world, [0, 0, 0, 1]])
    if camera_to_world.shape != (4, 4):
        raise UserError("transform_matrix is not 4 x 4 numbers", where=where)
    check_extrinsics(camera_to_world, where)
    left, _, right = np.linalg.svd((camera_to_world @ _FLIP)[:3, :3])
    rotation = (left @ right).T
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ camera_to_world[:3, 3]
    return world_to_camera


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


def _read_file(folder: Path, name: Any, where: str, suffixes: Sequence[str]) -> bytes:
    """A file that the JSON names, inside the folder."""
    if not isinstance(name, str) or not name:
        raise UserError("missing camera: it names no file", where=where, hint='"file_path": "images/..."')
    for suffix in suffixes:
        path = (folder / (name + suffix)).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise UserError(f"{name!r} leads out of the folder", where=where)
        if path.is_file():
            return path.read_bytes()
    raise UserError(f"missing camera: there is no file {name!r}", where=where)


def _pixels(image: bytes, mask: bytes | None, where: str) -> tuple[bytes, bytes | None, list[str]]:
    """Image without alpha and mask as one-channel PNG; untouched where they are so already."""
    notes: list[str] = []
    try:
        if read_header(image).suffix != "jpg" and (pixels := decode(image, 4))[..., 3].min() < 255:
            alpha = pixels[..., 3:].astype(np.uint16)
            color = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
            image = encode_png(color.astype(np.uint8))
            notes.append("images: alpha was taken as the mask and the background made white")
            mask = mask or encode_png(np.ascontiguousarray(pixels[..., 3]))
        if mask is not None:
            mask, changed = _gray(mask)
            notes += changed
    except ValueError as error:
        raise UserError(f"broken image or mask: {error}", where=where) from None
    return image, mask, notes


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


def _word(text: str) -> str:
    """A name of the characters that captures allow."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_") or "capture"
