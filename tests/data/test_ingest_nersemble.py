"""NeRSemble: every documented trap is in the miniature, and the balls stay where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from miniatures import nersemble
from miniatures.nersemble import SEQUENCE, SERIALS, SIZE, write
from miniatures.scene import BACKGROUND, captures_of, check, silhouette

from configs import UserError
from data.capture import Capture
from data.images import decode, encode_jpeg
from data.ingest.colour import TERMS, correct
from data.ingest.job import Selection, ingest
from data.ingest.nersemble import Nersemble


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("nersemble"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tracked"), per_camera=True, alpha=True, tracking=True, colour=False)


def read(root: Path | str, select: Selection | None = None, **options: Any) -> list[Capture]:
    return captures_of(Nersemble(**options), root, select)


def test_one_k_for_all_and_colours_corrected(made):
    found = read(made)
    assert [capture.name for capture in found][:2] == ["017_EXP-3-cheeks-nose_00000", "017_EXP-3-cheeks-nose_00001"]
    assert len(found) == 4
    for capture in found:
        capture.validate(pixels=True)
        check(capture)
        assert capture.cameras == tuple(sorted(SERIALS))
    said = "\n".join(found[0].meta["ingest"])
    assert "one K for all scaled from 2200 x 3208 to 220 x 320" in said
    assert "corrected by the chart's polynomial" in said
    assert "masks: none" in said
    # One frame for the whole sequence.
    np.testing.assert_array_equal(found[0].world_to_camera, found[3].world_to_camera)


def test_colours_are_the_true_ones(made):
    for image in read(made)[0].images:
        corner = decode(image)[:20, :20].reshape(-1, 3).mean(axis=0)
        assert np.abs(corner - BACKGROUND).max() < 6
    with pytest.raises(AssertionError):
        check(read(made, colour=False)[0])


def test_a_k_for_each_and_the_tracked_head(tracked):
    found = read(tracked)
    for number, capture in enumerate(found):
        # Exact in every moment: the frame is the head's, so a wrong frame of the video would show.
        check(capture, exact=True)
        assert len(capture.meta["flame"]["expression"]) == 100
        assert len(capture.meta["flame"]["shape"]) == 300
        assert capture.meta["frame_id"] == number
    assert "a K for each" in "\n".join(found[0].meta["ingest"])
    assert "by the FLAME tracking" in "\n".join(found[0].meta["ingest"])


def test_alpha_maps_become_masks(tracked):
    capture = read(tracked, Selection(most_frames=1))[0]
    cameras = nersemble.cameras()
    for serial, data in zip(capture.cameras, capture.masks, strict=True):
        mask = decode(data or b"", 1) > 127
        assert (mask == (silhouette(cameras[serial]) > 127)).mean() > 0.98
    assert read(tracked, Selection(most_frames=1), masks="none")[0].masks == (None,) * 5


def test_the_empty_studio_gives_a_rough_mask(made):
    capture = read(made, Selection(most_frames=1), masks="background")[0]
    cameras = nersemble.cameras()
    for serial, data in zip(capture.cameras, capture.masks, strict=True):
        mask, true = decode(data or b"", 1) > 127, silhouette(cameras[serial]) > 127
        assert (mask == true).mean() > 0.95
    assert any("ROUGH" in line for line in capture.meta["ingest"])
    check(capture)


def test_frames_cameras_and_sequences_can_be_chosen(made, tracked):
    some = Selection(every=3, cameras=("2222*",))
    found = read(tracked, some)
    assert [capture.frame for capture in found] == ["EXP-3-cheeks-nose_00000", "EXP-3-cheeks-nose_00003"]
    assert found[1].cameras == ("222200036", "222200037", "222200038")
    assert len(read(made, sequences=("EXP-*",))) == 4
    with pytest.raises(UserError, match="no sequence is called 'FREE'"):
        read(made, sequences=("FREE",))
    # A later frame is the same however many were passed over.
    last = read(tracked)[3]
    index = [last.cameras.index(camera) for camera in found[1].cameras]
    assert found[1].images == tuple(last.images[i] for i in index)


@pytest.mark.parametrize("downscale", [2, 3])
def test_smaller_images_keep_the_geometry(tracked, downscale):
    capture = read(tracked, Selection(most_frames=1), downscale=downscale)[0]
    assert capture.sizes[0] == (SIZE[0] // downscale, SIZE[1] // downscale)
    check(capture, exact=True)


def test_from_s3(tracked, tmp_path, bucket):
    fsspec.filesystem("s3", skip_instance_cache=True).put(str(tracked), f"{bucket}/set", recursive=True)
    select = Selection(every=2)
    near = ingest(Nersemble(), str(tracked), str(tmp_path / "out"), select=select, report=str)
    assert (
        ingest(Nersemble(), f"{bucket}/set", f"{bucket}/out", select=select, report=str).fingerprint == near.fingerprint
    )
    assert (near.captures, near.cameras) == (2, (5, 5))


@pytest.mark.parametrize("terms", TERMS)
def test_the_polynomials_terms(terms):
    pixels = np.random.default_rng(terms).integers(0, 256, (9, 7, 3), np.uint8)
    identity = np.hstack([np.eye(3), np.zeros((3, terms - 3))])
    assert np.abs(correct(pixels, identity).astype(int) - pixels).max() <= 1


def test_the_order_of_the_terms_is_cheungs():
    # The published expansions, written out.
    squares = ["r", "g", "b", "rg", "rb", "gb", "rr", "gg", "bb"]
    assert TERMS[5] == ["r", "g", "b", "rgb", ""]
    assert TERMS[7] == [*squares[:6], ""]
    assert TERMS[10] == [*squares, ""]
    assert TERMS[11] == [*squares, "rgb", ""]
    assert TERMS[14] == [*squares, "rgb", "rrr", "ggg", "bbb", ""]
    assert TERMS[17] == [*squares, "rgb", "rrg", "ggb", "bbr", "rrr", "ggg", "bbb", ""]
    assert TERMS[20][9:] == ["rgb", "rrg", "ggb", "bbr", "rrb", "ggr", "bbg", "rrr", "ggg", "bbb", ""]
    assert TERMS[22][19:] == ["rrgb", "rggb", "rgbb"]
    assert TERMS[35][19:25] == ["rrrg", "rrrb", "gggr", "gggb", "bbbr", "bbbg"]
    assert TERMS[35][25:] == ["rrgb", "rggb", "rgbb", "rrgg", "rrbb", "ggbb", "rrrr", "gggg", "bbbb", ""]
    assert all(len(names) == count for count, names in TERMS.items())


def test_terms_are_products_of_linear_light():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.zeros((3, 11))
    matrix[0, 3], matrix[1, 6], matrix[2, 9] = 0.9, 0.8, 1.1
    r, g, b = np.moveaxis(linear, -1, 0)
    wanted = np.stack([0.9 * r * g, 0.8 * r * r, 1.1 * r * g * b], axis=-1)
    encoded = np.where(wanted <= 0.0031308, 12.92 * wanted, 1.055 * wanted ** (1 / 2.4) - 0.055)
    assert np.abs(correct(pixels, matrix) - 255 * encoded.clip(0, 1)).max() < 1


Change = Callable[[Path], object]


def params(change: Callable[[dict[str, Any]], object], name: str = "camera_params") -> Change:
    def edit(folder: Path) -> None:
        path = folder / f"calibration/{name}.json"
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))

    return edit


def colours(change: Callable[[dict[str, Any]], object]) -> Change:
    return params(change, "color_calibration")


def in_sequence(change: Change) -> Change:
    return lambda folder: change(folder / "sequences" / SEQUENCE)


def cut(path: str, share: float) -> Change:
    def edit(folder: Path) -> None:
        data = (folder / path).read_bytes()
        (folder / path).write_bytes(data[: int(share * len(data))])

    return in_sequence(edit)


def arrays(**changes: Any) -> Change:
    def edit(folder: Path) -> None:
        path = folder / "tracking/flame2023_tracking_v2.npz"
        with np.load(path) as archive:
            found = {key: archive[key] for key in archive.files if changes.get(key, 0) is not None}
        np.savez(path, **{**found, **{key: value for key, value in changes.items() if value is not None}})

    return in_sequence(edit)


VIDEO, S = "images/cam_222200038.mp4", "222200038"
ALPHA, TRACK = "alpha_maps/cam_222200038.mp4", "tracking/flame2023_tracking_v2.npz"
TWICE = np.diag([2.0, 2, 2, 1]).tolist()
SHORT = [np.zeros((*SIZE, 3), np.uint8)]
BAD: dict[str, tuple[Change, str]] = {
    "no calibration": (
        lambda f: (f / "calibration/camera_params.json").unlink(),
        "camera_params.json: there is no such",
    ),
    "no JSON": (lambda f: (f / "calibration/camera_params.json").write_text("{"), "not readable as JSON"),
    "no poses": (params(lambda t: t.pop("world_2_cam")), "holds no world_2_cam and intrinsics"),
    "no K": (params(lambda t: t.pop("intrinsics")), "holds no world_2_cam and intrinsics"),
    "no K for one": (params(lambda t: t["intrinsics"].pop(S)), f"camera {S}: intrinsics is not 3 x 3"),
    "no pose for one": (params(lambda t: t["world_2_cam"].pop(S)), f"camera {S}: world_2_cam is not 4 x 4"),
    "a pose of words": (params(lambda t: t["world_2_cam"].update({S: "x"})), f"camera {S}: world_2_cam is not 4 x 4"),
    "a scaled pose": (
        params(lambda t: t["world_2_cam"].update({S: np.diag([2, 2, 2, 1]).tolist()})),
        f"{S}: .* not rigid",
    ),
    "NaN in a pose": (params(lambda t: t["world_2_cam"][S][0].__setitem__(0, float("nan"))), f"camera {S}: NaN"),
    "K transposed": (
        params(lambda t: t["intrinsics"].update({S: np.transpose(t["intrinsics"][S]).tolist()})),
        f"camera {S}: K is not an upper triangular",
    ),
    "K of other images": (
        params(lambda t: t["intrinsics"].update({S: [[900, 0, 300], [0, 900, 400], [0, 0, 1]]})),
        f"camera {S}: K's principal point",
    ),
    "an odd colour matrix": (
        colours(lambda t: t.update({S: [[1, 0], [0, 1], [0, 0]]})),
        f"camera {S}: a colour matrix is",
    ),
    "a colour of words": (colours(lambda t: t.update({S: "x"})), f"camera {S}: the colour matrix is not 3 x 3"),
    "ragged colours": (
        colours(lambda t: t.update({S: [[1, 0, 0], [1], [0]]})),
        "the colour matrix is not 3 x 3 numbers",
    ),
    "half a video": (cut(VIDEO, 0.5), f"cam_{S}.mp4: no video that can be read"),
    "no video": (in_sequence(lambda f: (f / VIDEO).write_bytes(b"hello")), f"cam_{S}.mp4: no video that can be read"),
    "an empty video": (cut(VIDEO, 0), f"cam_{S}.mp4: no video that can be read"),
    "a short alpha map": (in_sequence(lambda f: nersemble.video(f / ALPHA, SHORT)), "another size or length"),
    "a broken alpha map": (cut(ALPHA, 0.3), f"alpha_maps/cam_{S}.mp4: no video"),
    "a broken tracking": (cut(TRACK, 0.5), "tracking_v2.npz: no arrays of numbers"),
    "a tracking of objects": (arrays(jaw=np.array([{}], object)), "tracking_v2.npz: no arrays of numbers"),
    "a tracking of words": (arrays(jaw=np.array(["x"])), "tracking_v2.npz: no arrays of numbers"),
    "no frames in it": (arrays(frames=None), "tracking_v2.npz: holds no frames"),
    "too few frames": (arrays(frames=np.arange(4) + 2), "tracking_v2.npz: has no frame 0"),
    "no rotations": (arrays(rotation_matrices=None), "holds no rotation_matrices"),
    "too few rotations": (arrays(rotation_matrices=np.zeros((2, 3, 3))), "rotation_matrices is not 4 x 3 x 3"),
    "no rotation": (arrays(rotation_matrices=np.zeros((4, 3, 3))), "npz, frame 0: the camera's rotation is singular"),
    "NaN in a translation": (arrays(translation=np.full((4, 3), np.nan)), "NaN or infinity in translation"),
    "NaN in expressions": (arrays(expression=np.full((4, 100), np.nan)), "frame 0: NaN or infinity in expression"),
    "a broken studio": (
        lambda f: (f / f"sequences/BACKGROUND/image_{S}.jpg").write_bytes(b"x"),
        f"image_{S}.jpg: broken",
    ),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("everything")
    return write(root, per_camera=True, alpha=True, tracking=True)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(everything, tmp_path, case):
    change, message = BAD[case]
    root = tmp_path / "set"
    shutil.copytree(everything, root)
    change(root / "017")
    if "studio" in case:
        shutil.rmtree(root / f"017/sequences/{SEQUENCE}/alpha_maps")
    with pytest.raises(UserError, match=message) as caught:
        read(root, masks="background")
    assert caught.value.where


def test_a_video_that_ends_early_is_named(made, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(made, root)
    path = root / f"017/sequences/{SEQUENCE}/{VIDEO}"
    data = path.read_bytes()
    # The table of frames in front, as for streaming, the pictures cut off.
    start, end = data.index(b"mdat") - 4, data.index(b"moov") - 4
    middle = (start + end) // 2
    path.write_bytes(data[:start] + data[start:middle] + bytes(end - middle) + data[end:])
    with pytest.raises(UserError, match=rf"cam_{S}\.mp4: (ends after|frame \d)"):
        read(root)


def test_videos_of_other_lengths_end_with_the_shortest(made, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(made, root)
    nersemble.video(root / f"017/sequences/{SEQUENCE}/{VIDEO}", SHORT * 2)
    found = read(root)
    assert len(found) == 2
    assert "videos: 2 to 4 frames; the first 2 were taken" in found[0].meta["ingest"]


def test_odd_folders_are_named(made, tmp_path):
    with pytest.raises(UserError, match="no folder of a participant"):
        read(tmp_path)
    with pytest.raises(UserError, match="downscale: 0 is not 1"):
        Nersemble(downscale=0)
    root = tmp_path / "set"
    shutil.copytree(made, root)
    (root / "018/sequences/BACKGROUND").mkdir(parents=True)
    (root / "018/sequences/BACKGROUND/image_1.jpg").write_bytes(encode_jpeg(np.zeros((4, 4, 3), np.uint8)))
    assert {capture.subject for capture in read(root)} == {"017"}
