"""A capture that does not hold what it promises is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs import UserError
from data.images import encode_png


def spoiled(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


def test_a_good_capture_passes_down_to_its_pixels(make_capture):
    make_capture(0).validate(pixels=True)
    make_capture(0, masks=(None,) * 6).validate(pixels=True)


def test_the_name_is_the_key_of_the_sample(make_capture):
    assert make_capture(7).name == "person007_0"


BAD = {
    "fewer images than cameras": (lambda c: {"images": c.images[:4]}, "Cam4", "missing camera"),
    "an empty image": (lambda c: {"images": (c.images[0], b"", *c.images[2:])}, "Cam1", "missing camera"),
    "a header cut off": (lambda c: {"images": (c.images[0][:40], *c.images[1:])}, "Cam0", "header"),
    "no image at all": (lambda c: {"images": (b"GIF89a" + bytes(99), *c.images[1:])}, "Cam0", "neither JPEG"),
    "a mask of another size": (
        lambda c: {"masks": (*c.masks[:5], encode_png(np.zeros((40, 40), np.uint8)))},
        "Cam5",
        "40 x 40, the image 40 x 48",
    ),
    "a mask that is no PNG": (lambda c: {"masks": (c.images[0], *c.masks[1:])}, "Cam0", "PNG"),
    "NaN in a transform": (
        lambda c: {"world_to_camera": spoiled(c.world_to_camera, (3, 1, 3), np.nan)},
        "Cam3",
        "NaN",
    ),
    "a singular rotation": (
        lambda c: {"world_to_camera": spoiled(c.world_to_camera, (2, slice(3), 0), 0)},
        "Cam2",
        "singular",
    ),
    "a scaled rotation": (
        lambda c: {"world_to_camera": c.world_to_camera * np.array([2, 2, 2, 1])[:, None]},
        "Cam0",
        "not rigid",
    ),
    "a mirrored rotation": (
        lambda c: {"world_to_camera": c.world_to_camera * np.array([-1, 1, 1, 1])[:, None]},
        "Cam0",
        "mirrors",
    ),
    "a negative focal length": (lambda c: {"K": spoiled(c.K, (4, 0, 0), -90)}, "Cam4", "not positive"),
    "a transposed K": (lambda c: {"K": np.swapaxes(c.K, 1, 2)}, "Cam0", "transposed"),
    "NaN in K": (lambda c: {"K": spoiled(c.K, (1, 1, 1), np.nan)}, "Cam1", "NaN"),
    "the same camera twice": (lambda c: {"cameras": (*c.cameras[:5], "cam0")}, "cam0", "two cameras"),
    "a camera with a dot": (lambda c: {"cameras": ("a.b", *c.cameras[1:])}, "a.b", "no camera name"),
    "another size than promised": (lambda c: {"sizes": ((48, 48), *c.sizes[1:])}, "Cam0", "40 x 48"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_capture_is_refused_naming_capture_and_camera(make_capture, case):
    change, camera, what = BAD[case]
    good = make_capture(3)
    with pytest.raises(UserError) as caught:
        replace(good, **change(good)).validate()
    message = str(caught.value)
    assert "person003_0" in message
    assert camera in message
    assert what in message


def test_a_jpeg_cut_off_behind_its_header_is_found_in_its_pixels(make_capture):
    good = make_capture(1)
    cut = replace(good, images=(*good.images[:2], good.images[2][:-40], *good.images[3:]))
    cut.validate()
    with pytest.raises(UserError, match="person001_0, camera Cam2: broken image"):
        cut.validate(pixels=True)


@pytest.mark.parametrize("name", ["a/b", "../x", "a.b", "", "a b", "-x"])
def test_names_that_would_leave_a_shard_or_split_a_key_are_refused(make_capture, name):
    with pytest.raises(UserError, match="is no subject name"):
        make_capture(0, subject=name).validate()


def test_an_expression_is_finite(make_capture):
    with pytest.raises(UserError, match="expression"):
        make_capture(0, expression={"jawOpen": float("nan")}).validate()
