"""Values out of other people's files; each wrong one is a message that names the place."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data.capture import check_extrinsics
from data.ingest.source import Entry, Source

Floats = NDArray[np.float64]


def read_json(source: Source, path: str) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        UserError: it is not there, no JSON or no mapping.
    """
    where = source.where(path)
    try:
        tree = json.loads(source.read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON ({error})", where=where) from None
    if not isinstance(tree, dict):
        raise UserError("is no mapping", where=where)
    return tree


def read_npy(data: bytes, where: str) -> NDArray[Any]:
    """An array of numbers in NumPy's format; never a pickle.

    Raises:
        UserError: broken, or objects instead of numbers.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"not an array of numbers ({error})", where=where) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UserError("not an array of numbers", where=where)
    return array


def matrix(value: Any, where: str, what: str, *shapes: tuple[int, ...]) -> Floats:
    """Finite numbers of one of the shapes.

    Raises:
        UserError: `what` is something else.
    """
    try:
        found = np.array(value, np.float64)
    except (TypeError, ValueError):
        found = np.full(0, np.nan)
    if found.shape not in shapes:
        wanted = " or ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise UserError(f"{what} is not {wanted} numbers", where=where)
    if not np.isfinite(found).all():
        raise UserError(f"NaN or infinity in {what}", where=where)
    return found


def rigid(found: Floats, where: str) -> Floats:
    """A `[3, 4]` or `[4, 4]` transform as an exactly rigid `[4, 4]`.

    Raises:
        UserError: it scales, shears or mirrors.
    """
    transform = np.vstack([found[:3], [0, 0, 0, 1]]) if found.shape == (3, 4) else found.copy()
    check_extrinsics(transform, where)
    left, _, right = np.linalg.svd(transform[:3, :3])
    transform[:3, :3] = left @ right
    return transform


def inverse(transform: Floats) -> Floats:
    """Inverse of a rigid `[4, 4]`."""
    found = np.eye(4)
    found[:3, :3] = transform[:3, :3].T
    found[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return found


def scale_intrinsics(K: Floats, stated: tuple[int, int], size: tuple[int, int], where: str) -> Floats:
    """K of images that are `stated` (height, width), for ones that were resized to `size`.

    Raises:
        UserError: the aspect is another one: the images were cut, not resized.
    """
    if abs(stated[1] / stated[0] * size[0] / size[1] - 1) > 0.01:
        what = f"the image is {size[1]} x {size[0]}, the calibration is for {stated[1]} x {stated[0]}"
        raise UserError(what, where=where, hint="resized images are understood, cut ones are not")
    return np.diag([size[1] / stated[1], size[0] / stated[0], 1.0]) @ K


def word(text: str) -> str:
    """A name of the characters that captures allow."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_") or "capture"


def stamp(entries: Iterable[Entry]) -> str:
    """Changes when one of the files does."""
    return hashlib.sha256(repr([(e.path, e.size, e.version) for e in entries]).encode()).hexdigest()[:32]
