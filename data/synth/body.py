"""A subject's surface at an expression: identity, expression, then what is worn or grows on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.mesh import vertex_normals
from data.synth.clothes import clothes_cover, clothes_lift
from data.synth.fields import Array
from data.synth.hair import beard_lift, hair_cover, hair_surface, hat_cover, hat_surface
from data.synth.head import template
from data.synth.identity import IDENTITY_NAMES
from data.synth.places import vertex_places
from data.synth.regions import eye_opening
from data.synth.subject import Subject


class Body:
    """The surface of one subject.

    What does not depend on the expression is computed once: the person's own head, and the cover, position and
    thickness of hair, hat, beard and clothes.

    Attributes:
        gloss: `[v]` how much of a highlight each vertex shows.
    """

    def __init__(self, subject: Subject) -> None:
        head, places = template(), vertex_places()
        self._faces = head.mesh.faces
        offsets = 100.0 * np.einsum("k,kvc->vc", subject.shape, head.mesh.identity)
        ear_modes = [IDENTITY_NAMES.index(name) for name in ("ear_size", "ear_protrusion")]
        of_ears = 100.0 * np.einsum("k,kvc->vc", subject.shape[ear_modes], head.mesh.identity[ear_modes])
        self._neutral = head.positions + offsets
        shell = head.shell + offsets - of_ears
        normals = self._normals(shell)
        cloth = clothes_lift(places, subject.clothes)
        beard = beard_lift(places, subject)
        self._lift = (cloth + beard)[:, None]
        self._layers = [(hair_cover(places, subject)[:, None], hair_surface(places, normals, shell, subject))]
        if subject.hat.kind != "none":
            cover = hat_cover(places, subject.hat)[:, None]
            self._layers.append((cover, hat_surface(places, normals, shell, subject)))

        self.gloss = self._gloss(subject)

    def vertices(self, expression: dict[str, float]) -> NDArray[np.float32]:
        """Vertices `[v, 3]` in metres under expression coefficients."""
        mesh = template().mesh
        points = self._neutral.copy()
        for name, weight in expression.items():
            points += 100.0 * weight * mesh.expressions[mesh.expression_names.index(name)]
        points += self._normals(points) * self._lift
        for cover, surface in self._layers:
            points += cover * (surface - points)
        return (points / 100.0).astype(np.float32)

    def _gloss(self, subject: Subject) -> NDArray[np.float32]:
        """How much of a highlight each vertex shows, `[v]`: skin most, hair less, cloth hardly."""
        places = vertex_places()
        gloss = np.where(eye_opening(places.points) > 0.5, 1.6, 0.75)
        for cover, share in (
            (clothes_cover(places, subject.clothes), 0.12),
            (hair_cover(places, subject), 0.35),
            (hat_cover(places, subject.hat), 0.1),
        ):
            gloss += cover * (share - gloss)
        return gloss.astype(np.float32)

    def _normals(self, points: Array) -> Array:
        return vertex_normals(points.astype(np.float32), self._faces).astype(np.float64)
