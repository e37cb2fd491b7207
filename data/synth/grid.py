"""The chart of the template: a grid of columns around the head and rows from the bust to the crown.

The grid is the UV square itself. Both poles are zipped instead of collapsed: the top row folds left onto right
along the crown, the bottom row folds front onto back across the cut of the bust, and the first and last column
meet at the back of the head. So the surface is closed, every texel of the square lies on it, and no row shrinks
to a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLUMNS = 168
ROWS = 146
CAP = 1.0 / 2048.0
"""Share of v spent on the cut under the bust: less than half a texel of any map up to 1024 texels."""


@dataclass(frozen=True)
class Grid:
    """Connectivity of the chart.

    Attributes:
        index: `[rows, columns + 1]` vertex at each node; zipped nodes share one.
        uvs: `[rows * (columns + 1), 2]` of the nodes, row by row; rows go up, columns to the subject's left.
        faces: `[f, 3]` vertex indices, counter-clockwise from outside.
        uv_faces: `[f, 3]` node indices.
    """

    index: NDArray[np.int32]
    uvs: NDArray[np.float32]
    faces: NDArray[np.int32]
    uv_faces: NDArray[np.int32]

    def first(self) -> NDArray[np.int64]:
        """A node (flat) for every vertex: `nodes.reshape(-1, c)[grid.first()]` is per vertex."""
        return np.unique(self.index, return_index=True)[1]


def rows_v() -> NDArray[np.float64]:
    """v of every row, `[rows]`: the cut first, then evenly to 1."""
    return np.concatenate([[0.0], np.linspace(CAP, 1.0, ROWS - 1)])


def build_grid() -> Grid:
    """Index, UVs and triangles of the chart; mirror-symmetric about the middle column."""
    index = _indices()
    columns, rows = COLUMNS + 1, ROWS
    u, v = np.meshgrid(np.linspace(0.0, 1.0, columns), rows_v())
    nodes = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]
    column = np.arange(COLUMNS)
    left = np.repeat((column < COLUMNS // 2)[None, :, None], rows - 1, axis=0)
    # Where the crown's zip ends at the front, mirrored diagonals would be one edge: turn them there.
    left[-1, COLUMNS // 4 : 3 * COLUMNS // 4] ^= True
    one = np.where(left, np.stack([a, b, d], -1), np.stack([a, b, c], -1))
    two = np.where(left, np.stack([b, c, d], -1), np.stack([a, c, d], -1))
    uv_faces = np.stack([one, two], axis=2).reshape(-1, 3)
    uvs = np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)
    return Grid(index, uvs, index.reshape(-1)[uv_faces], uv_faces)


def _indices() -> NDArray[np.int32]:
    column = np.arange(COLUMNS + 1)
    around = column % COLUMNS
    folded_top = np.minimum(around, COLUMNS - around)
    across = (COLUMNS // 2 - around) % COLUMNS
    folded_bottom = np.unique(np.minimum(around, across), return_inverse=True)[1]
    inner = np.arange(ROWS - 2)[:, None] * COLUMNS + around
    bottom = (ROWS - 2) * COLUMNS + folded_bottom
    top = bottom.max() + 1 + folded_top
    return np.concatenate([bottom[None], inner, top[None]]).astype(np.int32)
