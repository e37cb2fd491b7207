"""Region losses: boxes lie where the face is, crops are cut right, and what is off costs and changes nothing."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs import UserError, load_config
from configs.objectives.reconstruction import LpipsConfig, ReconstructionConfig, RegionsConfig
from data.arkit import ARKIT
from data.views import Batch, Cameras, Views
from models.system import System, build
from models.template import ExpressionOffsets, face_regions, load_template
from trainer.objectives.losses import perceptual
from trainer.objectives.reconstruction import Objective
from trainer.objectives.regions import RegionLosses, crop, region_boxes

SIZE = 96
REGIONS = face_regions(load_template("headway").mesh)
CPU = torch.device("cpu")
TINY = ["model.capacity=1", "model.latent_size=8", "model.uv_size=32", "model.heads=2", "model.pixel_grid=16"]


def cameras_at(*angles: float, elevation: float = 0.0, shift: float = 0.0, batch: int = 1) -> Cameras:
    """A metre and a half from the head, at azimuths in degrees from the front; `shift` moves the image, pixels."""
    matrices = []
    for angle in angles:
        a, e = math.radians(angle), math.radians(elevation)
        back = torch.tensor([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
        right = torch.tensor([math.cos(a), 0.0, -math.sin(a)])
        rotation = torch.stack([right, torch.linalg.cross(-back, right), -back])
        matrix = torch.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, rotation @ (-1.5 * back)
        matrices.append(matrix)
    K = torch.tensor([[4.5 * SIZE, 0, SIZE / 2 + shift], [0, 4.5 * SIZE, SIZE / 2], [0, 0, 1.0]])
    views = len(angles)
    return Cameras(torch.stack(matrices).expand(batch, -1, -1, -1), K.expand(batch, views, 3, 3), SIZE, SIZE)


def views_at(*angles: float, seed: int = 0, batch: int = 1) -> Views:
    cameras = cameras_at(*angles, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, len(angles), 3, SIZE, SIZE, generator=generator)
    return Views(images, torch.ones(batch, len(angles), 1, SIZE, SIZE), cameras)


def losses_of(**changes: Any) -> RegionLosses:
    config = RegionsConfig.model_validate({"eyes": 1.0, "mouth": 1.0, "size": 32, **changes})
    return RegionLosses(config, load_template("headway"), None)


@settings(max_examples=40, deadline=None)
@given(st.floats(-80, 80), st.floats(-40, 40))
def test_every_point_of_a_region_is_in_its_box(azimuth: float, elevation: float) -> None:
    cameras = cameras_at(azimuth, elevation=elevation)
    boxes = region_boxes(list(REGIONS.values()), cameras, padding=0.1)
    for place, region in enumerate(REGIONS.values()):
        pixels = cameras.project(torch.from_numpy(region.points))[0][0, 0]
        left, top, right, bottom = boxes.corners[0, 0, place].tolist()
        if boxes.seen[0, 0, place]:
            assert left < pixels[:, 0].min() < pixels[:, 0].max() < right
            assert top < pixels[:, 1].min() < pixels[:, 1].max() < bottom
            assert right - left == pytest.approx(bottom - top, abs=1e-3)
        else:
            assert (left, top, right, bottom) == (0, 0, SIZE, SIZE)


@pytest.mark.parametrize(
    ("azimuth", "seen"),
    [(0, "lrm"), (40, "lrm"), (70, "lm"), (-70, "rm"), (88, "l"), (-88, "r"), (130, ""), (180, "")],
)
def test_what_faces_away_is_dropped(azimuth: float, seen: str) -> None:
    boxes = region_boxes(list(REGIONS.values()), cameras_at(azimuth), padding=0.2)
    names = "".join(name[0] for name, is_seen in zip(REGIONS, boxes.seen[0, 0], strict=True) if is_seen)
    assert names == seen


@pytest.mark.parametrize(("shift", "seen"), [(0, True), (200, False), (-200, False)])
def test_what_lies_outside_of_the_image_is_dropped(shift: float, seen: bool) -> None:
    boxes = region_boxes(list(REGIONS.values()), cameras_at(0, shift=shift), padding=0.2)
    assert boxes.seen.all() if seen else not boxes.seen.any()


def test_a_camera_inside_the_head_makes_no_number_that_is_none() -> None:
    cameras = cameras_at(0)
    inside = replace(cameras, world_to_camera=torch.eye(4).expand(1, 1, 4, 4))
    boxes = region_boxes(list(REGIONS.values()), inside, padding=0.2)
    assert torch.isfinite(boxes.corners).all()


def test_a_crop_of_the_same_size_is_a_slice() -> None:
    images = torch.rand(2, 3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[4.0, 6, 12, 14], [10, 2, 18, 10]]).expand(2, 3, 2, 4)
    found = crop(images, corners, 8)
    assert found.shape == (2, 3, 2, 3, 8, 8)
    torch.testing.assert_close(found[:, :, 0], images[..., 6:14, 4:12])
    torch.testing.assert_close(found[:, :, 1], images[..., 2:10, 10:18])


def test_a_crop_beyond_the_image_is_black_there() -> None:
    found = crop(torch.ones(1, 1, 3, 16, 16), torch.tensor([[[[-8.0, 0, 8, 16]]]]), 16)[0, 0, 0]
    assert found[..., :7].abs().max() == 0
    assert found[..., 9:].min() == 1


def test_gradients_flow_inside_the_boxes_only() -> None:
    losses, target = losses_of(), views_at(0, 30)
    images = views_at(0, 30, seed=1).images.requires_grad_()
    sum(losses(images, target).values()).backward()  # type: ignore[union-attr]
    assert images.grad is not None
    corners = region_boxes(losses.regions, target.cameras, losses.config.padding).corners
    for view in range(2):
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for left, top, right, bottom in corners[0, view].tolist():
            inside[math.floor(top) - 1 : math.ceil(bottom) + 1, math.floor(left) - 1 : math.ceil(right) + 1] = True
        touched = images.grad[0, view].abs().sum(0) > 0
        assert not touched[~inside].any()
        assert touched[inside].float().mean() > 0.5


def test_a_batch_s_loss_is_the_mean_of_its_samples_whatever_they_show() -> None:
    losses = losses_of()
    parts = [views_at(*angles, seed=seed) for seed, angles in enumerate([(0, 20), (100, 180)])]
    images, masks = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "masks"))
    batch = Views(images, masks, _both(parts))
    rendered = torch.rand(2, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
    whole = losses(rendered, batch)
    apart = [losses(rendered[place : place + 1], part) for place, part in enumerate(parts)]
    for name, term in whole.items():
        torch.testing.assert_close(term, (apart[0][name] + apart[1][name]) / 2)


def _both(parts: list[Views]) -> Cameras:
    matrices, K = (torch.cat([getattr(p.cameras, n) for p in parts]) for n in ("world_to_camera", "K"))
    return Cameras(matrices, K, SIZE, SIZE)


def test_what_is_the_same_or_not_seen_costs_nothing() -> None:
    front, back = views_at(0), views_at(180)
    assert set(losses_of()(front.images, front)) == {"eyes", "mouth"}
    assert all(term == 0 for term in losses_of()(front.images, front).values())
    assert all(term == 0 for term in losses_of()(1 - back.images, back).values())
    assert all(term > 0.1 for term in losses_of()(1 - front.images, front).values())


def test_lpips_compares_crops_where_there_is_a_backbone() -> None:
    torch.manual_seed(0)
    network = perceptual(LpipsConfig(weights="random", network="squeeze"))
    losses = RegionLosses(RegionsConfig(eyes=0.5, lpips=2.0, size=32), load_template("headway"), network)
    images, target = views_at(0, 60, seed=1).images.requires_grad_(), views_at(0, 60)
    terms = losses(images, target)
    assert set(terms) == {"eyes", "eyes_lpips"}
    assert losses.weights == {"eyes": 0.5, "eyes_lpips": 1.0}
    terms["eyes_lpips"].backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def system_of(*overrides: str) -> System:
    torch.manual_seed(0)
    return build(load_config("headsup-nano", [*TINY, *overrides]).model)


def batch_of(sources: int = 2, batch: int = 1) -> Batch:
    source = views_at(*(-30.0 + 17 * view for view in range(sources)), seed=1, batch=batch)
    faces = torch.zeros(batch, 52)
    faces[:, ARKIT.index("jawOpen")] = 0.8
    target = views_at(0, 90, seed=2, batch=batch)
    return Batch(replace(source, coefficients=faces), replace(target, coefficients=faces), ("a",) * batch, batch)


def terms_of(system: System, batch: Batch, step: int = 0, **changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
    objective = Objective(ReconstructionConfig.model_validate(changes), system, CPU)
    losses = objective(system, batch, step, lambda _: nullcontext())
    return losses.total.detach(), losses.terms


def test_regions_switched_off_change_no_bit_and_are_never_looked_for() -> None:
    system, batch = system_of(), batch_of()
    before, terms = terms_of(system, batch)
    off, same = terms_of(system, batch, regions={"eyes": 0, "mouth": 0, "size": 99, "padding": 1})
    assert set(terms) == set(same) == {"l1", "ssim", "mask", "psnr"}
    assert torch.equal(before, off)
    assert torch.equal(before, 1.0 * terms["l1"] + 0.1 * terms["ssim"] + 0.1 * terms["mask"])
    assert Objective(ReconstructionConfig(), system, CPU).regions is None


def test_regions_add_their_weighted_terms() -> None:
    system, batch = system_of(), batch_of()
    without, _ = terms_of(system, batch)
    total, terms = terms_of(system, batch, regions={"eyes": 0.5, "mouth": 0.25})
    torch.testing.assert_close(total, without + 0.5 * terms["eyes"] + 0.25 * terms["mouth"])


def test_the_position_term_knows_the_face() -> None:
    system, batch = system_of("model.color_skip=false"), batch_of()
    assert batch.target.coefficients is not None
    settings_of = {"position": 1.0, "position_steps": 100}
    _, neutral = terms_of(system, batch, **settings_of)
    _, tracked = terms_of(system, batch, **settings_of, position_target="tracked")
    offsets = ExpressionOffsets(load_template("headway"), 32)(batch.target.coefficients)
    # At first the prediction is about the neutral template, so the tracked target is about as far as the face is wide.
    assert tracked["position"] > neutral["position"] + 0.5 * (100 * offsets).square().sum(-1).mean()
    resting = replace(batch, target=replace(batch.target, coefficients=torch.zeros(1, 52)))
    _, at_rest = terms_of(system, resting, **settings_of, position_target="tracked")
    torch.testing.assert_close(at_rest["position"], neutral["position"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("step", "left"), [(0, 1.0), (50, 0.5), (100, 0.0), (5000, 0.0)])
def test_the_position_term_fades(step: int, left: float) -> None:
    system, batch = system_of(), batch_of()
    without, _ = terms_of(system, batch, step)
    total, terms = terms_of(system, batch, step, position=2.0, position_steps=100, position_target="tracked")
    torch.testing.assert_close(total, without + 2.0 * left * terms["position"])


def test_a_system_without_a_template_has_no_regions() -> None:
    class Plain(System):
        def forward(
            self, images: Tensor, world_to_camera: Tensor, K: Tensor, coefficients: Tensor | None = None
        ) -> dict[str, Tensor]:
            return {}

    with pytest.raises(UserError, match=r"objective.regions: the system has no template"):
        Objective(ReconstructionConfig(regions=RegionsConfig(eyes=1.0)), Plain(), CPU)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 8))
def test_any_number_of_source_views_makes_the_same_terms_and_finite_gradients(sources: int) -> None:
    system, batch = system_of(), batch_of(sources)
    objective = Objective(ReconstructionConfig(regions=RegionsConfig(eyes=0.5, mouth=0.5)), system, CPU)
    losses = objective(system, batch, 0, lambda _: nullcontext())
    losses.total.backward()
    assert set(losses.terms) == {"l1", "ssim", "mask", "eyes", "mouth", "psnr"}
    gradients = [p.grad for p in system.parameters() if p.grad is not None]
    assert np.isfinite([float(g.norm()) for g in gradients]).all()
