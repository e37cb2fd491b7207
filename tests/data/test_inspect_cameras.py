"""Cameras broken in every known way are told by name; right ones are called right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import UserError
from data.capture import Capture
from data.images import decode, encode_jpeg, encode_png
from data.inspect.cameras import Verdict, captures_at, check_capture
from data.inspect.evidence import color_agreement, silhouette_agreement
from data.inspect.hypotheses import FIXES, OPENGL, hypotheses
from data.inspect.observed import observe
from data.inspect.picture import HEAD, MASK, draw_verdict
from data.locate import open_capture
from data.manifest import commit
from data.shards import write_shard
from data.synth import neutral_head, synthesise_subject

Cameras = tuple[np.ndarray, np.ndarray]
Break = Callable[[np.ndarray, np.ndarray], Cameras]
SIZE = (128, 96)


def world(rotation: Any = ((1, 0, 0), (0, 1, 0), (0, 0, 1)), unit: float = 1.0, shift: Any = (0, 0, 0)) -> Break:
    """Cameras in a world that is turned, in another unit, with the head elsewhere."""

    def move(w: np.ndarray, K: np.ndarray) -> Cameras:
        moved = w.copy()
        moved[:, :3, :3] = w[:, :3, :3] @ np.array(rotation, float).T
        moved[:, :3, 3] = unit * w[:, :3, 3] - moved[:, :3, :3] @ np.array(shift, float)
        return moved, K

    return move


def mirrored(axis: int) -> Break:
    flip = np.eye(4)
    flip[axis, axis] = -1
    return lambda w, K: (flip @ w @ flip, K)


def inverse(w: np.ndarray, K: np.ndarray) -> Cameras:
    return np.linalg.inv(w), K


def opengl(w: np.ndarray, K: np.ndarray) -> Cameras:
    return OPENGL @ w, K


def transposed(w: np.ndarray, K: np.ndarray) -> Cameras:
    turned = w.copy()
    turned[:, :3, :3] = np.swapaxes(w[:, :3, :3], 1, 2)
    return turned, K


def scaled_K(scale: float) -> Break:
    return lambda w, K: (w, np.diag([scale, scale, 1.0]) @ K)


def swapped_K(w: np.ndarray, K: np.ndarray) -> Cameras:
    swapped = K.copy()
    swapped[:, 0, 2], swapped[:, 1, 2] = K[:, 1, 2], K[:, 0, 2]
    return w, swapped


def both(first: Break, second: Break) -> Break:
    return lambda w, K: second(*first(w, K))


Z_UP = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
Z_DOWN = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
BROKEN: dict[str, tuple[Break, set[str]]] = {
    "camera-to-world": (inverse, {"camera-to-world"}),
    "OpenGL": (opengl, {"OpenGL axes"}),
    "transposed rotation": (transposed, {"transposed rotation"}),
    "left-handed x": (mirrored(0), {"mirrored x"}),
    "left-handed y": (mirrored(1), {"mirrored y"}),
    "left-handed z": (mirrored(2), {"mirrored z"}),
    "transposed K": (lambda w, K: (w, np.swapaxes(K, 1, 2)), {"transposed K"}),
    "K of images twice as large": (scaled_K(2), {"K of another size"}),
    "K of images half as large": (scaled_K(0.5), {"K of another size"}),
    "cx and cy swapped": (swapped_K, {"swapped K"}),
    "millimetres": (world(unit=1000), {"unit"}),
    "centimetres": (world(unit=100), {"unit"}),
    "y down": (world(np.diag([1, -1, -1])), {"up"}),
    "z up": (world(Z_UP), {"up"}),
    "z down": (world(Z_DOWN), {"up"}),
    "another origin": (world(shift=(0.1, 1.6, 0.2)), {"origin"}),
    "face backwards": (world(np.diag([-1, 1, -1])), {"front"}),
    "face sideways": (world([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]), {"front"}),
    "OpenGL camera-to-world": (both(opengl, inverse), {"camera-to-world", "OpenGL axes"}),
    "camera-to-world in millimetres": (both(world(unit=1000), inverse), {"camera-to-world", "unit"}),
    "camera-to-world and K of another size": (both(inverse, scaled_K(2)), {"camera-to-world", "K of another size"}),
    "OpenGL and z up": (both(world(Z_UP), opengl), {"OpenGL axes", "up"}),
    "OpenGL and cx, cy swapped": (both(opengl, swapped_K), {"OpenGL axes", "swapped K"}),
    "millimetres and y down": (both(world(unit=1000), world(np.diag([1, -1, -1]))), {"unit", "up"}),
    "Blender in centimetres": (
        both(both(world(Z_UP, 100), opengl), inverse),
        {"camera-to-world", "OpenGL axes", "up", "unit"},
    ),
}


@pytest.fixture(scope="module")
def studio() -> Capture:
    return synthesise_subject(0, 3, image_size=SIZE)[0]


@pytest.fixture(scope="module")
def person(studio: Capture) -> Capture:
    """Ten of the studio's sixteen views: enough for every verdict, and quick."""
    return some_views(studio, [1, 3, 5, 6, 7, 8, 9, 11, 13, 15])


