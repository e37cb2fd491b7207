"""OpenLRM's folders, which LGM and others share: an object is `rgba/000.png`, `pose/000.npy` and `intrinsics.npy`.

Poses are Blender's `matrix_world` of the camera: camera-to-world, OpenGL axes (x right, y up, z backwards), 3 x 4 or
4 x 4. The world is Blender's, +z up; a glTF head imported into it looks along -y, where view 000 stands. Objects were
brought to [-1, 1]^3, so the unit says nothing: the head is made as wide as an adult's. `intrinsics.npy` is 3 x 2
([[fx, fy], [cx, cy], [width, height]]) or a K of 3 x 3; alpha is the mask.
Source: https://github.com/3DTopia/OpenLRM, scripts/data/objaverse/blender_script.py and openlrm/datasets
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from configs.errors import UserError
from data.capture import Capture, check_intrinsics
from data.ingest.canonical import DIAMETER, Similarity, find_canonical, silhouettes
from data.ingest.hull import find_head
from data.ingest.job import Selection, Unit
from data.ingest.parse import Floats, inverse, matrix, read_npy, rigid, scale_intrinsics, stamp, word
from data.ingest.pixels import split_alpha
from data.ingest.source import Entry, Source

_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_TURNS = {"z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), "y": np.eye(3)}


@dataclass(frozen=True)
class OpenLrm:
    """Objects in folders, anywhere beneath the source.

    Attributes:
        up: the world's axis that is up: z in Blender, y where somebody turned it already.
        front: a view that looks straight at the face, such as 000; empty where -y (or, with `up` y, +z) is the front.
        metric: the unit is a metre, decimetre, centimetre or millimetre.
    """

    up: Literal["z", "y"] = "z"
    front: str = ""
    metric: bool = False
    name: ClassVar[str] = "openlrm"
    version: ClassVar[int] = 1

    def units(self, source: Source, select: Selection) -> Iterator[Unit]:
        """One object each."""
        if self.up not in _TURNS:
            raise UserError(f"{self.up!r} is no axis that is up", where="up", hint="z or y")
        entries = source.files()
        folders = [str(PurePosixPath(e.path).parent) for e in entries if PurePosixPath(e.path).name == "intrinsics.npy"]
        if not folders:
            hint = "OBJECT/intrinsics.npy beside OBJECT/rgba and OBJECT/pose"
            raise UserError("there is no intrinsics.npy in it", where=source.where(), hint=hint)
        names = {word(PurePosixPath(f).name if f != "." else PurePosixPath(source.where()).name): f for f in folders}
        if len(names) < len(folders):
            names = {word(folder.replace("/", "-")): folder for folder in folders}
        if len(names) < len(folders):
            raise UserError("two folders would be the same subject", where=source.where())
        for subject in select.choose_subjects(names, source.where()):
            root = "" if names[subject] == "." else f"{names[subject]}/"
            mine = [entry for entry in entries if entry.path.startswith(root)]
            yield Unit(subject, subject, 1, stamp(mine), {"root": root, "views": _views(source, mine, root, subject)})

    def captures(self, source: Source, unit: Unit, select: Selection) -> Iterator[Capture]:
        """All views of the object as one capture in the canonical head frame."""
        root, where = unit.details["root"], f"capture {unit.subject}_0"
        path = f"{root}intrinsics.npy"
        lens = matrix(read_npy(source.read(path), source.where(path)), source.where(path), "it", (3, 2), (3, 3))
        views = select.choose_cameras(unit.details["views"], where)
        read = [self._view(source, root, view, lens, f"{where}, camera {view}") for view in views]
        images, masks, sizes, poses, K, notes = zip(*read, strict=True)
        capture = Capture(unit.subject, "0", tuple(views), np.stack(poses), np.stack(K), sizes, images, masks)
        capture = Similarity(_TURNS[self.up], np.zeros(3)).apply(capture)
        similarity, how = find_canonical(capture, self.front or None)
        if not self.metric:
            similarity, how = _of_usual_width(capture, similarity, how)
        up = "Blender's z-up world turned to y-up; " if self.up == "z" else ""
        said = [f"cameras: {up}OpenGL camera-to-world turned into OpenCV world-to-camera"]
        said += dict.fromkeys(line for note in notes for line in note)
        yield replace(similarity.apply(capture), meta={"source": self.name, "ingest": [*said, *how]})

    def _view(
        self, source: Source, root: str, view: str, lens: Floats, where: str
    ) -> tuple[bytes, bytes | None, tuple[int, int], Floats, Floats, list[str]]:
        """Image, mask, size, world-to-camera, K, and what was done."""
        path = f"{root}pose/{view}.npy"
        pose = matrix(read_npy(source.read(path), source.where(path)), where, "the pose", (3, 4), (4, 4))
        image, mask, size, notes = split_alpha(source.read(f"{root}rgba/{view}.png"), where)
        return image, mask, size, inverse(rigid(pose, where) @ _OPENGL), _intrinsics(lens, size, where), notes


def _of_usual_width(capture: Capture, similarity: Similarity, how: list[str]) -> tuple[Similarity, list[str]]:
    """The similarity with another scale, so that the head in the masks is 0.18 m across."""
    views = silhouettes(similarity.apply(capture))
    head = None if views is None else find_head(views, np.array([0.0, 1.0, 0.0]))
    if head is None:
        return similarity, how
    scale = similarity.scale * DIAMETER / head.diameter
    said = f"scale: objects have no unit; scaled by {scale:.4g}, so that the head is {DIAMETER} m across"
    kept = [line for line in how if not line.startswith("scale:")]
    return Similarity(similarity.rotation, similarity.center, scale), [*kept, said]


def _views(source: Source, entries: list[Entry], root: str, subject: str) -> list[str]:
    """Names of the views that have an image and a pose."""
    found: dict[str, set[str]] = {"rgba": set(), "pose": set()}
    for entry in entries:
        path = PurePosixPath(entry.path.removeprefix(root))
        suffix = {"rgba": ".png", "pose": ".npy"}.get(str(path.parent))
        if suffix is not None and path.suffix == suffix:
            found[str(path.parent)].add(path.stem)
    where = f"capture {subject}_0"
    if not found["rgba"]:
        raise UserError("has no rgba/*.png", where=where, hint=f"{source.where(root)} holds intrinsics.npy")
    for view in sorted(found["rgba"] ^ found["pose"]):
        missing = "pose" if view in found["rgba"] else "image"
        raise UserError(f"missing {missing}", where=f"{where}, camera {view}")
    return sorted(found["rgba"])


def _intrinsics(lens: Floats, size: tuple[int, int], where: str) -> Floats:
    """K in pixels of the image."""
    if lens.shape == (3, 3):
        K, stated = lens, size
        if lens[0, 2] <= 1 and lens[1, 2] <= 1:
            K = np.diag([size[1], size[0], 1.0]) @ lens
    else:
        (fx, fy), (cx, cy), (width, height) = lens
        if min(width, height) <= 0:
            raise UserError(f"intrinsics.npy speaks of an image of {width:g} x {height:g}", where=where)
        K, stated = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (height, width)
    check_intrinsics(K, where)
    return K if stated == size else scale_intrinsics(K, stated, size, where)
