"""Clips with FLAME parameters: in the head's frame the balls stand still, in both forms of tracking."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures.eg3d import png
from miniatures.monocular import NECK, ROOT, benchmark, vhap, write_folder, write_video
from miniatures.scene import BALLS, captures_of, found_balls
from scipy.spatial.transform import Rotation

from configs import UserError
from data.capture import Capture
from data.dataset import Dataset
from data.images import decode
from data.ingest.clips import find_clips
from data.ingest.flame import NECK_JOINT, ROOT_JOINT, read_tracking, vector
from data.ingest.job import Selection, ingest
from data.ingest.monocular import Monocular
from data.ingest.source import Entry, Source
from data.inspect.cameras import check_capture

FORMS = {"vhap": vhap, "benchmark": benchmark}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_folder(root / "anna", *vhap())
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def read(root: Path, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(Monocular(**options), root, select)


def off(capture: Capture) -> float:
    """Worst distance in pixels between the balls and where the capture's camera sees their canonical places."""
    found = found_balls(capture, 0)
    assert len(found) >= 3
    places = np.array([[*BALLS[name][1], 1.0] for name in found])
    x = places @ capture.world_to_camera[0].T[:, :3] @ capture.K[0].T
    return float(np.linalg.norm(x[:, :2] / x[:, 2:] - np.array(list(found.values())), axis=1).max())


@pytest.mark.parametrize("form", FORMS)
def test_the_balls_are_where_they_are(tmp_path, form):
    write_folder(tmp_path / "anna", *FORMS[form]())
    found = read(tmp_path)
    assert [capture.name for capture in found] == [f"anna_{number:06d}" for number in range(5)]
    for capture in found:
        capture.validate(pixels=True)
        assert off(capture) < 1.0
        assert check_capture(capture).right
    # The head moved, so the camera moves about it.
    assert np.linalg.norm(found[0].centers[0] - found[-1].centers[0]) > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_a_video_gives_the_same_cameras(tmp_path, form):
    tracked, poses, camera = FORMS[form]()
    write_folder(tmp_path / "folder/anna", tracked, poses, camera)
    write_video(tmp_path / "video/anna.mp4", tracked, poses, camera)
    frames, video = read(tmp_path / "folder"), read(tmp_path / "video")
    for one, other in zip(frames, video, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.world_to_camera, other.world_to_camera)
        assert off(other) < 1.0
        assert other.masks == (None,)


def test_scale_is_the_person_s_and_only_the_neck_feels_it(tmp_path):
    # s R (N (v - b) + b) + t in the miniature: the head is drawn in its own, metric size.
    tracked, poses, camera = benchmark(scale=1.2)
    write_folder(tmp_path / "anna", tracked, poses, camera)
    for capture in read(tmp_path):
        assert off(capture) < 1.0


def test_leaving_the_joints_out_would_be_seen(made):
    wrong = read(made, root_joint=(0.0, 0.0, 0.0), neck_joint=(0.0, 0.0, 0.0))
    assert max(off(capture) for capture in wrong) > 3.0


def test_our_estimates_of_the_joints_are_in_reach(tmp_path):
    tracked, poses, camera = vhap()
    del tracked["root_joint"], tracked["neck_joint"]
    write_folder(tmp_path / "anna", tracked, poses, camera)
    assert max(off(capture) for capture in read(tmp_path)) < 4.0
    given = read(tmp_path, root_joint=tuple(ROOT), neck_joint=tuple(NECK))
    assert max(off(capture) for capture in given) < 1.0
    assert np.linalg.norm(np.subtract(ROOT_JOINT, ROOT)) < 0.03
    assert np.linalg.norm(np.subtract(NECK_JOINT, NECK)) < 0.03


def test_euler_angles_without_matrices_are_the_benchmark_s(tmp_path):
    tracked, poses, camera = benchmark()
    del tracked["rotation_matrices"]
    write_folder(tmp_path / "anna", tracked, poses, camera)
    assert max(off(capture) for capture in read(tmp_path)) < 1.0


def test_a_field_of_view_and_another_origin(tmp_path):
    tracked, poses, camera = benchmark()
    del tracked["K"]
    write_folder(tmp_path / "anna", tracked, poses, camera)
    fov = 2 * np.degrees(np.arctan(camera.size[1] / 2 / camera.K[0, 0]))
    good = read(tmp_path, fov=fov)
    assert max(off(capture) for capture in good) < 1.0
    moved = read(tmp_path, fov=fov, origin=(0.0, 0.02, -0.03))
    for one, other in zip(good, moved, strict=True):
        np.testing.assert_allclose(one.centers - other.centers, [[0.0, 0.02, -0.03]], atol=1e-9)
    with pytest.raises(UserError, match="nothing tells the focal length"):
        read(tmp_path)
    with pytest.raises(UserError, match="field of view of 200 degrees"):
        read(tmp_path, fov=200.0)


