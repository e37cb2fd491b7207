"""HeadsUp, put together: encoder -> queries and blocks -> decoder -> anchored Gaussians; background apart."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from configs.systems.headsup import HeadsUpConfig
from data.views import Cameras
from models.headsup.background import Background
from models.headsup.decoder import GEOMETRY, Anchors, Decoder, map_channels
from models.headsup.dial import capacity_scales
from models.headsup.encoder import Encoder, padded, plucker_rays
from models.headsup.fusion import Fusion
from models.headsup.pixels import ColorSkip, PixelFeatures
from models.system import LatentSystem, tensors_of
from models.template import ExpressionOffsets, load_template
from models.transfer import initialise


class Model(LatentSystem):
    """Multi-view encoder-decoder (arXiv 2605.04035). The Gaussian count never depends on the input."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        self.config = config
        template = load_template(config.template.name, config.template.path)
        self.anchors = Anchors(template.maps(config.uv_size), config.offset_range)
        # Of the tracked anchor, by the side of the map; the neutral one stands still.
        self.expressions: dict[int, ExpressionOffsets] = {}
        if config.anchor == "tracked":
            sides = {config.uv_size, config.pixel_grid} if config.pixel_features else {config.uv_size}
            self.expressions = {side: ExpressionOffsets(template, side) for side in sides}
        self.latent_points = template.maps(config.latent_size).positions.flatten(0, 1)
        self.encoder = Encoder(config)
        self.fusion = Fusion(config)
        self.decoder = Decoder(config)
        if config.pixel_features:
            grid = template.maps(config.pixel_grid)
            self.pixel_points, self.pixel_normals = grid.positions.flatten(0, 1), grid.normals.flatten(0, 1)
            self.pixel_features = PixelFeatures(config)
        if config.color_skip:
            outputs = map_channels(config.sh_degree)
            self.color_skip = ColorSkip(config.decoder_channels[-1], outputs, config.uv_size)
        if config.background.enabled:
            self.background = Background(config.background)
        self.scales = capacity_scales(self, config)
        initialise(self, self.scales)

    def learning_rate_factors(self) -> dict[str, float]:
        """See `models.transfer.Transferring`."""
        return {name: scale.learning_rate for name, scale in self.scales.items()}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """See `LatentSystem`."""
        return (self.config.width, self.config.latent_size, self.config.latent_size)

    def forward(
        self, images: Tensor, world_to_camera: Tensor, K: Tensor, coefficients: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `System.forward`; only `anchor: tracked` looks at the coefficients, and needs them.

        Extras: `latents` `[b, width, l, l]`, `maps` `[b, channels, s, s]`.
        """
        cameras = _cameras(images, world_to_camera, K)
        with self._precision(images.device):
            latents = self._encode(images, cameras, coefficients)
            tensors = self._decode(latents, self._moved(coefficients, self.config.uv_size), (images, cameras))
            if self.config.background.enabled:
                tensors |= {f"background.{name}": tensor for name, tensor in self.background(images).items()}
        return tensors

    def encode(self, images: Tensor, world_to_camera: Tensor, K: Tensor) -> Tensor:
        """Source views `[b, v, 3, h, w]` -> latent Z `[b, width, l, l]`, for any number of views."""
        with self._precision(images.device):
            return self._encode(images, _cameras(images, world_to_camera, K), None)

    def check_decoder(self) -> None:
        """See `LatentSystem`."""
        if self.config.color_skip:
            raise UserError(
                "this model fetches colours from the source images, so its latents alone make no head",
                where="model.color_skip",
                hint="train one with model.color_skip=false (preset headsup-nano-latent)",
            )
        if self.config.anchor == "tracked":
            raise UserError(
                "this model's anchors follow expression coefficients, which its latents do not hold, so its latents "
                "alone make no head",
                where="model.anchor",
                hint="train one with model.anchor=neutral",
            )

    def decode(self, latents: Tensor) -> dict[str, Tensor]:
        """See `LatentSystem`."""
        self.check_decoder()
        with self._precision(latents.device):
            return self._decode(latents)

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """A bf16 engine casts the weights; autocast brings the inputs along and keeps the norms in float32."""
        if self.fusion.queries.dtype != torch.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def _moved(self, coefficients: Tensor | None, side: int) -> Tensor | None:
        """How far a map's anchors are from the neutral template, `[b, side * side, 3]` metres; none if they stay."""
        if self.config.anchor == "neutral":
            return None
        if coefficients is None:
            raise UserError(
                "this model's anchors follow the expression, and these views come without its coefficients",
                where="model.anchor: tracked",
                hint="give Views.coefficients, zeros for a neutral face",
            )
        return self.expressions[side](coefficients)

    def _encode(self, images: Tensor, cameras: Cameras, coefficients: Tensor | None) -> Tensor:
        tokens, fine = self.encoder(images, plucker_rays(cameras))
        hints = None
        if self.config.pixel_features:
            size = (padded(cameras.height, self.encoder.multiple), padded(cameras.width, self.encoder.multiple))
            points, normals = self.pixel_points.to(images.device), self.pixel_normals.to(images.device)
            moved = self._moved(coefficients, self.config.pixel_grid)
            points = points if moved is None else points + moved
            hints = self.pixel_features(fine, size, images, cameras, points, normals)
        latents = self.fusion(tokens, self.latent_points.to(images.device), hints)
        side = self.config.latent_size
        return latents.transpose(1, 2).unflatten(2, (side, side))

    def _decode(
        self, latents: Tensor, moved: Tensor | None = None, source: tuple[Tensor, Cameras] | None = None
    ) -> dict[str, Tensor]:
        maps, features = self.decoder(latents)
        anchors = self.anchors.to(latents.device)
        if self.config.color_skip:
            assert source is not None, "check_decoder() refuses"
            images, cameras = source
            means = anchors.means(maps, moved)
            residual, color = self.color_skip(features, means, anchors.normals, images, cameras)
            maps = maps + residual
            maps = torch.cat([maps[:, :GEOMETRY], maps[:, GEOMETRY : GEOMETRY + 3] + color, maps[:, GEOMETRY + 3 :]], 1)
        return tensors_of(anchors.gaussians(maps, moved), "foreground") | {"latents": latents, "maps": maps}


def _cameras(images: Tensor, world_to_camera: Tensor, K: Tensor) -> Cameras:
    return Cameras(world_to_camera, K, width=images.shape[-1], height=images.shape[-2])
