"""Parts of faces in pictures: where they are, and errors over them alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.synth.head import neutral_head
from trainer.face_parts import box_masks, face_boxes, masked_psnr, part_masks
from trainer.objectives.regions import Boxes
from trainer.viewing import frontal_cameras


def test_the_face_is_where_the_template_says() -> None:
    masks = face_boxes(neutral_head(), frontal_cameras([0.0, 0.5, 3.14], (64, 64)))
    assert masks.shape == (1, 3, 1, 64, 64)
    area = masks.float().mean(dim=(2, 3, 4))[0]
    assert 0.05 < area[0] < 0.5
    assert area[1] > 0.03
    assert area[2] == 0
    rows, columns = masks[0, 0, 0].nonzero().float().mean(dim=0)
    assert abs(columns - 31.5) < 1
    assert 24 < rows < 48


def test_psnr_counts_the_pixels_of_the_mask_only() -> None:
    photos, images = torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 2, 3, 8, 8)
    masks = torch.zeros(1, 2, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 0, :4] = True
    images[0, 0, :, :4] = 0.1
    images[0, 0, :, 4:] = 0.9
    assert masked_psnr(images, photos, masks) == pytest.approx(20.0, abs=1e-4)


def middle(mask: torch.Tensor) -> tuple[float, float]:
    """Row and column."""
    row, column = mask.nonzero().double().mean(dim=0).tolist()
    return row, column


def test_eyes_are_above_the_mouth_and_both_in_the_face() -> None:
    masks = part_masks(neutral_head(), frontal_cameras([0.0, 0.4, math.pi], (128, 128)))
    assert set(masks) == {"face", "eyes", "mouth"}
    face, eyes, mouth = (masks[part][0, 0, 0] for part in ("face", "eyes", "mouth"))
    for part in (eyes, mouth):
        assert abs(middle(part)[1] - 63.5) < 1
        assert (part & face).sum() > 0.9 * part.sum()
        assert 0.002 < part.float().mean() < 0.06
    assert middle(eyes)[0] < middle(mouth)[0] - 8
    assert not (eyes & mouth).any()
    assert not eyes[:, 60:68].any(), "between the eyes"
    assert masks["mouth"][0, 1].any()
    assert not any(mask[0, 2].any() for mask in masks.values()), "from behind"


def test_a_template_without_eyes_and_mouth_has_a_face_alone() -> None:
    mesh = neutral_head()
    names = tuple(f"shape{number}" for number in range(len(mesh.expressions)))
    nameless = replace(mesh, faces=mesh.faces[:4], expression_names=names)  # without eyeballs either
    assert set(part_masks(nameless, frontal_cameras([0.0], (32, 32)))) == {"face"}


@given(st.lists(st.floats(-40, 72), min_size=4, max_size=4), st.booleans())
def test_masks_of_boxes_hold_the_pixels_whose_centres_are_inside(corners: list[float], seen: bool) -> None:
    cameras = frontal_cameras([0.0], (24, 32))
    boxes = Boxes(torch.tensor(corners).view(1, 1, 1, 4), torch.tensor([[[seen]]]))
    mask = box_masks(boxes, cameras)
    assert mask.shape == (1, 1, 1, 1, 24, 32)
    left, top, right, bottom = boxes.corners.flatten().tolist()
    wanted = [[seen and left <= x + 0.5 <= right and top <= y + 0.5 <= bottom for x in range(32)] for y in range(24)]
    assert mask[0, 0, 0, 0].tolist() == wanted
