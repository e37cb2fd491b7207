"""The template: closed, charted over the whole square, with ARKit's blendshapes."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from data.mesh import vertex_normals
from data.synth import neutral_head
from data.synth.identity import IDENTITY_NAMES

# fmt: off
ARKIT_PAIRED = [
    "browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp",
    "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch",
    "mouthUpperUp", "noseSneer",
]
ARKIT_SINGLE = [
    "browInnerUp", "cheekPuff", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel",
    "mouthLeft", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower",
    "mouthShrugUpper", "tongueOut",
]
# fmt: on
ARKIT = {*ARKIT_SINGLE, *(f"{name}{side}" for name in ARKIT_PAIRED for side in ("Left", "Right"))}
FLIP = np.array([-1.0, 1.0, 1.0], np.float32)


@pytest.fixture(scope="module")
def head():
    return neutral_head()


@pytest.fixture(scope="module")
def mirror(head):
    """Vertex on the other side of every vertex."""
    distances, index = KDTree(head.vertices).query(head.vertices * FLIP)
    assert distances.max() < 1e-6
    return index


def test_mesh_is_closed_and_faces_outwards(head):
    mesh = trimesh.Trimesh(head.vertices, head.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume > 0.004


def test_measures_are_a_heads(head):
    skull = head.vertices[head.vertices[:, 1] > 0.045]
    assert np.ptp(skull[:, 0]) == pytest.approx(0.155, abs=0.006)
    marks = {name: head.vertices[index] for name, index in head.landmarks.items()}
    assert marks["crown"][1] - marks["chin"][1] == pytest.approx(0.22, abs=0.015)
    assert head.vertices[:, 1].min() < -0.17
    assert marks["left_ear"][0] > 0 > marks["right_ear"][0]
    assert max(marks, key=lambda name: marks[name][2]) == "nose_tip"
    assert marks["brow_left"][1] > marks["left_eye"][1] > marks["nose_tip"][1] > marks["mouth_left"][1]
    middle = [marks[name][0] for name in ("nose_tip", "chin", "crown")]
    np.testing.assert_allclose(middle, 0.0, atol=1e-3)


def test_charts_fill_the_square_without_overlap(head):
    corners = head.uvs[head.uv_faces].astype(np.float64)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    assert areas.min() > 0  # every triangle the same way round
    assert head.uvs.min() == 0
    assert head.uvs.max() == 1
    assert areas.sum() == pytest.approx(1.0, abs=1e-6)


@settings(deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_every_texel_lies_in_one_triangle(u, v):
    head = neutral_head()
    p = np.array([u, v])
    corners = head.uvs[head.uv_faces].astype(np.float64)
    edges = np.roll(corners, -1, axis=1) - corners
    inside = edges[..., 0] * (p[1] - corners[..., 1]) - edges[..., 1] * (p[0] - corners[..., 0])
    assert (inside >= -1e-12).all(1).sum() >= 1
    assert (inside > 1e-9).all(1).sum() <= 1


@pytest.mark.parametrize("size", [64, 128, 256])
def test_no_texel_is_wasted_under_the_bust(head, size):
    centres = (np.arange(size) + 0.5) / size
    under = head.uvs[head.uv_faces][..., 1][(head.vertices[head.faces][..., 1] < -0.2389).any(1)]
    assert under.max() < centres[0]


def test_the_face_has_more_texels_than_its_share(head):
    corners, uvs = head.vertices[head.faces], head.uvs[head.uv_faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    center = corners.mean(1)
    face = (center[:, 2] > 0.03) & (center[:, 1] > -0.11) & (center[:, 1] < 0.07)
    a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    assert texels[face].sum() / texels.sum() > 1.8 * areas[face].sum() / areas.sum()
    middle = uvs[face].mean(axis=(0, 1))
    np.testing.assert_allclose(middle, [0.5, 0.5], atol=0.15)


def test_normals_point_away_from_the_axis(head):
    normals = vertex_normals(head.vertices, head.faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-4)
    assert normals[head.landmarks["crown"], 1] > 0.9
    assert normals[head.landmarks["chin"], 2] > 0.7


def test_expressions_are_arkits(head):
    assert len(head.expression_names) == 52
    assert set(head.expression_names) == ARKIT


def test_every_expression_moves_something_a_little(head):
    reach = np.linalg.norm(head.expressions, axis=2)
    moved = (reach > 2e-4).mean(1)
    for name, most, share in zip(head.expression_names, reach.max(1), moved, strict=True):
        assert 0.0015 < most < 0.025, name
        assert 0.001 < share < 0.35, name


@pytest.mark.parametrize("name", ARKIT_PAIRED)
def test_sides_are_mirror_images(head, mirror, name):
    left, right = (head.expressions[head.expression_names.index(name + side)] for side in ("Left", "Right"))
    np.testing.assert_allclose(left[mirror] * FLIP, right, atol=2e-6)
    moving = head.vertices[np.linalg.norm(left, axis=1) > 1e-3]
    assert moving[:, 0].mean() > 0.005  # the subject's left is +x


@pytest.mark.parametrize(
    ("name", "moving", "still"),
    [
        ("jawOpen", "chin", "nose_tip"),
        ("mouthSmileLeft", "mouth_left", "mouth_right"),
        ("browOuterUpRight", "brow_right", "brow_left"),
        ("eyeBlinkLeft", "left_eye", "right_eye"),
        ("browInnerUp", "brow_left", "chin"),
    ],
)
def test_expressions_are_local(head, name, moving, still):
    offset = head.expressions[head.expression_names.index(name)]
    assert np.linalg.norm(offset[head.landmarks[moving]]) > 8e-4
    assert np.linalg.norm(offset[head.landmarks[still]]) < 2e-4


def test_expressions_leave_scalp_and_bust_alone(head):
    far = (head.vertices[:, 1] > 0.085) | (head.vertices[:, 1] < -0.17)
    assert np.abs(head.expressions[:, far]).max() < 1e-4


def test_jaw_opens_downwards_and_smiles_go_up(head):
    def move(name, landmark):
        return head.expressions[head.expression_names.index(name), head.landmarks[landmark]]

    assert move("jawOpen", "chin")[1] < -0.01
    assert move("mouthSmileLeft", "mouth_left")[1] > 0.003
    assert move("mouthFrownLeft", "mouth_left")[1] < -0.003
    assert move("jawLeft", "chin")[0] > 0.003


def test_identity_modes_are_distinct_and_bounded(head):
    modes = head.identity.reshape(len(head.identity), -1)
    assert len(modes) == len(IDENTITY_NAMES) >= 20
    assert np.abs(modes).max(1).min() > 5e-4
    assert np.abs(modes).max() < 0.012
    unit = modes / np.linalg.norm(modes, axis=1, keepdims=True)
    assert np.abs(unit @ unit.T - np.eye(len(unit))).max() < 0.9


def test_deformed_combines_identity_and_expression(head):
    coefficients = np.zeros(len(head.identity), np.float32)
    coefficients[3] = 2.0
    deformed = head.deformed(coefficients, {"jawOpen": 0.5})
    opened = head.expressions[head.expression_names.index("jawOpen")]
    np.testing.assert_allclose(deformed, head.vertices + 2 * head.identity[3] + 0.5 * opened, atol=1e-6)


def test_built_once_per_process(head):
    assert neutral_head() is head
