"""Makes the pictures and figures of docs/generation.md: `python docs/make_generation_picture.py CHECKPOINT HELD_OUT`.

CHECKPOINT is a generator's, HELD_OUT latents of people whom it has not learned. Draws a sheet of people made by several
prompts, the histogram of how new people are, and those nearest to somebody learned; prints two checks that prompts
are followed: a linear probe of the latents, and the lightness of rendered faces. A few minutes on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from data.latents import LatentSet
from models.conditions.vocabulary import Vocabulary
from trainer.nearest import neutral_names, whitened
from trainer.novelty import draw_novelty, measure_novelty, sample_sheet
from trainer.people import People, Wish, portraits
from trainer.pictures import to_image

PROMPTS = (
    "",
    "long blond hair, fair skin",
    "bald, dark skin, full beard",
    "curly red hair, light skin",
    "beanie, olive skin, stubble",
    "bob, black hair, striped turtleneck",
)
SIDE, SHOWN, NEW, EACH = 112, 6, 64, 6
PROBED = ("skin", "hair", "hair_colour", "hat", "beard", "clothes")
RIDGE = 0.3  # of the mean eigenvalue of the latents' Gram matrix
FACE = (slice(33, 43), slice(24, 40))  # rows and columns of a portrait that show cheeks and nose
IMAGES = Path(__file__).parent / "images"


def main(checkpoint: str, held_out: str) -> None:
    """Draw and print."""
    with People(checkpoint) as people, torch.no_grad():
        contact_sheet(people).save(IMAGES / "generation_people.jpg", quality=88)
        made = people.make(Wish(count=NEW, steps=30, method="euler"))
        novelty = measure_novelty(people, made)
        draw_novelty(novelty, IMAGES / "generation_novelty.png")
        nearest_first = torch.tensor(novelty.portraits.made.distances).argsort()[:8]
        shown = torch.cat([views(people, made[i : i + 1]) for i in nearest_first.tolist()])
        sample_sheet(shown, novelty.faces[nearest_first]).save(IMAGES / "generation_nearest.jpg", quality=88)
        print(json.dumps({"latents": novelty.latents.summary(), "portraits": novelty.portraits.summary()}, indent=1))
        follows(people, held_out)


def views(people: People, latents: Tensor) -> Tensor:
    """From the front and both sides, `[1, 3, 3, SIDE, SIDE]`."""
    return portraits(people.heads(latents), SIDE)[[0, 1, 3]][None]


def contact_sheet(people: People) -> Image.Image:
    """A row of people for each prompt, its words above."""
    words = 16
    sheet = Image.new("RGB", (SIDE * SHOWN, (SIDE + words) * len(PROMPTS)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(PROMPTS):
        top = row * (SIDE + words)
        draw.text((6, top + 2), f'"{prompt}"' if prompt else "anybody", fill="black")
        for column, latents in enumerate(people.make(Wish(prompt, SHOWN, seed=1)).split(1)):
            turned = portraits(people.heads(latents), SIDE, frames=12)[1 if column % 2 else 0]
            sheet.paste(to_image(turned), (column * SIDE, top + words))
    return sheet


def follows(people: People, held_out: str) -> None:
    """Print how often a probe reads what was asked for, and how light skin is that was asked to be light or dark."""
    known = people.describer.vocabulary
    names = neutral_names(people.learned)
    real, attributes = whitened(people.learned, names), described(people.learned, names)
    asked, made = ask(people, known)
    with LatentSet.open(held_out) as others:
        strangers = neutral_names(others)
        unseen, unseen_attributes = people.learned.whiten(others.latents(strangers)), described(others, strangers)
    print("| attribute | words | chance | probe on people held out | probe on made people |\n|---|---|---|---|---|")
    for name in PROBED:
        values = known.attributes[name].values
        scores = probe(real, [values.index(a[name]) for a in attributes], len(values))
        right = accuracy(scores(unseen), [values.index(a[name]) for a in unseen_attributes])
        mine = [n for n, (attribute, _) in enumerate(asked) if attribute == name]
        found = accuracy(scores(made[mine]), [values.index(asked[n][1]) for n in mine])
        print(f"| {name} | {len(values)} | {1 / len(values):.2f} | {right:.2f} | {found:.2f} |")
    print("\n| skin | real, lightness of the rendered face | made |\n|---|---|---|")
    lightness = people_lightness(people, real)
    for value in known.attributes["skin"].values:
        of_real = [n for n, a in enumerate(attributes) if a["skin"] == value]
        of_made = [n for n, what in enumerate(asked) if what == ("skin", value)]
        print(f"| {value} | {lightness[of_real].mean():.2f} | {people_lightness(people, made[of_made]).mean():.2f} |")


def described(latents: LatentSet, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """What is known of some people."""
    return [latents.index.attributes(latents.index.row(name)) for name in names]


def ask(people: People, known: Vocabulary) -> tuple[list[tuple[str, str]], Tensor]:
    """`EACH` people for every word of every probed attribute, asked for by this word alone."""
    asked, made = [], []
    for name in PROBED:
        for value in known.attributes[name].values:
            made.append(people.make(Wish(f"{name}={value}", EACH, seed=7, steps=20, method="euler")))
            asked += [(name, value)] * EACH
    return asked, torch.cat(made)


def probe(latents: Tensor, values: list[int], count: int) -> Any:
    """Ridge regression of one-hot values on latents, in its dual form; gives a function to scores `[n, count]`."""
    flat = latents.flatten(1).double()
    mean, targets = flat.mean(dim=0), torch.eye(count, dtype=torch.float64)[values]
    gram = (flat - mean) @ (flat - mean).T
    weights = torch.linalg.solve(
        gram + RIDGE * gram.diagonal().mean() * torch.eye(len(flat)), targets - targets.mean(0)
    )
    return lambda people: (people.flatten(1).double() - mean) @ (flat - mean).T @ weights + targets.mean(0)


def accuracy(scores: Tensor, values: list[int]) -> float:
    """Share of rows whose greatest score is the right one."""
    return (scores.argmax(dim=1) == torch.tensor(values)).double().mean().item()


def people_lightness(people: People, latents: Tensor) -> Tensor:
    """Mean sRGB of the middle of rendered faces, `[n]`."""
    faces = torch.cat([people.faces(part) for part in latents.split(16)])
    return faces[..., FACE[0], FACE[1]].mean(dim=(1, 2, 3))


if __name__ == "__main__":
    main(*sys.argv[1:])
