"""EG3D's labels: `dataset.json` beside one-view images (FFHQ and sets in its likeness), as a folder or a zip.

A label is 25 numbers: a camera-to-world matrix of 16 with OpenCV axes, and K of 9 in shares of the image. The world has
+y up and the face along +z, as the canonical frame has; what differs are unit and origin.

Unit. EG3D's preparation multiplies Deep3DFaceRecon's camera positions, which are in decimetres, by 0.27: a unit is
0.1 m / 0.27 = 0.370 m, and the radius of 2.7 is a metre.

Origin. The preparation then adds (0, 0.006, 0.161), so that the middle of the face's surface, Deep3DFaceRecon's origin,
lies there. On the canonical template that middle is at (0, -0.026, 0.063) m; EG3D's origin is therefore at
(0, -0.028, 0.003) m, within about a centimetre. Every face was brought to the same size and radius: sizes of people are
not told apart by such labels.

Traps: K is normalised; a file `*_mirror` shows the same person mirrored and must not land in another split; rebalanced
lists name a file several times.
Source: https://github.com/NVlabs/eg3d, dataset_preprocessing/ffhq
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from configs.errors import UserError
from data.capture import Capture, check_intrinsics
from data.ingest.archive import Zip, open_zip
from data.ingest.job import Selection, Unit, split
from data.ingest.parse import Floats, inverse, matrix, rigid, word
from data.ingest.pixels import split_alpha
from data.ingest.source import Source

LABELS = "dataset.json"
METRES = 0.1 / 0.27
"""Metres in a unit of EG3D's world."""
ORIGIN = np.array([0.0, -0.028, 0.003])
"""EG3D's origin in the canonical frame, metres."""
PIVOT = np.array([0.0, 0.0, 0.2])
"""What EG3D's cameras look at, about, in its units."""
IMAGES_PER_UNIT = 256
_AWAY = 0.35  # of the distance: how far from the optical axis the pivot may lie


@dataclass(frozen=True)
class Eg3d:
    """Images with EG3D labels; every image is a capture of one view.

    Attributes:
        mirrors: keep `*_mirror` files too, as a second frame of the same person.
    """

    mirrors: bool = True
    name: ClassVar[str] = "eg3d"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """256 people each."""
        with _opened(source) as files:
            people = _people(_labels(files), files.where, self.mirrors)
            chosen = select.choose_subjects(people, files.where)
            for number, names in enumerate(split(chosen, IMAGES_PER_UNIT)):
                entries = [[person, *entry] for person in names for entry in people[person]]
                digest = hashlib.sha256((files.version + json.dumps(entries)).encode()).hexdigest()[:32]
                yield Unit(f"part-{number:05d}", names[0], len(entries), digest, {"entries": entries})

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """One capture per image."""
        with _opened(source) as files:
            for person, frame, file, label in unit.details["entries"]:
                where = f"capture {person}_{frame}, {file}"
                yield self._capture(person, frame, files.read(file), label, where)

    def _capture(self, person: str, frame: str, data: bytes, label: Any, where: str) -> Capture:
        image, mask, size, said = split_alpha(data, where)
        world_to_camera, K = _camera(label, size, where)
        said = ["cameras: camera-to-world inverted, K scaled to pixels, 0.370 m per unit", *said]
        return Capture(
            subject=person,
            frame=frame,
            cameras=("front",),
            world_to_camera=world_to_camera[None],
            K=K[None],
            sizes=(size,),
            images=(image,),
            masks=(mask,),
            meta={"source": self.name, "mirrored": frame == "mirror", "ingest": said},
        )


