"""Anchors that follow the face: at rest they are the neutral ones to the bit, and a jaw moves the chin alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_headsup import ring, tiny
from torch import Tensor

from configs import UserError
from data.arkit import ARKIT
from data.views import Views
from models.gaussians import Gaussians
from models.headsup import Model
from models.system import latent_system, predict
from models.template import ExpressionOffsets, load_template

SIDE = 32
BARE = ("model.pixel_features=false", "model.color_skip=false")


@cache
def model(*overrides: str, preset: str = "headsup-nano") -> Model:
    return cast(Model, tiny(*overrides, preset=preset)[0])


def views(batch: int = 1, **expression: float) -> Views:
    face = torch.tensor([[expression.get(name, 0.0) for name in ARKIT]])
    return replace(ring(batch, 2), coefficients=face.expand(batch, -1))


def head(system: Model, seen: Views) -> Gaussians:
    with torch.no_grad():
        return predict(system, seen).foreground


@pytest.mark.parametrize("preset", ["headsup-nano", "headsup-base"])
def test_a_tracked_face_at_rest_is_the_neutral_model_to_the_bit(preset: str) -> None:
    neutral, tracked = (model(f"model.anchor={anchor}", preset=preset) for anchor in ("neutral", "tracked"))
    assert neutral.state_dict().keys() == tracked.state_dict().keys(), "the anchor has no weights"
    with torch.no_grad():
        one, two = (
            system(seen.images, seen.cameras.world_to_camera, seen.cameras.K, seen.coefficients)
            for system, seen in ((neutral, views(2, jawOpen=1.0)), (tracked, views(2)))
        )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_open_jaw_moves_gaussians_near_the_chin_alone() -> None:
    system = model("model.anchor=tracked", *BARE)
    moved = (head(system, views(jawOpen=1.0)).means - head(system, views()).means)[0].norm(dim=-1)
    rest = system.anchors.positions
    lowered = moved > 0.005
    assert moved.max() > 0.01, "an open jaw moves by centimetres"
    assert 0.01 < lowered.float().mean() < 0.2
    eyes = load_template("headway").mesh.vertices[:, 1].mean()
    assert rest[lowered][:, 1].max() < eyes
    assert rest[lowered][:, 2].min() > 0, "in front of the ears"
    assert moved[rest[:, 1] > 0.05].max() < 1e-4, "brows and crown stay"


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.sampled_from(ARKIT), st.floats(0, 1, width=32), max_size=5), st.booleans())
def test_what_anchors_move_by_is_what_the_template_moves_by(expression: dict[str, float], skip: bool) -> None:
    """Whatever the network adds: with its features sampled at neutral points, it cannot know the expression."""
    system = model("model.anchor=tracked", "model.pixel_features=false", f"model.color_skip={skip}")
    seen = views(1, **expression)
    assert seen.coefficients is not None
    wanted = ExpressionOffsets(load_template("headway"), SIDE)(seen.coefficients)
    found, resting = head(system, seen), head(system, views())
    torch.testing.assert_close(found.means - resting.means, wanted, atol=1e-6, rtol=0)
    if not skip:
        assert torch.equal(found.sh, resting.sh)
    assert torch.equal(found.quats, resting.quats), "frames stay the neutral template's"


@pytest.mark.parametrize("switch", ["model.pixel_features", "model.color_skip"])
def test_features_and_colours_are_fetched_where_the_face_is(switch: str) -> None:
    others = [part for part in BARE if not part.startswith(switch)]
    system = model("model.anchor=tracked", f"{switch}=true", *others)
    found, resting = (head(system, seen) for seen in (views(jawOpen=1.0), views()))
    changed = (found.sh - resting.sh).abs().flatten(2).amax(dim=-1)[0] > 1e-4
    assert changed.any()


def test_every_sample_of_a_batch_has_its_own_face() -> None:
    system = model("model.anchor=tracked")
    smile, rest = views(mouthSmileLeft=1.0).coefficients, views().coefficients
    assert smile is not None
    assert rest is not None
    both = replace(ring(2, 2), coefficients=torch.cat([smile, rest]))
    together = head(system, both).means
    for sample in range(2):
        alone = head(system, both[sample : sample + 1]).means[0]
        torch.testing.assert_close(together[sample], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("switches", [(), BARE])
def test_missing_coefficients_are_named(switches: tuple[str, ...]) -> None:
    seen = ring(1, 2)
    with pytest.raises(UserError, match=r"model.anchor: tracked: .*without its coefficients"):
        predict(model("model.anchor=tracked", *switches), seen)
    predict(model(*switches), seen)


def test_latents_alone_make_no_head_of_a_tracked_model() -> None:
    system = model("model.anchor=tracked", *BARE)
    with pytest.raises(UserError, match=r"model.anchor: .*expression coefficients, which its latents do not hold"):
        latent_system(system)
    with pytest.raises(UserError, match=r"model.anchor=neutral"):
        system.decode(torch.zeros(1, *system.latent_shape))
    assert latent_system(model(*BARE)).decode(torch.zeros(1, *system.latent_shape))["foreground.means"].shape[0] == 1


def test_bf16_keeps_tracked_anchors_in_float32() -> None:
    system, seen = model("model.anchor=tracked", *BARE), views(jawOpen=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        moved = cast(Tensor, system.expressions[SIDE](cast(Tensor, seen.coefficients)))
    assert moved.dtype == torch.float32
    assert torch.equal(moved, ExpressionOffsets(load_template("headway"), SIDE)(cast(Tensor, seen.coefficients)))


def test_a_part_of_views_keeps_its_faces() -> None:
    seen = replace(ring(3, 4), coefficients=torch.arange(3.0)[:, None].expand(3, 52))
    assert seen.coefficients is not None
    for part, wanted in ((seen[1:], [1, 2]), (seen[:, :2], [0, 1, 2]), (seen[[2, 0], 1:], [2, 0]), (seen[1], 1)):
        assert part.coefficients is not None
        assert part.coefficients[..., 0].tolist() == wanted
    assert ring(1, 2)[:, 1:].coefficients is None
    assert seen.map(lambda tensor: tensor.double()).coefficients.dtype == torch.float64  # type: ignore[union-attr]
