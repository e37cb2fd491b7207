"""A model whose anchors follow the face, from training to the numbers: every frame of a person may be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from configs import Config, UserError, load_config
from data.dataset import Dataset
from data.manifest import commit
from data.shards import write_shard
from data.synth import synthesise
from tests.trainer.conftest import TINY
from trainer.distributed import initialise
from trainer.evaluation import (
    evaluate,
    evaluate_checkpoint,
    held_out_views,
    mean_image_baseline,
    measure,
    render_held_out,
)
from trainer.inference import load_system
from trainer.latents import open_base
from trainer.loop import train
from trainer.reconstruct import reconstruct

MakeConfig = Callable[..., Config]
SETTINGS = (
    "model.anchor=tracked",
    "model.color_skip=false",
    "objective.position=1.0",
    "objective.position_target=tracked",
    "data.other_frame=0.5",
    "trainer.steps=2",
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two people with three faces each; the first is neutral."""
    url = str(tmp_path_factory.mktemp("faces") / "captures")
    synthesise(url, 2, frames=3, image_size=(48, 48), workers=1, shard_subjects=2)
    return url


@pytest.fixture(scope="module")
def checkpoint(faces: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a model with tracked anchors, two steps old."""
    folder = tmp_path_factory.mktemp("tracked")
    places = (f"data.train={faces}", f"run.dir={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db")
    return train(load_config("headsup-nano", [*TINY, *SETTINGS, *places])).checkpoint


def test_all_frames_are_a_mean_over_captures_then_over_subjects(checkpoint: str, tiny: MakeConfig, faces: str) -> None:
    found = evaluate_checkpoint(checkpoint, faces, frames="all", target_views=3)
    assert found.protocol == "heldout-2subjects-2source-3target-48x48-full-allframes"
    assert len(found.rows) == 6
    system, _ = load_system(checkpoint)
    config = tiny("evaluation.frames=all", "evaluation.target_views=3")
    with Dataset.open(faces) as dataset:
        assert tuple(found.subjects) == dataset.subjects
        for subject in dataset.subjects:
            seen = [held_out_views(dataset, name, config) for name in dataset.captures_of(subject)]
            each = [measure(render_held_out(system, source, target), target.images)["psnr"] for source, target in seen]
            assert len(set(each)) == 3
            assert found.subjects[subject]["psnr"] == pytest.approx(sum(each) / 3, abs=1e-4)
    assert found.means["psnr"] == pytest.approx(sum(m["psnr"] for m in found.subjects.values()) / 2)


def test_the_first_frame_is_what_is_measured_unless_asked(checkpoint: str, tiny: MakeConfig, faces: str) -> None:
    system, _ = load_system(checkpoint)
    with Dataset.open(faces) as dataset:
        first = evaluate(system, dataset, tiny("evaluation.subjects=1"), initialise())
        every = mean_image_baseline(dataset, dataset, tiny("evaluation.frames=all"))
        assert list(first.subjects) == [dataset.subjects[0]]
    assert first.protocol == "heldout-1subjects-2source-2target-48x48-full"
    assert every.protocol == "heldout-2subjects-2source-2target-48x48-full-allframes"
    assert tuple(every.subjects) == dataset.subjects


def with_face(faces: str, url: Path, expression: dict[str, float]) -> str:
    """The first capture once more, said to show another expression."""
    with Dataset.open(faces) as dataset:
        capture = dataset.capture(dataset.captures[0])
    write_shard(str(url), 0, [replace(capture, expression=expression)])
    commit(str(url), licence="CC0-1.0", provenance={})
    return f"{url}#{capture.name}"


def test_reconstruct_follows_the_capture_s_face(checkpoint: str, faces: str, tmp_path: Path) -> None:
    heads = {}
    for name, expression in (("none", {}), ("others", {"flame_003": 1.0}), ("open", {"jawOpen": 1.0})):
        location = with_face(faces, tmp_path / name, expression)
        heads[name] = Path(reconstruct(checkpoint, location, tmp_path / "out" / name, source_views=14).ply).read_bytes()
    at_rest = with_face(faces, tmp_path / "at rest", {"jawOpen": 0.0})
    neutral = Path(reconstruct(checkpoint, at_rest, tmp_path / "out" / "at rest", source_views=14).ply).read_bytes()
    assert heads["none"] == heads["others"] == neutral, "a capture that names no expression of ARKit's is neutral"
    assert heads["open"] != neutral


def test_a_tracked_model_is_no_base_for_animation(checkpoint: str) -> None:
    with pytest.raises(UserError, match=r"model.anchor: .*which its latents do not hold[\s\S]*model.anchor=neutral"):
        open_base(checkpoint)
