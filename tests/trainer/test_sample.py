"""From captures to people who do not exist: a base, its latents, a generator, and `sample_people` on all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from configs import UserError, load_config
from data.latents import LatentSet
from tests.trainer.animated import Animated, animated  # noqa: F401 - a fixture
from trainer.export.ply import read_ply
from trainer.loop import train
from trainer.nearest import neutral_names
from trainer.novelty import measure_novelty
from trainer.people import People, Wish, load_base
from trainer.sample import sample_people

FAST = {"steps": 2, "method": "euler"}


class Places(NamedTuple):
    base: str
    latents: str
    others: str
    generator: str


@pytest.fixture(scope="module")
def places(animated: Animated, tmp_path_factory: pytest.TempPathFactory) -> Places:  # noqa: F811
    """A base after two steps, latents of its people and of others, and a generator after one step on the former."""
    folder = tmp_path_factory.mktemp("generation")
    settings = [
        f"run.dir={folder}/runs",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
        f"data.train={animated.train_latents}",
        "data.test=null",
        "data.batch_size=2",
        "model.capacity=1",
        "model.latent=[64, 8, 8]",
        "trainer.steps=1",
        "trainer.ema_decay=0",
        "cluster.workers=1",
        "tracking.system_metrics=false",
    ]
    made = train(load_config("headsup-nano-generation", settings)).checkpoint
    return Places(animated.base, animated.train_latents, animated.unseen_latents, made)


@pytest.fixture
def base_elsewhere(places: Places, tmp_path: Path) -> Iterator[Path]:
    """The base has moved, for one test."""
    moved = Path(places.base).rename(tmp_path / "moved")
    yield moved
    moved.rename(places.base)


def test_sampling_writes_what_it_says(places: Places, tmp_path: Path) -> None:
    wish = Wish("long red hair, no hat", count=3, seed=5, **FAST)
    counted: list[str] = []

    class Bar:
        def __init__(self, what: str) -> None:
            self.what = what

        def __enter__(self) -> Callable[[int, int], None]:
            return lambda done, total: counted.append(f"{self.what} {done}/{total}")

        def __exit__(self, *_: object) -> None:
            pass

    report = sample_people(places.generator, wish, tmp_path / "new", counter=Bar)  # type: ignore[arg-type]
    assert report.understood == {"hair": "long", "hair_colour": "copper", "hat": "none"}
    assert json.loads((tmp_path / "new" / "report.json").read_text())["people"] == report.people
    assert [len(read_ply(Path(person["ply"]))) for person in report.people] == [32 * 32] * 3
    assert report.learned == 3
    assert Image.open(report.sheet).height == 2 * 128
    assert Image.open(report.turntable).n_frames > 8  # type: ignore[attr-defined]
    assert Image.open(report.histogram).width > 500
    assert {"people 3/3", "learned people compared 3/3", "heads written 3/3"} <= set(counted)


def test_people_follow_from_the_seed_whatever_their_number(places: Places) -> None:
    with People(places.generator) as people:
        people.generator.head.weight.data.normal_(std=0.05)  # one step has hardly woken it
        three = people.make(Wish("bald", count=3, seed=1, **FAST))
        nine = people.make(Wish("bald", count=9, seed=1, **FAST))
        other = people.make(Wish("bald", count=3, seed=2, **FAST))
    torch.testing.assert_close(nine[:3], three, atol=1e-5, rtol=1e-5)
    assert (three[0] - three[1]).abs().max() > 0.1
    assert (three - other).abs().max() > 0.1


def test_a_learned_person_is_a_copy(places: Places) -> None:
    """The latents of a training person, handed in as if made, are found out; the mean of everybody is not."""
    with People(places.generator) as people:
        names = neutral_names(people.learned)[1:]
        made = torch.cat([people.learned.whiten(people.learned.latents(names)), torch.zeros(1, *people.learned.shape)])
        found = measure_novelty(people, made)
    for way in (found.latents, found.portraits):
        assert list(way.made.names[:2]) == names
        assert way.copies[:2] == [0, 1]
        assert way.apart.numel() == 3
        assert min(way.real.distances) > 0
        assert way.summary()["made_to_nearest_learned"]["least"] < 1e-2


def test_a_base_is_no_generator(places: Places, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint of headsup, not of a generator"):
        sample_people(places.base, Wish(), tmp_path)


def test_other_latents_than_were_learned_are_refused(places: Places) -> None:
    with pytest.raises(UserError, match="not the latents that the generator learned"):
        People(places.generator, latents=places.others)


def test_another_base_than_made_the_latents_is_refused(places: Places) -> None:
    with LatentSet.open(places.latents) as latents:
        assert load_base(latents).latent_shape == latents.shape
        latents.info = replace(latents.info, base=replace(latents.info.base, weights="0" * 64))
        with pytest.raises(UserError, match="did not make the latents"):
            load_base(latents)


def test_a_base_that_has_gone_is_named(places: Places, base_elsewhere: Path) -> None:
    with pytest.raises(UserError, match="--base takes the place where it is now"):
        People(places.generator)
    with People(places.generator, base=str(base_elsewhere)) as people:
        assert people.learned.url


def test_an_unknown_word_is_refused_before_anything_is_made(places: Places, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'glasses'"):
        sample_people(places.generator, Wish("glasses"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