def test_masks_and_parameters_come_along(made):
    found = read(made)[2]
    assert 0.1 < (decode(found.masks[0] or b"", 1) > 0).mean() < 0.9
    flame = found.meta["flame"]
    assert {key: len(value) for key, value in flame.items()} == {
        "shape": 300,
        "expression": 100,
        "rotation": 3,
        "translation": 3,
        "jaw": 3,
        "neck": 3,
        "eyes": 6,
    }
    assert (found.meta["clip"], found.meta["frame_id"]) == ("anna", 2)


def test_frames_are_chosen_and_numbered_as_in_the_clip(tmp_path):
    tracked, poses, camera = benchmark(8)
    kept = [1, 3, 4, 7]
    for key, value in tracked.items():
        if len(value) == 8 and key != "shape":
            tracked[key] = value[kept]
    tracked["frames"] = np.array(kept)
    write_folder(tmp_path / "anna", tracked, poses, camera)
    found = read(tmp_path, Selection(every=2))
    assert [capture.frame for capture in found] == ["000001", "000004"]
    assert max(off(capture) for capture in found) < 1.0


three = st.tuples(*[st.floats(-1.5, 1.5)] * 3)


@given(turn=three, neck=three, shift=three, root=three, joint=three, origin=three, point=three)
@settings(max_examples=50, deadline=None)
def test_a_pose_takes_points_where_skinning_does(turn, neck, shift, root, joint, origin, point):
    """Against the formula of linear blend skinning, joint by joint, for a vertex that is all skull."""
    arrays = {"rotation": [turn], "neck_pose": [neck], "translation": [shift], "root_joint": root, "neck_joint": joint}
    buffer = io.BytesIO()
    np.savez(buffer, **{key: np.array(value) for key, value in arrays.items()})
    pose = read_tracking(buffer.getvalue(), "x.npz").pose(0, np.array(origin))
    vertex = np.array(origin) + point
    bent = Rotation.from_rotvec(neck).apply(vertex - joint) + joint
    wanted = Rotation.from_rotvec(turn).apply(bent - root) + root + shift
    np.testing.assert_allclose(pose[:3, :3] @ point + pose[:3, 3], wanted, atol=1e-9)


NAMES = {
    "Clip+0jFnQ6OVQ7A+P0+C2+F1500-1700": ("0jFnQ6OVQ7A-P0-", "C2-F1500-1700"),
    "Clip+0jFnQ6OVQ7A+P1+C0+F1-20": ("0jFnQ6OVQ7A-P1-", "C0-F1-20"),
    "M2Ohb0FAaJU_1": ("M2Ohb0FAaJU", "1"),
    "-2Ohb0FAaJU_12": ("2Ohb0FAaJU-", "12"),
    "anna": ("anna", ""),
    "a name, too long to be that of a subject": ("a-name-too-long-to-be-", ""),
}


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_one_person_are_one_subject(name):
    person, part = NAMES[name]
    (clip,) = find_clips([Entry(f"{name}.npz", 1, ""), Entry(f"{name}.mp4", 1, "")], "set")
    assert clip.person.startswith(person)
    assert len(clip.person) <= 28
    assert clip.part == part
    # What a name loses is made up for: another name that loses the same stays another person.
    (other,) = find_clips([Entry(f"{name}!.npz", 1, ""), Entry(f"{name}!.mp4", 1, "")], "set")
    assert other.person != clip.person


def test_two_clips_of_a_person_go_into_one_dataset(tmp_path):
    tracked, poses, camera = vhap(2)
    for clip in ("Clip+0jFnQ6OVQ7A+P0+C0+F0-2", "Clip+0jFnQ6OVQ7A+P0+C1+F9-11"):
        write_video(tmp_path / f"set/{clip}.mp4", tracked, poses, camera)
    info = ingest(Monocular(), str(tmp_path / "set"), str(tmp_path / "out"), report=lambda line: None)
    assert (info.subjects, info.captures) == (1, 4)
    with Dataset.open(info.url) as dataset:
        assert off(dataset.capture(dataset.captures[-1])) < 1.0


def test_the_result_does_not_depend_on_the_workers(tmp_path):
    for clip in ("anna", "bert"):
        write_folder(tmp_path / f"set/{clip}", *vhap(3))
    prints = [
        ingest(
            Monocular(),
            str(tmp_path / "set"),
            str(tmp_path / f"out{workers}"),
            workers=workers,
            per_shard=3,
            report=lambda line: None,
        ).fingerprint
        for workers in (1, 2)
    ]
    assert prints[0] == prints[1]


def test_the_newest_tracking_of_a_folder_counts(root):
    shutil.copy(root / "anna/tracked_flame_params_30.npz", root / "anna/tracked_flame_params_9.npz")
    (clip,) = find_clips(Source(root).files(), "set")
    assert clip.tracking == "anna/tracked_flame_params_30.npz"


def npz(**changes: Any) -> bytes:
    """Parameters of the miniature, some of them others; None leaves one out."""
    tracked = {**vhap()[0], **changes}
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in tracked.items() if value is not None})
    return buffer.getvalue()


