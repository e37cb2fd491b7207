"""Makes the picture of docs/rendering.md: `python docs/make_rendering_picture.py`, about a minute on one core.

Fits Gaussians to 15 views of a synthetic capture with nothing but `render` and Adam, then shows the view in front,
which was held back: the photograph, the fit, its coverage and its depth.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.capture import Capture
from data.synth import neutral_head, synthesise_subject
from data.views import Cameras
from models.gaussians import Gaussians
from models.render import render

HELD_BACK, SIZE, STEPS, SEED = 8, 256, 250, 0
RATES = {"means": 4e-4, "quats": 1e-2, "scales": 2e-2, "opacities": 3e-2, "sh": 2e-2}


def main() -> None:
    """Fit and draw."""
    capture = synthesise_subject(0, 9, image_size=(SIZE, SIZE))[0]
    photographs, cameras = views(capture)
    gaussians = fit(photographs, cameras)
    with torch.no_grad():
        drawn = render(gaussians, cameras[:, HELD_BACK : HELD_BACK + 1], background=torch.ones(3), depth=True)
    assert drawn.depths is not None
    seen = drawn.alphas > 0.5
    near, far = drawn.depths[seen].min(), drawn.depths[seen].max()
    depth = torch.where(seen, 1 - 0.9 * (drawn.depths - near) / (far - near), 0)
    error = (drawn.images[0, 0] - photographs[0, HELD_BACK]).square().mean()
    print(f"PSNR of the view held back: {-10 * error.log10():.1f} dB")
    panels = [
        photographs[0, HELD_BACK],
        drawn.images[0, 0],
        *(p[0, 0].expand(3, -1, -1) for p in (drawn.alphas, depth)),
    ]
    pixels = (torch.cat(panels, dim=2).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(Path(__file__).parent / "images" / "rendering.jpg", quality=88)


def views(capture: Capture) -> tuple[Tensor, Cameras]:
    """Images `[1, view, 3, h, w]` on white, and cameras `[1, view]`."""
    images, masks = (
        np.stack([np.asarray(Image.open(io.BytesIO(data or b"")), np.float32) / 255 for data in encoded])
        for encoded in (capture.images, capture.masks)
    )
    images = images * masks[..., None] + 1 - masks[..., None]
    cameras = Cameras(torch.from_numpy(capture.world_to_camera)[None], torch.from_numpy(capture.K)[None], SIZE, SIZE)
    return torch.from_numpy(images).permute(0, 3, 1, 2)[None], cameras.map(Tensor.float)


def fit(photographs: Tensor, cameras: Cameras) -> Gaussians:
    """Gaussians on the template's vertices, moved by Adam until they look like the photographs."""
    vertices = torch.from_numpy(neutral_head().vertices)[None]
    n = vertices.shape[1]
    start = {
        "means": vertices,
        "quats": torch.tensor([1.0, 0, 0, 0]).expand(1, n, 4),
        "scales": torch.full((1, n, 3), 0.003).log(),
        "opacities": torch.zeros(1, n),
        "sh": torch.zeros(1, n, 4, 3),
    }
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    adam = torch.optim.Adam([{"params": [leaves[name]], "lr": rate} for name, rate in RATES.items()], eps=1e-15)
    generator = torch.Generator().manual_seed(SEED)
    training = [view for view in range(photographs.shape[1]) if view != HELD_BACK]
    for _ in range(STEPS):
        chosen = [training[i] for i in torch.randperm(len(training), generator=generator)[:2].tolist()]
        drawn = render(Gaussians(**leaves), cameras[:, chosen], background=torch.ones(3))
        adam.zero_grad()
        (drawn.images - photographs[:, chosen]).abs().mean().backward()
        adam.step()
    return Gaussians(**{name: tensor.detach() for name, tensor in leaves.items()})


if __name__ == "__main__":
    main()
