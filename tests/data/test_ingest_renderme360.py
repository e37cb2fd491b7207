"""RenderMe-360: every documented trap is in the miniature, and the balls stay where they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from miniatures.renderme360 import write
from miniatures.scene import BALLS, captures_of, check

from configs import UserError
from data.capture import Capture
from data.images import decode
from data.ingest.hdf5 import open_hdf5
from data.ingest.job import Selection, ingest
from data.ingest.renderme360 import RenderMe360
from data.ingest.source import Source, _Ranged
from data.store import StoreError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("renderme"), missing=("05/1",))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "smc")
    return tmp_path / "smc"


def read(root: Path | str, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(RenderMe360(**options), root, select)


def test_the_balls_are_where_they_are(made):
    found = read(made)
    assert [capture.name for capture in found] == ["0026_e0_0000", "0026_e0_0001"]
    for capture in found:
        capture.validate(pixels=True)
        check(capture, exact=True)
    said = "\n".join(found[0].meta["ingest"])
    assert "RT is world-to-camera" in said
    assert "by the FLAME fit" in said
    assert "undistorted" in said
    meta = found[1].meta
    assert (len(meta["flame"]["shape"]), len(meta["flame"]["exp"]), "verts" in meta["flame"]) == (100, 50, False)
    assert meta["person"] == {"age": 31, "height": 170.0}
    np.testing.assert_allclose(meta["keypoints"]["points"], [place for _, place in BALLS.values()], atol=1e-4)
    assert "keypoints" not in found[0].meta


def test_masks_are_taken_from_the_largest_channel(made):
    for data, image in zip(read(made)[0].masks, read(made)[0].images, strict=True):
        mask = decode(data or b"", 1) > 127
        assert 0.1 < mask.mean() < 0.8
        assert np.abs(decode(image)[~mask].astype(int) - 118).mean() < 12


def test_camera_to_world_is_found_out_by_the_keypoints(tmp_path):
    capture = read(write(tmp_path / "smc", inverse=True))[0]
    check(capture, exact=True)
    assert any("RT is camera-to-world, and was inverted" in line for line in capture.meta["ingest"])


def test_without_pixels_the_head_must_lie_before_the_cameras(root, tmp_path):
    for inverse, source in ((False, root), (True, write(tmp_path / "inverse", inverse=True))):
        with h5py.File(source / "0026_e0_anno.smc", "a") as file:
            del file["Keypoints2d"]
        capture = read(source)[0]
        check(capture, exact=True)
        assert any("before the cameras" in line and ("inverted" in line) == inverse for line in capture.meta["ingest"])


def test_extrinsics_as_told(root):
    with h5py.File(root / "0026_e0_anno.smc", "a") as file:
        del file["Keypoints3d"]
    with pytest.raises(UserError, match=r"no Keypoints3d that tell what RT is\n.*option extrinsics"):
        read(root)
    check(read(root, extrinsics="world_to_camera")[0], exact=True)
    with pytest.raises(AssertionError):
        check(read(root, extrinsics="camera_to_world")[0])


def test_without_flame_masks_and_rig_tell_the_frame(tmp_path):
    root = write(tmp_path / "smc", part="s1_all", lens=(0.0, 0.0, 0.0, 0.0))
    found = read(root)
    assert [capture.name for capture in found] == ["0026_s1_all_0000", "0026_s1_all_0001"]
    for capture in found:
        check(capture)
        assert any("turned" in line for line in capture.meta["ingest"])
    np.testing.assert_array_equal(found[0].world_to_camera, found[1].world_to_camera)
    # Straight lenses: the bytes are those of the file.
    with h5py.File(root / "0026_s1_all_raw.smc") as file:
        assert found[0].images[3] == bytes(file["Camera/03/color/0"][()])


@pytest.mark.parametrize("part", ["e0", "s1"])
def test_what_makes_a_unit_changes_nothing(tmp_path, monkeypatch, part):
    root = write(tmp_path / "smc", part=part, count=6)
    whole = read(root)
    monkeypatch.setattr("data.ingest.renderme360.FRAMES_PER_UNIT", 1)
    assert len(list(RenderMe360().units(Source(root), Selection()))) == 2
    for one, other in zip(whole, read(root), strict=True):
        assert (one.name, one.images, one.meta) == (other.name, other.images, other.meta)
        np.testing.assert_array_equal(one.world_to_camera, other.world_to_camera)


def test_resized_images_scale_the_intrinsics(tmp_path):
    capture = read(write(tmp_path / "smc", full=20.4))[0]
    check(capture, exact=True)
    assert any("scaled from 2448 x 2040 to 120 x 100" in line for line in capture.meta["ingest"])


def test_missing_images_are_named(made):
    found = read(made)
    assert [len(capture.cameras) for capture in found] == [8, 7]
    assert "images missing: 05" in found[1].meta["ingest"]


def test_frames_without_flame_are_left_out_by_name(root):
    no_flame("0")(root)
    (capture,) = read(root)
    assert capture.frame == "e0_0001"
    assert "frames without a FLAME fit were left out: 0" in capture.meta["ingest"]


def test_a_store_that_fails_is_not_a_broken_file(root, monkeypatch):
    data, alive = (root / "0026_e0_raw.smc").read_bytes(), [True]

    def fetch(start: int, stop: int) -> bytes:
        if not alive[0]:
            raise StoreError("the store is gone", where="s3://bucket")
        return data[start:stop]

    monkeypatch.setattr(Source, "open", lambda self, path: _Ranged(fetch, len(data)))
    with open_hdf5(Source(root), "x.smc") as file:
        assert file.attribute("Camera", "num_frame") == 2
        alive[0] = False
        with pytest.raises(StoreError, match="the store is gone"):
            file.array("Camera/07/color/1")


def test_ignored_lenses_keep_the_error_and_say_so(made):
    capture = read(made, lenses="ignore")[0]
    with pytest.raises(AssertionError):
        check(capture, exact=True)
    assert any("distortion was ignored" in line for line in capture.meta["ingest"])


def test_parts_can_be_chosen(root):
    write(root, part="s2", frames=3, count=4)
    assert {capture.frame[:2] for capture in read(root)} == {"e0", "s2"}
    assert [c.frame for c in read(root, Selection(every=2, cameras=("0[0-2]",)), parts=("s*",))] == [
        "s2_0000",
        "s2_0002",
    ]
    with pytest.raises(UserError, match=r"no part is called 'x\*'"):
        read(root, parts=("x*",))


def test_from_s3(made, tmp_path, bucket):
    fsspec.filesystem("s3", skip_instance_cache=True).put(str(made), f"{bucket}/smc", recursive=True)
    near = ingest(RenderMe360(), str(made), str(tmp_path / "out"), report=str)
    assert ingest(RenderMe360(), f"{bucket}/smc", f"{bucket}/out", report=str).fingerprint == near.fingerprint
    assert (near.captures, near.views) == (2, 15)


Change = Callable[[Path], object]


def anno(change: Callable[[h5py.File], object], kind: str = "anno") -> Change:
    def edit(root: Path) -> None:
        with h5py.File(root / f"0026_e0_{kind}.smc", "a") as file:
            change(file)

    return edit


def put(path: str, value: Any, kind: str = "anno") -> Change:
    def change(file: h5py.File) -> None:
        if path in file:
            del file[path]
        file[path] = value

    return anno(change, kind)


def cut(kind: str, length: int) -> Change:
    def edit(root: Path) -> None:
        path = root / f"0026_e0_{kind}.smc"
        path.write_bytes(path.read_bytes()[:length])

    return edit


def external(file: h5py.File) -> None:
    file.create_dataset("Calibration/02/K2", (3, 3), "f8", external=[("/etc/passwd", 0, 72)])
    del file["Calibration/02/K"]
    file["Calibration/02/K"] = file["Calibration/02/K2"]


def link(target: Any) -> Change:
    return put("Calibration/02/K", target)


def no_flame(*frames: str) -> Change:
    def change(file: h5py.File) -> None:
        for frame in frames:
            del file[f"FLAME/{frame}"]
        file.create_group("FLAME/99")

    return anno(change)


def half_a_jpeg(file: h5py.File) -> None:
    data = file["Camera/03/color/0"][()]
    del file["Camera/03/color/0"]
    file["Camera/03/color/0"] = data[: len(data) // 2]


HUGE = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"
BAD: dict[str, tuple[Change, str]] = {
    "no HDF5": (lambda r: (r / "0026_e0_raw.smc").write_bytes(b"hello" * 100), "raw.smc: no HDF5, or cut off"),
    "half a file": (cut("anno", 9000), "anno.smc: no HDF5, or cut off"),
    "an empty file": (cut("raw", 0), "raw.smc: no HDF5, or cut off"),
    "no annotations": (lambda r: (r / "0026_e0_anno.smc").unlink(), "anno.smc: there is no such file"),
    "no calibration": (anno(lambda f: f.__delitem__("Calibration")), "anno.smc: holds no Calibration"),
    "no K": (anno(lambda f: f.__delitem__("Calibration/02/K")), "anno.smc, Calibration/02/K: is not there"),
    "K transposed": (put("Calibration/02/K", [[9, 0, 0], [0, 9, 0], [5, 5, 1.0]]), "camera 02: K is not an upper"),
    "K too short": (put("Calibration/02/K", [1.0, 2.0]), "Calibration/02/K: it is not 3 x 3"),
    "K of words": (put("Calibration/02/K", b"hello"), "Calibration/02/K: is no array of numbers"),
    "NaN in RT": (put("Calibration/02/RT", np.full((4, 4), np.nan)), "Calibration/02/RT: NaN"),
    "RT scaled": (put("Calibration/02/RT", np.diag([2, 2, 2, 1.0])), "camera 02: .* not rigid"),
    "RT mirrored": (put("Calibration/02/RT", np.diag([1, 1, -1, 1.0])), "camera 02: .* mirrors"),
    "D too long": (put("Calibration/02/D", np.zeros(14)), "camera 02: D is not 5 or 4"),
    "a link to another file": (link(h5py.ExternalLink("x", "/y")), "Calibration/02/K: is a link"),
    "a soft link": (link(h5py.SoftLink("/Calibration/02/RT")), "Calibration/02/K: is a link"),
    "numbers in another file": (anno(external), "Calibration/02/K: keeps its numbers in another file"),
    "keypoints of four columns too many": (
        put("Keypoints3d/1", np.zeros((6, 8))),
        r"Keypoints3d/1: keypoints are \[6, 8\]",
    ),
    "keypoints elsewhere": (
        put("Keypoints3d/1", np.full((6, 3), 50.0)),
        "keypoints do not reproject",
    ),
    "a FLAME of another mesh": (put("FLAME/0/verts", np.zeros((10, 3))), "FLAME/0/verts: it is not 5023 x 3"),
    "a FLAME of no size": (
        put("FLAME/0/verts", np.zeros((5023, 3))),
        "FLAME/0: the FLAME head is 0 units wide",
    ),
    "a FLAME pose of NaN": (put("FLAME/0/global_pose", np.full(3, np.nan)), "FLAME/0/global_pose: NaN"),
    "NaN in expressions": (put("FLAME/1/exp", np.full(50, np.nan)), "FLAME/1: NaN or infinity in the FLAME fit"),
    "no FLAME of any frame": (no_flame("0", "1"), "not one of them has a FLAME fit, but others do"),
    "a FLAME without a pose": (anno(lambda f: f.__delitem__("FLAME/1/global_pose")), "global_pose: is not there"),
    "no image": (put("Camera/03/color/0", np.zeros(100, np.uint8), "raw"), "0026_e0_0000, camera 03: broken image"),
    "half an image": (anno(half_a_jpeg, "raw"), "0026_e0_0000, camera 03: broken image"),
    "a huge image": (put("Camera/03/color/0", np.frombuffer(HUGE, np.uint8), "raw"), "camera 03: broken image"),
    "a broken mask": (put("Camera/03/mask/0", np.zeros(9, np.uint8)), "camera 03: broken image or mask"),
    "another aspect": (anno(lambda f: f["Camera"].attrs.update({"resolution": [900, 100]}), "raw"), "is for 900 x 100"),
    "no number of frames": (
        anno(lambda f: f["Camera"].attrs.update({"num_frame": float("nan")}), "raw"),
        "NaN or infinity in the attribute num_frame",
    ),
    "minus one frame": (anno(lambda f: f["Camera"].attrs.update({"num_frame": -1}), "raw"), "raw.smc: -1 frames"),
    "no images of a frame": (
        anno(lambda f: [f[f"Camera/{camera}/color"].pop("1", None) for camera in f["Camera"]], "raw"),
        "0026_e0_0001: not one of the cameras has an image",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(root, case):
    change, message = BAD[case]
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        read(root)
    assert caught.value.where


def test_a_folder_without_smc_files_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file \*_raw.smc in it"):
        read(tmp_path)
