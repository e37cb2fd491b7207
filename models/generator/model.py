"""The diffusion transformer: noisy latents, a time and a condition in, a velocity out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from configs.systems.generator import GeneratorConfig
from models.conditions.vocabulary import Vocabulary
from models.layers import Attention, Mlp, fourier, zeroed

OCTAVES = 6
TIME_OCTAVES = 8
NEAR = 0.05  # time before the end from which the velocity is not divided by less (Li and He 2025)


class Block(nn.Module):
    """Self-attention, cross-attention to a text where there is one, and an MLP, gated by the condition.

    adaLN-zero of Peebles and Xie (2023), section 3.2, with RMS norms: the identity at initialisation.
    """

    def __init__(self, width: int, heads: int, crossed: bool) -> None:
        super().__init__()
        self.attend_norm, self.attend = nn.RMSNorm(width, elementwise_affine=False), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.RMSNorm(width, elementwise_affine=False), Mlp(width)
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.cross_norm = nn.RMSNorm(width) if crossed else None
        self.cross = Attention(width, heads) if crossed else None
        if self.cross is not None:
            zeroed(self.cross.out)

    def forward(self, x: Tensor, vector: Tensor, tokens: Tensor | None) -> Tensor:
        """`x` `[b, n, width]`, `vector` `[b, width]`, `tokens` `[b, m, width]` or none -> `[b, n, width]`."""
        shifts = self.modulation(F.silu(vector))[:, None].chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = shifts
        normed = self.attend_norm(x) * (1 + scale) + shift
        x = x + gate * self.attend(normed, normed)
        if self.cross is not None and self.cross_norm is not None and tokens is not None:
            x = x + self.cross(self.cross_norm(x), tokens)
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)


class TextCondition(nn.Module):
    """Tokens of a frozen text encoder -> tokens to attend to, and their mean as a vector.

    Padding becomes a learned null token, and so does the whole of a text that is dropped.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.RMSNorm(inputs), nn.Linear(inputs, width))
        self.pool = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.randn(1, width) * 0.02)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[b, m, inputs]` and `[b, m]`, 1 where there is a word -> `[b, width]` and `[b, m, width]`."""
        projected = torch.where(mask[..., None] > 0.5, self.project(tokens), self.null)
        return self.pool(projected.mean(dim=1)), projected


class Model(nn.Module):
    """DiT over whitened latents `[c, h, w]`, conditioned on time and on attributes, a text or nothing.

    It guesses the latents themselves, and the velocity follows (Li and He 2025, "Back to basics"): a patch has more
    numbers than a token has channels, which people fit through and noise does not. `mean_map` is what all people have
    in common at each place; everything else is a difference from it.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        channels, width = config.latent[0] * config.patch**2, config.width
        self.embed = nn.Linear(channels, width)
        self.position = nn.Linear(4 * OCTAVES, width)
        self.time = nn.Sequential(nn.Linear(2 * TIME_OCTAVES, width), nn.SiLU(), nn.Linear(width, width))
        if config.condition == "attributes":
            size = Vocabulary(config.attributes).size
            self.attributes = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        if config.condition == "text":
            self.text = TextCondition(config.text.width, width)
        crossed = config.condition == "text"
        self.blocks = nn.ModuleList(Block(width, config.heads, crossed) for _ in range(config.blocks))
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, channels))
        self.mean_map = nn.Parameter(torch.zeros(config.latent))

    def forward(self, noisy: Tensor, time: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        """The velocity that carries noise to people.

        Args:
            noisy: `[b, c, h, w]`, `(1 - time) noise + time latent`.
            time: `[b]` in [0, 1]; 0 is noise.
            condition: nothing; features of attributes `[b, f]` (`Vocabulary.encode`); or tokens of a text
                `[b, m, d]` and their mask `[b, m]`. All zeros is the null condition.

        Returns:
            `velocity` `[b, c, h, w]`, float32.
        """
        patch, (_, height, width) = self.config.patch, self.config.latent
        t = time[:, None, None, None]
        x = self.embed(F.pixel_unshuffle(noisy - t * self.mean_map, patch).flatten(2).transpose(1, 2))
        x = x + self.position(grid(height // patch, width // patch, noisy.device))
        vector, tokens = self._condition(condition)
        vector = vector + self.time(fourier(time[:, None], TIME_OCTAVES, 1.0))
        for block in self.blocks:
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, vector, tokens, use_reentrant=False)
            else:
                x = block(x, vector, tokens)
        shift, scale = self.modulation(F.silu(vector))[:, None].chunk(2, dim=-1)
        maps = self.head(self.norm(x) * (1 + scale) + shift).transpose(1, 2).unflatten(2, (height // patch, -1))
        guess = self.mean_map + F.pixel_shuffle(maps, patch)
        return {"velocity": (guess.float() - noisy) / (1 - t).clamp(min=NEAR)}

    def _condition(self, condition: tuple[Tensor, ...]) -> tuple[Tensor | float, Tensor | None]:
        kind = self.config.condition
        if kind == "attributes":
            return self.attributes(condition[0]), None
        if kind == "text":
            return self.text(*condition)
        return 0.0, None


def grid(height: int, width: int, device: torch.device) -> Tensor:
    """Where each token lies, as sines and cosines `[height * width, 4 * OCTAVES]`."""
    down = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    right = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    return fourier(torch.cartesian_prod(down, right), OCTAVES, 1.0)
