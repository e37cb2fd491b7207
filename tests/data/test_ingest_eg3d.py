"""EG3D labels: the balls lie where they are, mirrored ones mirrored, whatever the container."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures.eg3d import FOCAL, files, label, mirrored, write, write_zip
from miniatures.scene import BALLS, Camera, captures_of, found_balls, look_at

from configs import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.images import decode
from data.ingest.eg3d import Eg3d, _camera
from data.ingest.job import Selection, ingest
from data.inspect.cameras import check_capture

Made = dict[str, bytes]


def read(root: Path, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(Eg3d(**options), root, select)


def off(capture: Capture, sign: float = 1.0) -> float:
    """Worst distance in pixels between the balls in the image and where the capture's camera sees their places."""
    found = found_balls(capture, 0)
    assert len(found) >= 3
    worst = 0.0
    for name, pixel in found.items():
        place = np.array(BALLS[name][1]) * [sign, 1, 1]
        x = capture.K[0] @ (capture.world_to_camera[0] @ [*place, 1.0])[:3]
        worst = max(worst, float(np.hypot(*(x[:2] / x[2] - pixel))))
    return worst


@pytest.mark.parametrize("container", ["folder", "zip", "zip in a folder", "zip with a folder inside"])
def test_the_balls_are_where_they_are(tmp_path, container):
    if container == "folder":
        root = write(tmp_path / "ffhq")
    else:
        path = write_zip(tmp_path / "set/ffhq.zip", inside="ffhq/" if "inside" in container else "")
        root = path.parent if container == "zip in a folder" else path
    found = read(root)
    assert [capture.name for capture in found[:3]] == ["img00000000_0", "img00000000_mirror", "img00000001_0"]
    assert len(found) == 8
    for capture in found:
        capture.validate(pixels=True)
        assert off(capture, -1.0 if capture.frame == "mirror" else 1.0) < 1.0
        assert capture.meta["mirrored"] == (capture.frame == "mirror")
        assert 0.9 < np.linalg.norm(capture.centers[0]) < 1.1


def test_a_mirrored_image_is_the_same_person_and_may_be_left_out(tmp_path):
    write(tmp_path)
    assert {capture.subject for capture in read(tmp_path)} == {f"img{number:08d}" for number in range(4)}
    assert [capture.frame for capture in read(tmp_path, mirrors=False)] == ["0"] * 4


def test_bytes_are_kept_where_there_is_no_alpha(tmp_path):
    made = files(1)
    write(tmp_path, made)
    assert read(tmp_path)[0].images[0] == made["00000/img00000000.png"]
    assert read(tmp_path)[0].masks == (None,)


def test_alpha_becomes_the_mask(tmp_path):
    found = read(write(tmp_path, alpha=True))[0]
    mask = decode(found.masks[0] or b"", 1)
    assert 0.1 < (mask > 0).mean() < 0.9
    assert (decode(found.images[0])[mask == 0] == 255).all()
    assert check_capture(found).right


def test_k_follows_images_of_another_size(tmp_path):
    found = read(write(tmp_path))[0]
    np.testing.assert_allclose(found.K[0], [[545.88, 0, 64], [0, 545.88, 64], [0, 0, 1]], atol=0.01)


def test_a_rebalanced_list_names_a_file_several_times(tmp_path):
    made = files(2)
    tree = json.loads(made["dataset.json"])
    tree["labels"] += tree["labels"][:2]
    made["dataset.json"] = json.dumps(tree).encode()
    assert len(read(write(tmp_path, made))) == 4


def test_labels_may_be_a_mapping_and_names_may_repeat_in_folders(tmp_path):
    made = files(1)
    entries = {"a/0.png": label_of(made, 0), "b/0.png": label_of(made, 0)}
    image = made["00000/img00000000.png"]
    write(tmp_path, {"a/0.png": image, "b/0.png": image, "dataset.json": json.dumps({"labels": entries}).encode()})
    assert [capture.subject for capture in read(tmp_path)] == ["0", "b-0"]


def label_of(made: Made, number: int) -> list[float]:
    return json.loads(made["dataset.json"])["labels"][number][1]


def test_subjects_are_chosen(tmp_path):
    write(tmp_path)
    chosen = read(tmp_path, Selection(subjects=("*1", "*3")), mirrors=False)
    assert [capture.subject for capture in chosen] == ["img00000001", "img00000003"]
    with pytest.raises(UserError, match="no subject is called 'nobody'"):
        read(tmp_path, Selection(subjects=("nobody",)))


def test_a_dataset_comes_out(tmp_path):
    write_zip(tmp_path / "ffhq.zip")
    info = ingest(Eg3d(), str(tmp_path / "ffhq.zip"), str(tmp_path / "out"), report=lambda line: None)
    assert (info.subjects, info.captures, info.views) == (4, 8, 8)
    with Dataset.open(info.url) as dataset:
        assert off(dataset.capture("img00000002_0")) < 1.0


def change_labels(change: Callable[[list[Any]], Any]) -> Callable[[Made], None]:
    def apply(made: Made) -> None:
        tree = json.loads(made["dataset.json"])
        tree["labels"] = change(tree["labels"])
        made["dataset.json"] = json.dumps(tree).encode()

    return apply


