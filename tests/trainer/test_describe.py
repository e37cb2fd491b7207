"""A config described: nothing allocated, numbers that a real model and a real engine confirm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import Config, load_config
from configs.schema import EngineConfig, OptimizerConfig
from models.describe import Live, activation_bytes, outline, render_flops, source_inputs
from models.system import System, build
from trainer.describe import Description, describe, zero_memory
from trainer.timing import CountedForward

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.image_size=[48, 48]",
    "data.source_views=2",
    "model.latent_size=8",
    "model.uv_size=32",
    "model.pixel_grid=16",
]


def small(*overrides: str) -> Config:
    return load_config("headsup-nano", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def described() -> Description:
    return describe(small())


def test_it_counts_what_a_real_model_has_and_does(described: Description) -> None:
    config = small()
    system = build(config.model)
    network = described.networks["model"]
    assert network.total == network.trained == sum(p.numel() for p in system.parameters())
    assert set(network.parameters) == {name for name, _ in system.named_children()}
    forward = CountedForward(system)
    real = [torch.zeros_like(t, device="cpu") for t in source_inputs(1, 2, 48, 48)]
    real[1][...] = torch.eye(4)
    real[2][...] = torch.eye(3)
    forward(*real)
    assert described.arithmetic is not None
    assert described.arithmetic.model == forward.flops
    assert described.arithmetic.training_model == 3 * described.arithmetic.model
    assert described.arithmetic.gaussians == {"foreground": 32 * 32, "background": 16 * 32}


def test_it_is_plain_enough_for_json(described: Description) -> None:
    plain = json.loads(json.dumps(described.plain()))
    stages = plain["networks"]["model"]["memory"]
    assert set(stages) == {"0", "1", "2", "3"}
    assert all(stage["device"] + stage["host"] == stage["total"] for stage in stages.values())
    assert plain["arithmetic"]["gaussians"]["foreground"] == 1024


PEAK = """
import resource, sys
import torch, trainer.describe as d
from configs import load_config
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = d.describe(load_config(sys.argv[1], sys.argv[2:]))
print(found.networks["model"].total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("preset", "capacity", "least"),
    [pytest.param("headsup-xlarge", 16, 3e8, marks=pytest.mark.slow), ("headsup-base", 48, 8e9)],
)
def test_billions_of_parameters_are_described_in_little_memory(preset: str, capacity: int, least: float) -> None:
    command = [sys.executable, "-c", PEAK, preset, f"model.capacity={capacity}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    parameters, mebibytes = map(int, done.stdout.split())
    assert parameters >= least
    assert mebibytes < 600, "the weights alone would be gigabytes"


engines = st.builds(
    lambda stage, precision: EngineConfig(zero_stage=stage, precision=precision),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from(["fp32", "bf16"]),
)


@given(engines, st.integers(1, 10**10), st.integers(1, 64), st.booleans())
def test_more_workers_and_offloading_never_need_more_of_a_device(
    engine: EngineConfig, trained: int, workers: int, average: bool
) -> None:
    one = zero_memory(trained, 0, 1, engine, OptimizerConfig(), average)
    many = zero_memory(trained, 0, workers, engine, OptimizerConfig(), average)
    assert many.device <= one.device
    if engine.zero_stage:
        offloaded = zero_memory(
            trained, 0, workers, engine.model_copy(update={"offload": "cpu"}), OptimizerConfig(), average
        )
        assert offloaded.total == many.total
        assert offloaded.device < many.device


def test_known_memory() -> None:
    """20 bytes a parameter in fp32, 4 of them a copy on its way; 2 + 16 / 64 + 2 buckets in bf16 at stage 2 on 64."""
    plain = zero_memory(1000, 0, 1, EngineConfig(zero_stage=0), OptimizerConfig(), average=False)
    assert (plain.weights, plain.gradients, plain.masters, plain.moments, plain.total) == (4000, 4000, 0, 8000, 20000)
    engine = EngineConfig(zero_stage=2, precision="bf16")
    shared = zero_memory(64 * 10**9, 0, 64, engine, OptimizerConfig(), average=True)
    assert shared.weights == 128 * 10**9
    assert shared.masters == shared.gradients == shared.average == 4 * 10**9
    assert shared.moments == 8 * 10**9
    assert shared.passing == 4 * 10**9
    momentum = zero_memory(1000, 0, 1, engine, OptimizerConfig(name="sgd", momentum=0.9), average=False)
    assert momentum.moments == 4000
    frozen = zero_memory(1000, 500, 1, engine, OptimizerConfig(), average=False)
    assert (frozen.weights, frozen.masters) == (3000, 4000)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing() -> None:
    def activations(batch: int, *overrides: str) -> int:
        system = outline(small("model.capacity=4", *overrides).model)
        assert isinstance(system, System)
        return activation_bytes(system, source_inputs(batch, 2, 96, 96))

    kept = activations(1)
    assert 1.5 * kept < activations(3) < 3 * kept, "some of it, the template's points for one, is there once"
    blocks = activations(1, "model.activation_checkpointing=true")
    assert activations(1, "model.activation_checkpointing=true", "model.encoder_checkpointing=true") < blocks < kept


def test_weights_are_no_activations() -> None:
    """Not even seen from another side: a linear layer works with its transposed weight."""
    there = torch.zeros(100, 100)
    with Live([there]) as live:
        row = there[:1] @ there.t()
    assert live.peak == row.untyped_storage().nbytes() == 400
    del row
    assert live.now == 0


def test_estimated_activations_are_what_autograd_keeps() -> None:
    """At the end of a forward pass autograd holds its saved tensors: the estimate covers them and is not far above."""
    system = build(small("model.capacity=4").model)
    own = {p.untyped_storage().data_ptr() for p in system.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    real = [torch.zeros_like(t, device="cpu") for t in source_inputs(1, 2, 96, 96)]
    real[1][...] = torch.eye(4)
    real[2][...] = torch.eye(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = system(*real)
    saved = sum(seen.values())
    assert outputs
    without = outline(small("model.capacity=4").model)
    assert isinstance(without, System)
    estimate = activation_bytes(without, source_inputs(1, 2, 96, 96))
    assert 0.9 * saved < estimate < 2 * saved


def test_rendering_costs_by_views_pixels_and_gaussians() -> None:
    once = render_flops({"foreground": 1000}, 1, 100, 100)
    assert render_flops({"foreground": 1000}, 3, 100, 100) == 3 * once
    assert render_flops({"foreground": 2000}, 1, 100, 100) > once
    assert render_flops({"foreground": 1000, "background": 10}, 1, 100, 100) > 1.5 * once
