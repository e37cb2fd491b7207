"""OpenLRM folders: Blender's world and axes, whatever the unit; wrong files are named."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures.openlrm import write
from miniatures.scene import captures_of, check

from configs import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.images import decode
from data.ingest.job import Selection, ingest
from data.ingest.openlrm import OpenLrm
from data.ingest.source import Source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("openlrm"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def read(root: Path, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(OpenLrm(**options), root, select)


def test_the_balls_are_where_they_are(made):
    (found,) = read(made, metric=True)
    found.validate(pixels=True)
    assert (found.name, found.cameras[:2]) == ("anna_0", ("000", "001"))
    check(found, exact=True)
    said = "\n".join(found.meta["ingest"])
    assert "Blender's z-up world turned to y-up; OpenGL camera-to-world" in said
    assert "alpha was taken as the mask" in said
    assert "in decimetres" in said


@pytest.mark.parametrize("unit", [1.0, 7.3, 10.0, 1000.0, 0.02])
def test_whatever_the_unit_the_head_is_as_wide_as_an_adult_s(made, tmp_path, unit):
    (good,), (found,) = read(made, metric=True), read(write(tmp_path, unit=unit))
    np.testing.assert_allclose(found.world_to_camera[:, :3, :3], good.world_to_camera[:, :3, :3], atol=1e-9)
    factor = float(np.median(np.linalg.norm(found.centers, axis=1)))
    assert 0.9 < factor < 1.2
    assert np.abs(found.centers - factor * good.centers).max() < 0.06
    assert "objects have no unit" in "\n".join(found.meta["ingest"])


@pytest.mark.parametrize("unit", [1.0, 10.0, 1000.0])
def test_a_metric_unit_is_kept(tmp_path, unit):
    (found,) = read(write(tmp_path, unit=unit), metric=True)
    check(found, exact=True)


def test_alpha_is_the_mask_and_the_background_white(made):
    (found,) = read(made)
    mask = decode(found.masks[3] or b"", 1)
    assert (decode(found.images[3])[mask == 0] == 255).all()


def test_a_named_view_tells_the_front(root):
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    for path in (root / "anna/pose").iterdir():
        np.save(path, turned @ np.load(path))
    front = f"{len(list((root / 'anna/pose').iterdir())) // 2:03d}"
    (found,) = read(root, front=front)
    center = found.centers[found.cameras.index(front)]
    assert abs(np.degrees(np.arctan2(center[0], center[2]))) < 1


def test_a_world_that_is_y_up_already(root):
    blender = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    for path in (root / "anna/pose").iterdir():
        np.save(path, np.vstack([blender @ np.load(path), [0, 0, 0, 1]]))
    (found,) = read(root, up="y", metric=True)
    check(found, exact=True)
    with pytest.raises(UserError, match="'x' is no axis"):
        read(root, up="x")


def test_intrinsics_of_a_larger_rendering_and_as_a_matrix(tmp_path, made):
    (good,) = read(made)
    (found,) = read(write(tmp_path, resized=4))
    np.testing.assert_allclose(found.K, good.K)
    for K in (good.K[0], np.diag([1 / 100, 1 / 120, 1]) @ good.K[0]):
        np.save(tmp_path / "anna/intrinsics.npy", K)
        np.testing.assert_allclose(read(tmp_path)[0].K, good.K)


def test_objects_lie_at_any_depth_and_one_may_be_the_source(tmp_path):
    write(tmp_path / "a", ("anna", "bert"))
    write(tmp_path / "b", ("anna",))
    found = [unit.subject for unit in OpenLrm().units(Source(tmp_path), Selection())]
    assert found == ["a-anna", "a-bert", "b-anna"]
    (one,) = read(tmp_path / "a/bert")
    assert one.subject == "bert"


def test_views_and_subjects_are_chosen(tmp_path):
    write(tmp_path, ("anna", "bert"))
    (found,) = read(tmp_path, Selection(subjects=("bert",), cameras=("00[0-9]",)))
    assert (found.subject, len(found.cameras)) == ("bert", 10)


def test_a_dataset_comes_out(made, tmp_path):
    info = ingest(OpenLrm(metric=True), str(made), str(tmp_path / "out"), report=lambda line: None)
    with Dataset.open(info.url) as dataset:
        check(dataset.capture("anna"), exact=True)


def npy(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **options)
    return buffer.getvalue()


def replace(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in (folder / "pose").iterdir():
            np.save(path, change(np.vstack([np.load(path), [0, 0, 0, 1]])))

    return apply


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing pose": (lambda f: (f / "pose/003.npy").unlink(), "camera 003: missing pose"),
    "a missing image": (lambda f: (f / "rgba/004.png").unlink(), "camera 004: missing image"),
    "no images": (lambda f: shutil.rmtree(f / "rgba"), "has no rgba"),
    "a pickle": (replace("pose/002.npy", npy(np.array([{}], object), allow_pickle=True)), "not an array of numbers"),
    "text": (replace("pose/002.npy", b"1 0 0"), "not an array of numbers"),
    "a cut array": (replace("pose/002.npy", npy(np.eye(4))[:-40]), "not an array of numbers"),
    "a pose of 2 x 4": (replace("pose/002.npy", npy(np.ones((2, 4)))), "camera 002: the pose is not 3 x 4 or 4 x 4"),
    "NaN": (replace("pose/002.npy", npy(np.full((3, 4), np.nan))), "camera 002: NaN or infinity in the pose"),
    "a scaled rotation": (replace("pose/002.npy", npy(np.diag([2.0, 2, 2, 1]))), "camera 002: .*not rigid"),
    "a mirrored rotation": (replace("pose/002.npy", npy(np.diag([-1.0, 1, 1, 1]))), "camera 002: .*mirrors"),
    "intrinsics of 2 x 2": (replace("intrinsics.npy", npy(np.eye(2))), "intrinsics.npy: it is not 3 x 2 or 3 x 3"),
    "an image of no size": (replace("intrinsics.npy", npy(np.zeros((3, 2)))), "image of 0 x 0"),
    "no focal length": (replace("intrinsics.npy", npy([[0, 0], [50, 60], [100.0, 120]])), "focal length 0"),
    "another aspect": (replace("intrinsics.npy", npy([[330, 330], [60, 60], [120.0, 120]])), "the image is 100 x 120"),
    "a cut image": (
        lambda f: (f / "rgba/002.png").write_bytes((f / "rgba/003.png").read_bytes()[:200]),
        "camera 002: broken image",
    ),
    "world-to-camera": (poses(np.linalg.inv), "capture anna_0"),
    "OpenCV axes": (poses(lambda p: p @ np.diag([1.0, -1, -1, 1])), "capture anna_0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(root, case):
    change, message = BAD[case]
    change(root / "anna")
    with pytest.raises(UserError, match=message):
        read(root)


def test_nothing_there_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r"there is no intrinsics\.npy"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
