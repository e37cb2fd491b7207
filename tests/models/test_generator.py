"""The diffusion transformer and the flow: shapes, what the condition does, and a sampler that is a pure function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs import UserError, load_config
from configs.systems.generator import GeneratorConfig
from models.generator import Model
from models.generator.flow import between, noise_like, sample, step_times
from models.generator.model import grid
from models.system import build

TINY: dict[str, Any] = {
    "system": "generator",
    "latent": [4, 6, 8],
    "width": 32,
    "blocks": 2,
    "heads": 2,
    "attributes": [{"name": "hair", "values": ["long", "short"]}, {"name": "size", "range": [0, 1]}],
    "text": {"width": 12},
}
CONDITIONS: dict[str, tuple[Tensor, ...]] = {
    "none": (),
    "attributes": (torch.eye(3, 4),),
    "text": (torch.randn(3, 5, 12), torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])),
}


def tiny(awake: bool = True, **changes: Any) -> Model:
    """A small generator; `awake` gives its zero-initialised layers something to say."""
    torch.manual_seed(0)
    model = build(GeneratorConfig.model_validate(TINY | changes))
    assert isinstance(model, Model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters() if awake else ():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("condition", list(CONDITIONS))
@pytest.mark.parametrize("patch", [1, 2])
def test_a_velocity_has_the_shape_of_the_latents(condition: str, patch: int) -> None:
    model = tiny(condition=condition, patch=patch)
    velocity = model(noise_like((4, 6, 8), [1, 2, 3]), torch.rand(3), *CONDITIONS[condition])["velocity"]
    assert velocity.shape == (3, 4, 6, 8)
    assert velocity.dtype == torch.float32


def test_it_starts_with_what_all_people_have_in_common() -> None:
    model, noise = tiny(awake=False), noise_like((4, 6, 8), [1, 2])
    model.mean_map.data.fill_(3.0)
    velocity = model(noise, torch.tensor([0.3, 0.0]), torch.ones(2, 4))["velocity"]
    torch.testing.assert_close(velocity[0] * 0.7 + noise[0], torch.full((4, 6, 8), 3.0))
    found = sample(model, noise, (torch.ones(2, 4),), steps=7)
    torch.testing.assert_close(found, torch.full((2, 4, 6, 8), 3.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_every_parameter_learns(condition: str) -> None:
    model = tiny(condition=condition, activation_checkpointing=True)
    velocity = model(noise_like((4, 6, 8), [1, 2, 3]), torch.rand(3), *CONDITIONS[condition])["velocity"]
    velocity.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_time_place_and_condition_matter() -> None:
    model, noise, known = tiny(), noise_like((4, 6, 8), [1]), torch.eye(1, 4)
    plain = model(noise, torch.tensor([0.5]), known)["velocity"]
    for other in (
        model(noise, torch.tensor([0.6]), known)["velocity"],
        model(noise, torch.tensor([0.5]), torch.zeros(1, 4))["velocity"],
        model(noise.roll(2, dims=2), torch.tensor([0.5]), known)["velocity"].roll(-2, dims=2),
    ):
        assert (other - plain).abs().max() > 1e-4


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_bf16_weights_under_autocast_agree(condition: str) -> None:
    model, inputs = tiny(condition=condition), (noise_like((4, 6, 8), [1, 2, 3]), torch.rand(3), *CONDITIONS[condition])
    exact = model(*inputs)["velocity"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.bfloat16()(*inputs)["velocity"]
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_padding_of_a_text_does_not_matter_and_its_words_do() -> None:
    model, (tokens, mask) = tiny(condition="text"), CONDITIONS["text"]
    noise, times = noise_like((4, 6, 8), [1, 1, 1]), torch.full((3,), 0.5)
    plain = model(noise, times, tokens, mask)["velocity"]
    padded = model(noise, times, torch.where(mask[..., None] > 0, tokens, 9.0), mask)["velocity"]
    torch.testing.assert_close(padded, plain)
    assert (plain[0] - plain[2]).abs().max() > 1e-4


def test_tokens_know_where_they_are() -> None:
    places = grid(8, 8, torch.device("cpu"))
    assert torch.cdist(places, places).fill_diagonal_(1).min() > 0.05


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 99))
def test_the_path_is_straight(time: float, seed: int) -> None:
    noise, latents = noise_like((2, 3, 3), [seed]), noise_like((2, 3, 3), [seed + 1])
    noisy, velocity = between(noise, latents, torch.tensor([time]))
    torch.testing.assert_close(noisy + (1 - time) * velocity, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noisy - time * velocity, noise, atol=1e-5, rtol=1e-5)


@settings(max_examples=5, deadline=None)
@given(st.permutations([3, 1, 4, 1, 5]), st.integers(1, 4))
def test_noise_and_samples_do_not_depend_on_the_batch(seeds: list[int], split: int) -> None:
    model, known = tiny(), torch.eye(5, 4)
    noise = noise_like((4, 6, 8), seeds)
    torch.testing.assert_close(noise[2], noise_like((4, 6, 8), [seeds[2]])[0], rtol=0, atol=0)
    together = sample(model, noise, (known,), steps=3)
    apart = [sample(model, n, (k,), steps=3) for n, k in zip(noise.split(split), known.split(split), strict=True)]
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sample(model, noise, (known,), steps=3), together, rtol=0, atol=0)


def towards(goal: Tensor, null: Tensor | None = None) -> Any:
    """The exact velocity when everybody is `goal` (or `null` where the condition is zero)."""

    def forward(x: Tensor, times: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        left = (1 - times).clamp(min=1e-6)[:, None, None, None]
        aim = goal if null is None else torch.where(condition[0][:, :1, None, None] > 0, goal, null)
        return {"velocity": (aim - x) / left}

    return forward


def test_euler_follows_the_exact_flow_to_its_end() -> None:
    goal = torch.randn(2, 3, 3)
    found = sample(towards(goal), noise_like((2, 3, 3), [1, 2]), (), steps=7, method="euler")
    torch.testing.assert_close(found, goal.expand(2, 2, 3, 3), atol=1e-4, rtol=1e-4)


def test_heun_errs_less_than_euler() -> None:
    """dx/dt = x from 1: e at the end. Heun's last step is Euler's, which costs half its square."""

    def grows(x: Tensor, times: Tensor) -> dict[str, Tensor]:
        return {"velocity": x}

    errors = {
        (method, steps): abs(sample(grows, torch.ones(1, 1, 1, 1), (), steps=steps, method=method).item() - 2.7182818)
        for method in ("euler", "heun")
        for steps in (10, 20)
    }
    assert errors["heun", 10] < errors["euler", 10] / 5
    assert errors["euler", 10] / errors["euler", 20] == pytest.approx(2, rel=0.1)
    assert errors["heun", 10] / errors["heun", 20] == pytest.approx(4, rel=0.1)


@given(st.integers(1, 50), st.floats(0.1, 30))
def test_steps_go_from_noise_to_people_and_shift_towards_the_noise(steps: int, shift: float) -> None:
    times, even = step_times(steps, shift), step_times(steps)
    assert (times[0], times[-1], len(times)) == (0, 1, steps + 1)
    assert times == sorted(times)
    assert all((time - flat) * (shift - 1) <= 1e-9 for time, flat in zip(times, even, strict=True))
    assert step_times(2, shift)[1] == pytest.approx(1 / (1 + shift))


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)])
def test_guidance_goes_from_the_null_condition_through_the_condition(guidance: float, expected: float) -> None:
    flow = towards(torch.full((1, 2, 2), 3.0), null=torch.full((1, 2, 2), 2.0))
    found = sample(flow, torch.zeros(1, 1, 2, 2), (torch.ones(1, 3),), steps=5, guidance=guidance, method="euler")
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), expected), atol=1e-4, rtol=1e-4)


def test_it_learns_two_people_apart() -> None:
    """A few hundred steps on two latents: each condition gives its own."""
    torch.manual_seed(0)
    model = tiny(awake=False, width=32, blocks=2)
    people, known = torch.stack([torch.ones(4, 6, 8), -torch.ones(4, 6, 8)]), torch.eye(2, 4)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(150):
        noise = noise_like((4, 6, 8), range(8 * step, 8 * step + 8))
        who = torch.arange(8) % 2
        times = torch.rand(8)
        noisy, velocity = between(noise, people[who], times)
        adam.zero_grad()
        (model(noisy, times, known[who])["velocity"] - velocity).square().mean().backward()
        adam.step()
    made = sample(model, noise_like((4, 6, 8), [1, 2]), (known,), steps=10, guidance=1.0)
    assert (made - people).abs().mean() < 0.3


def test_sixteen_is_dit_l() -> None:
    config = GeneratorConfig.model_validate({"system": "generator", "condition": "none"})
    assert (config.width, config.blocks, config.heads) == (1024, 24, 16)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.patch=3", "does not divide"),
        ("model.heads=5", "not a multiple"),
        ("model.attributes=[]", "headway vocabulary"),
        ("model.capacity=0", "greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_config("headsup-nano-generation", [override])
