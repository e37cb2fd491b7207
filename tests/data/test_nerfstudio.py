"""The importer: any frame, unit or convention becomes canonical or is refused by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs import UserError
from data import Dataset, open_capture
from data.images import decode, encode_jpeg, encode_png
from data.ingest.job import Selection, ingest
from data.ingest.nerfstudio import Nerfstudio, read_nerfstudio
from data.ingest.picture import draw_reprojection

SIZE, FOCAL = (72, 60), 190.0
HEAD = {"center": np.array([0.0, 0.01, 0.005]), "axes": np.array([0.078, 0.125, 0.098])}
Change = Callable[[dict[str, Any]], None]


def camera_to_world(center: np.ndarray) -> np.ndarray:
    """OpenGL camera-to-world of an upright camera that looks at the origin."""
    back = center / np.linalg.norm(center)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    matrix[:3, 3] = center
    return matrix


def draw(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of an ellipsoid head with a neck, ray by ray."""
    rows, columns = np.indices(SIZE) + 0.5
    local = np.stack([columns - SIZE[1] / 2, SIZE[0] / 2 - rows, np.full(SIZE, -FOCAL)], axis=-1)
    rays = local @ matrix[:3, :3].T
    origin = (matrix[:3, 3] - HEAD["center"]) / HEAD["axes"]
    scaled = rays / HEAD["axes"]
    a, b, c = (scaled**2).sum(-1), (scaled @ origin), origin @ origin - 1
    head = b**2 - a * c > 0
    flat, foot = rays[..., ::2], matrix[[0, 2], 3]
    t = -(flat @ foot) / (flat**2).sum(-1)
    near = ((flat * t[..., None] + foot) ** 2).sum(-1) < 0.055**2
    mask = head | (near & (matrix[1, 3] + t * rays[..., 1] < 0))
    image = np.where(mask[..., None], np.array([200, 140, 120]), 255).astype(np.uint8)
    return image, np.where(mask, 255, 0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, ring) -> Path:
    """A right capture of an ellipsoid person: twelve cameras in a ring, pixel intrinsics, masks."""
    root = tmp_path / "anna"
    (root / "images").mkdir(parents=True)
    frames = []
    for number, center in enumerate(ring(12)):
        matrix = camera_to_world(center)
        image, mask = draw(matrix)
        (root / f"images/c{number}.jpg").write_bytes(encode_jpeg(image))
        (root / f"images/c{number}.mask.png").write_bytes(encode_png(mask))
        frames.append(
            {
                "file_path": f"images/c{number}.jpg",
                "mask_path": f"images/c{number}.mask.png",
                "transform_matrix": matrix.tolist(),
            }
        )
    top = {"w": SIZE[1], "h": SIZE[0], "fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE[1] / 2, "cy": SIZE[0] / 2}
    (root / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", **top, "frames": frames}))
    return root


def edit(folder: Path, change: Change) -> Path:
    tree = json.loads((folder / "transforms.json").read_text())
    change(tree)
    (folder / "transforms.json").write_text(json.dumps(tree))
    return folder


def every(function: Callable[[np.ndarray, int], np.ndarray]) -> Change:
    def change(tree: dict[str, Any]) -> None:
        for number, frame in enumerate(tree["frames"]):
            frame["transform_matrix"] = function(np.array(frame["transform_matrix"]), number).tolist()

    return change


def similarity(scale: float = 1.0, rotation: np.ndarray | None = None, shift: Any = (0, 0, 0)) -> Change:
    def move(matrix: np.ndarray, _: int) -> np.ndarray:
        moved = matrix.copy()
        turn = np.eye(3) if rotation is None else rotation
        moved[:3, :3] = turn @ matrix[:3, :3]
        moved[:3, 3] = scale * (turn @ matrix[:3, 3]) + shift
        return moved

    return every(move)


def about_y(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def test_a_canonical_capture_keeps_its_cameras(folder, ring):
    capture = read_nerfstudio(folder)
    capture.validate(pixels=True)
    assert (capture.name, capture.cameras[:2]) == ("anna_0", ("c0", "c1"))
    np.testing.assert_allclose(capture.centers, ring(12), atol=1e-12)
    # OpenCV: the origin lies in front of every camera, on its axis.
    np.testing.assert_allclose(capture.world_to_camera[:, :2, 3], 0, atol=1e-12)
    assert (capture.world_to_camera[:, 2, 3] > 0.9).all()
    # y is down in the camera.
    assert (capture.world_to_camera[:, 1, 1] < 0).all()
    said = "\n".join(capture.meta["ingest"])
    assert "OpenGL camera-to-world turned into OpenCV world-to-camera" in said
    assert "kept" in said
    assert "moved" not in said


MOVED = {
    "millimetres": similarity(1000.0),
    "arbitrary units": similarity(3.7),
    "another origin": similarity(shift=(0.4, -1.0, 2.0)),
    "z up, as in Blender": similarity(rotation=Z_UP),
    "all at once": similarity(512.0, Z_UP, (300.0, 20.0, -70.0)),
}


@pytest.mark.parametrize("case", MOVED)
def test_any_frame_and_unit_becomes_canonical(folder, case):
    good = read_nerfstudio(folder)
    found = read_nerfstudio(edit(folder, MOVED[case]))
    rotation = found.world_to_camera[:, :3, :3] @ np.swapaxes(good.world_to_camera[:, :3, :3], 1, 2)
    angles = np.degrees(np.arccos(np.clip((np.trace(rotation, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert angles.max() < 4
    exact = "arbitrary" not in case and "all" not in case
    distances = np.linalg.norm(found.centers, axis=1) / np.linalg.norm(good.centers, axis=1)
    assert np.abs(distances - 1).max() < (0.06 if exact else 0.2)
    # The head's centre is where it was, up to what a hull of this size can tell.
    assert np.linalg.norm(found.centers.mean(axis=0) - good.centers.mean(axis=0)) < 0.06
    assert any("scaled" in line or "moved" in line or "turned" in line for line in found.meta["ingest"])


def test_a_named_camera_tells_the_front(folder):
    edit(folder, similarity(rotation=about_y(130)))
    capture = read_nerfstudio(folder, front="c0")
    azimuth = np.degrees(np.arctan2(capture.centers[0, 0], capture.centers[0, 2]))
    assert abs(azimuth) < 2
    with pytest.raises(UserError, match="no camera is called 'nose'"):
        read_nerfstudio(folder, front="nose")


def test_the_middle_of_a_half_rig_is_the_front(folder):
    def half(tree: dict[str, Any]) -> None:
        tree["frames"] = [tree["frames"][number] for number in (10, 11, 0, 1, 2)]

    edit(folder, half)
    edit(folder, similarity(rotation=about_y(130)))
    capture = read_nerfstudio(folder)
    assert abs(np.degrees(np.arctan2(capture.centers[2, 0], capture.centers[2, 2]))) < 3


WRONG_CAMERAS = {
    "world-to-camera": every(lambda m, _: np.linalg.inv(m)),
    "OpenCV axes": every(lambda m, _: m @ np.diag([1.0, -1, -1, 1])),
    "transposed rotations": every(lambda m, _: np.block([[m[:3, :3].T, m[:3, 3:]], [np.eye(4)[3:]]])),
}


@pytest.mark.parametrize("case", WRONG_CAMERAS)
def test_cameras_of_another_convention_are_refused(folder, case):
    with pytest.raises(UserError, match="capture anna_0") as caught:
        read_nerfstudio(edit(folder, WRONG_CAMERAS[case]))
    assert "OpenGL camera-to-world" in str(caught.value)


def test_one_camera_turned_away_is_named(folder):
    with pytest.raises(UserError, match="capture anna_0, camera c7: the camera does not fit the others"):
        read_nerfstudio(edit(folder, every(lambda m, n: m @ np.diag([1.0, -1, -1, 1]) if n == 7 else m)))


def frame_of(number: int, **changes: Any) -> Change:
    return lambda tree: tree["frames"][number].update(changes)


def matrix_of(number: int, place: tuple[int, int], value: Any) -> Change:
    def change(tree: dict[str, Any]) -> None:
        tree["frames"][number]["transform_matrix"][place[0]][place[1]] = value

    return change


BAD = {
    "a missing image": (frame_of(4, file_path="images/none.jpg"), "camera none: missing camera"),
    "a path that leaves": (frame_of(2, file_path="../anna/../../x.jpg"), "leads out of the folder"),
    "no file named": (lambda t: t["frames"][0].pop("file_path"), "missing camera"),
    "NaN in a transform": (matrix_of(5, (0, 3), float("nan")), "camera c5: NaN"),
    "a text in a transform": (matrix_of(5, (0, 3), "x"), "camera c5: transform_matrix is not 4 x 4"),
    "a singular rotation": (frame_of(3, transform_matrix=np.diag([1, 1, 0, 1]).tolist()), "camera c3: .*singular"),
    "a scaled rotation": (frame_of(3, transform_matrix=np.diag([2, 2, 2, 1]).tolist()), "camera c3: .*not rigid"),
    "distortion": (lambda t: t.update(k1=0.2), r"camera c0: the lens distorts \(k1=0.2\)"),
    "a fisheye": (lambda t: t.update(camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE"),
    "no focal length": (lambda t: [t.pop(key) for key in ("fl_x", "fl_y")], "neither fl_x nor camera_angle_x"),
    "a negative focal length": (lambda t: t.update(fl_x=-3), "camera c0: focal length -3"),
    "another aspect": (lambda t: t.update(w=72), "the image is 60 x 72, the file says 72 x 72"),
    "no frames": (lambda t: t.update(frames=[]), "has no frames"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(folder, case):
    change, message = BAD[case]
    with pytest.raises(UserError, match=message):
        read_nerfstudio(edit(folder, change))


def test_bad_files_are_one_message(folder):
    good = (folder / "images/c3.jpg").read_bytes()
    (folder / "images/c3.jpg").write_bytes(good[:-60])
    with pytest.raises(UserError, match="capture anna, camera c3: broken image"):
        read_nerfstudio(folder)
    (folder / "images/c3.jpg").write_bytes(good)
    (folder / "images/c6.mask.png").write_bytes(encode_png(np.zeros((50, 60), np.uint8)))
    with pytest.raises(UserError, match="capture anna_0, camera c6: the mask is 60 x 50, the image 60 x 72"):
        read_nerfstudio(folder)


def test_empty_folders_are_one_message(tmp_path):
    for call in (
        read_nerfstudio,
        lambda path: ingest(Nerfstudio(), str(path), str(tmp_path / "out")),
        lambda p: open_capture(str(p)),
    ):
        with pytest.raises(UserError, match=r"transforms\.json"):
            call(tmp_path)
        with pytest.raises(UserError, match="no such"):
            call(tmp_path / "nowhere")
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_nerfstudio(tmp_path)


def test_field_of_view_and_smaller_images_give_the_same_intrinsics(folder):
    good = read_nerfstudio(folder).K

    def angles(tree: dict[str, Any]) -> None:
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            tree.pop(key)
        tree["camera_angle_x"] = 2 * np.arctan(SIZE[1] / 2 / FOCAL)

    def doubled(tree: dict[str, Any]) -> None:
        tree.pop("camera_angle_x")
        for key, value in {"w": 60, "h": 72, "fl_x": FOCAL, "fl_y": FOCAL, "cx": 30, "cy": 36}.items():
            tree["frames"][0][key] = 2 * value
            tree[key] = value

    np.testing.assert_allclose(read_nerfstudio(edit(folder, angles)).K, good)
    capture = read_nerfstudio(edit(folder, doubled))
    np.testing.assert_allclose(capture.K, good)
    assert any("scaled from 120 x 144 to 60 x 72" in line for line in capture.meta["ingest"])


def test_alpha_becomes_the_mask(folder):
    good = read_nerfstudio(folder)
    for number, camera in enumerate(good.cameras):
        alpha = decode(good.masks[number] or b"", 1)
        rgba = np.dstack([decode(good.images[number]), alpha])
        (folder / f"images/{camera}.png").write_bytes(encode_png(rgba))

    def change(tree: dict[str, Any]) -> None:
        for frame in tree["frames"]:
            frame.pop("mask_path")
            frame["file_path"] = frame["file_path"].removesuffix(".jpg").replace("images/", "./images/")
        for number in range(12):
            (folder / f"images/c{number}.jpg").unlink()

    capture = read_nerfstudio(edit(folder, change))
    for number in range(12):
        mask = decode(capture.masks[number] or b"", 1)
        np.testing.assert_array_equal(mask, decode(good.masks[number] or b"", 1))
        assert (decode(capture.images[number])[mask == 0] == 255).all()
    assert Image.open(io.BytesIO(capture.images[0])).mode == "RGB"


def test_without_masks_the_rig_decides(folder):
    def bare(tree: dict[str, Any]) -> None:
        for frame in tree["frames"]:
            frame.pop("mask_path")

    capture = read_nerfstudio(edit(folder, bare))
    assert capture.masks == (None,) * 12
    capture = read_nerfstudio(edit(folder, similarity(250.0, None, (100.0, 0, 0))))
    np.testing.assert_allclose(np.linalg.norm(capture.centers, axis=1), 1, atol=0.02)
    with pytest.raises(UserError, match="looks away"):
        read_nerfstudio(edit(folder, every(lambda m, n: m @ np.diag([1.0, -1, -1, 1]) if n == 2 else m)))


def test_ingest_writes_a_dataset_and_says_what_it_did(folder, tmp_path):
    said: list[str] = []
    url = str(tmp_path / "out")
    info = ingest(Nerfstudio(), str(folder), url, report=said.append, licence="CC-BY-3.0")
    assert (info.subjects, info.captures, info.views, info.licence) == (1, 1, 12, "CC-BY-3.0")
    assert any("reprojection" in line for line in said)
    with Dataset.open(url) as dataset:
        original = read_nerfstudio(folder)
        stored = dataset.capture("anna")
        assert stored.images == original.images
        assert stored.meta == original.meta
    assert open_capture(f"{url}#anna_0").images == original.images
    assert open_capture(url).name == open_capture(f"{url}#anna").name == open_capture(str(folder)).name
    with pytest.raises(UserError, match=r"no capture is called 'ana'.*\n.*did you mean 'anna'"):
        open_capture(f"{url}#ana")


def test_blenders_splits_are_one_capture(folder):
    good = read_nerfstudio(folder)
    tree = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    angle = 2 * np.arctan(SIZE[1] / 2 / FOCAL)
    for name, frames in (("train", tree["frames"][:7]), ("val", tree["frames"][5:9]), ("test", tree["frames"][9:])):
        for frame in frames:
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".jpg")
        split = {"camera_angle_x": angle, "frames": frames}
        (folder / f"transforms_{name}.json").write_text(json.dumps(split))
    # Taken in the order of the files' names; the pictures that two files name come once.
    capture = open_capture(str(folder))
    assert sorted(capture.cameras) == sorted(good.cameras)
    order = [good.cameras.index(camera) for camera in capture.cameras]
    np.testing.assert_allclose(capture.K, good.K[order])
    np.testing.assert_allclose(capture.world_to_camera, good.world_to_camera[order], atol=1e-12)


def test_time_steps_are_moments_of_one_person_moved_alike(folder, tmp_path):
    def steps(tree: dict[str, Any]) -> None:
        first = tree["frames"]
        tree["frames"] = [
            {**frame, "timestep_index": step, "camera_id": f"2220{number}"}
            for step in (0, 3, 10)
            for number, frame in enumerate(first)
        ]
        # Another silhouette at another moment must not move the frame that all moments share.
        for frame in tree["frames"][24:]:
            frame["mask_path"] = "images/c0.mask.png"

    edit(folder, similarity(shift=(0.4, 0, 0)))
    edit(folder, steps)
    with pytest.raises(UserError, match="holds 3 moments"):
        read_nerfstudio(folder)
    with pytest.raises(UserError, match="has no moment '5'"):
        read_nerfstudio(folder, frame="5")
    assert read_nerfstudio(folder, frame="03").name == "anna_03"
    url = str(tmp_path / "out")
    info = ingest(Nerfstudio(), str(folder), url, select=Selection(every=2, cameras=("2220?",)), report=str)
    assert (info.captures, info.cameras) == (2, (10, 10))
    with Dataset.open(url) as dataset:
        first, last = (dataset.capture(f"anna_{step}") for step in ("00", "10"))
        assert first.cameras[:2] == ("22200", "22201")
        np.testing.assert_array_equal(first.world_to_camera, last.world_to_camera)


def test_the_picture_shows_the_box_around_the_head(folder):
    capture = read_nerfstudio(folder)
    sheet = np.asarray(draw_reprojection(capture, columns=4, width=120))
    assert sheet.shape == (3 * 144, 480, 3)
    yellow = (np.abs(sheet[:144, :120].astype(int) - [235, 190, 0]).max(axis=2) < 3).nonzero()
    mask = decode(capture.masks[0] or b"", 1) > 0
    head_rows = mask.nonzero()[0]
    assert yellow[0].min() / 2 <= head_rows.min() + 2


def test_scan_a_goes_through_as_it_is(shared):
    folder = shared / "captures" / "scan_a"
    if not folder.is_dir():
        pytest.skip("needs shared/captures/scan_a")
    capture = read_nerfstudio(folder)
    said = "\n".join(capture.meta["ingest"])
    assert said.count("kept") == 4
    assert capture.sizes == ((512, 384),) * 16
    azimuth = np.degrees(np.arctan2(capture.centers[0, 0], capture.centers[0, 2]))
    assert abs(azimuth) < 1e-6