@pytest.fixture(scope="module")
def scan(shared: Path) -> Capture:
    folder = shared / "captures" / "scan_a"
    if not folder.is_dir():
        pytest.skip("needs shared/captures/scan_a")
    return open_capture(str(folder))


def broken(capture: Capture, change: Break) -> Capture:
    world_to_camera, K = change(capture.world_to_camera, capture.K)
    return replace(capture, world_to_camera=world_to_camera, K=K)


def some_views(capture: Capture, views: list[int]) -> Capture:
    parts = {
        key: tuple(getattr(capture, key)[view] for view in views) for key in ("cameras", "images", "masks", "sizes")
    }
    return replace(capture, world_to_camera=capture.world_to_camera[views], K=capture.K[views], **parts)


def without_masks(capture: Capture) -> Capture:
    return replace(capture, masks=(None,) * len(capture.masks))


def named(verdict: Verdict) -> set[str]:
    assert verdict.right == (not verdict.wrong)
    assert bool(verdict.advice) != verdict.right
    return set(verdict.wrong)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_convention_is_named(person, case):
    change, wanted = BROKEN[case]
    assert named(check_capture(broken(person, change))) == wanted


@pytest.mark.parametrize("case", ["camera-to-world", "OpenGL", "transposed rotation", "cx and cy swapped", "z up"])
def test_a_broken_convention_of_a_real_scan_is_named(scan, case):
    change, wanted = BROKEN[case]
    assert named(check_capture(broken(scan, change))) == wanted


def test_a_real_scan_is_right(scan):
    assert check_capture(scan).right
    assert check_capture(without_masks(scan)).right


TOLD_BY_COLOURS = [case for case in BROKEN if not case.startswith(("face", "millimetres", "z ", "y down", "another"))]


@pytest.mark.parametrize("case", TOLD_BY_COLOURS)
def test_a_broken_convention_is_named_without_masks(person, case):
    change, wanted = BROKEN[case]
    assert named(check_capture(without_masks(broken(person, change)))) == wanted


@pytest.mark.parametrize("number", [101])
def test_right_cameras_are_called_right(number):
    person = synthesise_subject(0, number, frames=2, image_size=(96, 80))[1]
    azimuth = np.degrees(np.arctan2(person.centers[:, 0], person.centers[:, 2]))
    front = [view for view in range(16) if abs(azimuth[view]) < 60]
    for capture in (person, some_views(person, front), some_views(person, [2, 5, 9, 12]), some_views(person, [7, 8])):
        assert named(check_capture(capture)) == set()
        assert named(check_capture(without_masks(capture))) == set()


def test_eighty_cameras_are_right():
    verdict = check_capture(synthesise_subject(0, 3, rig=80, image_size=(64, 64))[0])
    assert verdict.right


@pytest.mark.parametrize("case", ["camera-to-world", "OpenGL", "another origin"])
def test_one_view_is_judged_by_the_template(person, case):
    alone = some_views(person, [5])
    assert check_capture(alone).right
    change, _ = BROKEN[case]
    assert not check_capture(broken(alone, change)).right


@pytest.mark.parametrize(("view", "turn"), [(5, 12.0), (8, -8.0)])
def test_one_wrong_camera_is_named(studio, view, turn):
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrices = studio.world_to_camera.copy()
    matrices[view] = np.array([[c, 0, s, 0.0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]]) @ matrices[view]
    verdict = check_capture(replace(studio, world_to_camera=matrices))
    assert verdict.wrong == ("silhouettes",)
    assert f"camera {studio.cameras[view]} does not fit" in verdict.advice


def test_shuffled_cameras_fit_no_convention(studio):
    order = np.random.default_rng(0).permutation(16)
    verdict = check_capture(replace(studio, world_to_camera=studio.world_to_camera[order]))
    assert verdict.wrong[0] == "convention"
    assert "another session or order" in verdict.advice


