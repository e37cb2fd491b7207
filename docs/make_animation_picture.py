"""Draws docs/images/animation.jpg: unseen people's expressions, copied, animated and encoded, beside the photos.

python docs/make_animation_picture.py ANIMATOR_CHECKPOINT LATENTS_OF_UNSEEN_PEOPLE
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.latents import LatentSet
from models.system import Prediction, composite, prediction_of
from trainer.animate import open_animator
from trainer.animation import HeldOut, expressions_of
from trainer.pictures import to_image

OUT = Path(__file__).parent / "images" / "animation.jpg"
PEOPLE, SIDE, GAP, TOP, GAIN = 6, 176, 4, 22, 8.0
COLUMNS = (
    "photo, neutral",
    "photo",
    "neutral latent",
    "animated",
    "true latent",
    "8 x (animated - neutral)",
    "8 x (true - neutral)",
)


@torch.no_grad()
def main(checkpoint: str, latents: str) -> None:
    """One row for the strongest expression of each of some people."""
    animator, frozen, _ = open_animator(checkpoint)
    with LatentSet.open(latents) as held:
        scene = HeldOut.open(held, frozen, None)
        rows = []
        for name in _strongest(held):
            photos = _front(scene, held.neutral_of(name)), _front(scene, name)
            neutral, true = held.latents([held.neutral_of(name), name]).split(1)
            moved = animator.animate(neutral, held.coefficients(name)[None])
            heads = prediction_of(frozen.system.decode(torch.cat([neutral, moved, true]))).foreground
            images = [
                composite(Prediction(heads[n : n + 1], None, {}), photos[1].cameras, torch.ones(3)).images[0, 0]
                for n in range(3)
            ]
            changes = [0.5 + GAIN * (images[n] - images[0]) for n in (1, 2)]
            rows.append([photos[0].images[0, 0], photos[1].images[0, 0], *images, *changes])
    _draw(rows).save(OUT, quality=88)
    print(OUT)


def _strongest(held: LatentSet) -> list[str]:
    """Of each of some people, the expression with the widest open mouth or the most of everything else."""
    of = {subject: [n for n in expressions_of(held) if n.startswith(f"{subject}_")] for subject in held.subjects}
    weights = torch.ones(52)
    weights[held.info.coefficients.index("jawOpen")] = 4.0
    best = [max(names, key=lambda n: float(held.coefficients(n) @ weights)) for names in of.values()]
    return sorted(best, key=lambda n: -float(held.coefficients(n) @ weights))[:PEOPLE]


def _front(scene: HeldOut, name: str):
    """The view of the camera that looks most squarely into the face."""
    centers = scene.captures.centers(name)
    towards = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    camera = scene.captures.cameras(name)[int(np.argmax(towards[:, 2]))]
    return scene.captures.views(name, [camera], scene.latents.info.origin.image_size)


def _draw(rows: list[list[Tensor]]) -> Image.Image:
    sheet = Image.new("RGB", (len(COLUMNS) * (SIDE + GAP), TOP + len(rows) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(COLUMNS):
        pen.text((column * (SIDE + GAP) + 4, 5), title, fill="#1d2129")
        for row, images in enumerate(rows):
            picture = to_image(images[column]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * (SIDE + GAP), TOP + row * (SIDE + GAP)))
    return sheet


if __name__ == "__main__":
    main(*sys.argv[1:])
