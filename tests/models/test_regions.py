"""Eyes and mouths are found in every template, and a face moves the surface where its coefficients say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import UserError
from data.arkit import ARKIT
from data.mesh import HeadMesh
from data.synth.head import template as synthetic
from data.synth.regions import eye_opening, lips
from models.template import ExpressionOffsets, Template, face_regions, load_template


def without_names(mesh: HeadMesh) -> HeadMesh:
    """As FLAME's expression basis: nobody says what its shapes are."""
    return replace(mesh, expression_names=tuple(f"flame_{number:03d}" for number in range(len(mesh.expressions))))


def test_our_regions_are_where_eyes_and_lips_are_painted() -> None:
    head = synthetic()
    regions, points = face_regions(head.mesh), head.positions
    for name, painted in (
        ("left_eye", (eye_opening(points) > 0.5) & (points[:, 0] > 0)),
        ("right_eye", (eye_opening(points) > 0.5) & (points[:, 0] < 0)),
        ("mouth", lips(points) > 0.5),
    ):
        low, high = regions[name].points.min(axis=0), regions[name].points.max(axis=0)
        shown = head.mesh.vertices[painted]
        margin = 0.002  # metres: what a box's padding gives and more
        assert (shown > low - margin).all(), name
        assert (shown < high + margin).all(), name
        assert np.abs(shown.mean(axis=0) - regions[name].center).max() < 0.01


def test_left_is_the_subjects_left_and_sides_mirror() -> None:
    regions = face_regions(load_template("headway").mesh)
    left, right = regions["left_eye"], regions["right_eye"]
    assert left.center[0] > 0.02
    np.testing.assert_allclose(left.center, right.center * [-1, 1, 1], atol=1e-4)
    np.testing.assert_allclose(left.normal, right.normal * [-1, 1, 1], atol=1e-3)
    assert abs(regions["mouth"].center[0]) < 1e-4
    assert all(np.isclose(np.linalg.norm(region.normal), 1) for region in regions.values())


def test_an_open_mouth_is_still_in_its_region() -> None:
    mesh = load_template("headway").mesh
    opened = mesh.deformed(expression={"jawOpen": 0.5})[lips(synthetic().positions) > 0.5]
    assert opened[:, 1].min() > face_regions(mesh)["mouth"].points[:, 1].min() - 0.002


def test_ict_has_them_too_and_proportions_find_about_the_same(shared: Path) -> None:
    mesh = load_template("ict", str(shared / "data" / "ict_facekit_headlite.npz")).mesh
    by_shapes, by_proportion = face_regions(mesh), face_regions(without_names(mesh))
    for name in ("left_eye", "right_eye", "mouth"):
        one, two = by_shapes[name], by_proportion[name]
        assert np.linalg.norm(one.center - two.center) < 0.006, "metres"
        for end in (np.min, np.max):
            assert np.abs(end(one.points[:, :2], axis=0) - end(two.points[:, :2], axis=0)).max() < 0.016


def test_a_template_without_a_face_is_named() -> None:
    mesh = without_names(load_template("headway").mesh)  # ours is one piece, eyes and all
    with pytest.raises(UserError, match=r"neither ARKit's blendshapes nor eyeballs[\s\S]*objective.regions.eyes=0"):
        face_regions(mesh)


def test_coefficients_move_texels_as_they_move_vertices() -> None:
    template = load_template("headway")
    assert template.mesh.expression_names == ARKIT
    expression = {"jawOpen": 0.7, "mouthSmileLeft": 0.4}
    moved = replace(template.mesh, vertices=template.mesh.deformed(expression=expression))
    wanted = Template(moved).maps(32).positions - template.maps(32).positions
    found = ExpressionOffsets(template, 32)(torch.tensor([[expression.get(name, 0.0) for name in ARKIT]] * 2))
    assert found.shape == (2, 32 * 32, 3)
    torch.testing.assert_close(found[1].view(32, 32, 3), wanted, atol=1e-6, rtol=0)
    assert found.norm(dim=-1).max() > 0.01, "an open jaw moves by centimetres"


def test_no_face_is_no_offset() -> None:
    assert ExpressionOffsets(load_template("headway"), 8)(torch.zeros(3, 52)).abs().max() == 0


def test_shapes_that_a_template_lacks_move_nothing(shared: Path) -> None:
    ict = load_template("ict", str(shared / "data" / "ict_facekit_headlite.npz"))
    assert "tongueOut" not in ict.mesh.expression_names
    tongue = torch.zeros(1, 52)
    tongue[0, ARKIT.index("tongueOut")] = 1
    assert ExpressionOffsets(ict, 8)(tongue).abs().max() == 0


def test_a_template_without_arkit_cannot_be_tracked() -> None:
    with pytest.raises(UserError, match=r"none of ARKit's blendshapes"):
        ExpressionOffsets(Template(without_names(load_template("headway").mesh)), 8)


def test_arkit_has_52_names_in_order() -> None:
    assert len(ARKIT) == len(set(ARKIT)) == 52
    assert list(ARKIT) == sorted(ARKIT)
