"""Geometric transform attention (GTA; Miyato et al., ICLR 2024): attention that knows how cameras stand to each other.

A token in view i at pixel p carries rho = blockdiag(E_i, ..., R(p)^T, ...): the camera's SE(3) matrix on groups of four
channels, rotations by the pixel's coordinates on groups of two. With

    q' = rho^T q,   k' = rho^-1 k,   v' = rho^-1 v,   out = rho sum softmax(q' . k' / sqrt d) v'     (equation 6)

the products are q^T rho_q rho_k^-1 k and rho_q rho_k^-1 v: E_q E_k^-1 is all that is known of two cameras, so that a
rigid motion of the world, E -> E g for all, changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """Where tokens come from.

    Attributes:
        poses: `[b, v, 4, 4]` world_to_camera, metres, in any world.
        angles: `[p, c / 2]` radians by which a token's pairs of channels turn, the same for every view.
    """

    poses: Tensor
    angles: Tensor


@dataclass(frozen=True)
class Representation:
    """rho of every token. It acts on channels of `[b, heads, v, p, channels]`.

    Attributes:
        matrices, inverses: `[b, 1, v, 4, 4]`, which act on the first channels.
        cos, sin: `[p, c / 2]`, which act on the last `c` channels.
    """

    matrices: Tensor
    inverses: Tensor
    cos: Tensor
    sin: Tensor

    def transposed(self, x: Tensor) -> Tensor:
        """rho^T x, for queries."""
        return self._apply(self.matrices.transpose(-1, -2), self.sin, x)

    def inverse(self, x: Tensor) -> Tensor:
        """rho^-1 x, for keys and values."""
        return self._apply(self.inverses, self.sin, x)

    def forward(self, x: Tensor) -> Tensor:
        """Rho x, for what attention gives."""
        return self._apply(self.matrices, -self.sin, x)

    def _apply(self, matrices: Tensor, sin: Tensor, x: Tensor) -> Tensor:
        turning = 2 * self.cos.shape[-1]
        moving = x.shape[-1] - turning
        se3 = x[..., :moving].unflatten(-1, (-1, 4)).flatten(-3, -2) @ matrices.transpose(-1, -2)
        first, second = x[..., moving:].unflatten(-1, (-1, 2)).unbind(-1)
        so2 = torch.stack([self.cos * first - sin * second, sin * first + self.cos * second], dim=-1)
        return torch.cat([se3.reshape(*x.shape[:-1], moving), so2.flatten(-2)], dim=-1)


class GeometricAttention(nn.Module):
    """Multi-head self-attention of all tokens of a set of views.

    Args:
        width: channels of a token.
        heads: of attention.
        translation_init: first value of the learned factor on translations, which keeps E a group: (R, c t).
    """

    def __init__(self, width: int, heads: int, translation_init: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.translation = nn.Parameter(torch.tensor([translation_init]))

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        """`[b, v, p, width]` -> the same."""
        parts = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1)
        # Coordinates turned in bfloat16 would spoil the invariance.
        with torch.autocast(x.device.type, enabled=False):
            parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
            representation = self._representation(geometry, parts)
            query, key, value = parts.unbind(-2)
            query = representation.transposed(query).flatten(2, 3)
            key, value = (representation.inverse(part).flatten(2, 3) for part in (key, value))
            # Spelled out because the fused kernels have no second derivative, which R1 needs.
            weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
            attended = representation.forward((weights @ value).unflatten(2, x.shape[1:3]))
        return self.out(attended.movedim(1, -2).flatten(-2).to(x.dtype))

    def _representation(self, geometry: Geometry, like: Tensor) -> Representation:
        poses, angles = geometry.poses.to(like)[:, None], geometry.angles.to(like)
        rotation, translation = poses[..., :3, :3], poses[..., :3, 3:] * self.translation.to(like)
        return Representation(
            matrices=_matrix(rotation, translation),
            inverses=_matrix(rotation.transpose(-1, -2), -rotation.transpose(-1, -2) @ translation),
            cos=angles.cos(),
            sin=angles.sin(),
        )


class GeometricBlock(nn.Module):
    """Attention, then an MLP of GELU, each after a LayerNorm."""

    def __init__(self, width: int, heads: int, translation_init: float) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = GeometricAttention(width, heads, translation_init)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        """`[b, v, p, width]` -> the same."""
        x = x + self.attention(self.attention_norm(x), geometry)
        return x + self.mlp(self.mlp_norm(x))


def anchored(poses: Tensor) -> Tensor:
    """Poses in the world of the first view's camera, E_k E_1^-1 (MVCHead, section 3.3).

    Attention does not care; numbers do: a head far from the world's origin would cancel large translations.

    Args:
        poses: `[b, v, 4, 4]` world_to_camera.

    Returns:
        the same in float64, the first of them the identity.
    """
    poses = poses.double()
    rotation = poses[:, :1, :3, :3].transpose(-1, -2)
    return poses @ _matrix(rotation, -rotation @ poses[:, :1, :3, 3:])


def pixel_angles(coordinates: Tensor, channels: int, max_frequency: float) -> Tensor:
    """Angles of the SO(2) part: 2 pi max_frequency x 2^f / 2^n for f = 1..n, for rows and columns.

    Args:
        coordinates: `[p, 2]` row and column as shares of the image, [0, 1).
        channels: of the SO(2) part, 4 n.
        max_frequency: turns across the image of the fastest.

    Returns:
        `[p, channels / 2]` radians.
    """
    octaves = channels // 4
    turns = max_frequency * 2.0 ** torch.arange(1 - octaves, 1, device=coordinates.device, dtype=coordinates.dtype)
    return (2 * math.pi * coordinates[..., None] * turns).flatten(-2)


def _matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """`[..., 4, 4]` of `[..., 3, 3]` and `[..., 3, 1]`."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(translation).expand(*translation.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=-1), last], dim=-2)
