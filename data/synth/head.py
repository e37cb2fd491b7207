"""Our own neutral head template: sculpted implicitly, charted by rays from a curved axis inside the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data.mesh import HeadMesh, vertex_normals
from data.synth import sculpt
from data.synth.blendshapes import expression_basis
from data.synth.ears import ear_offset, ear_weight
from data.synth.fields import Array, curve, resample, smoothstep
from data.synth.grid import COLUMNS, ROWS, Grid, build_grid
from data.synth.identity import identity_basis

# The axis that the rays leave from, bottom to crown: origin y and z (cm), elevation of the rays towards front, side
# and back (degrees), and half the length of the segment along which the crown is zipped (cm).
AXIS = np.array(
    [
        [-23.5, -3.2, 0, 0, 0, 0],
        [-19.0, -3.2, 0, 0, 0, 0],
        [-15.0, -3.0, -4, -8, 0, 0],
        [-11.5, -2.5, -10, -12, -2, 0],
        [-7.5, -1.0, -44, -22, -4, 0],
        [-4.8, 0.6, -38, -18, -3, 0],
        [-3.0, 1.4, -19, -8, 0, 0],
        [-1.6, 1.5, -12, -4, 0, 0],
        [1.0, 1.2, 3, 2, 2, 0],
        [2.2, 0.7, 9, 7, 6, 0.2],
        [3.2, 0.0, 27, 22, 20, 1.0],
        [3.8, -0.4, 55, 50, 48, 2.8],
        [4.0, -0.5, 90, 90, 90, 4.4],
    ]
)

LANDMARKS = {
    "nose_tip": (0.0, -2.7, 11.9),
    "chin": (0.0, -9.3, 9.5),
    "left_eye": (3.15, 1.45, 8.0),
    "right_eye": (-3.15, 1.45, 8.0),
    "left_ear": (7.6, 0.4, -1.0),
    "right_ear": (-7.6, 0.4, -1.0),
    "mouth_left": (2.6, -6.2, 8.8),
    "mouth_right": (-2.6, -6.2, 8.8),
    "crown": (0.0, 12.7, -0.5),
    "brow_left": (2.9, 3.3, 8.4),
    "brow_right": (-2.9, 3.3, 8.4),
    "nasion": (0.0, 1.9, 9.2),
    "nostril_left": (1.7, -3.2, 10.0),
    "nostril_right": (-1.7, -3.2, 10.0),
    "upper_lip": (0.0, -5.5, 10.6),
    "lower_lip": (0.0, -6.8, 10.2),
    "neck_front": (0.0, -13.5, 2.5),
    "nape": (0.0, -7.0, -6.8),
}


@dataclass(frozen=True)
class Template:
    """The head template with what the synthetic subjects need beyond `HeadMesh`.

    Attributes:
        mesh: the template in metres.
        grid: its chart.
        shell: `[v, 3]` the same vertices without ears, centimetres: what hair and hats grow from.
        shell_normals: `[v, 3]` unit normals of the shell.
        ears: `[v]` 1 on the ears.
    """

    mesh: HeadMesh
    grid: Grid
    shell: Array
    shell_normals: Array
    ears: Array

    @property
    def positions(self) -> Array:
        """Neutral vertices in centimetres, `[v, 3]`: the space in which regions and textures are defined."""
        return self.mesh.vertices.astype(np.float64) * 100.0


def neutral_head() -> HeadMesh:
    """The neutral template: closed, symmetric, its UV charts fill the unit square; built once per process."""
    return template().mesh


@cache
def template() -> Template:
    """`neutral_head` with its chart, its earless shell and its ear mask."""
    grid = build_grid()
    shell = _shell_nodes().reshape(-1, 3)[grid.first()]
    normals = vertex_normals(shell.astype(np.float32), grid.faces).astype(np.float64)
    points = shell + _smooth(ear_offset(shell), grid)
    ears = ear_weight(shell)
    expressions, names = expression_basis(points)
    mesh = HeadMesh(
        vertices=_metres(points),
        faces=grid.faces,
        uvs=grid.uvs,
        uv_faces=grid.uv_faces,
        identity=_metres(identity_basis(points, ears)),
        expressions=_metres(expressions),
        expression_names=names,
        landmarks={name: _nearest(points, target) for name, target in LANDMARKS.items()},
    )
    return Template(mesh, grid, shell, normals, ears)


def _metres(centimetres: Array) -> NDArray[np.float32]:
    return (centimetres / 100.0).astype(np.float32)


def _smooth(field: Array, grid: Grid) -> Array:
    """A per-vertex field averaged a little with its neighbours: the ears' steep backs fall between few columns."""
    nodes = field[grid.index]
    for _ in range(3):
        around = nodes[:-2, 1:-1] + nodes[2:, 1:-1] + nodes[1:-1, :-2] + nodes[1:-1, 2:]
        nodes[1:-1, 1:-1] = 0.5 * nodes[1:-1, 1:-1] + 0.125 * around
    return nodes.reshape(-1, field.shape[1])[grid.first()]