def tracking(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "tracked_flame_params_30.npz").write_bytes(npz(**changes))


def raw(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "tracked_flame_params_30.npz").write_bytes(data)


GOOD = vhap()[0]
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no zip": (raw(b"hello"), "no npz with arrays"),
    "cut off": (raw(npz()[:-200]), "no npz with arrays"),
    "a pickle": (tracking(rotation=np.array([{}] * 5, object)), "no npz with arrays"),
    "words": (tracking(translation=np.array([["a"] * 3] * 5)), "translation is not an array of numbers"),
    "no translation": (tracking(translation=None), "holds no translation"),
    "no rotation": (tracking(rotation=None), "holds no rotation"),
    "NaN": (tracking(rotation=GOOD["rotation"] * np.nan), "NaN or infinity in rotation"),
    "fewer translations": (tracking(translation=GOOD["translation"][:4]), "translation is not 5 x 3"),
    "fewer expressions": (tracking(expr=GOOD["expr"][:4]), "expression is .4, 100., not 5 x E"),
    "quaternions": (tracking(rotation=np.ones((5, 4))), "rotation is not 5 x 3"),
    "a neck of 4 numbers": (tracking(neck_pose=np.ones((5, 4))), "neck is not 5 x 3"),
    "no frames": (tracking(rotation=np.zeros((0, 3))), "holds 0 frames"),
    "frames twice": (tracking(frames=np.array([0, 1, 1, 2, 3])), "not 5 different numbers"),
    "half a frame": (tracking(frames=np.array([0, 0.5, 1, 2, 3])), "not 5 different numbers"),
    "a frame beyond the clip": (tracking(frames=np.arange(5) + 1), "tracks frame 5, the clip has 5 frames"),
    "a mirror for a rotation": (tracking(rotation_matrices=np.stack([np.diag([-1.0, 1, 1])] * 5)), "mirrors"),
    "a rotation that scales": (tracking(rotation_matrices=np.stack([2 * np.eye(3)] * 5)), "not rigid"),
    "a scale of nothing": (tracking(scale=np.zeros((1, 1))), "scale of 0"),
    "millimetres": (tracking(translation=GOOD["translation"] * 1000 + 300), "capture anna_000000: the head"),
    "a head behind the camera": (tracking(translation=GOOD["translation"] + [0, 0, 3]), "m before the camera"),
    "a head beside the image": (tracking(translation=GOOD["translation"] + [3, 0, 0]), "the head's middle is at pixel"),
    "a camera of OpenGL axes": (tracking(world_to_camera=np.diag([1.0, 1, 1, 1])), "the head is .* before the camera"),
    "a camera that scales": (tracking(world_to_camera=np.diag([2.0, 2, 2, 1])), "not rigid"),
    "K of larger images": (tracking(K=np.array([[900.0, 0, 900], [0, 900, 500], [0, 0, 1]])), "principal point"),
    "K transposed": (tracking(K=np.array([[384.0, 0, 0], [0, 384, 0], [64, 80, 1]])), "transposed"),
    "no focal length": (tracking(focal_length=None), "nothing tells the focal length"),
    "a negative focal length": (tracking(focal_length=np.array([-2.4])), "focal length -"),
    "a joint of 2 numbers": (tracking(root_joint=np.zeros(2)), "root_joint is not 3"),
    "no pictures": (lambda f: shutil.rmtree(f / "images"), "no video and no frames beside tracked_flame_params_30.npz"),
    "pictures twice": (
        lambda f: shutil.copytree(f / "images", f / "frames"),
        "frames in anna/images and in anna/frames",
    ),
    "a mask too few": (lambda f: (f / "fg_masks/00002.png").unlink(), "masks and frames do not have the same names"),
    "a mask of another size": (
        lambda f: (f / "fg_masks/00002.png").write_bytes(png(np.zeros((9, 9), np.uint8))),
        "the mask is 9 x 9, the image 128 x 160",
    ),
    "a cut picture": (lambda f: (f / "images/00001.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "00001.png: broken image"),
    "a cut mask": (lambda f: (f / "fg_masks/00001.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "00001.png: broken mask"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(root, case):
    change, message = BAD[case]
    change(root / "anna")
    with pytest.raises(UserError, match=message):
        read(root)


def test_a_broken_video_is_one_message(tmp_path):
    path = write_video(tmp_path / "anna.mp4", *vhap())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="no video that can be read"):
        read(tmp_path)


def test_nothing_there_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no clip with tracked parameters"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "1,2,3,4", "1,2,nan"])
def test_a_point_is_three_numbers(text):
    with pytest.raises(UserError, match=r"is not x,y,z"):
        vector(text, "--origin")


def test_points_and_nothing():
    assert vector("0, -0.15,1e-2", "--origin") == (0.0, -0.15, 0.01)
    assert vector(" ", "--origin") is None


def test_an_npz_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("data.ingest.flame.MAX_UNPACKED", 1000)
    with pytest.raises(UserError, match="unpacks to"):
        read_tracking(npz(), "x.npz")
