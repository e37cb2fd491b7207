"""What critics and those they judge are trained on; weights, scaling and accumulation are the caller's.

Logits may have any shape; larger means more real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def critic_logistic(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-D(real)) + E softplus(D(fake)): cross-entropy (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_logistic(fake: Tensor) -> Tensor:
    """E softplus(-D(fake)): non-saturating (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def critic_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(real)) + E max(0, 1 + D(fake)) (Lim & Ye 2017, Miyato et al. 2018, equation 16)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """-E D(fake): the hinge loss' generator (Miyato et al. 2018, equation 17) and MVCHead's reward L_mvc."""
    return -fake.mean()


def r1(critic: Callable[..., Tensor], images: Tensor, *arguments: Any) -> Tensor:
    """E |grad D(x)|² on real images (Mescheder et al. 2018, equation 9, without its gamma / 2).

    Done lazily every k steps it is weighted by k gamma / 2 (StyleGAN2). Images in [0, 1] have twice the gradient of
    images in [-1, 1]: gamma here is a quarter of StyleGAN2's for the same strength.

    Args:
        critic: called as `critic(images, *arguments)`; returns a logit per sample, `[n]`.
        images: `[n, ...]`, real; they are detached.
        arguments: what else the critic takes, for example cameras.

    Returns:
        scalar in at least float32, with a graph to the critic's parameters.
    """
    return _squared_gradients(critic, images, *arguments).mean()


def gradient_penalty(
    critic: Callable[..., Tensor], real: Tensor, fake: Tensor, generator: torch.Generator, *arguments: Any
) -> Tensor:
    """E (|grad D(x)| - 1)² between real and made images (Gulrajani et al. 2017, equation 3, without its lambda).

    Args:
        critic: called as `critic(images, *arguments)`; returns a logit per sample, `[n]`.
        real, fake: `[n, ...]`; they are detached.
        generator: draws where between the two, one place per pair; on the images' device.
        arguments: what else the critic takes.

    Returns:
        scalar in at least float32, with a graph to the critic's parameters.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real has shape {tuple(real.shape)}, fake {tuple(fake.shape)}")
    share = torch.rand(len(real), generator=generator, device=real.device, dtype=real.dtype)
    between = torch.lerp(real.detach(), fake.detach(), share.reshape(-1, *[1] * (real.dim() - 1)))
    # The root has no derivative at zero, where a fresh or dead critic is.
    lengths = (_squared_gradients(critic, between, *arguments) + 1e-12).sqrt()
    return (lengths - 1).square().mean()


def _squared_gradients(critic: Callable[..., Tensor], images: Tensor, *arguments: Any) -> Tensor:
    """|grad D(x)|² of every sample, `[n]`."""
    images = images.detach().requires_grad_()
    logits = critic(images, *arguments)
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    return gradients.square().flatten(1).sum(1)