def _nearest(points: Array, target: tuple[float, float, float]) -> int:
    # Sideways counts more, so that landmarks of the middle are on it.
    return int((((points - np.asarray(target)) * [3.0, 1.0, 1.0]) ** 2).sum(1).argmin())


def _shell_nodes() -> Array:
    """Nodes `[rows, columns + 1, 3]` of the head without ears, centimetres, exactly mirror-symmetric."""
    half = COLUMNS // 2
    azimuth = _azimuths(half + 1)
    coarse_tau, coarse_azimuth = np.linspace(0, 1, 97), np.linspace(0, np.pi, 41)
    origins, directions = _rays(coarse_tau, coarse_azimuth)
    reach = _trace(origins, directions, np.full(origins.shape[:2], 2.0), steps=22)
    tau = _spread_rows(origins + reach[..., None] * directions, coarse_tau)

    origins, directions = _rays(tau, azimuth)
    guess = resample(resample(reach, tau * (len(coarse_tau) - 1), 0), azimuth / np.pi * (len(coarse_azimuth) - 1), 1)
    points = origins + _trace(origins, directions, guess - 0.05, steps=7)[..., None] * directions
    points[:, [0, -1], 0] = 0.0
    mirrored = points[:, :0:-1] * [-1.0, 1.0, 1.0]
    nodes = np.concatenate([mirrored, points], axis=1)  # back, right side, face, left side, back
    return np.concatenate([_cut(nodes[0])[None], nodes])


def _cut(ring: Array) -> Array:
    """The lowest ring folded front onto back: the bottom row."""
    around = np.arange(COLUMNS + 1) % COLUMNS
    opposite = ring[(COLUMNS // 2 - around) % COLUMNS]
    folded = 0.5 * (ring + opposite)
    folded[:, 0] *= 0.97
    folded[:, 1] = sculpt.BOTTOM - 0.4
    return folded


def _azimuths(count: int) -> Array:
    """Azimuth of the columns from the front (0) to the back (pi): dense over the face and the ears."""
    angle = np.linspace(0.0, np.pi, 2001)
    density = 0.42 + 0.58 * smoothstep(np.deg2rad(120.0), np.deg2rad(45.0), angle)
    density += 0.45 * np.exp(-(((angle - np.deg2rad(103.0)) / 0.22) ** 2))
    density += 0.25 * np.exp(-((angle / 0.5) ** 2))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(np.linspace(0.0, total[-1], count), total, angle)


def _rays(tau: Array, azimuth: Array) -> tuple[Array, Array]:
    """Origins and unit directions `[rows, columns, 3]` for axis parameters and azimuths."""
    knots = np.linspace(0.0, 1.0, len(AXIS))
    y, z, front, side, back, spread = curve(tau, knots, AXIS).T[:, :, None]
    c, s = np.cos(azimuth)[None], np.sin(azimuth)[None]
    elevation = np.deg2rad(np.where(c > 0, side + (front - side) * c * c, side + (back - side) * c * c))
    level = np.cos(elevation)
    directions = np.stack([level * s, np.sin(elevation), level * c], axis=-1)
    origins = np.stack(np.broadcast_arrays(0.0 * s * y, y, z + spread * c), axis=-1)
    return origins, directions


def _trace(origins: Array, directions: Array, reach: Array, steps: int) -> Array:
    """Distance `[rows, columns]` from the origins to the surface."""
    reach = reach.copy()
    for _ in range(steps):
        points = origins + reach[..., None] * directions
        reach -= 0.9 * sculpt.signed_distance(points.reshape(-1, 3)).reshape(reach.shape)
    return reach


def _spread_rows(points: Array, tau: Array) -> Array:
    """Axis parameters of the rows, spaced by arc length with more rows for the face.

    Args:
        points: `[t, a, 3]` surface along axis parameters and azimuths.
        tau: `[t]`.
    """
    steps = np.sqrt((np.diff(points, axis=0) ** 2).sum(-1))
    face = steps[:, :15].mean(1)
    y = points[:, :9, 1].mean(1)
    weight = 0.55 + 0.25 * smoothstep(-16.0, -11.0, y) + 0.75 * smoothstep(-10.5, -8.0, y) * smoothstep(7.0, 3.5, y)
    weight += 0.45 * np.exp(-(((y - 1.5) / 1.5) ** 2)) + 0.35 * np.exp(-(((y + 6.0) / 1.5) ** 2))
    weight += 1.6 * np.exp(-(((y + 6.15) / 0.28) ** 2))
    effort = (0.65 * face + 0.35 * steps.mean(1)) * 0.5 * (weight[1:] + weight[:-1])
    total = np.concatenate([[0.0], np.cumsum(effort)])
    return np.interp(np.linspace(0.0, total[-1], ROWS - 1), total, tau)