def first_label(change: Callable[[np.ndarray], Any]) -> Callable[[Made], None]:
    def apply(labels: list[Any]) -> list[Any]:
        changed = change(np.array(labels[0][1]))
        return [[labels[0][0], changed.tolist() if isinstance(changed, np.ndarray) else changed], *labels[1:]]

    return change_labels(apply)


def pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Made], None]:
    return first_label(lambda n: np.concatenate([change(n[:16].reshape(4, 4)).ravel(), n[16:]]))


def times(places: slice, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(numbers: np.ndarray) -> np.ndarray:
        numbers[places] *= factor
        return numbers

    return change


BAD: dict[str, tuple[Callable[[Made], Any], str]] = {
    "no labels": (lambda m: m.update({"dataset.json": b"{}"}), "no list of labels"),
    "labels are null": (change_labels(lambda _: None), "no list of labels"),
    "labels are empty": (change_labels(lambda _: []), "no list of labels"),
    "no JSON": (lambda m: m.update({"dataset.json": b"{"}), "no list of labels"),
    "a class instead of a camera": (first_label(lambda n: 3), "label of 00000/img00000000.png is not 25 numbers"),
    "24 numbers": (first_label(lambda n: n[:24]), "is not 25 numbers"),
    "a word in a label": (first_label(lambda n: ["x", *n[1:].tolist()]), "is not 25 numbers"),
    "NaN": (first_label(lambda n: times(slice(3, 4), np.nan)(n)), "NaN or infinity in the label"),
    "an entry that is no pair": (change_labels(lambda e: ["x", *e]), "is no .file, label."),
    "two labels of a file": (change_labels(lambda e: [*e, [e[0][0], e[1][1]]]), "has two different labels"),
    "world-to-camera": (pose(np.linalg.inv), "does not look at the face"),
    "OpenGL axes": (pose(lambda p: p @ np.diag([1.0, -1, -1, 1])), "does not look at the face"),
    "a transposed pose": (pose(lambda p: p.T), "not rigid"),
    "a scaled rotation": (pose(lambda p: p @ np.diag([2.0, 2, 2, 1])), "not rigid"),
    "a mirrored rotation": (pose(lambda p: p @ np.diag([-1.0, 1, 1, 1])), "mirrors"),
    "K in pixels": (first_label(times(slice(16, 22), 512.0)), "K is not in shares of the image"),
    "no focal length": (first_label(times(slice(16, 17), 0.0)), "focal length 0"),
    "a missing image": (lambda m: m.pop("00000/img00000000.png"), "img00000000.png"),
    "a cut image": (
        lambda m: m.update({"00000/img00000000.png": m["00000/img00000000.png"][:200]}),
        "capture img00000000_0, 00000/img00000000.png: broken image",
    ),
    "a file that leads out": (change_labels(lambda e: [["../x.png", e[0][1]], *e]), "leads out|is not there"),
}


@pytest.mark.parametrize("container", ["folder", "zip"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(tmp_path, case, container):
    change, message = BAD[case]
    made = files(1)
    change(made)
    root = write(tmp_path / "set", made) if container == "folder" else write_zip(tmp_path / "set.zip", made)
    with pytest.raises(UserError, match=message):
        read(root)


def test_bad_containers_are_one_message(tmp_path):
    with pytest.raises(UserError, match=r"there is no such (folder|file)"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"there is no dataset\.json"):
        read(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="no zip"):
        read(tmp_path)
    write_zip(tmp_path / "b.zip")
    with pytest.raises(UserError, match="holds 2 zips"):
        read(tmp_path)
    write_zip(tmp_path / "c/c.zip", {"x.txt": b""})
    with pytest.raises(UserError, match=r"there is no dataset\.json"):
        read(tmp_path / "c")


def test_the_miniature_flips_as_eg3d_does():
    from miniatures.eg3d import camera

    numbers = label(camera(1))
    flip = np.diag([-1.0, 1, 1, 1])
    np.testing.assert_allclose(
        np.array(mirrored(numbers)[:16]).reshape(4, 4), flip @ np.array(numbers[:16]).reshape(4, 4) @ flip
    )


@given(
    yaw=st.floats(-1.2, 1.2),
    pitch=st.floats(-0.8, 0.8),
    radius=st.floats(2.2, 3.2),
    size=st.sampled_from([64, 512, 1024]),
)
@settings(max_examples=50, deadline=None)
def test_any_label_gives_the_camera_that_it_is_of(yaw, pitch, radius, size):
    away = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    origin = np.array([0.0, -0.028, 0.003])
    true = Camera(np.eye(3), look_at(origin + radius / 2.7 * away, origin), (size, size))
    world_to_camera, K = _camera(label(true), (size, size), "here")
    np.testing.assert_allclose(world_to_camera, true.world_to_camera, atol=1e-9)
    np.testing.assert_allclose(K, [[size * FOCAL, 0, size / 2], [0, size * FOCAL, size / 2], [0, 0, 1]])


def test_a_zip_is_read_where_it_lies():
    memory = fsspec.filesystem("memory")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files(2).items():
            archive.writestr(name, data)
    memory.pipe("/heads/ffhq.zip", made.getvalue())
    info = ingest(Eg3d(), "memory://heads/ffhq.zip", "memory://out/ffhq", report=lambda line: None)
    assert (info.subjects, info.captures) == (2, 4)
    memory.store.clear()
