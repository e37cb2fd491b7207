"""Ava-256: every documented trap is in the miniature, and the balls stay where they are."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from miniatures import ava256
from miniatures.ava256 import FRAMES, write
from miniatures.scene import BALLS, captures_of, check

from configs import UserError
from data import Dataset
from data.capture import Capture
from data.images import read_header
from data.ingest.ava256 import Ava256
from data.ingest.job import Selection, ingest
from data.ingest.source import Source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ava"), missing=("cam400002/000013.avif",))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "ava")
    return tmp_path / "ava"


def read(root: Path | str, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(Ava256(**options), root, select)


def test_the_balls_are_where_they_are(made):
    found = read(made)
    assert [capture.name for capture in found] == ["ABC123_000012", "ABC123_000013", "ABC123_000700"]
    for capture in found:
        capture.validate(pixels=True)
        check(capture, exact=True)
    said = "\n".join(found[0].meta["ingest"])
    assert "transposed, millimetres to metres" in said
    assert "undistorted" in said
    assert "scaled from 2668 x 4096 to 83 x 128" in said
    assert found[2].meta["segment"] == "EXP_free_face"


def test_keypoints_come_along_in_the_heads_frame(made):
    for capture in read(made):
        places = np.array(capture.meta["keypoints"]["points"])
        np.testing.assert_allclose(places, [place for _, place in BALLS.values()], atol=1e-4)
        assert capture.meta["keypoints"]["ids"] == list(range(len(BALLS)))


def test_missing_images_are_named(made):
    found = read(made)
    assert [len(capture.cameras) for capture in found] == [6, 5, 6]
    assert "400002" not in found[1].cameras
    assert "images missing: 400002" in found[1].meta["ingest"]
    assert not any("images missing" in line for line in found[0].meta["ingest"])


def test_ignored_lenses_keep_the_error_and_say_so(made):
    capture = read(made, lenses="ignore")[0]
    with pytest.raises(AssertionError):
        check(capture, exact=True)
    assert any("distortion was ignored" in line for line in capture.meta["ingest"])
    assert read_header(capture.images[0]).suffix == "avif"


def test_straight_lenses_keep_the_bytes(tmp_path):
    capture = read(write(tmp_path, count=4, lens=(0.0, 0.0, 0.0, 0.0)))[0]
    check(capture, exact=True)
    path = next(tmp_path.glob("m--*/decoder/image/cam400001.zip"))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("cam400001/000012.avif") == capture.images[0]


def test_parts_can_be_chosen(made):
    assert [c.frame for c in read(made, segments=("EXP_free*",))] == ["000700"]
    assert read(made, Selection(cameras=("400001", "40000[56]"), most_frames=1))[0].cameras == (
        "400001",
        "400005",
        "400006",
    )
    with pytest.raises(UserError, match=r"no segment is called 'EXP_free'\n.*did you mean"):
        read(made, segments=("EXP_free",))
    with pytest.raises(UserError, match="no camera is called '999'"):
        read(made, Selection(cameras=("999",)))


def test_what_makes_a_unit_changes_nothing(made, monkeypatch):
    whole = read(made)
    monkeypatch.setattr("data.ingest.ava256.FRAMES_PER_UNIT", 2)
    assert [unit.captures for unit in Ava256().units(Source(made), Selection())] == [2, 1]
    for one, other in zip(whole, read(made), strict=True):
        assert (one.name, one.images, one.meta) == (other.name, other.images, other.meta)


def test_in_s3_only_parts_of_the_zips_are_read(made, tmp_path, bucket):
    fsspec.filesystem("s3", skip_instance_cache=True).put(str(made), f"{bucket}/ava", recursive=True)
    settings: dict[str, Any] = {"licence": "CC-BY-NC-4.0", "report": str, "select": Selection(most_frames=1)}
    near = ingest(Ava256(), str(made), str(tmp_path / "out"), **settings)
    far = ingest(Ava256(), f"{bucket}/ava", f"{bucket}/out", **settings)
    assert (near.fingerprint, near.views) == (far.fingerprint, 6)
    with Dataset.open(str(tmp_path / "out")) as dataset:
        check(dataset.capture("ABC123"), exact=True)


Change = Callable[[Path], object]


def krt(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    def edit(folder: Path) -> None:
        path = folder / "camera_calibration.json"
        tree = json.loads(path.read_text())
        change(tree["KRT"])
        path.write_text(json.dumps(tree))

    return edit


def transpose(key: str) -> Change:
    return krt(lambda entries: [entry.update({key: np.transpose(entry[key]).tolist()}) for entry in entries])


def in_metres(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["T"][3][:3] = [value / 1000 for value in entry["T"][3][:3]]


def rewrite(path: str, text: str | bytes) -> Change:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / path).write_bytes(data)


def cut(path: str, length: int) -> Change:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:length])


def member(path: str, name: str, data: bytes) -> Change:
    def edit(folder: Path) -> None:
        with zipfile.ZipFile(folder / path) as archive:
            members = {key: archive.read(key) for key in archive.namelist()}
        with zipfile.ZipFile(folder / path, "w") as archive:
            for key, value in {**members, name: data}.items():
                archive.writestr(key, value)

    return edit


POSES, IMAGES = "head_pose/head_pose.zip", "image/cam400003.zip"
ROW = "1 0 0 0\n0 1 0 0\n"
BAD: dict[str, tuple[Change, str]] = {
    "K not transposed": (transpose("K"), "camera 400001: K is not an upper triangular .*\n.*transposed"),
    "T not transposed": (transpose("T"), "camera 400001: the camera's transform is not rigid|no millimetres"),
    "metres": (krt(in_metres), "camera_calibration.json: cameras are .* which are no millimetres"),
    "no calibration": (lambda f: (f / "camera_calibration.json").unlink(), "camera_calibration.json: there is no such"),
    "no JSON": (rewrite("camera_calibration.json", "{"), "camera_calibration.json: not readable as JSON"),
    "a list": (rewrite("camera_calibration.json", "[]"), "is no mapping"),
    "no KRT": (rewrite("camera_calibration.json", "{}"), "holds no list KRT"),
    "no K": (krt(lambda entries: entries[2].pop("K")), "camera 400003: K is not 3 x 3 numbers"),
    "a text in T": (krt(lambda entries: entries[1]["T"][0].__setitem__(0, "x")), "camera 400002: T is not 4 x 4"),
    "NaN in T": (krt(lambda entries: entries[1]["T"][0].__setitem__(0, float("nan"))), "camera 400002: NaN"),
    "a camera twice": (krt(lambda entries: entries.append(entries[0])), "camera 400001: .* comes twice"),
    "an odd camera": (krt(lambda entries: entries[0].update(cameraId="../x")), "camera ../x: .* odd"),
    "three distortions": (krt(lambda entries: entries[0].update(distortion=[0, 0, 0])), "distortion is not 4 or 5"),
    "no frame list": (lambda f: (f / "frame_list.csv").unlink(), "frame_list.csv: there is no such file"),
    "another table": (rewrite("frame_list.csv", "a,b\n1,2\n"), "frame_list.csv: not a table of seg_id,frame_id"),
    "a word for a frame": (rewrite("frame_list.csv", "seg_id,frame_id\nx,y\n"), "not a table of seg_id"),
    "a frame twice": (rewrite("frame_list.csv", "seg_id,frame_id\nx,12\ny,12\n"), "a frame comes twice"),
    "a frame too far": (
        rewrite("frame_list.csv", "seg_id,frame_id\nx,99\n"),
        "zip, member 000099.txt: is not",
    ),
    "no poses": (lambda f: (f / POSES).unlink(), "head_pose.zip: there is no such file"),
    "poses cut off": (cut(POSES, 200), "head_pose.zip: no zip, or cut off"),
    "a pose of words": (member(POSES, "000012.txt", b"a b c d"), "member 000012.txt: the head pose is not 3 x 4"),
    "a pose too short": (member(POSES, "000012.txt", ROW.encode()), "member 000012.txt: the head pose is not 3 x 4"),
    "a ragged pose": (member(POSES, "000012.txt", b"1 2\n3\n"), "member 000012.txt: .* (no matrix|not 3 x 4)"),
    "a pose that mirrors": (member(POSES, "000012.txt", (ROW + "0 0 -1 0").encode()), "member 000012.txt: .* mirrors"),
    "images cut off": (cut(IMAGES, 3000), "cam400003.zip: no zip, or cut off"),
    "no image at all": (lambda f: shutil.rmtree(f / "image"), "image: not one of the cameras has images"),
    "no AVIF": (member(IMAGES, "cam400003/000012.avif", b"hello"), "ABC123_000012, camera 400003: broken image"),
    "half an AVIF": (
        member(IMAGES, "cam400003/000012.avif", ava256.avif(np.zeros((128, 83, 3), np.uint8))[:-20]),
        "ABC123_000012, camera 400003: broken image",
    ),
    "a cut image": (
        member(IMAGES, "cam400003/000012.avif", ava256.avif(np.zeros((100, 83, 3), np.uint8))),
        "camera 400003: the image is 83 x 100, the calibration is for 2668 x 4096",
    ),
    "a climbing member": (member(IMAGES, "../../x.avif", b"x"), "cam400003.zip: .* leads out of the folder"),
    "pickled keypoints": (
        member("keypoints_3d/keypoints_3d.zip", "000012.npy", b"\x80\x04N."),
        "member 000012.npy: not an array of numbers",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_input_is_one_message(root, case):
    change, message = BAD[case]
    change(next(root.glob("m--*/decoder")))
    with pytest.raises(UserError, match=message) as caught:
        read(root)
    assert caught.value.where


def test_odd_folders_are_named(root, tmp_path):
    shutil.copytree(next(root.glob("m--*")), root / "m--20220101--0000--ABC123--GHS")
    with pytest.raises(UserError, match="two captures of subject ABC123"):
        read(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder of a capture"):
        read(tmp_path / "empty")
    assert sum(map(len, FRAMES.values())) == 3
