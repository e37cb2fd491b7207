"""Heads of people who do not exist: files to look at, and a report of how new they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs import UserError
from models.conditions.prompt import parse_prompt
from trainer.export.ply import write_ply
from trainer.novelty import Novelty, draw_novelty, measure_novelty, sample_sheet
from trainer.people import People, Wish, portraits
from trainer.pictures import save_animation

SIDE = 128  # pixels of the pictures
FRAMES = 24
SHOWN = 32  # people on the sheet
Count = Callable[[int, int], None]
Counter = Callable[[str], AbstractContextManager[Count]]


@dataclass(frozen=True)
class SampleReport:
    """What `headway sample` made; written as `report.json`.

    Attributes:
        checkpoint, base, latents: what it was made with.
        wish: prompt, count, seed and the sampler's settings.
        understood: what the prompt was taken to say, by attribute; empty where a text encoder reads it.
        learned: how many people the made ones were compared with.
        people: of each its `ply`, and the nearest learned person with the distance, by latent and by portrait.
        distances: by `latents` and `portraits`, quantiles of made and of real people, and who is a copy.
        sheet, turntable, histogram: files.
    """

    checkpoint: str
    base: str
    latents: str
    wish: dict[str, Any]
    understood: dict[str, str | float]
    learned: int
    people: list[dict[str, Any]]
    distances: dict[str, dict[str, Any]]
    sheet: str
    turntable: str
    histogram: str


def sample_people(
    location: str,
    wish: Wish,
    out: Path,
    *,
    latents: str | None = None,
    base: str | None = None,
    counter: Counter = lambda what: nullcontext(lambda done, total: None),
) -> SampleReport:
    """Make people and compare them with those who were learned.

    Args:
        location: folder of a generator's checkpoint.
        wish: who is wanted.
        out: folder for `person-000.ply` ..., `people.png`, `turntable.webp`, `novelty.png` and `report.json`.
        latents, base: where these are now, if they have moved.
        counter: shows the progress of a named count.

    Raises:
        UserError: whatever `People` refuses, or a prompt with unknown words.
    """
    with People(location, latents, base) as people:
        understood = _understood(people, wish)
        with counter("people") as count:
            made = people.make(wish, count)
        with counter("learned people compared") as count:
            novelty = measure_novelty(people, made, count)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None
        with counter("heads written") as count:
            plies = _write_heads(people, made, novelty, out, count)
        draw_novelty(novelty, out / "novelty.png")
        report = SampleReport(
            checkpoint=location,
            base=base or people.learned.info.base.checkpoint,
            latents=people.learned.url,
            wish=asdict(wish) | {"guidance": people.guidance(wish)},
            understood=understood,
            learned=novelty.learned,
            people=_people(novelty, plies),
            distances={"latents": novelty.latents.summary(), "portraits": novelty.portraits.summary()},
            sheet=str(out / "people.png"),
            turntable=str(out / "turntable.webp"),
            histogram=str(out / "novelty.png"),
        )
    (out / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def _understood(people: People, wish: Wish) -> dict[str, str | float]:
    """Read the prompt before anything takes time."""
    if wish.count < 1 or wish.steps < 1:
        raise UserError("at least one person and one step", where="--count, --steps")
    attributes = people.generator.config.condition == "attributes"
    return parse_prompt(wish.prompt, people.describer.vocabulary) if attributes else {}


def _write_heads(people: People, made: torch.Tensor, novelty: Novelty, out: Path, count: Count) -> list[str]:
    plies, shown = [], []
    for number, latents in enumerate(made.split(1)):
        head = people.heads(latents)
        path = out / f"person-{number:03d}.ply"
        write_ply(head[0], path)
        plies.append(str(path))
        if number < SHOWN:
            shown.append(portraits(head, SIDE)[[0, 1, 3]])
        if number == 0:
            save_animation(portraits(head, 2 * SIDE, FRAMES), out / "turntable.webp")
        count(number + 1, len(made))
    sample_sheet(torch.stack(shown), novelty.faces[: len(shown)]).save(out / "people.png")
    return plies


def _people(novelty: Novelty, plies: list[str]) -> list[dict[str, Any]]:
    found = {"latents": novelty.latents.made, "portraits": novelty.portraits.made}
    return [
        {"ply": ply} | {way: {"nearest": made.names[n], "distance": made.distances[n]} for way, made in found.items()}
        for n, ply in enumerate(plies)
    ]
