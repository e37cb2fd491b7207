"""The objective of generation: losses that follow from names and steps, and what is measured on people held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs import Config, UserError, load_config
from configs.objectives.generation import GenerationConfig
from data.latents import LatentBatch, LatentSet, LatentStream
from models.generator import Model
from models.system import build
from tests.data.latent_sets import SHAPE, write_set
from trainer.distributed import Distributed, initialise
from trainer.nearest import latent_distances, nearest, neutral_names, pairs, rms_distances, whitened
from trainer.objectives import build_objective
from trainer.objectives.generation import Objective, draw_times
from trainer.timing import Stopwatch

CPU = torch.device("cpu")
TINY = ["model.capacity=1", "model.width=32", f"model.latent={list(SHAPE)}", "data.batch_size=4", "cluster.workers=1"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` (6 people) and `test` (3 others), 2 frames each."""
    folder = tmp_path_factory.mktemp("latents")
    write_set(str(folder / "train"), 6, 2)
    write_set(str(folder / "test"), 3, 2, first=100)
    return folder


def config_of(sets: Path, *overrides: str) -> Config:
    places = [f"data.train={sets}/train", f"data.test={sets}/test"]
    return load_config("headsup-nano-generation", [*TINY, *places, *overrides])


def objective_of(config: Config) -> tuple[Objective, Model]:
    torch.manual_seed(0)
    model = build(config.model)
    assert isinstance(model, Model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    objective = build_objective(config.objective, model, CPU)
    assert isinstance(objective, Objective)
    return objective, model


@pytest.fixture
def batch(sets: Path) -> Iterator[LatentBatch]:
    config = config_of(sets)
    with (
        LatentSet.open(config.data.train) as latents,
        LatentStream(latents, config.data, seed=0, rank=0, world_size=1) as stream,
    ):
        yield next(stream)


def part_of(batch: LatentBatch, which: slice) -> LatentBatch:
    moments = {"mean": batch.mean, "std": batch.std}
    cut = {name: getattr(batch, name)[which] for name in ("latents", "neutral", "coefficients")}
    words = {name: getattr(batch, name)[which] for name in ("captions", "attributes", "names")}
    return LatentBatch(**cut, **moments, **words, consumed=batch.consumed)


def test_the_loss_follows_from_names_and_step_whatever_the_split(sets: Path, batch: LatentBatch) -> None:
    objective, model = objective_of(config_of(sets))
    clock = Stopwatch(CPU)
    whole = objective(model, batch, 7, clock).total
    assert torch.equal(whole, objective(model, batch, 7, clock).total)
    assert not torch.isclose(whole, objective(model, batch, 8, clock).total)
    halves = [objective(model, part_of(batch, part), 7, clock).total for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_neutral_latents_or_all(sets: Path, batch: LatentBatch) -> None:
    clock, moved = Stopwatch(CPU), replace(batch, latents=batch.latents + 1)
    for frames, alike in (("neutral", True), ("all", False)):
        objective, model = objective_of(config_of(sets, f"objective.frames={frames}"))
        same = torch.equal(objective(model, batch, 0, clock).total, objective(model, moved, 0, clock).total)
        assert same == alike


def test_a_perfect_velocity_costs_nothing(sets: Path, batch: LatentBatch) -> None:
    objective, _ = objective_of(config_of(sets))

    def knows(noisy: torch.Tensor, times: torch.Tensor, *_: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"velocity": (batch.neutral - noisy) / (1 - times[:, None, None, None])}

    assert objective(knows, batch, 0, Stopwatch(CPU)).total < 1e-6


def test_shares_of_what_is_forgotten(sets: Path) -> None:
    objective, _ = objective_of(config_of(sets, "objective.condition_dropout=0.25", "objective.partial=0.5"))
    everything = torch.ones(2000, objective.describer.vocabulary.size)
    (left,) = objective._forgetful((everything,), list(range(2000)))
    shares = left.mean(dim=1)
    assert (shares == 0).float().mean() == pytest.approx(0.25 + 0.75 * 0.5 / 9, abs=0.03)  # of 8, none is kept: 1/9
    assert (shares == 1).float().mean() == pytest.approx(0.75 * (0.5 + 0.5 / 9), abs=0.04)


@pytest.mark.parametrize(("times", "mean", "std"), [("uniform", 0.5, 0.289), ("logit_normal", 0.5, 0.208)])
def test_times_are_drawn_as_said(times: str, mean: float, std: float) -> None:
    config = GenerationConfig.model_validate({"times": times})
    drawn = draw_times(config, list(range(4000)))
    assert (drawn > 0).all()
    assert (drawn < 1).all()
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(std, abs=0.01)


def test_evaluation_tells_the_loss_and_the_distances(sets: Path) -> None:
    config = config_of(sets, "objective.evaluation_samples=2", "objective.evaluation_steps=3")
    objective, model = objective_of(config)
    with LatentSet.open(str(sets / "test")) as held_out, LatentSet.open(str(sets / "train")) as learned:
        found = objective.evaluate(model, held_out, config, initialise())
        again = objective.evaluate(model, held_out, config, initialise())
        real = latent_distances(
            learned.whiten(held_out.latents(neutral_names(held_out))), learned, neutral_names(learned)
        )
    assert found.means == again.means
    assert found.protocol == "flow-heldout-3people-2guidance-nearest-of-6"
    assert found.means["flow"] > 0
    assert found.means["nearest_held_out"] == pytest.approx(real.amin(dim=1).mean().item(), rel=1e-4)
    assert sum("nearest_sample" in metrics for metrics in found.subjects.values()) == 2


def test_ranks_share_the_people_and_make_as_many_forwards(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(sets, "objective.evaluation_samples=1", "objective.evaluation_steps=2")
    objective, model = objective_of(config)
    everybody: dict[str, Any] = {}
    monkeypatch.setattr(
        "trainer.objectives.generation.gather_objects", lambda found: everybody.update(found) or [everybody]
    )
    calls = []
    for rank in (1, 0):
        count = [0]

        def counted(*inputs: torch.Tensor, count: list[int] = count) -> dict[str, torch.Tensor]:
            count[0] += 1
            return model(*inputs)

        with LatentSet.open(str(sets / "test")) as held_out:
            if rank == 1:
                with pytest.raises(KeyError):  # the other rank's people are not there yet
                    objective.evaluate(counted, held_out, config, Distributed(1, 2, 1, CPU))
            else:
                found = objective.evaluate(counted, held_out, config, Distributed(0, 2, 0, CPU))
        calls.append(count[0])
    assert calls[0] == calls[1]
    assert len(found.subjects) == 3
    alone = objective
    with LatentSet.open(str(sets / "test")) as held_out:
        monkeypatch.undo()
        single = alone.evaluate(model, held_out, config, initialise())
    assert found.means["flow"] == pytest.approx(single.means["flow"], rel=1e-5)


def test_it_trains_nothing_but_a_generator() -> None:
    with pytest.raises(UserError, match="system: generator"):
        Objective(GenerationConfig(), nn.Linear(1, 1), CPU)


def test_latents_of_another_shape_are_named(sets: Path, batch: LatentBatch) -> None:
    objective, model = objective_of(config_of(sets, "model.latent=[3, 8, 8]"))
    with pytest.raises(UserError, match=r"model.latent=\[3, 4, 4\]"):
        objective(model, batch, 0, Stopwatch(CPU))


def test_a_person_with_an_unknown_word_is_named(sets: Path, batch: LatentBatch) -> None:
    objective, model = objective_of(config_of(sets))
    odd = replace(batch, attributes=({"hair": "mohawk"}, *batch.attributes[1:]))
    with pytest.raises(UserError, match=rf"{batch.names[0]}: 'mohawk' is no hair"):
        objective(model, odd, 0, Stopwatch(CPU))


def test_distances_are_root_mean_squares() -> None:
    people = torch.stack([torch.zeros(2, 3, 3), torch.ones(2, 3, 3), 3 * torch.ones(2, 3, 3)])
    distances = rms_distances(people, people)
    torch.testing.assert_close(distances, torch.tensor([[0, 1, 3], [1, 0, 2], [3, 2, 0.0]]), atol=1e-3, rtol=0)
    assert nearest(distances, ["a", "b", "c"]).names == ("a", "b", "c")
    others = nearest(distances, ["a", "b", "c"], themselves=["a", "b", "c"])
    assert others.names == ("b", "a", "b")
    assert others.quantiles["least"] == pytest.approx(1)
    assert pairs(distances).tolist() == pytest.approx([1, 3, 2], abs=1e-3)


def test_neutral_people_are_their_own_nearest(sets: Path) -> None:
    with LatentSet.open(str(sets / "train")) as learned:
        names = neutral_names(learned)
        found = nearest(latent_distances(whitened(learned, names), learned, names), names)
    assert names == [f"s{number:03d}_f01" for number in range(6)]
    assert list(found.names) == names
    assert max(found.distances) < 1e-2
