"""HeadsUp along `capacity`: which of its parameters follow the width, and which the depth."""

from __future__ import annotations

import torch
from torch import nn

from configs.systems.headsup import HeadsUpConfig
from models.headsup.decoder import Decoder, map_channels
from models.headsup.encoder import Encoder
from models.headsup.fusion import Fusion
from models.headsup.pixels import ColorSkip, PixelFeatures
from models.transfer import Scale, scales


def capacity_scales(network: nn.Module, config: HeadsUpConfig) -> dict[str, Scale]:
    """Scales of the parameters beside the model at `base_capacity`, by name; empty where there is no base.

    The background has a width of its own, which the dial does not turn.
    """
    if config.base_capacity is None:
        return {}
    share = config.base.blocks / config.blocks
    branches = {
        f"fusion.blocks.{block}.{end}": share
        for block in range(config.blocks)
        for end in ("cross.out", "attend.out", "mlp.2")
    }
    return scales(network, _base(config.base.model_copy(update={"blocks": config.blocks})), branches)


def _base(config: HeadsUpConfig) -> nn.Module:
    """The parts whose widths follow the dial, without memory."""
    with torch.device("meta"):
        parts = nn.ModuleDict({"encoder": Encoder(config), "fusion": Fusion(config), "decoder": Decoder(config)})
        if config.pixel_features:
            parts["pixel_features"] = PixelFeatures(config)
        if config.color_skip:
            outputs = map_channels(config.sh_degree)
            parts["color_skip"] = ColorSkip(config.decoder_channels[-1], outputs, config.uv_size)
    return parts
