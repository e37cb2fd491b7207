"""Conventions that cameras are mistaken for: each a fix that would make wrong cameras right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.inspect.observed import Observed

Floats = NDArray[np.float64]
Change = Callable[[Floats, Floats, tuple[tuple[int, int], ...]], tuple[Floats, Floats]]

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_CENTRED, _OTHER_SIZE = 0.02, 0.1  # shares of the image


@dataclass(frozen=True)
class Fix:
    """One mistake and its repair.

    Attributes:
        name: of the mistake, a word or two.
        group: of fixes one at most is applied from each group, in the order of `GROUPS`.
        advice: the mistake and the repair in a sentence.
        change: `(world_to_camera [v, 4, 4], K [v, 3, 3], sizes) -> (world_to_camera, K)`.
    """

    name: str
    group: str
    advice: str
    change: Change


GROUPS = ("matrix", "axes", "K")


def _inverted(w: Floats, K: Floats, _: object) -> tuple[Floats, Floats]:
    return np.asarray(np.linalg.inv(w), np.float64), K


def _transposed(w: Floats, K: Floats, _: object) -> tuple[Floats, Floats]:
    turned = w.copy()
    turned[:, :3, :3] = np.swapaxes(w[:, :3, :3], 1, 2)
    return turned, K


def _opengl(w: Floats, K: Floats, _: object) -> tuple[Floats, Floats]:
    return OPENGL @ w, K


def _in_file(change: Change) -> Change:
    """The change of OpenGL camera-to-world matrices that were turned into OpenCV world-to-camera on reading."""

    def changed(w: Floats, K: Floats, sizes: tuple[tuple[int, int], ...]) -> tuple[Floats, Floats]:
        matrices, K = change(np.asarray(np.linalg.inv(w) @ OPENGL, np.float64), K, sizes)
        return np.asarray(OPENGL @ np.linalg.inv(matrices), np.float64), K

    return changed


def _mirrored(axis: int) -> Change:
    flip = np.eye(4)
    flip[axis, axis] = -1.0
    return lambda w, K, _: (flip @ w @ flip, K)


def _transposed_K(w: Floats, K: Floats, _: object) -> tuple[Floats, Floats]:
    return w, np.swapaxes(K, 1, 2)


def _swapped_K(w: Floats, K: Floats, _: object) -> tuple[Floats, Floats]:
    swapped = K.copy()
    swapped[:, [0, 1], [0, 1]] = K[:, [1, 0], [1, 0]]
    swapped[:, [0, 1], 2] = K[:, [1, 0], 2]
    return w, swapped


def _own_size_K(w: Floats, K: Floats, sizes: tuple[tuple[int, int], ...]) -> tuple[Floats, Floats]:
    own = 2 * np.median(K[:, :2, 2], axis=0)
    scale = np.stack([np.diag([width / own[0], height / own[1], 1.0]) for height, width in sizes])
    return w, scale @ K


FIXES = (
    Fix("camera-to-world", "matrix", "the matrices are camera-to-world: invert them", _inverted),
    Fix("transposed rotation", "matrix", "the rotations are transposed: transpose the 3 x 3 part back", _transposed),
    Fix("OpenGL axes", "axes", "the cameras have OpenGL axes (y up, z backwards): flip their y and z", _opengl),
    *(
        Fix(
            f"mirrored {'xyz'[axis]}",
            "axes",
            f"the cameras are left-handed: mirror the {'xyz'[axis]} axis of world and cameras (or of the images)",
            _mirrored(axis),
        )
        for axis in range(3)
    ),
    Fix("transposed K", "K", "K is transposed: the principal point belongs into the last column", _transposed_K),
    Fix("K of another size", "K", "K speaks of images of another size: scale it to the stored ones", _own_size_K),
    Fix("swapped K", "K", "x and y are swapped in K: swap cx with cy and fx with fy (width with height)", _swapped_K),
)

# A nerfstudio file holds OpenGL camera-to-world matrices: its mistakes are the same, told from the file's side.
NERFSTUDIO_FIXES = (
    Fix("world-to-camera", "matrix", "the file's matrices are world-to-camera: invert them", _in_file(_inverted)),
    Fix(
        "transposed rotation",
        "matrix",
        "the file's rotations are transposed: transpose the 3 x 3 part back",
        _in_file(_transposed),
    ),
    Fix("OpenCV axes", "axes", "the file's cameras have OpenCV axes (y down, z forward): flip their y and z", _opengl),
    *FIXES[3:],
)


@dataclass(frozen=True)
class Hypothesis:
    """Cameras after none, one or two fixes, in the order in which they are applied."""

    fixes: tuple[Fix, ...]
    world_to_camera: Floats
    K: Floats

    @property
    def name(self) -> str:
        """The mistakes' names, or `as given`."""
        return " + ".join(fix.name for fix in self.fixes) or "as given"

    @property
    def advice(self) -> str:
        """What to do in one sentence."""
        return "; and ".join(fix.advice for fix in self.fixes)


def hypotheses(seen: Observed, fixes: tuple[Fix, ...] = FIXES) -> Iterator[Hypothesis]:
    """The cameras as given, then every fix, then every pair of fixes of different groups that changes something.

    Pinhole cameras only: what leaves K other than upper triangular, or its centre far outside the image, is left out.
    """
    useful = [fix for fix in fixes if fix.group != "K" or _applies(fix, seen)]
    pairs = (pair for pair in itertools.combinations(useful, 2) if pair[0].group != pair[1].group)
    for chosen in ((), *((fix,) for fix in useful), *pairs):
        ordered = tuple(sorted(chosen, key=lambda one: GROUPS.index(one.group)))
        yield Hypothesis(ordered, *repaired(ordered, seen.world_to_camera, seen.K, seen.sizes))


def repaired(
    fixes: tuple[Fix, ...], world_to_camera: Floats, K: Floats, sizes: tuple[tuple[int, int], ...]
) -> tuple[Floats, Floats]:
    """Cameras after fixes, in their order."""
    for fix in fixes:
        world_to_camera, K = fix.change(world_to_camera, K, sizes)
    return world_to_camera, K


def upper_triangular(K: Floats) -> bool:
    """Whether every K is `[[fx, s, cx], [0, fy, cy], [0, 0, 1]]`."""
    return bool(np.abs(K[:, 2] - [0, 0, 1]).max() < 1e-9 and np.abs(K[:, 1, 0]).max() < 1e-9)


def _applies(fix: Fix, seen: Observed) -> bool:
    """Whether the repair of K is possible and makes a difference; one whose centre is the image's is right."""
    if fix.name == "transposed K":
        return not upper_triangular(seen.K) and upper_triangular(np.swapaxes(seen.K, 1, 2))
    if not upper_triangular(seen.K) or (seen.K[:, :2, 2] <= 0).any():
        return False
    size = np.array([(width, height) for height, width in seen.sizes], np.float64)
    if np.median(np.abs(seen.K[:, :2, 2] / size - 0.5).max(axis=1)) < _CENTRED:
        return False
    _, K = fix.change(seen.world_to_camera, seen.K, seen.sizes)
    moved = np.abs(K - seen.K)[:, :2].max(axis=(1, 2)) / size.max(axis=1)
    return bool(np.median(moved) > (0.02 if fix.name == "swapped K" else _OTHER_SIZE))
