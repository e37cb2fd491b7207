"""Coefficients over time: files as people have them, mistakes with the nearest name, drivers and the demo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from data.arkit import ARKIT
from data.latents.track import demo_track, driver_track, read_track, through

JAW, BLINK = ARKIT.index("jawOpen"), ARKIT.index("eyeBlinkLeft")


def written(folder: Path, name: str, content: object) -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("content", [[{"jawOpen": 0.5}, {}], {"fps": 30, "frames": [{"JawOpen": 0.5}, {}]}])
def test_json_with_and_without_fps(tmp_path: Path, content: object) -> None:
    track = read_track(written(tmp_path, "a.json", content))
    assert (track.values.shape, track.fps) == ((2, 52), 30.0)
    assert track.values[0, JAW] == 0.5
    assert track.values.sum() == 0.5


def test_csv_as_live_link_face_writes_it(tmp_path: Path) -> None:
    text = "Timecode,BlendShapeCount,EyeBlinkLeft,JawOpen,HeadYaw,LeftEyeRoll\n10:00:00:01.5,61,0.25,1,-0.3,0\n"
    track = read_track(written(tmp_path, "take.csv", text + "\n"))
    assert (track.values[0, BLINK], track.values[0, JAW], track.values.sum()) == (0.25, 1.0, 1.25)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(ARKIT), st.floats(0, 1)), min_size=1, max_size=4))
def test_json_and_csv_say_the_same(tmp_path_factory: pytest.TempPathFactory, frames: list[dict[str, float]]) -> None:
    folder = tmp_path_factory.mktemp("tracks")
    lines = [",".join(ARKIT)] + [",".join(repr(frame.get(name, 0.0)) for name in ARKIT) for frame in frames]
    one = read_track(written(folder, "a.json", frames))
    assert np.array_equal(one.values, read_track(written(folder, "a.csv", "\n".join(lines))).values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", [{"jawOpenn": 0.5}], r"frame 0: ARKit has no blendshape 'jawOpenn'\n.*'jawOpen'"),
        ("a.json", [{}, {"jawOpen": 1.2}], r"frame 1, jawOpen: 1\.2 is not in \[0, 1\]"),
        ("a.json", [{"jawOpen": -0.1}], "not in"),
        ("a.json", [{"jawOpen": "wide"}], "is no number"),
        ("a.json", '[{"jawOpen": NaN}]', "is no number"),
        ("a.json", {"frames": 3}, "holds no frames"),
        ("a.json", {"fps": 0, "frames": [{}]}, "fps"),
        ("a.json", [], "has 0 frames"),
        ("a.json", "jawOpen\n0.3", "end in .csv"),
        ("a.csv", "jawOpen,smile\n0.1,0.2", "no blendshape 'smile'"),
        ("a.csv", "jawOpen\nwide", r"frame 0, jawOpen: 'wide' is no number"),
        ("a.csv", "jawOpen\n0.1,0.2", "2 values for 1 columns"),
        ("a.csv", "", "has 0 frames"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_track(written(tmp_path, name, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_track(tmp_path / "none.json")


def test_the_demo_is_smooth_and_comes_back_to_rest() -> None:
    track = demo_track()
    assert not track.values[0].any()
    assert not track.values[-1].any()
    assert np.abs(np.diff(track.values, axis=0)).max() < 0.2
    assert ((track.values >= 0) & (track.values <= 1)).all()
    assert all(track.values[key].max() > 0.4 for key in track.keys)


def test_a_track_goes_through_its_poses() -> None:
    poses = [np.random.default_rng(n).random(52).astype(np.float32) for n in range(3)]
    for rest in (False, True):
        track = through(poses, rest=rest)
        assert np.allclose(track.values[list(track.keys)], poses)
        assert not track.values[-1].any()


def test_a_driver_is_a_subject_or_one_capture(make_dataset) -> None:
    dataset = make_dataset(3)
    track, names = driver_track(f"{dataset.url}#person002")
    assert names == ["person002_0"]
    assert track.values[track.keys[0], BLINK] == 1.0
    assert track.values[track.keys[0], JAW] == pytest.approx(0.2)
    assert np.array_equal(track.values, driver_track(f"{dataset.url}#person002_0")[0].values)
    with pytest.raises(UserError, match="say whose"):
        driver_track(dataset.url)
    with pytest.raises(UserError, match="no capture is called"):
        driver_track(f"{dataset.url}#nobody")


def test_a_driver_without_expressions_is_refused(make_dataset) -> None:
    with pytest.raises(UserError, match="shows no expression"):
        driver_track(f"{make_dataset(2, expression={}).url}#person000")
