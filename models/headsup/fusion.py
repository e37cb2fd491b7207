"""UV queries gather what the views know: cross-attention, self-attention, MLP, repeated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from configs.systems.headsup import HeadsUpConfig
from models.layers import Attention, Mlp, fourier, run

OCTAVES = 6
HEAD = 0.1  # metres: the unit of the positional prior


class Block(nn.Module):
    """Latents read the image tokens, then each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross_norm, self.cross = nn.RMSNorm(width), Attention(width, heads)
        self.self_norm, self.attend = nn.RMSNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.RMSNorm(width), Mlp(width)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """`[b, l, width]` latents, `[b, n, width]` tokens -> latents."""
        latents = latents + self.cross(self.cross_norm(latents), tokens)
        normed = self.self_norm(latents)
        latents = latents + self.attend(normed, normed)
        return latents + self.mlp(self.mlp_norm(latents))


class Fusion(nn.Module):
    """Learnable queries with the template's positional prior -> latent Z (figure 2 of the paper)."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.latent_size**2, config.width) * 0.02)
        self.prior = nn.Linear(6 * OCTAVES, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.blocks))
        self.checkpointing = config.activation_checkpointing

    def forward(self, tokens: Tensor, positions: Tensor, hints: Tensor | None) -> Tensor:
        """Fuse any number of views.

        Args:
            tokens: `[b, n, width]` of all views.
            positions: `[l, 3]` template points of the latents, metres.
            hints: `[b, l, width]` added to the queries, or none.

        Returns:
            latent Z, `[b, l, width]`.
        """
        latents = (self.queries + self.prior(fourier(positions, OCTAVES, HEAD))).expand(tokens.shape[0], -1, -1)
        latents = latents if hints is None else latents + hints
        for block in self.blocks:
            latents = run(block, latents, tokens, recompute=self.checkpointing)
        return latents
