"""Which files make a clip, and whose clip it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from configs.errors import UserError
from data.ingest.parse import word
from data.ingest.pixels import IMAGES
from data.ingest.source import Entry

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
FRAMES, MASKS = ("images", "frames", "imgs", "rgb"), ("fg_masks", "alpha_maps", "masks", "mask")
# VFHQ: Clip+VIDEO+P0+C2+F1500-1700. CelebV-HQ: VIDEO_3. A YouTube video's name has eleven characters.
_PERSONS = (
    re.compile(r"^Clip\+(?P<person>.{11}\+P\d+)\+(?P<clip>C\d+\+F\d+-\d+)$"),
    re.compile(r"^(?P<person>[A-Za-z0-9_-]{11})_(?P<clip>\d+(?:_\d+)*)$"),
)
_LONGEST = 28


@dataclass(frozen=True)
class Clip:
    """One clip: its name and person, its tracking, and a video or frames (and masks) in order."""

    name: str
    person: str
    part: str
    tracking: str
    video: str
    frames: tuple[str, ...]
    masks: tuple[str, ...]
    entries: tuple[Entry, ...]


def find_clips(entries: Iterable[Entry], where: str) -> Iterator[Clip]:
    """Clips among files: every npz beside a video of its name, or in a folder with frames.

    Of several npz of a folder, such as `tracked_flame_params_10.npz` and `_30.npz`, the highest number counts.

    Raises:
        UserError: an npz without pictures, a folder with frames in two places, masks that do not pair with frames.
    """
    by_path = {entry.path: entry for entry in entries}
    folders: dict[str, list[str]] = {}
    for path in by_path:
        folders.setdefault(str(PurePosixPath(path).parent), []).append(path)
    for folder, paths in sorted(folders.items()):
        alone: list[str] = []
        for path in sorted(path for path in paths if path.endswith(".npz")):
            video = next((path[:-4] + suffix for suffix in VIDEOS if path[:-4] + suffix in by_path), None)
            if video is None:
                alone.append(path)
            else:
                yield _clip(PurePosixPath(path).stem, path, video, (), (), by_path)
        if alone:
            yield _folder(folder, max(alone, key=_number), folders, by_path, where)


def _folder(folder: str, tracking: str, folders: dict[str, list[str]], by_path: dict[str, Entry], where: str) -> Clip:
    inside = {
        name: folder if not name else (name if folder == "." else f"{folder}/{name}") for name in ("", *FRAMES, *MASKS)
    }
    held = {
        name: sorted(p for p in folders.get(path, []) if p.lower().endswith(IMAGES)) for name, path in inside.items()
    }
    name = PurePosixPath(where).name if folder == "." else PurePosixPath(folder).name
    where = f"{where}/{folder}" if folder != "." else where
    places = [place for place in ("", *FRAMES) if held[place]]
    videos = [path for path in folders[folder] if path.lower().endswith(VIDEOS)]
    if len(places) + len(videos) != 1:
        found = [inside[place] for place in places] + videos
        what = f"frames in {' and in '.join(found)}" if found else "no video and no frames"
        hint = "CLIP.mp4 beside CLIP.npz, or CLIP/tracking.npz with CLIP/images/*.png"
        raise UserError(f"{what} beside {PurePosixPath(tracking).name}", where=where, hint=hint)
    frames = held[places[0]] if places else []
    masks = next((held[place] for place in MASKS if held[place]), [])
    if masks and frames and [PurePosixPath(p).stem for p in masks] != [PurePosixPath(p).stem for p in frames]:
        raise UserError("masks and frames do not have the same names", where=where)
    return _clip(name, tracking, videos[0] if videos else "", tuple(frames), tuple(masks if frames else ()), by_path)


def _clip(
    name: str, tracking: str, video: str, frames: tuple[str, ...], masks: tuple[str, ...], by_path: dict[str, Entry]
) -> Clip:
    match = next((found for pattern in _PERSONS if (found := pattern.match(name))), None)
    person, part = (match["person"], match["clip"]) if match else (name, "")
    files = tuple(by_path[path] for path in (tracking, video, *frames, *masks) if path)
    return Clip(name, _short(person), word(part) if part else "", tracking, video, frames, masks, files)


def _short(name: str) -> str:
    """A subject's name; what it loses on the way, a few digits of its hash stand for."""
    found = word(name)
    if found == name and len(found) <= _LONGEST:
        return found
    return f"{found[: _LONGEST - 7].strip('-_') or 'clip'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _number(path: str) -> tuple[int, str]:
    digits = re.findall(r"\d+", PurePosixPath(path).stem)
    return (int(digits[-1]) if digits else -1, path)
