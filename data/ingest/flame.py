"""Tracked FLAME parameters: where the head is in the world at every frame of a clip.

FLAME's axes are the canonical ones: +x the subject's left, +y up, +z out of the face, metres. A point v of the head
(the skull follows FLAME's neck joint) is taken to the world

    NeRSemble's benchmark ("separated"):       s R (N (v - b) + b) + t
    VHAP, GaussianAvatars, and FLAME itself:     R (N (v - b) + b - a) + a + t

with the turns R of `rotation` and N of `neck`, `translation` t, `scale` s, and the positions a and b of FLAME's root
and neck joint: its global rotation is about the root joint at the foot of the neck, not about the origin. Leaving the
joint out moves a head that turns by 30 degrees by 8 cm. Rotations are axis-angle vectors, but `rotation` of the
benchmark is Euler angles (intrinsic X, Y, Z), which it also gives as `rotation_matrices`.

The joints depend a little on the shape and are not ours to give away. Estimates of ours, made without the model and
good to some 3 cm at best, stand in for them unless the file holds `root_joint` and `neck_joint` or they are given.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from configs.errors import UserError
from data.ingest.parse import Floats, matrix, rigid

Vector = tuple[float, float, float]

ROOT_JOINT: Vector = (0.0, -0.15, -0.02)
NECK_JOINT: Vector = (0.0, -0.07, -0.02)
MAX_UNPACKED = 2**30  # bytes of all arrays together
MAX_FRAMES = 10**6
_NAMES = {
    "shape": ("shape", "betas"),
    "expression": ("expression", "expr", "exp"),
    "rotation": ("rotation", "global_pose", "global_orient"),
    "translation": ("translation", "transl", "trans"),
    "jaw": ("jaw", "jaw_pose"),
    "neck": ("neck", "neck_pose"),
    "eyes": ("eyes", "eyes_pose", "eye_pose"),
    "scale": ("scale",),
    "rotation_matrices": ("rotation_matrices",),
    "frames": ("frames", "timesteps"),
    "focal_length": ("focal_length",),
    "K": ("K", "intrinsics", "intrinsic"),
    "world_to_camera": ("world_to_camera", "w2c", "extrinsics", "extrinsic"),
    "root_joint": ("root_joint",),
    "neck_joint": ("neck_joint",),
}
_TRACKED = ("shape", "expression", "rotation", "translation", "jaw", "neck", "eyes", "scale")


def vector(text: str, where: str) -> Vector | None:
    """`x,y,z`; None for nothing.

    Raises:
        UserError: something else.
    """
    if not text.strip():
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        x = y = z = float("nan")
    if not np.isfinite([x, y, z]).all():
        raise UserError(
            f"{text!r} is not x,y,z", where=where, hint="three numbers with commas between, such as 0,-0.15,0"
        )
    return x, y, z


@dataclass(frozen=True)
class Tracking:
    """The parameters of a clip.

    Attributes:
        where: names the file in messages.
        arrays: what the file holds, by our names.
        frames: `[t]` numbers of the video's frames that the rows speak of.
        separated: which of the two forms above.
        joints: root and neck joint.
    """

    where: str
    arrays: dict[str, Floats]
    frames: list[int]
    separated: bool
    joints: tuple[Floats, Floats]

    def pose(self, row: int, origin: Floats) -> Floats:
        """`[4, 4]` rigid: from the head frame (metres, origin at FLAME's point `origin`) to the world.

        Raises:
            UserError: a rotation that mirrors or a scale that is none, naming the frame.
        """
        where = f"{self.where}, frame {self.frames[row]}"
        turn, neck, scale = self._turn(row, where), self._neck(row), self._scale(row, where)
        root, joint = (np.zeros(3) if self.separated else self.joints[0]), self.joints[1]
        moved = scale * (neck @ (origin - joint) + joint - root)
        pose = np.eye(4)
        pose[:3, :3] = turn @ neck
        pose[:3, 3] = turn @ moved + root + self.arrays["translation"][row]
        return rigid(pose, where)

    def parameters(self, row: int) -> dict[str, list[float]]:
        """Everything tracked for a frame, JSON values."""
        count = len(self.frames)
        found = {}
        for key in _TRACKED:
            if key in self.arrays:
                values = self.arrays[key]
                found[key] = (values[row] if len(values) == count and values.ndim > 1 else values).ravel().tolist()
        return found

    def _turn(self, row: int, where: str) -> Floats:
        if "rotation_matrices" in self.arrays:
            found = self.arrays["rotation_matrices"][row]
        elif self.separated:
            found = Rotation.from_euler("XYZ", self.arrays["rotation"][row]).as_matrix()
        else:
            found = Rotation.from_rotvec(self.arrays["rotation"][row]).as_matrix()
        return matrix(found, where, "the rotation", (3, 3))

    def _neck(self, row: int) -> Floats:
        if "neck" not in self.arrays:
            return np.eye(3)
        return np.asarray(Rotation.from_rotvec(self.arrays["neck"][row]).as_matrix(), np.float64)

    def _scale(self, row: int, where: str) -> float:
        if "scale" not in self.arrays:
            return 1.0
        values = self.arrays["scale"].ravel()
        found = float(values[row] if len(values) == len(self.frames) else values[0])
        if not 1e-3 < found < 1e3:
            raise UserError(f"a scale of {found:g}", where=where)
        return found


def read_tracking(
    data: bytes, where: str, root_joint: Vector | None = None, neck_joint: Vector | None = None
) -> Tracking:
    """Read an npz of tracked parameters; never a pickle.

    Args:
        data: the file.
        where: names it in messages.
        root_joint, neck_joint: FLAME's, in metres, instead of the file's or our estimates.

    Raises:
        UserError: broken, too large, or parameters that do not fit together.
    """
    arrays = _read_arrays(data, where)
    count = len(arrays["rotation_matrices" if "rotation_matrices" in arrays else "rotation"])
    if not 0 < count <= MAX_FRAMES:
        raise UserError(f"holds {count} frames", where=where)
    for key, width in (("rotation", 3), ("translation", 3), ("neck", 3), ("jaw", 3), ("eyes", 6)):
        if key in arrays:
            arrays[key] = matrix(arrays[key], where, key, (count, width))
    if "rotation_matrices" in arrays:
        arrays["rotation_matrices"] = matrix(arrays["rotation_matrices"], where, "rotation_matrices", (count, 3, 3))
    if "expression" in arrays and (arrays["expression"].ndim != 2 or len(arrays["expression"]) != count):
        raise UserError(f"expression is {list(arrays['expression'].shape)}, not {count} x E numbers", where=where)
    joints = [
        np.array(given) if given is not None else matrix(arrays.get(key, default), where, key, (3,))
        for given, key, default in (
            (root_joint, "root_joint", ROOT_JOINT),
            (neck_joint, "neck_joint", NECK_JOINT),
        )
    ]
    separated = "rotation_matrices" in arrays or "scale" in arrays
    return Tracking(where, arrays, _frames(arrays, count, where), separated, (joints[0], joints[1]))


def _read_arrays(data: bytes, where: str) -> dict[str, Floats]:
    """By our names, finite; what we have no name for is left out."""
    found: dict[str, Floats] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise UserError(f"unpacks to {unpacked} bytes; the limit is {MAX_UNPACKED}", where=where)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            for name, aliases in _NAMES.items():
                key = next((alias for alias in aliases if alias in archive.files), None)
                if key is not None:
                    found[name] = _numbers(archive[key], where, key)
    except (ValueError, OSError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"no npz with arrays of numbers ({error})", where=where) from None
    missing = [key for key in ("translation",) if key not in found]
    missing += [] if "rotation" in found or "rotation_matrices" in found else ["rotation"]
    if missing:
        hint = "shape, expression, rotation, translation, jaw, neck, eyes and perhaps scale, one row per frame"
        raise UserError(f"holds no {' and no '.join(missing)}", where=where, hint=hint)
    return found


def _numbers(array: NDArray[Any], where: str, key: str) -> Floats:
    if array.dtype.kind not in "fiu":
        raise UserError(f"{key} is not an array of numbers", where=where)
    if not np.isfinite(array).all():
        raise UserError(f"NaN or infinity in {key}", where=where)
    return np.atleast_1d(np.asarray(array, np.float64))


def _frames(arrays: dict[str, Floats], count: int, where: str) -> list[int]:
    numbers = arrays.get("frames", np.arange(count, dtype=np.float64)).ravel()
    whole = np.array_equal(numbers, np.round(numbers)) and (numbers >= 0).all()
    if len(numbers) != count or not whole or len(np.unique(numbers)) != count:
        raise UserError(f"frames are not {count} different numbers of frames", where=where)
    return [int(number) for number in numbers]
