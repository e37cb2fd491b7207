"""Synthetic captures: pure, different from each other, and seen where their cameras say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs.errors import UserError
from data.synth import neutral_head, synthesise_subject
from data.synth.body import Body
from data.synth.expressions import draw_expression
from data.synth.rig import rig_cameras
from data.synth.subject import draw_subject

SIZE = (96, 96)


@pytest.fixture(scope="module")
def captures():
    return [synthesise_subject(3, number, 1, 16, SIZE)[0] for number in range(4)]


def image(capture, view):
    return simplejpeg.decode_jpeg(capture.images[view])


def mask(capture, view):
    return np.asarray(Image.open(io.BytesIO(capture.masks[view])))


def project(capture, view, point):
    local = capture.world_to_camera[view] @ np.append(point, 1.0)
    pixel = capture.K[view] @ local[:3]
    return pixel[:2] / pixel[2]


def test_same_seed_and_number_give_the_same_bytes(captures):
    again, before = synthesise_subject(3, 1, 1, 16, SIZE)[0], captures[1]
    assert again.images == before.images
    assert again.masks == before.masks
    assert again.meta == before.meta
    assert np.array_equal(again.world_to_camera, before.world_to_camera)
    assert np.array_equal(again.K, before.K)


def test_captures_hold_what_a_shard_promises(captures):
    for capture in captures:
        capture.validate(pixels=True)
        assert capture.sizes == (SIZE,) * 16


def test_subjects_differ(captures):
    fronts = [image(capture, 2).astype(float) for capture in captures]
    for i, one in enumerate(fronts):
        for other in fronts[i + 1 :]:
            assert np.abs(one - other).mean() > 8.0


def test_seeds_are_different_populations():
    a, b = draw_subject(0, 5), draw_subject(1, 5)
    assert not np.array_equal(a.shape, b.shape)


def test_looks_vary_over_the_population():
    attributes = [draw_subject(0, number).attributes for number in range(200)]
    for key, least in (
        ("skin", 6),
        ("hair", 8),
        ("hair_colour", 8),
        ("hat", 3),
        ("beard", 4),
        ("eyes", 5),
        ("clothes", 5),
    ):
        assert len({item[key] for item in attributes}) >= least, key


def test_hair_and_hats_are_geometry():
    template = neutral_head().vertices
    crown = neutral_head().landmarks["crown"]
    for number in range(40):
        subject = draw_subject(0, number)
        if subject.hair.style == "curly" or subject.hat.kind == "beanie":
            bare = neutral_head().deformed(subject.shape)
            lifted = Body(subject).vertices({})
            assert lifted[crown, 1] - bare[crown, 1] > 0.006
            assert len(lifted) == len(template)


def test_masks_cover_the_person_and_spare_the_corners(captures):
    for capture in captures:
        covered = mask(capture, 2)
        assert covered[0, 0] == covered[0, -1] == 0
        assert 0.2 < (covered > 127).mean() < 0.7
        rows = np.flatnonzero((covered > 127).any(1))
        assert rows.min() < 0.25 * SIZE[0]
        assert 0 < ((covered > 0) & (covered < 255)).mean() < 0.1  # edges are antialiased


def test_landmarks_fall_on_the_person(captures):
    head = neutral_head()
    for number, capture in enumerate(captures):
        vertices = Body(draw_subject(3, number)).vertices({})
        for view in range(16):
            covered = mask(capture, view)
            for name in ("nose_tip", "left_eye", "right_ear", "mouth_left", "neck_front"):
                x, y = np.floor(project(capture, view, vertices[head.landmarks[name]])).astype(int)
                near = covered[y - 1 : y + 2, x - 1 : x + 2]  # a tip on the outline may round to its neighbour
                assert near.max() > 0, (capture.name, view, name)


def test_the_tip_of_the_nose_is_skin(captures):
    head = neutral_head()
    for number, capture in enumerate(captures):
        subject = draw_subject(3, number)
        tip = Body(subject).vertices({})[head.landmarks["nose_tip"]]
        x, y = np.floor(project(capture, 2, tip)).astype(int)
        seen = image(capture, 2)[y, x].astype(float)
        skin = subject.face.skin ** (1 / 2.2)
        assert seen[0] >= seen[2]
        np.testing.assert_allclose(seen / seen.sum(), skin / skin.sum(), atol=0.08)


def test_the_backdrop_is_the_same_for_all_subjects(captures):
    corners = np.array([image(capture, 10)[2:8, 2:8].mean((0, 1)) for capture in captures])
    assert np.ptp(corners, axis=0).max() < 25  # exposure and jitter only


def test_frames_share_the_cameras_and_change_the_face():
    neutral, moved = synthesise_subject(0, 2, 2, 16, (64, 64))
    assert neutral.expression == {}
    assert moved.expression
    assert np.array_equal(neutral.K, moved.K)
    assert (neutral.frame, moved.frame) == ("f000", "f001")
    assert neutral.images != moved.images


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 50))
def test_expressions_are_coefficients_of_known_names(seed, number, frame):
    names = neutral_head().expression_names
    expression = draw_expression(draw_subject(seed, number), frame, names)
    assert set(expression) <= set(names)
    assert all(0.0 <= weight <= 1.0 for weight in expression.values())


@pytest.mark.parametrize("size", [16, 80])
def test_rigs_look_at_the_head_from_a_metre(size):
    world_to_camera, K = rig_cameras(size, (200, 150), np.random.default_rng(0))
    assert world_to_camera.shape == (size, 4, 4)
    rotation, translation = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (size, 1, 1)), atol=1e-12)
    centers = -np.einsum("vji,vj->vi", rotation, translation)
    assert np.all(np.abs(np.linalg.norm(centers, axis=1) - 1.05) < 0.1)
    assert np.mean(centers[:, 2] > 0) >= 0.6
    seen = np.einsum("vij,vj->vi", K, translation)  # the origin
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], [[75, 100]] * size, atol=16)
    assert len({tuple(np.round(center, 2)) for center in centers}) == size


def test_portrait_images(captures):
    capture = synthesise_subject(0, 0, 1, 16, (128, 96))[0]
    assert image(capture, 0).shape == (128, 96, 3)
    capture.validate()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rig": 17}, "17"),
        ({"frames": 0}, "frames"),
        ({"image_size": (4, 128)}, "image_size"),
        ({"number": -1}, "number"),
    ],
)
def test_bad_input_is_one_message(arguments, word):
    with pytest.raises(UserError, match=word):
        synthesise_subject(**{"seed": 0, "number": 0, **arguments})
