"""F(Z_neutral, b) -> Z_b: patches of the latent read what the blendshape coefficients say, and add what changes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.systems.animator import AnimatorConfig
from models.headsup.fusion import HEAD, OCTAVES, Block
from models.layers import fourier, zeroed
from models.template import load_template


class Model(nn.Module):
    """A transformer over patch tokens of a whitened Z (HeadsUp, arXiv 2605.04035, page 14: F_theta(Z_n, b)).

    The last layer begins at zero, so that an untrained model copies the neutral latent. The moments that whiten the
    latents are part of the model: its checkpoint needs no dataset to be used.

    Attributes:
        mean, std: `[c]` of the latents that it was trained on (`adopt`).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AnimatorConfig) -> None:
        super().__init__()
        self.config = config
        side, width = config.latent_size // config.patch, config.width
        template = load_template(config.template.name, config.template.path)
        self.points = template.maps(side).positions.flatten(0, 1)
        self.embed = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.prior = nn.Linear(6 * OCTAVES, width)
        self.expression = nn.Sequential(
            nn.Linear(config.coefficients, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, config.expression_tokens * width),
            nn.Unflatten(1, (config.expression_tokens, width)),
        )
        self.slots = nn.Parameter(torch.randn(config.expression_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(width)
        self.change = zeroed(nn.Linear(width, config.channels * config.patch**2))
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("std", torch.ones(config.channels))

    def forward(self, neutral: Tensor, coefficients: Tensor) -> Tensor:
        """The whitened latent with an expression.

        Args:
            neutral: `[b, c, h, w]` whitened Z of the neutral face.
            coefficients: `[b, k]` in [0, 1], in ARKit's alphabetical order.

        Returns:
            `[b, c, h, w]`.
        """
        embedded = self.embed(neutral)
        points = self.points.to(neutral.device)
        tokens = embedded.flatten(2).transpose(1, 2) + self.prior(fourier(points, OCTAVES, HEAD).to(embedded.dtype))
        expression = self.expression(coefficients * 2 - 1) + self.slots
        for block in self.blocks:
            tokens = block(tokens, expression)
        change = self.change(self.norm(tokens)).transpose(1, 2).unflatten(2, embedded.shape[-2:])
        return neutral + self.config.change_scale * F.pixel_shuffle(change, self.config.patch)

    def adopt(self, mean: Tensor, std: Tensor) -> None:
        """Remember what whitened the latents, in float32 whatever the weights' precision."""
        self.mean, self.std = mean.detach().float().clone(), std.detach().float().clone()

    def whiten(self, latents: Tensor) -> Tensor:
        """Z `[..., c, h, w]` of the base as `forward` takes it."""
        return (latents - self.mean.to(latents)[:, None, None]) / self.std.to(latents)[:, None, None]

    def unwhiten(self, latents: Tensor) -> Tensor:
        """What `forward` gave as the base's decoder takes it."""
        return latents * self.std.to(latents)[:, None, None] + self.mean.to(latents)[:, None, None]

    @torch.no_grad()
    def animate(self, neutral: Tensor, coefficients: Tensor) -> Tensor:
        """`forward` for Z that is not whitened; one neutral `[1, c, h, w]` may serve many `[n, k]`."""
        white = self.whiten(neutral).expand(len(coefficients), -1, -1, -1)
        return self.unwhiten(cast(Tensor, self(white, coefficients)))
