"""Pictures of a textured mesh by ray-casting, supersampled 2 x 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from data.mesh import vertex_normals
from data.synth.fields import length
from data.synth.head import template
from data.synth.palette import to_srgb
from data.synth.places import sample_nodes
from data.synth.studio import LAMPS, irradiance, openness

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
SAMPLES = 2
SHEEN, SHARPNESS = 0.11, 14.0


@dataclass(frozen=True)
class Picture:
    """One view: sRGB `[h, w, 3]` and coverage of the person `[h, w]`, 8 bits each."""

    image: Bytes
    mask: Bytes


class Figure:
    """A surface ready to be looked at from anywhere: rays, light and colours are prepared once.

    Args:
        vertices: `[v, 3]` metres, of the template's topology.
        albedo: `[t, t, 3]` linear RGB over the UV square, row 0 at v = 0.
        gloss: `[v]` how much of the soft highlight each vertex shows.
    """

    def __init__(self, vertices: Floats, albedo: Floats, gloss: Floats) -> None:
        mesh = template().mesh
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, vertices[mesh.faces])
        self._faces, self._uv_faces, self._uvs = mesh.faces, mesh.uv_faces, mesh.uvs
        self._vertices, self._gloss = vertices, gloss
        self._normals = vertex_normals(vertices, mesh.faces)
        light = irradiance(self._normals, openness(self._scene, vertices, self._normals))
        size = len(albedo)
        lit = albedo * sample_nodes(light, size).reshape(size, size, 3)
        self._texture = np.ascontiguousarray(lit, np.float32).reshape(-1, 3)
        self._size = size

    def view(
        self,
        world_to_camera: NDArray[np.float64],
        K: NDArray[np.float64],
        size: tuple[int, int],
        backdrop: Callable[[Floats], Floats],
        exposure: float = 1.0,
    ) -> Picture:
        """The figure before a backdrop, seen by one camera.

        Args:
            world_to_camera: `[4, 4]`.
            K: `[3, 3]`, pixels.
            size: height and width in pixels.
            backdrop: linear RGB `[n, 3]` along unit directions `[n, 3]`.
            exposure: factor on the light.
        """
        height, width = size
        center = -(world_to_camera[:3, :3] * world_to_camera[:3, 3:]).sum(0)
        rays = _directions(world_to_camera, K, size, SAMPLES)
        origins = np.broadcast_to(center.astype(np.float32), rays.shape).copy()
        hit = self._scene.run(origins, rays, output=1)
        seen = np.flatnonzero(hit["primID"] >= 0)
        colours = self._shade(hit["primID"][seen], hit["u"][seen], hit["v"][seen], center)

        # Rays come pixel by pixel, so that the samples of a pixel are neighbours.
        samples = np.zeros((len(rays), 4), np.float32)
        samples[seen, :3], samples[seen, 3] = colours, 1.0
        person, coverage = np.split(samples.reshape(-1, SAMPLES**2, 4).mean(1), [3], axis=1)
        behind = backdrop(_directions(world_to_camera, K, size, 1))
        linear = np.float32(exposure) * (person + (1.0 - coverage) * behind)
        image = np.round(255.0 * to_srgb(linear)).astype(np.uint8).reshape(height, width, 3)
        return Picture(image, np.round(255.0 * coverage).astype(np.uint8).reshape(height, width))

    def _shade(self, triangles: NDArray[np.int32], u: Floats, v: Floats, center: NDArray[np.float64]) -> Floats:
        """Linear RGB `[n, 3]` at barycentric places of triangles, seen from `center`."""
        weights = np.stack([1.0 - u - v, u, v], axis=1)
        uv = _blend(self._uvs, self._uv_faces[triangles], weights)
        sheen = _blend(self._sheen(center)[:, None], self._faces[triangles], weights)
        return self._lookup(uv) + sheen

    def _sheen(self, center: NDArray[np.float64]) -> Floats:
        """Soft highlight of the key lamp at every vertex, `[v]`."""
        towards = center.astype(np.float32) - self._vertices
        towards /= length(towards)[:, None]
        lamp = (LAMPS[0][0] / length(LAMPS[0][0])).astype(np.float32)
        half = towards + lamp
        half /= np.maximum(length(half), 1e-6)[:, None]
        return SHEEN * self._gloss * np.maximum((half * self._normals).sum(1), 0.0) ** np.float32(SHARPNESS)

    def _lookup(self, uv: Floats) -> Floats:
        """Bilinear texture lookup, `[n, 2]` -> `[n, 3]`."""
        place = np.clip(uv * np.float32(self._size) - np.float32(0.5), 0.0, self._size - 1.001)
        low = place.astype(np.int32)
        share = place - low
        first = low[:, 1] * self._size + low[:, 0]
        s, t = share[:, :1], share[:, 1:]
        near = self._texture[first] * (1.0 - s) + self._texture[first + 1] * s
        far = self._texture[first + self._size] * (1.0 - s) + self._texture[first + self._size + 1] * s
        return (near * (1.0 - t) + far * t).astype(np.float32)


def _blend(values: Floats, corners: NDArray[np.int32], weights: Floats) -> Floats:
    first, second, third = (values[corners[:, k]] * weights[:, k : k + 1] for k in range(3))
    return (first + second + third).astype(np.float32)


def _directions(
    world_to_camera: NDArray[np.float64], K: NDArray[np.float64], size: tuple[int, int], samples: int
) -> Floats:
    """Unit directions `[h * w * samples ** 2, 3]` through a grid of samples in every pixel, pixel by pixel."""
    height, width = size
    within = (np.arange(samples) + 0.5) / samples
    ys = (np.arange(height)[:, None] + within).reshape(height, 1, samples, 1)
    xs = (np.arange(width)[:, None] + within).reshape(1, width, 1, samples)
    y = ((ys - K[1, 2]) / K[1, 1]).astype(np.float32)
    x = ((xs - K[0, 2]) / K[0, 0]).astype(np.float32)
    rotation = world_to_camera[:3, :3].astype(np.float32)
    world = x[..., None] * rotation[0] + y[..., None] * rotation[1] + rotation[2]
    world = world.reshape(-1, 3)
    return world / length(world)[:, None]
