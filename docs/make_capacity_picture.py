"""Makes the picture of docs/capacity.md: `python docs/make_capacity_picture.py`, a minute on one core.

The coordinate check: one batch of one synthetic person, learned with a constant rate at four capacities, once with the
learning rate carried over from capacity 2 and once with it taken as it is.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image

from configs import Config, load_config
from data.synth import synthesise_subject
from data.views import Batch, Cameras, Views
from trainer.coordinates import coordinates

CAPACITIES, BASE, STEPS, RATE, SIZE = (1, 2, 4, 8), 2, (0, 1, 5, 10), 5e-4, 48
PARTS = {
    "encoder": "encoder.levels.1.0",
    "latent Z": "fusion.blocks.{last}",
    "decoder": "decoder.levels.2",
    "maps": "decoder.head",
}
RULES = {"null": "as it is", str(BASE): "carried over"}


def main() -> None:
    """Measure and draw."""
    torch.set_num_threads(1)
    batch = capture()
    figure, axes = plt.subplots(2, len(PARTS), figsize=(11, 5), sharex=True, sharey="col", layout="constrained")
    for row, (base, name) in zip(axes, RULES.items(), strict=True):
        runs = [check(config(capacity, base), capacity, batch) for capacity in CAPACITIES]
        for axis, part in zip(row, PARTS, strict=True):
            for step, shade in zip(STEPS, (0.25, 0.45, 0.65, 0.9), strict=True):
                sizes = [run[step][part] for run in runs]
                axis.plot(CAPACITIES, sizes, "o-", color=plt.get_cmap("viridis")(shade), label=f"step {step}")
                print(f"{name}, {part}, step {step}: " + " ".join(f"{size:.3g}" for size in sizes), flush=True)
            axis.set(xscale="log", yscale="log", title=f"{part}, rate {name}")
            axis.set_xticks(CAPACITIES, [str(c) for c in CAPACITIES], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        row[0].set_ylabel("mean |activation|")
    for axis in axes[1]:
        axis.set_xlabel("capacity")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(Path(__file__).parent / "images" / "capacity.png", dpi=110)


def check(settings: Config, capacity: int, batch: Batch) -> list[dict[str, float]]:
    """The coordinate check of one model."""
    parts = {name: path.format(last=capacity - 1) for name, path in PARTS.items()}
    return coordinates(settings, batch, parts, max(STEPS))


def config(capacity: int, base: str) -> Config:
    """Nano with few latents, so that its width is what costs."""
    return load_config(
        "headsup-nano",
        [
            f"model.capacity={capacity}",
            f"model.base_capacity={base}",
            "model.latent_size=8",
            "model.uv_size=32",
            "model.pixel_grid=16",
            "model.color_skip=false",
            "optimizer.multipliers={}",
            f"optimizer.learning_rate={RATE}",
        ],
    )


def capture() -> Batch:
    """One synthetic person: four source views and four others."""
    person = synthesise_subject(0, 1, image_size=(SIZE, SIZE))[0]
    pictures = [np.asarray(Image.open(io.BytesIO(data)), np.float32) / 255 for data in person.images]
    masks = [np.asarray(Image.open(io.BytesIO(data or b"")), np.float32) / 255 for data in person.masks]
    extrinsics, K = (torch.from_numpy(a).float()[None] for a in (person.world_to_camera, person.K))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None]
    cameras, coverage = Cameras(extrinsics, K, SIZE, SIZE), torch.from_numpy(np.stack(masks))[None, :, None]
    views = Views(images, coverage, cameras, torch.zeros(1, 52))
    whole = slice(None)
    return Batch(views[whole, [2, 6, 8, 12]], views[whole, [1, 7, 9, 13]], ("synthetic",), 1)


if __name__ == "__main__":
    main()
