"""HeadsUp, put together: encoder -> queries and blocks -> decoder -> anchored Gaussians; background apart."""

from __future__ import annotations

import torch
from torch import Tensor

from configs.systems.headsup import HeadsUpConfig
from data.views import Cameras
from models.headsup.background import Background
from models.headsup.decoder import GEOMETRY, Anchors, Decoder, map_channels
from models.headsup.encoder import Encoder, padded, plucker_rays
from models.headsup.fusion import Fusion
from models.headsup.pixels import ColorSkip, PixelFeatures
from models.system import System, tensors_of
from models.template import load_template


class Model(System):
    """Multi-view encoder-decoder (arXiv 2605.04035). The Gaussian count never depends on the input."""

    def __init__(self, config: HeadsUpConfig) -> None:
        super().__init__()
        self.config = config
        template = load_template(config.template.name, config.template.path)
        self.anchors = Anchors(template.maps(config.uv_size), config.offset_range)
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

    def forward(self, images: Tensor, world_to_camera: Tensor, K: Tensor) -> dict[str, Tensor]:
        """See `System.forward`. Extras: `latents` `[b, width, l, l]`, `offsets` `[b, 3, s, s]` in metres, `maps`."""
        cameras = Cameras(world_to_camera, K, width=images.shape[-1], height=images.shape[-2])
        if self.fusion.queries.dtype != torch.bfloat16:
            return self._forward(images, cameras)
        # A bf16 engine casts the weights; autocast brings the inputs along and keeps the norms in float32.
        with torch.autocast(images.device.type, torch.bfloat16):
            return self._forward(images, cameras)

    def _forward(self, images: Tensor, cameras: Cameras) -> dict[str, Tensor]:
        latents = self.encode(images, cameras)
        maps, features = self.decoder(latents)
        anchors = self.anchors.to(images.device)
        if self.config.color_skip:
            means = anchors.means(maps)
            residual, color = self.color_skip(features, means, anchors.normals, images, cameras)
            maps = maps + residual
            maps = torch.cat([maps[:, :GEOMETRY], maps[:, GEOMETRY : GEOMETRY + 3] + color, maps[:, GEOMETRY + 3 :]], 1)
        tensors = tensors_of(anchors.gaussians(maps), "foreground")
        if self.config.background.enabled:
            tensors |= {f"background.{name}": tensor for name, tensor in self.background(images).items()}
        return tensors | {"latents": latents, "maps": maps}

    def encode(self, images: Tensor, cameras: Cameras) -> Tensor:
        """Source views `[b, v, 3, h, w]` -> latent Z `[b, width, l, l]`, for any number of views."""
        tokens, fine = self.encoder(images, plucker_rays(cameras))
        hints = None
        if self.config.pixel_features:
            size = (padded(cameras.height, self.encoder.multiple), padded(cameras.width, self.encoder.multiple))
            points, normals = self.pixel_points.to(images.device), self.pixel_normals.to(images.device)
            hints = self.pixel_features(fine, size, images, cameras, points, normals)
        latents = self.fusion(tokens, self.latent_points.to(images.device), hints)
        side = self.config.latent_size
        return latents.transpose(1, 2).unflatten(2, (side, side))