def test_a_head_of_one_colour_is_judged_by_its_outline(person):
    plain = []
    for image, mask in zip(person.images, person.masks, strict=True):
        pixels = np.full_like(decode(image), 255)
        pixels[decode(mask or b"", 1) > 0] = (200, 150, 130)
        plain.append(encode_jpeg(pixels, 100))
    flat = replace(person, images=tuple(plain))
    assert check_capture(flat).right
    assert named(check_capture(broken(flat, BROKEN["OpenGL camera-to-world"][0]))) == {"camera-to-world", "OpenGL axes"}


def keypoints_of(capture: Capture) -> dict[str, Any]:
    head = neutral_head()
    points = head.vertices[list(head.landmarks.values())].astype(float)
    local = points @ np.swapaxes(capture.world_to_camera[:, :3, :3], 1, 2) + capture.world_to_camera[:, None, :3, 3]
    image = local @ np.swapaxes(capture.K, 1, 2)
    seen = image[..., :2] / image[..., 2:]
    return {
        "keypoints_3d": points.tolist(),
        "keypoints_2d": {camera: seen[view].tolist() for view, camera in enumerate(capture.cameras)},
    }


@pytest.mark.parametrize("case", ["camera-to-world", "OpenGL", "left-handed x", "transposed rotation"])
def test_keypoints_speak_where_masks_and_colours_are_silent(person, case):
    gray = encode_jpeg(np.full((*SIZE, 3), 90, np.uint8))
    silent = replace(without_masks(person), images=(gray,) * 10, meta=keypoints_of(person))
    assert check_capture(silent).right
    change, wanted = BROKEN[case]
    assert named(check_capture(broken(silent, change))) == wanted


def test_keypoints_may_have_names_and_need_no_pixels(person):
    head = neutral_head()
    points = {name: head.vertices[vertex].tolist() for name, vertex in head.landmarks.items()}
    for meta in ({"keypoints_3d": points}, {"keypoints": {"ids": [0], "points": list(points.values())}}):
        verdict = check_capture(replace(person, meta=meta))
        assert verdict.right
        assert verdict.ranked[0][1].keypoints == 1.0


def test_nothing_to_compare_is_not_called_wrong(person):
    gray = encode_jpeg(np.full((*SIZE, 3), 90, np.uint8))
    verdict = check_capture(replace(without_masks(person), images=(gray,) * 10))
    convention = next(check for check in verdict.checks if check.name == "convention")
    assert convention.good is None
    assert verdict.right


