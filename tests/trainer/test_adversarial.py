"""A system and its critics: two ranks equal one, nobody's gradient lies about, and a kill changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from configs import Config, UserError, dump_config, load_config
from configs.objectives.adversarial import AdversarialConfig
from trainer import checkpoint
from trainer.engine import MODEL
from trainer.objectives.adversarial import _updates_before, _weight
from trainer.observer import Silent
from trainer.run import Run

MakeConfig = Callable[..., Config]
ADVERSARIAL = [
    "objective.objective=adversarial",
    "objective.image={weight: 0.1, start: 2, penalty_every: 3, penalty_weight: 10.0}",
    "objective.image.network={channels: 4, levels: 2, grid: 2, camera: true, patch: 24}",
    "objective.views={weight: 0.1, start: 4, every: 2, penalty_every: 2, mixed: 0.0}",
    "objective.views.network={width: 32, heads: 2, blocks: 1, se3_channels: 8, patch: 12}",
    "data.batch_size=4",
    "data.test=null",
    "trainer.steps=20",
]
SGD = "{name: sgd, learning_rate: 1.0e-2, schedule: constant, warmup_steps: 0}"
ADAM = "{learning_rate: 1.0e-3, schedule: constant, warmup_steps: 0}"
Curve = list[dict[str, float]]
Weights = dict[str, dict[str, Tensor]]


def of_critics(**values: object) -> list[str]:
    return [f"objective.{critic}.{key}={value}" for critic in ("image", "views") for key, value in values.items()]


def advance(run: Run, steps: int) -> Curve:
    """Means of every term over all ranks, step by step."""
    curve = []
    for _ in range(steps):
        batches = run.fetch()
        run.agree(run.step(batches))
        means = run.meter.read()
        curve.append({name: mean for name, mean in means.items() if "second" not in name})
    return curve


def curves(configs: list[str]) -> list[tuple[Curve, str]]:
    """Trains every config in this process; losses, and where the checkpoint lies."""
    found = []
    for text in configs:
        config = load_config(text)
        with Run(config, Silent()) as run:
            run.resume()
            curve = advance(run, config.trainer.steps)
            run.save()
            run.saver.wait()
        found.append((curve, run.saver.newest))
    return found


def written(config: Config) -> str:
    """A file that holds it."""
    path = Path(config.run.dir) / f"{config.run.name}-{config.hash}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_config(config))
    return str(path)


def weights_of(directory: str) -> Weights:
    return {name: checkpoint.load_weights(directory, ema=False, engine=name) for name in (MODEL, "image", "views")}


def compare_stages(tiny: MakeConfig, stages: list[tuple[int, int]], optimizer: str, tolerance: float) -> None:
    def config(name: str, *overrides: str) -> str:
        own = [f"optimizer={optimizer}", *of_critics(optimizer=optimizer)]
        return written(tiny(*ADVERSARIAL, *own, *overrides, f"run.name={name}", "optimizer.multipliers={}"))

    ((expected, where),) = run_ranks(1, curves, [config("alone", "engine.zero_stage=0", *of_critics(zero_stage=0))])[0]
    together = [
        config(f"g{g}c{c}", f"engine.zero_stage={g}", *of_critics(zero_stage=c), "cluster.workers=2") for g, c in stages
    ]
    weights = weights_of(where)
    assert {"loss", "image/loss", "image/penalty", "views/loss", "views/hard"} <= set().union(*expected)
    for stage, (curve, place) in zip(stages, run_ranks(2, curves, together, timeout=900)[0], strict=True):
        assert len(curve) == 20
        for step, (mine, alone) in enumerate(zip(curve, expected, strict=True)):
            assert mine.keys() == alone.keys()
            for name, value in alone.items():
                if optimizer == SGD or name.endswith("loss"):
                    assert mine[name] == pytest.approx(value, rel=tolerance, abs=tolerance), (stage, step, name)
        if optimizer != SGD:
            continue  # weights stray further than that, docs/training.md
        for engine, parameters in weights_of(place).items():
            for name, parameter in parameters.items():
                off = (parameter - weights[engine][name]).norm() / weights[engine][name].norm().clamp(min=1e-3)
                assert off < tolerance, (stage, engine, name)


def test_two_ranks_of_other_stages_are_one_process(tiny: MakeConfig) -> None:
    compare_stages(tiny, [(2, 1), (3, 2)], SGD, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [(SGD, 1e-5), (ADAM, 1e-4)])
def test_every_pair_of_stages_is_one_process(tiny: MakeConfig, optimizer: str, tolerance: float) -> None:
    compare_stages(tiny, list(itertools.product(range(4), range(3))), optimizer, tolerance)


def gradients_after_each_update(text: str) -> list[str]:
    """Which engines hold a gradient that is not zero, before and after each of them makes its update."""
    config = load_config(text)
    seen: list[str] = []

    def holders(run: Run) -> list[str]:
        return sorted(
            name
            for name, engine in run.engines.items()
            if any(p.grad is not None and p.grad.any() for p in engine.module.parameters())
        )

    with Run(config, Silent()) as run:
        run.resume()
        for name, engine in run.engines.items():
            step = engine.step

            def watched(name: str = name, step: Callable[[], Any] = step) -> Any:
                before = holders(run)
                report = step()
                seen.append(f"{name}: {' '.join(before)} -> {' '.join(holders(run))}")
                return report

            engine.step = watched  # type: ignore[method-assign]
        advance(run, 6)
    return seen


def test_no_update_leaves_a_gradient_in_another_model(tiny: MakeConfig) -> None:
    config = tiny(*ADVERSARIAL, "engine.zero_stage=0", *of_critics(zero_stage=0), "trainer.steps=6")
    (seen,) = run_ranks(1, gradients_after_each_update, written(config))
    assert set(seen) == {"model: model -> ", "image: image -> ", "views: views -> "}


def killed_and_resumed(text: str) -> tuple[Curve, Curve]:
    """A run in one piece, and one that ends in the middle of an accumulation and is taken up from its checkpoint."""
    config = load_config(text)
    with Run(config, Silent()) as run:
        run.resume()
        whole = advance(run, 10)
    interrupted = config.model_copy(update={"run": config.run.model_copy(update={"name": "interrupted"})})
    with Run(interrupted, Silent()) as run:
        run.resume()
        curve = advance(run, 5)
        run.save()
        run.saver.wait()
        advance(run, 1)
        run.step(run.fetch()[:1])  # half a window; whoever it belonged to is gone
    with Run(interrupted, Silent()) as run:
        run.resume()
        return whole, curve + advance(run, 5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_ends_in_the_middle_of_an_accumulation_goes_on_bitwise(tiny: MakeConfig, precision: str) -> None:
    own = ["engine.accumulation=2", f"engine.precision={precision}", *of_critics(precision=precision)]
    config = tiny(*ADVERSARIAL, *own, "trainer.ema_decay=0.9", "cluster.workers=1", "data.batch_size=4")
    ((whole, resumed),) = run_ranks(1, killed_and_resumed, written(config))
    assert len(whole) == 10
    assert whole == resumed
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in whole)


def second_stage(texts: tuple[str, str]) -> list[Curve]:
    first, second = map(load_config, texts)
    found = []
    with Run(first, Silent()) as run:
        run.resume()
        advance(run, 3)
        run.save()
        run.saver.wait()
    start = second.run.model_copy(update={"start_from": run.saver.newest})
    for name in ("once", "again"):
        with Run(second.model_copy(update={"run": start.model_copy(update={"name": name})}), Silent()) as run:
            run.resume()
            found.append(advance(run, 3))
            run.save()
            run.saver.wait()
    with Run(second.model_copy(update={"run": start.model_copy(update={"name": "again"})}), Silent()) as run:
        run.resume()
        assert run.engine.steps == 3  # its own checkpoint, not the first stage's
        return found


def test_a_second_stage_starts_from_the_weights_of_the_first(tiny: MakeConfig) -> None:
    first = tiny("data.test=null", "run.name=first", "trainer.ema_decay=0.9")
    second = tiny(*ADVERSARIAL, "data.image_size=[64, 56]", "run.name=second")
    cold = tiny(*ADVERSARIAL, "data.image_size=[64, 56]", "run.name=cold", "trainer.steps=3")
    (found,) = run_ranks(1, second_stage, (written(first), written(second)))
    ((from_nothing, _),) = run_ranks(1, curves, [written(cold)])[0]
    assert found[0] == found[1]
    assert found[0][0]["l1"] != from_nothing[0]["l1"]


def critic_that_is_missing(texts: tuple[str, str]) -> str:
    curves([texts[0]])
    try:
        with Run(load_config(texts[1]), Silent()) as run:
            run.resume()
    except UserError as error:
        return str(error)
    return ""


def test_critics_that_a_checkpoint_does_not_have_are_named(tiny: MakeConfig) -> None:
    plain = tiny("data.test=null", "run.name=same", "trainer.steps=1", "data.batch_size=4")
    (message,) = run_ranks(1, critic_that_is_missing, (written(plain), written(tiny(*ADVERSARIAL, "run.name=same"))))
    assert "holds no 'image', only model" in message
    assert "run.start_from" in message


def test_the_schedule_of_critics_is_a_function_of_the_step() -> None:
    config = AdversarialConfig.model_validate(
        {"image": {"weight": 0.5, "start": 10, "ramp": 4, "every": 3, "updates": 2}}
    ).image
    assert [_updates_before(config, step) for step in (0, 10, 12, 13, 16, 19)] == [0, 0, 0, 2, 4, 6]
    assert [_weight(config, step) for step in (9, 10, 12, 13, 40)] == [0.0, 0.125, 0.375, 0.5, 0.5]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.image.weight=0", "objective.views.weight=0"], "both are 0"),
        (["objective.views.penalty=gradient"], "no middle"),
        (["objective.image.zero_stage=3"], "zero_stage"),
        (["objective.image.wieght=1"], "weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny: MakeConfig, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(*ADVERSARIAL, *overrides)
