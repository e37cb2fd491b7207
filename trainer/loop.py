"""The training loop: fetch, step, agree, report, evaluate, save."""

from __future__ import annotations

from dataclasses import dataclass, field

from configs import Config
from trainer.observer import Observer, Silent
from trainer.run import Run


@dataclass(frozen=True)
class Summary:
    """How a run ended; plain values, the same on every rank.

    Attributes:
        steps: optimiser steps done, over all restarts.
        finished: whether all steps of the config are done; otherwise somebody asked to stop.
        seconds: of this process, set-up included.
        loss, psnr: means of the last reporting window.
        checkpoint: the last one written.
        metrics: the last evaluation, `psnr`, `ssim` and, where measured, `lpips`.
        untrained: the evaluation before the first step, where `trainer.evaluate_at_start` asks for it.
        protocol: what the evaluation's numbers mean.
        mlflow_run_id: where the curves are.
    """

    steps: int
    finished: bool
    seconds: float
    loss: float
    psnr: float
    checkpoint: str
    mlflow_run_id: str | None
    protocol: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    untrained: dict[str, float] = field(default_factory=dict)


def train(config: Config, observer: Observer | None = None) -> Summary:
    """Train until `trainer.steps`, from the newest checkpoint of the run if there is one.

    Call it on every rank, inside a process group or alone.

    Raises:
        UserError: data, checkpoint or settings that do not fit together.
        Diverged: losses are no numbers or far too large, and going back to a checkpoint has not helped.
    """
    with Run(config, observer or Silent()) as run:
        run.start()
        while not run.finished and not run.stopping:
            batches = run.fetch()
            with run.guarded(batches):
                losses = run.step(batches)
                run.agree(losses)
                run.report(batches)
                if run.due(config.trainer.evaluate_every):
                    run.evaluate()
                if run.due(config.checkpoint.every):
                    run.save()
        run.finish()
        return Summary(**run.results())
