"""Lets the matching torchvision import on CPU-only torch; import this before lpips or torchvision.

torchvision's wheel registers its operators from a CUDA library. Without CUDA that library does not load and the
import fails on `torchvision::nms`; declaring the two schemas is enough for everything Headway uses.
"""

from __future__ import annotations

import torch

# The library object must live as long as the process: dropping it withdraws the schemas.
_schemas = torch.library.Library("torchvision", "FRAGMENT") if torch.version.cuda is None else None
if _schemas is not None:
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
