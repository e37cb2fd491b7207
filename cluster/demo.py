"""The whole way once, on one machine: people are made up, a model learns to reconstruct people, and meets a new one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.display import Display
from cluster.launch import Result, launch
from configs import Config, UserError, load_config

TRAIN_SUBJECTS, UNSEEN_SUBJECTS = 112, 16
PRESET = "headsup-nano"


@dataclass(frozen=True)
class DemoSettings:
    """How much the demo does; the defaults take a few minutes on two cores.

    Attributes:
        out: its folder; captures in it are kept and used again, an earlier run is replaced.
        subjects, unseen: how many people to train on, and to keep aside.
        overrides: `key=value` settings of the run.
    """

    out: Path = Path("out/demo")
    subjects: int = TRAIN_SUBJECTS
    unseen: int = UNSEEN_SUBJECTS
    overrides: tuple[str, ...] = ()


def run_demo(settings: DemoSettings, display: Display, say: Callable[[str], None]) -> dict[str, Any]:
    """Synthesise, train, evaluate, reconstruct; writes and returns `summary.json`.

    Args:
        settings: how much, and where.
        display: shows the training.
        say: told one line per stage.

    Raises:
        UserError: the run was stopped before its end.
    """
    began = time.monotonic()
    config = demo_config(settings)
    synthesise_people(settings, config, say)
    if config.run.path.exists():
        shutil.rmtree(config.run.path)
    say(f"training {config.run.name} on {config.cluster.workers} workers, ZeRO stage {config.engine.zero_stage}")
    result = launch(config, display)
    if result.stopped or not result.summary.finished:
        raise UserError("stopped before the end", where="demo", hint="run it again; the captures are kept")
    say("measuring what the mean image of the training subjects would give")
    mean_head = mean_head_psnr(config)
    say("reconstructing a person whom the model never saw")
    report = reconstruct_unseen(settings, config, result)
    summary = summarise(settings, config, result, mean_head, report) | {"seconds": round(time.monotonic() - began, 1)}
    (settings.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def demo_config(settings: DemoSettings) -> Config:
    """`headsup-nano` on the demo's captures, with everything the demo shows switched on."""
    out = settings.out
    return load_config(
        PRESET,
        [
            f"run.dir={out}",
            "run.name=run",
            f"data.train={out}/data/train",
            f"data.test={out}/data/unseen",
            f"tracking.uri=sqlite:///{out}/mlflow.db",
            "tracking.experiment=headway-demo",
            "trainer.evaluate_at_start=true",
            *settings.overrides,
        ],
    )


def synthesise_people(settings: DemoSettings, config: Config, say: Callable[[str], None]) -> None:
    """Captures of everybody, unless they are there already; the unseen ones have numbers of their own."""
    from cluster.commands.data.synth import synth_with_progress

    for url, first, count in (
        (config.data.train, 0, settings.subjects),
        (str(config.data.test), 1_000_000, settings.unseen),
    ):
        say(f"synthesising {count} people, 16 cameras each: {url}")
        synth_with_progress(url, count, first=first, image_size=config.data.image_size, workers=config.cluster.workers)


def mean_head_psnr(config: Config) -> float:
    """The baseline that knows nobody, measured as the model is."""
    from data.dataset import Dataset
    from trainer.evaluation import mean_image_baseline

    with Dataset.open(config.data.train) as train, Dataset.open(str(config.data.test)) as test:
        return mean_image_baseline(train, test, config).means["psnr"]


def reconstruct_unseen(settings: DemoSettings, config: Config, result: Result) -> Any:
    """The first unseen person, as `headway reconstruct` makes it."""
    from data.dataset import Dataset
    from trainer.reconstruct import reconstruct

    with Dataset.open(str(config.data.test)) as test:
        capture = f"{config.data.test}#{test.captures_of(test.subjects[0])[0]}"
    return reconstruct(result.summary.checkpoint, capture, settings.out / "head", source_views=4)


def summarise(settings: DemoSettings, config: Config, result: Result, mean_head: float, report: Any) -> dict[str, Any]:
    """What `summary.json` holds, but the time."""
    from trainer.tracking import read_run_id

    summary = result.summary
    return {
        "subjects_train": settings.subjects,
        "subjects_unseen": settings.unseen,
        "psnr_unseen": round(summary.metrics["psnr"], 3),
        "psnr_mean_head": round(mean_head, 3),
        "psnr_untrained": round(summary.untrained["psnr"], 3),
        "ssim_unseen": round(summary.metrics["ssim"], 4),
        "protocol": summary.protocol,
        "steps": summary.steps,
        "training_seconds": round(summary.seconds, 1),
        "workers": config.cluster.workers,
        "zero_stage": config.engine.zero_stage,
        "mlflow_uri": config.tracking.uri,
        "mlflow_run_id": summary.mlflow_run_id or read_run_id(config.run.path),
        "checkpoint": summary.checkpoint,
        "ply": report.ply,
        "turntable": report.turntable,
        "sheet": report.sheet,
    }
