"""The two stages of the recipe, end to end: every batch draws its number of views, and a resume makes the switch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs import Config, load_config
from data import Dataset
from data.stream import CaptureStream
from tests.trainer.conftest import TINY
from trainer.loop import train
from trainer.run import Run

MakeConfig = Callable[..., Config]


class Terms:
    """Notes what every step measured and how many views it saw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.views: list[int] = []
        self.terms: list[dict[str, float]] = []
        step = Run.step

        def noting(run: Run, batches):
            losses = step(run, batches)
            self.views.append(batches[0].source.images.shape[1])
            self.terms.append({name: float(term) for name, term in losses.items()})
            return losses

        monkeypatch.setattr(Run, "step", noting)


def test_stage_one_then_stage_two(
    tiny: MakeConfig, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Terms(monkeypatch)
    half = ["data.image_size=[24, 24]", "data.source_views=[1, 4]", "data.target_views=2"]
    early = ["objective.position=0.1", "objective.position_steps=4", "objective.position_target=tracked"]
    first = train(tiny("trainer.steps=6", "data.test=null", *half, *early))
    assert first.finished
    assert len(set(noted.views)) > 1, "the number of views is drawn anew by every batch"
    assert set(noted.views) <= {1, 2, 3, 4}
    assert all("position" in terms and "eyes" not in terms for terms in noted.terms)

    places = [f"data.train={people}/train", f"run.dir={tmp_path}/runs", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    changes = [*TINY, *places, "data.test=null", "trainer.steps=3", f"run.start_from={first.checkpoint}"]
    noted.terms.clear()
    second = train(load_config("headsup-nano-stage2", changes))
    assert second.steps == 3, "a run of its own that counts from 0"
    assert all("position" not in terms for terms in noted.terms)
    assert all(max(terms[name] for terms in noted.terms) > 0 for name in ("eyes", "mouth"))
    # Three steps in, at twice the resolution, it is where stage 1 left off and not where a new network begins.
    untrained = train(load_config("headsup-nano-stage2", [*changes[:-1], "run.name=new"]))
    assert second.loss < untrained.loss


def test_ranks_agree_on_the_number_of_views_and_a_restart_draws_it_again(people: Path, tiny: MakeConfig) -> None:
    data = tiny("data.source_views=[1, 8]", "data.target_views=4").data

    def drawn(start: int = 0, rank: int = 0, world_size: int = 1) -> list[int]:
        with Dataset.open(str(people / "train")) as dataset:
            stream = CaptureStream(dataset, data, seed=0, rank=rank, world_size=world_size, start=start)
            with stream:
                return [next(stream).sources for _ in range(12 - start // data.batch_size)]

    alone = drawn()
    assert len(set(alone)) > 3
    assert drawn(rank=0, world_size=2) == drawn(rank=1, world_size=2) == alone
    assert drawn(start=8 * data.batch_size) == alone[8:]
