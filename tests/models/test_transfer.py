"""One learning rate along the dial: what every parameter gets, by width and by depth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from configs import load_config, presets
from configs.systems.headsup import HeadsUpConfig
from models.headsup.dial import capacity_scales
from models.system import build
from models.transfer import Scale, Transferring, initialise, scales

SMALL = ["model.latent_size=8", "model.uv_size=32", "model.pixel_grid=16"]


class Perceptron(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(3, width, 3)
        self.hidden = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, 5)
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(7, width))


def headsup(*overrides: str) -> tuple[nn.Module, HeadsUpConfig]:
    torch.manual_seed(0)
    config = load_config("headsup-nano", [*SMALL, *overrides]).model
    assert isinstance(config, HeadsUpConfig)
    return build(config), config


@given(st.sampled_from([4, 8, 16]), st.sampled_from([1, 2, 8, 32]))
@settings(max_examples=12, deadline=None)
def test_matrices_learn_by_their_fan_in_and_nothing_else_does(base: int, times: int) -> None:
    found = scales(Perceptron(base * times), Perceptron(base), {})
    if times == 1:
        assert found == {}
        return
    assert set(found) == {"hidden.weight", "out.weight"}
    assert found["hidden.weight"] == Scale(1.0, 1 / times)
    assert found["out.weight"] == Scale(times**-0.5, 1 / times)


def test_outputs_begin_smaller_by_the_width_itself() -> None:
    torch.manual_seed(0)
    narrow, wide = Perceptron(64), Perceptron(1024)
    initialise(wide, scales(wide, narrow, {}))
    ratio = narrow.out.weight.std() / wide.out.weight.std()
    assert ratio.item() == pytest.approx(16, rel=0.05)
    assert (narrow.hidden.weight.std() / wide.hidden.weight.std()).item() == pytest.approx(4, rel=0.05)
    assert (narrow.into.weight.std() / wide.into.weight.std()).item() == pytest.approx(1, rel=0.1)


def test_the_ends_of_branches_learn_by_the_depth() -> None:
    found = scales(Perceptron(8), Perceptron(8), {"hidden": 0.25})
    assert found == {"hidden.weight": Scale(0.25, 0.25), "hidden.bias": Scale(0.25, 0.25)}


def test_a_base_without_a_layer_leaves_it_alone() -> None:
    base = Perceptron(8)
    del base.hidden
    assert "hidden.weight" not in scales(Perceptron(16), base, {})


@pytest.mark.parametrize("preset", [name for name in presets() if load_config(name).model.system == "headsup"])
def test_at_the_base_the_rule_is_the_identity(preset: str) -> None:
    config = load_config(preset).model
    assert isinstance(config, HeadsUpConfig)
    assert config.base_capacity is not None
    at_base = load_config(preset, [f"model.capacity={config.base_capacity:g}"]).model
    assert isinstance(at_base, HeadsUpConfig)
    assert at_base.base == at_base
    with torch.device("meta"):
        assert capacity_scales(build(at_base), at_base) == {}


def test_without_a_base_nothing_is_scaled() -> None:
    system, _ = headsup("model.capacity=4", "model.base_capacity=null")
    assert isinstance(system, Transferring)
    assert system.learning_rate_factors() == {}


def test_the_base_starts_with_the_same_weights_as_without_the_rule() -> None:
    with_rule, without = headsup()[0], headsup("model.base_capacity=null")[0]
    for (name, first), second in zip(with_rule.named_parameters(), without.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_headsup_twice_and_four_times_as_wide_and_deep() -> None:
    for capacity in (4, 8):
        system, config = headsup(f"model.capacity={capacity}")
        assert isinstance(system, Transferring)
        factors, wider = system.learning_rate_factors(), capacity / 2
        assert factors["encoder.levels.1.0.first.weight"] == 1 / wider
        assert factors["fusion.blocks.0.cross.key_value.weight"] == 1 / wider
        assert factors["fusion.blocks.3.mlp.0.weight"] == 1 / wider
        assert factors["fusion.blocks.3.mlp.2.weight"] == 1 / wider**2
        assert factors["fusion.blocks.3.mlp.2.bias"] == 1 / wider
        assert factors["fusion.blocks.0.attend.out.weight"] == 1 / wider**2
        assert factors["decoder.up.0.0.weight"] == 1 / wider
        assert factors["decoder.head.weight"] == 1 / wider
        assert factors["color_skip.gate.weight"] == 1 / wider
        assert factors["color_skip.refine.0.weight"] == pytest.approx(1 / wider, rel=0.15)
        kept = (
            "encoder.stem.weight",
            "fusion.queries",
            "fusion.prior.weight",
            "decoder.bias_map",
            "background.head.weight",
        )
        assert not factors.keys() & set(kept)
        assert len(set(factors.values())) <= 5
        assert config.width // config.heads == 32, "heads stay as wide as they are"


def test_the_head_of_a_wider_decoder_starts_smaller_by_its_fan_in() -> None:
    spread = {c: headsup(f"model.capacity={c}")[0].get_parameter("decoder.head.weight").std().item() for c in (2, 8)}
    assert spread[2] / spread[8] == pytest.approx(4, rel=0.1)


def test_wider_layers_start_like_the_base_s() -> None:
    """Width alone: at the base's depth, a fan-in m times larger makes initial weights sqrt(m) times smaller."""
    base, _ = headsup()
    wide, _ = headsup("model.capacity=8", "model.blocks=2")
    for name in ("fusion.blocks.1.mlp.2.weight", "encoder.levels.1.0.first.weight", "decoder.up.0.0.weight"):
        ratio = (base.get_parameter(name).std() / wide.get_parameter(name).std()).item()
        assert ratio == pytest.approx(math.sqrt(4), rel=0.05), name


def test_the_dial_turns_every_width_of_nano() -> None:
    narrow, wide = load_config("headsup-nano").model, load_config("headsup-nano", ["model.capacity=6"]).model
    assert isinstance(narrow, HeadsUpConfig)
    assert isinstance(wide, HeadsUpConfig)
    assert (narrow.encoder_channels, narrow.decoder_channels, narrow.heads) == ((64, 128), (128, 64, 32), 4)
    assert wide.encoder_channels == tuple(3 * c for c in narrow.encoder_channels)
    assert wide.decoder_channels == tuple(3 * c for c in narrow.decoder_channels)
    assert (wide.heads, wide.blocks, wide.stride) == (12, 6, narrow.stride)
