"""Flow matching along straight paths, and the sampler (Lipman et al. 2023; Liu et al. 2023, rectified flow)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Forward = Callable[..., Mapping[str, Tensor]]
Condition = tuple[Tensor, ...]
Method = Literal["heun", "euler"]


def between(noise: Tensor, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Where the straight path from noise to latents is at `times`, and its velocity.

    x_t = (1 - t) noise + t latent, v = latent - noise (Lipman et al. 2023, equation 22 with sigma_min = 0).

    Args:
        noise, latents: `[b, ...]`.
        times: `[b]` in [0, 1].
    """
    t = times.view(-1, *(1,) * (latents.dim() - 1))
    return (1 - t) * noise + t * latents, latents - noise


def noise_like(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise `[len(seeds), *shape]`, each a function of its own seed and of nothing else."""
    drawn = [torch.randn(*shape, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]
    return torch.stack(drawn)


def step_times(steps: int, shift: float = 1.0) -> list[float]:
    """Where steps begin and end, `steps + 1` times from 0 to 1.

    Equal steps, moved by log(shift) in the logit towards the noise (Esser et al. 2024, equation 23): where a latent has
    many numbers that tell of the same few things, who it is is settled very early.
    """
    even = [step / steps for step in range(steps + 1)]
    return [time / (time + shift * (1 - time)) for time in even]


@torch.no_grad()
def sample(
    forward: Forward,
    noise: Tensor,
    condition: Condition,
    *,
    steps: int = 40,
    guidance: float = 2.0,
    method: Method = "heun",
    shift: float = 1.0,
) -> Tensor:
    """Latents `[n, c, h, w]` from noise: a pure function of weights, noise and condition.

    Every sample's path is its own, so that a batch may be split anywhere (up to float rounding, which the order of
    sums in a matrix product of another size changes).

    Args:
        forward: a generator.
        noise: `[n, c, h, w]`, of `noise_like`.
        condition: what `forward` takes after the time; zeros are the null condition.
        steps: from time 0 to 1.
        guidance: w in v = v_null + w (v_condition - v_null) (Ho and Salimans 2022); 1 is the condition alone.
        method: `euler`, or `heun` with twice the forwards and an error of second order; its last step is Euler's,
            since no velocity is defined at the end.
        shift: above 1, more and shorter steps in the noise (`step_times`).
    """
    guided = guidance != 1.0 and bool(condition)
    both = tuple(torch.cat([part, torch.zeros_like(part)]) for part in condition) if guided else condition

    def velocity(x: Tensor, time: float) -> Tensor:
        doubled = torch.cat([x, x]) if guided else x
        found = forward(doubled, torch.full((len(doubled),), time, device=x.device), *both)["velocity"]
        if not guided:
            return found
        conditioned, null = found.chunk(2)
        return null + guidance * (conditioned - null)

    x = noise
    times = step_times(steps, shift)
    for step, (start, end) in enumerate(pairwise(times)):
        first = velocity(x, start)
        ahead = x + (end - start) * first
        last = method == "euler" or step == steps - 1
        x = ahead if last else x + (end - start) / 2 * (first + velocity(ahead, end))
    return x
