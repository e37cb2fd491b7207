"""Animation end to end at the smallest size: it learns, resumes, is measured beside copying, and plays."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs import UserError
from configs.objectives.animation import AnimationConfig
from data.dataset import Dataset
from data.latents import LatentSet, LatentStream
from models.animator import Model
from models.system import build
from tests.trainer.animated import Animated, animated  # noqa: F401 - a fixture
from trainer.animate import animate, open_animator
from trainer.animation import HeldOut, evaluate_animation, expressions_of, strongest
from trainer.distributed import initialise
from trainer.engine import Engine
from trainer.loop import train
from trainer.objectives import build_objective


def clock(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@pytest.fixture
def parts(animated: Animated, tmp_path: Path):  # noqa: F811
    config = animated.config(tmp_path)
    torch.manual_seed(0)
    model = build(config.model)
    assert isinstance(model, Model)
    return config, model


def first_batch(config):
    with (
        LatentSet.open(config.data.train) as latents,
        LatentStream(latents, config.data, seed=0, rank=0, world_size=1) as stream,
    ):
        return next(stream)


def test_an_untrained_animator_loses_what_copying_loses(parts) -> None:
    config, model = parts
    losses = build_objective(config.objective, model, torch.device("cpu"))(model, first_batch(config), 0, clock)
    assert losses.rendered is None
    assert losses.terms["l1"] == losses.terms["copy_l1"]
    assert 0 < float(losses.terms["unexplained"]) < 1 + 1e-5
    assert losses.total > 0
    assert torch.equal(model.mean, first_batch(config).mean)


def test_an_untrained_animator_measures_as_a_copy(parts) -> None:
    config, model = parts
    batch = first_batch(config)
    model.adopt(batch.mean, batch.std)
    objective = build_objective(config.objective, model, torch.device("cpu"))
    with LatentSet.open(config.data.test) as held_out:
        found = objective.evaluate(model, held_out, config, initialise(1, 0))
    assert found.protocol == "animation-2subjects-4expressions-2source-2target-48x48-full"
    assert found.means["gain_psnr"] == pytest.approx(0, abs=1e-3)
    assert found.means["psnr"] == pytest.approx(found.means["copy_psnr"], abs=1e-3)
    assert {"true_psnr", "face_psnr", "gain_face_psnr", "gain_decoded_psnr", "ssim"} < set(found.means)
    for part in ("psnr", "face_psnr", "eyes_psnr", "mouth_psnr"):
        assert found.means[f"strong_gain_{part}"] == pytest.approx(0, abs=1e-3)
        assert found.means[f"headroom_{part}"] != 0
    assert found.means["photo_psnr"] > found.means["copy_psnr"]
    assert not any("decoded" in metric for metric in found.means if metric.startswith(("true_", "photo_", "headroom_")))
    assert len(found.subjects) == len(found.rows) == 4


def test_a_perfect_animator_measures_as_the_truth(parts) -> None:
    config, model = parts
    batch = first_batch(config)
    model.adopt(batch.mean, batch.std)
    with LatentSet.open(config.data.test) as latents:
        truth = {tuple(latents.coefficients(n).tolist()): latents.latents([n]) for n in expressions_of(latents)}
        held_out = HeldOut.open(latents, None, None)
        found = evaluate_animation(
            lambda _, face: model.whiten(truth[tuple(face[0].tolist())]), model, held_out, config, initialise(1, 0)
        )
        held_out.captures.close()
    assert found.means["psnr"] == pytest.approx(found.means["true_psnr"], abs=1e-3)
    assert found.means["decoded_psnr"] > 60
    for part in ("psnr", "face_psnr", "eyes_psnr", "mouth_psnr"):
        for among in ("", "strong_"):
            gain, headroom = (found.means[f"{among}{name}_{part}"] for name in ("gain", "headroom"))
            assert gain == pytest.approx(headroom, abs=1e-3)
    assert found.means["latent_l1"] < 1e-5


def test_the_strongest_third_has_the_largest_sums(animated: Animated) -> None:  # noqa: F811
    with LatentSet.open(animated.train_latents) as latents:
        names = expressions_of(latents)
        found = strongest(latents, names)
        sums = {name: float(latents.coefficients(name).sum()) for name in names}
    assert len(names) == 6
    assert len(found) == 2
    assert min(sums[name] for name in found) >= max(sums[name] for name in names if name not in found)


def test_the_render_loss_reaches_the_animator(parts, animated: Animated) -> None:  # noqa: F811
    config, model = parts
    settings = {"render": {"weight": 1.0, "size": 32}, "l1": 0.0, "cosine": 0.0, "unexplained": 0.0}
    with pytest.raises(UserError, match=r"model\.base\.path"):
        build_objective(AnimationConfig.model_validate(settings), model, torch.device("cpu"))
    model.config = model.config.model_copy(
        update={"base": model.config.base.model_copy(update={"path": animated.base})}
    )
    losses = build_objective(AnimationConfig.model_validate(settings), model, torch.device("cpu"))(
        model, first_batch(config), 3, clock
    )
    losses.total.backward()
    assert losses.terms["render"] > 0
    assert model.change.weight.grad is not None
    assert model.change.weight.grad.abs().sum() > 0


def test_what_does_not_fit_is_named(parts, animated: Animated, tmp_path: Path) -> None:  # noqa: F811
    config, _ = parts
    wide = build(animated.config(tmp_path, "model.latent_size=16").model)
    objective = build_objective(config.objective, wide, torch.device("cpu"))
    with pytest.raises(UserError, match=r"data\.train: latents and coefficients are \[64, 8, 8, 52\]"):
        objective(wide, first_batch(config), 0, clock)
    with Dataset.open(animated.unseen) as captures, pytest.raises(UserError, match=r"data\.test"):
        objective.evaluate(wide, captures, config, initialise(1, 0))
    with pytest.raises(UserError, match="trains animators only"):
        build_objective(config.objective, torch.nn.Linear(1, 1), torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (3, "fp32"), (2, "bf16")])
def test_any_sharding_and_precision_trains(animated: Animated, tmp_path: Path, stage: int, precision: str) -> None:  # noqa: F811
    config = animated.config(tmp_path, f"engine.zero_stage={stage}", f"engine.precision={precision}")
    torch.manual_seed(0)
    model = build(config.model)
    assert isinstance(model, Model)
    engine = Engine(model, config)
    objective, batch = build_objective(config.objective, model, engine.device), first_batch(config)
    for step in range(3):
        losses = objective(engine, batch, step, clock)
        engine.backward(losses.total)
        assert math.isfinite(engine.step().gradient_norm)
    assert losses.terms["l1"] != losses.terms["copy_l1"]
    assert torch.equal(model.mean, batch.mean)


@pytest.fixture(scope="module")
def trained(animated: Animated, tmp_path_factory: pytest.TempPathFactory) -> str:  # noqa: F811
    folder = tmp_path_factory.mktemp("animator")
    summary = train(animated.config(folder, "trainer.steps=12", "trainer.evaluate_at_start=true"))
    assert summary.untrained["gain_psnr"] == pytest.approx(0, abs=1e-3)
    assert summary.metrics["latent_l1"] != summary.metrics["copy_latent_l1"]
    assert summary.checkpoint is not None
    return summary.checkpoint


def test_a_checkpoint_needs_its_base_and_nothing_else(trained: str, animated: Animated) -> None:  # noqa: F811
    animator, frozen, views = open_animator(trained)
    with LatentSet.open(animated.train_latents) as latents:
        torch.testing.assert_close(animator.mean, latents.mean)
        assert (frozen.base, views) == (latents.info.base, 2)
    with pytest.raises(UserError, match="not an animator"):
        open_animator(animated.base)


def test_a_face_moves(trained: str, animated: Animated, tmp_path: Path) -> None:  # noqa: F811
    with Dataset.open(animated.unseen) as captures:
        neutral, driver = (f"{captures.url}#{captures.captures_of(subject)[0]}" for subject in captures.subjects)
        subject = f"{captures.url}#{captures.subjects[1]}"
    frames = tmp_path / "talk.json"
    frames.write_text(json.dumps([{}, {"jawOpen": 0.8}, {"jawOpen": 0.4}]))
    report = animate(trained, neutral, tmp_path / "out", coefficients_file=str(frames))
    assert (report.frames, len(report.source), report.note) == (3, 2, "")
    with Image.open(report.video) as video, Image.open(report.sheet) as sheet:
        assert getattr(video, "n_frames", 1) > 1
        assert sheet.height >= 256
        assert np.asarray(sheet).std() > 5
    clip = animate(trained, neutral, tmp_path / "new" / "clip.webp", coefficients_file=str(frames))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"clip.webp", "clip-faces.png", "clip-report.json"}
    assert clip.video == str(tmp_path / "new" / "clip.webp")
    driven = animate(trained, neutral, tmp_path / "driven", driver=subject)
    assert driven.frames > 20
    with pytest.raises(UserError, match="shows no expression"):
        animate(trained, neutral, tmp_path / "still", driver=driver)
    with pytest.raises(UserError, match="from a file or from a driver"):
        animate(trained, neutral, tmp_path / "both", driver=subject, coefficients_file=str(frames))
    posed = f"{animated.unseen}#{neutral.partition('#')[2].replace('f000', 'f001')}"
    assert "is not neutral" in animate(trained, posed, tmp_path / "posed", coefficients_file=str(frames)).note