BAD: dict[str, tuple[Callable[[Capture], Capture], str]] = {
    "NaN": (lambda c: broken(c, lambda w, K: (w * np.nan, K)), "camera c00: NaN"),
    "infinite K": (lambda c: broken(c, lambda w, K: (w, K + np.inf)), "camera c00: NaN or infinity"),
    "whole matrix transposed": (lambda c: broken(c, lambda w, K: (np.swapaxes(w, 1, 2), K)), "4 x 4 transposed"),
    "scaled rotation": (lambda c: broken(c, lambda w, K: (w * [[[2], [2], [2], [1]]], K)), "not rigid"),
    "mirrored rotation": (lambda c: broken(c, lambda w, K: (np.diag([-1, 1, 1, 1]) @ w, K)), "mirrors"),
    "negative focal": (lambda c: broken(c, lambda w, K: (w, -K)), "focal length -"),
    "broken image": (lambda c: replace(c, images=(c.images[0][:40], *c.images[1:])), "camera c00: broken image"),
    "broken mask": (lambda c: replace(c, masks=(*c.masks[:4], b"x", *c.masks[5:])), "camera c04: broken image or mask"),
    "flat keypoints": (lambda c: replace(c, meta={"keypoints_3d": [1, 2, 3]}), r"are not a list of \[x, y, z\]"),
    "keypoints of words": (lambda c: replace(c, meta={"keypoints_3d": [["a", "b", "c"]]}), r"\[x, y, z\]"),
    "NaN keypoints": (lambda c: replace(c, meta={"keypoints_3d": [[0, 0, float("nan")]]}), r"\[x, y, z\]"),
    "too few 2D keypoints": (
        lambda c: replace(c, meta={"keypoints_3d": [[0, 0, 0]] * 3, "keypoints_2d": {"c02": [[1, 2], [3, 4]]}}),
        "camera c02: .*each of 3 keypoints",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_convention_explains_is_one_message(studio, case):
    change, message = BAD[case]
    with pytest.raises(UserError, match=message):
        check_capture(change(studio))


def test_a_repair_undoes_its_mistake(person):
    """Every fix applied to cameras broken in its way gives the right cameras back."""
    by_name = {fix.name: fix for fix in FIXES}
    for case in BROKEN.values():
        if len(case[1]) == 1 and (name := next(iter(case[1]))) in by_name:
            w, K = by_name[name].change(*case[0](person.world_to_camera, person.K), person.sizes)
            np.testing.assert_allclose(w, person.world_to_camera, atol=1e-12)
            np.testing.assert_allclose(K, person.K, rtol=0.04)


def test_hypotheses_begin_with_what_is_given_and_repeat_nothing(person):
    seen = observe(person)
    found = list(hypotheses(seen))
    assert found[0].name == "as given"
    assert found[0].world_to_camera is seen.world_to_camera
    assert len({one.name for one in found}) == len(found)


def test_evidence_is_a_share(person):
    seen = observe(person)
    silhouettes = seen.silhouettes()
    assert silhouettes is not None
    shares, surface = silhouette_agreement(silhouettes)
    assert surface is not None
    assert ((shares > 0.85) & (shares <= 1)).all()
    assert 0.8 < color_agreement(seen, surface) <= 1
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1, atol=1e-6)


def test_the_picture_shows_head_and_mask_and_the_repair(studio):
    person = studio
    right = np.asarray(draw_verdict(person, check_capture(person), columns=4, width=96))
    assert right.shape == (4 * 128 + 22, 4 * 96, 3)
    for color in (HEAD, MASK):
        assert (right == color).all(axis=2).sum() > 16 * 30
    wrong = broken(person, opengl)
    sheet = np.asarray(draw_verdict(wrong, check_capture(wrong), columns=4, width=96))
    above, below = sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :]
    assert (above == HEAD).all(axis=2).sum() == 0
    assert (below == HEAD).all(axis=2).sum() > 16 * 30


def nerfstudio(folder: Path, capture: Capture, matrices: np.ndarray) -> Path:
    """The capture as a nerfstudio folder with these `transform_matrix`."""
    folder.mkdir()
    frames = []
    for view, camera in enumerate(capture.cameras):
        (folder / f"{camera}.jpg").write_bytes(capture.images[view])
        (folder / f"{camera}.png").write_bytes(encode_png(decode(capture.masks[view] or b"", 1)))
        K = capture.K[view]
        lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
        files = {"file_path": f"{camera}.jpg", "mask_path": f"{camera}.png"}
        frames.append({**files, **lens, "transform_matrix": matrices[view].tolist()})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


FILES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], set[str]]] = {
    "right": (lambda w: np.linalg.inv(w) @ OPENGL, set()),
    "right, but z up in millimetres": (lambda w: np.linalg.inv(world(Z_UP, 1000)(w, w)[0]) @ OPENGL, set()),
    "OpenCV camera-to-world": (np.linalg.inv, {"OpenCV axes"}),
    "OpenCV world-to-camera": (lambda w: w, {"world-to-camera", "OpenCV axes"}),
    "OpenGL world-to-camera": (lambda w: OPENGL @ w, {"world-to-camera"}),
    "transposed rotation": (lambda w: transposed(np.linalg.inv(w) @ OPENGL, w)[0], {"transposed rotation"}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_raw_nerfstudio_folder_is_told_from_the_file_s_side(person, tmp_path, case):
    change, wanted = FILES[case]
    folder = nerfstudio(tmp_path / "anna", person, change(person.world_to_camera))
    ((capture, raw),) = captures_at(str(folder), 3)
    assert raw
    verdict = check_capture(capture, raw)
    assert named(verdict) == wanted
    if not wanted:
        assert open_capture(str(folder)).name == "anna_0"


def test_a_dataset_is_sampled_and_its_captures_are_canonical(person, tmp_path):
    url = str(tmp_path / "out")
    write_shard(url, 0, (replace(person, frame=f"{number}") for number in range(5)))
    commit(url)
    found = list(captures_at(url, 3))
    assert [(capture.frame, raw) for capture, raw in found] == [("0", False), ("2", False), ("4", False)]
    ((capture, _),) = captures_at(f"{url}#{person.subject}_3", 3)
    assert capture.frame == "3"
    with pytest.raises(UserError, match="no such"):
        list(captures_at(str(tmp_path / "nowhere"), 3))