class _Files:
    """Files of a folder or members of a zip, by the names that the labels use."""

    def __init__(self, source: Source, folder: str, archive: Zip | None, where: str, version: str) -> None:
        self._source, self._folder, self._zip = source, folder, archive
        self.where, self.version = where, version

    def read(self, name: str) -> bytes:
        """A file's content."""
        return self._source.read(self._folder + name) if self._zip is None else self._zip.read(self._folder + name)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[_Files]:
    """The folder that holds dataset.json, or the one zip that does; the source may be the zip itself."""
    if source.url.endswith(".zip"):
        parent, _, name = source.url.rpartition("/")
        source, zips = Source(parent), [name]
    elif source.is_file(LABELS):
        entry = source.entry(LABELS)
        yield _Files(source, "", None, source.where(), f"{entry.size} {entry.version}")
        return
    else:
        zips = [entry.path for entry in source.list()[1] if entry.path.endswith(".zip")]
    if len(zips) != 1:
        what = f"there is no {LABELS} in it" if not zips else f"holds {len(zips)} zips"
        raise UserError(what, where=source.where(), hint=f"a folder or zip with {LABELS} and images")
    entry = source.entry(zips[0])
    with open_zip(source, zips[0]) as archive:
        found = min((name for name in archive.names if PurePosixPath(name).name == LABELS), key=len, default=None)
        if found is None:
            raise UserError(f"there is no {LABELS} in it", where=archive.where)
        yield _Files(source, found.removesuffix(LABELS), archive, archive.where, f"{entry.size} {entry.version}")


def _labels(files: _Files) -> list[tuple[str, list[float]]]:
    """(file, label) in the order of the list, each file once."""
    where = f"{files.where}, {LABELS}"
    try:
        tree = json.loads(files.read(LABELS))
        entries = tree["labels"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"no list of labels ({error!r})", where=where) from None
    if isinstance(entries, dict):
        entries = list(entries.items())
    if not isinstance(entries, list) or not entries:
        raise UserError("no list of labels", where=where, hint='"labels": [["00000/img00000000.png", [25 numbers]]]')
    found: dict[str, list[float]] = {}
    for entry in entries:
        if not isinstance(entry, list | tuple) or len(entry) < 2 or not isinstance(entry[0], str):
            raise UserError(f"{str(entry)[:60]} is no [file, label]", where=where)
        if not _is_label(entry[1]):
            hint = "16 numbers of a camera-to-world matrix and 9 of K"
            raise UserError(f"the label of {entry[0]} is not 25 numbers", where=where, hint=hint)
        if entry[0] in found and found[entry[0]] != entry[1]:
            raise UserError(f"{entry[0]} has two different labels", where=where)
        found[entry[0]] = entry[1]
    return list(found.items())


def _is_label(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 25
    return numbers and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)


def _people(
    labels: list[tuple[str, list[float]]], where: str, mirrors: bool
) -> dict[str, list[tuple[str, str, list[float]]]]:
    """(frame, file, label) of every image by person: a mirrored image is the same person's."""
    found: dict[str, list[tuple[str, str, list[float]]]] = {}
    stems: dict[str, str] = {}
    for file, label in labels:
        stem, frame = str(PurePosixPath(file).with_suffix("")), "0"
        if stem.endswith("_mirror"):
            stem, frame = stem.removesuffix("_mirror"), "mirror"
        person = word(PurePosixPath(stem).name)
        if stems.setdefault(person, stem) != stem:
            # Folders number the files in some sets; then they belong to the name.
            person = word(stem.replace("/", "-"))
            if stems.setdefault(person, stem) != stem:
                raise UserError(f"{file} and {stems[person]} would be the same subject", where=where)
        if mirrors or frame == "0":
            found.setdefault(person, []).append((frame, file, label))
    return found


def _camera(label: Any, size: tuple[int, int], where: str) -> tuple[Floats, Floats]:
    """World-to-camera in the canonical frame, and K in pixels."""
    numbers = matrix(label, where, "the label", (25,))
    pose = rigid(numbers[:16].reshape(4, 4), where)
    local = inverse(pose) @ [*PIVOT, 1.0]
    if local[2] <= 0 or np.hypot(*local[:2]) > _AWAY * local[2]:
        hint = "labels are camera-to-world with OpenCV axes (x right, y down, z forward); inverted or OpenGL?"
        raise UserError("the camera does not look at the face", where=where, hint=hint)
    pose[:3, 3] = METRES * pose[:3, 3] + ORIGIN
    K = numbers[16:].reshape(3, 3)
    if K[0, 0] > 100 or not 0 <= K[0, 2] <= 1 or not 0 <= K[1, 2] <= 1:
        raise UserError("K is not in shares of the image", where=where, hint="focal length about 4.26, centre at 0.5")
    K = np.diag([size[1], size[0], 1.0]) @ K
    check_intrinsics(K, where)
    return inverse(pose), K
