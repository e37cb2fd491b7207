"""Whole data sets of synthetic captures: shards by parallel processes, each a pure function of its subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass

from data.capture import Capture
from data.manifest import DatasetInfo, commit
from data.pool import spawn_pool
from data.shards import ShardPart, existing_shards, write_shard
from data.synth.captures import synthesise_subject
from data.synth.rig import RigSize, check_image_size, check_least, check_rig

LICENCE = "CC0-1.0"
RECIPE = 1
"""Number of the recipe: shards of another one are made again on resuming."""


@dataclass(frozen=True)
class Recipe:
    """What makes a shard; its subjects are `first` to `last`, the end not included."""

    seed: int
    first: int
    last: int
    frames: int
    rig: RigSize
    image_size: tuple[int, int]
    recipe: int = RECIPE

    @property
    def note(self) -> str:
        """Digest that tells on resuming whether a shard is the wanted one."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def captures(self) -> Iterator[Capture]:
        """Captures subject by subject, frame by frame."""
        for number in range(self.first, self.last):
            yield from synthesise_subject(self.seed, number, self.frames, self.rig, self.image_size)


def synthesise(
    out: str,
    subjects: int,
    *,
    seed: int = 0,
    first: int = 0,
    frames: int = 1,
    rig: RigSize = 16,
    image_size: tuple[int, int] = (128, 128),
    workers: int = 2,
    shard_subjects: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetInfo:
    """Write a dataset of synthetic captures.

    The bytes do not depend on `workers`. A run that was cut short goes on with the shards that are not there yet; the
    dataset becomes visible when all are.

    Args:
        out: URL of the dataset.
        subjects: how many.
        seed: of the population; datasets of one seed and different numbers share no subject.
        first: number of the first subject.
        frames: captures per subject; the first is neutral.
        rig: 16 or 80 cameras.
        image_size: height and width in pixels.
        workers: processes.
        shard_subjects: subjects per shard.
        progress: told (subjects done, subjects in all) after every shard.

    Raises:
        UserError: numbers that make no dataset; nothing is written then.
    """
    recipes = _recipes(subjects, seed, first, frames, rig, image_size, shard_subjects)
    check_least("workers", workers, 1)
    there = existing_shards(out)
    parts = {n: there[n] for n, recipe in recipes.items() if n in there and there[n].note == recipe.note}
    report = progress or (lambda done, total: None)
    done = sum(recipes[number].last - recipes[number].first for number in parts)
    report(done, subjects)
    missing = {number: recipe for number, recipe in recipes.items() if number not in parts}
    for part in _write_all(out, missing, workers):
        parts[part.number] = part
        done += recipes[part.number].last - recipes[part.number].first
        report(done, subjects)
    provenance = {"source": "headway data synth", "seed": seed, "first": first, "rig": rig, "recipe": RECIPE}
    return commit(out, parts.values(), licence=LICENCE, provenance=provenance)


def _recipes(
    subjects: int,
    seed: int,
    first: int,
    frames: int,
    rig: RigSize,
    image_size: tuple[int, int],
    shard_subjects: int,
) -> dict[int, Recipe]:
    """The recipe of every shard by its number."""
    for where, value, least in (
        ("subjects", subjects, 1),
        ("frames", frames, 1),
        ("shard_subjects", shard_subjects, 1),
        ("first", first, 0),
        ("seed", seed, 0),
    ):
        check_least(where, value, least)
    check_rig(rig)
    check_image_size(image_size)
    end = first + subjects
    starts = range(first, end, shard_subjects)
    return {
        number: Recipe(seed, start, min(start + shard_subjects, end), frames, rig, image_size)
        for number, start in enumerate(starts)
    }


def _write_all(out: str, recipes: dict[int, Recipe], workers: int) -> Iterator[ShardPart]:
    """Parts as they are finished, in any order."""
    if min(workers, len(recipes)) <= 1:
        yield from (_write_one(out, number, recipe) for number, recipe in recipes.items())
        return
    with spawn_pool(min(workers, len(recipes)), _ready) as pool:
        jobs = [pool.submit(_write_one, out, number, recipe) for number, recipe in recipes.items()]
        for job in as_completed(jobs):
            yield job.result()


def _write_one(out: str, number: int, recipe: Recipe) -> ShardPart:
    return write_shard(out, number, recipe.captures(), note=recipe.note)


def _ready() -> None:
    """A process needs nothing but its recipe."""
