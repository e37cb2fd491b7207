"""One run on one rank: everything the loop calls by name."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from configs import Config, UserError
from data.latents import LatentBatch, LatentStream
from data.loader import ProcessStream, open_dataset, open_datasets, open_stream, sampler_of
from data.stream import CaptureStream
from data.views import Batch
from models.system import build
from trainer import checkpoint
from trainer.distributed import broadcast_object, gather_objects, initialise
from trainer.engine import MODEL, Engine, StepReport
from trainer.evaluation import Evaluation
from trainer.ledger import attempts
from trainer.ledger.recorder import Recorder, accounted
from trainer.meter import Meter
from trainer.objectives import build_objective
from trainer.observer import Diverged, Observer
from trainer.pictures import Row
from trainer.reporter import Reporter
from trainer.sentinel import Refused, Sentinel
from trainer.synchrony import check_synchrony
from trainer.timing import CountedForward, Stopwatch

AnyBatch = Batch | LatentBatch
Stream = CaptureStream | ProcessStream | LatentStream


class Run:
    """Builds what a run needs, restores it, and does the loop's verbs."""

    def __init__(self, config: Config, observer: Observer) -> None:
        self.began = time.perf_counter()
        self.ledger = Recorder()
        observer.attend(self.ledger)
        self.config = config
        self.world = initialise(config.run.threads, config.run.seed)
        self.reporter = Reporter(config, self.world, observer)
        self.reporter.announce("starting", 0)
        self.datasets = open_datasets(config.data)
        self.fingerprint = sampler_of(self.datasets, config.data, config.run.seed).fingerprint
        self.held_out = open_dataset(config.data.test, config.data) if config.data.test else None
        system = build(config.model)
        self.engine = Engine(system, config)
        self.objective = build_objective(config.objective, system, self.world.device)
        beside = self.objective.networks.items()
        self.engines = {MODEL: self.engine} | {name: Engine(net.module, net.config(config)) for name, net in beside}
        self.saver = checkpoint.Saver(
            config.checkpoints,
            checkpoint.Retention(config.checkpoint.keep, config.checkpoint.keep_every, config.checkpoint.keep_best),
            background=config.checkpoint.background,
            tolerated=config.checkpoint.tolerated,
            stalled=lambda: self.ledger("checkpoint_stall"),
            local=config.checkpoint.local and f"{config.checkpoint.local.rstrip('/')}/{config.run.name}",
        )
        self.clock = Stopwatch(self.world.device)
        self.forward = CountedForward(self.engine)
        self.meter = Meter(self.world.world_size)
        self.sentinel = Sentinel(config.guard, self.world.world_size)
        self.stream: Stream | None = None
        self.consumed = 0
        self.stopping = False
        self.reports: dict[str, StepReport] = {}
        self.rendered: Tensor | None = None
        self.untrained: dict[str, float] = {}
        self._tracked: dict[str, Any] | None = None
        self.evaluation: Evaluation | None = None
        self._evaluated_at = self._saved_at = -1

    def __enter__(self) -> Self:
        return self

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one, and open the stream where it stood."""
        self._restore()
        self.stream = open_stream(
            self.datasets,
            self.config.data,
            seed=self.config.run.seed,
            rank=self.world.rank,
            world_size=self.world.world_size,
            accumulation=self.config.engine.accumulation,
            start=self.consumed,
            pin=self.world.device.type == "cuda",
        )

    def start(self) -> None:
        """Resume, open the tracker and, if asked, measure the untrained model."""
        self.resume()
        self.reporter.began = self.engine.steps
        attempt = broadcast_object(attempts(self.config.run.path) + 1)
        self.ledger.open(self.config.run.path, self.world.rank, attempt, self.engine.steps)
        fingerprints = ",".join(dataset.fingerprint for dataset in self.datasets)
        about = {"dataset_fingerprint": fingerprints, "config_hash": self.config.hash}
        self.reporter.open(about, known=self._tracked)
        if self.config.trainer.evaluate_at_start and self.engine.steps == 0 and self.held_out:
            self.evaluate()
            self.untrained = self.evaluation.means if self.evaluation else {}
        self.reporter.announce("training", self.engine.steps)
        self.meter.read()
        self.ledger.enter("idle")

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.engine.steps >= self.config.trainer.steps

    def due(self, every: int) -> bool:
        """Whether this step is one of every `every`; never at 0."""
        return every > 0 and self.engine.steps % every == 0

    @accounted("data_wait")
    def fetch(self) -> list[AnyBatch]:
        """This rank's micro-batches of one optimiser step."""
        assert self.stream is not None, "resume() comes first"
        with self.clock("data"):
            return [next(self.stream).to(self.world.device).unpack() for _ in range(self.config.engine.accumulation)]

    @accounted("compute")
    def step(self, batches: list[AnyBatch]) -> dict[str, Tensor]:
        """Every update that the objective asks for; the mean terms of this rank, `loss` among them.

        Raises:
            Refused: a loss must not be learned from; on every rank.
        """
        done, terms = self.engine.steps, defaultdict[str, list[Tensor]](list)
        for update in self.objective.updates(done):
            of_model = update.engine == MODEL
            engine, prefix = self.engines[update.engine], "" if of_model else f"{update.engine}/"
            for number, batch in enumerate(batches):
                losses = update.losses(self.forward if of_model else engine, batch, done, self.clock)
                with self.clock("agree"):
                    self.sentinel.examine(update.engine, losses.total, clean=number == 0)
                with self.clock("backward"):
                    engine.backward(losses.total)
                with self.clock("optimizer"):
                    self.reports[update.engine] = engine.step()
                for name, term in (losses.terms | {"loss": losses.total.detach()}).items():
                    terms[prefix + name].append(term)
                if losses.rendered is not None:
                    self.rendered = losses.rendered.images.detach()
        self.consumed = batches[-1].consumed
        return {name: torch.stack(values).mean() for name, values in terms.items()}

    @contextmanager
    def guarded(self, batches: list[AnyBatch]) -> Iterator[None]:
        """Survive a step that is refused: leave it out, or go back to the newest checkpoint and past its samples.

        Raises:
            Diverged: there is nothing to go back to, or it has not helped.
        """
        try:
            yield
        except Refused as refusal:
            self.consumed = batches[-1].consumed
            skip = self.sentinel.may_skip(refusal)
            samples = self._refused_samples(refusal, batches, "left out" if skip else "rolled back")
            if not skip:
                self._roll_back(f"{refusal} at step {self.engine.steps}; samples: {samples}")
        else:
            self.sentinel.accept()

    @accounted("compute")
    def agree(self, losses: dict[str, Tensor]) -> None:
        """Agree with the other ranks on the means and on stopping; refuse gradients that were no numbers.

        Raises:
            Refused: the weights are spoilt.
            Desynchronised: ranks hold different weights.
        """
        with self.clock("agree"):
            _, self.stopping = self.meter.add(losses, self.config.data.batch_size, self.reporter.should_stop())
            if self.due(self.config.guard.synchrony_every):
                check_synchrony(self.engines)
        self.ledger.steps = self.engine.steps
        for name, report in self.reports.items():
            if report.boundary and not math.isfinite(report.gradient_norm):
                raise Refused(f"the gradient of {name} is {report.gradient_norm}", clean=False)

    def report(self, batches: list[AnyBatch]) -> None:
        """Every so often: numbers to the tracker and the display, a picture to the tracker."""
        if self.due(self.config.trainer.log_every) or self.finished:
            self.reporter.window = self.meter.read()
            self.reporter.metrics(self._window_metrics(), self.engine.steps)
            self.reporter.announce("training", self.engine.steps)
        batch, images = batches[-1], self.rendered
        if images is not None and isinstance(batch, Batch) and self.due(self.config.trainer.images_every):
            row = Row(batch.source.images[0], batch.target.images[0], images[0])
            self.reporter.picture("train/source_target_prediction_error", [row], self.engine.steps)

    @accounted("evaluation")
    def evaluate(self) -> None:
        """Held-out subjects with the averaged weights."""
        if self.held_out is None:
            return
        self.reporter.announce("evaluating", self.engine.steps)
        with self.engine.averaged():
            self.evaluation = self.objective.evaluate(self.engine, self.held_out, self.config, self.world)
        self._evaluated_at = self.engine.steps
        self.reporter.evaluated(self.evaluation, self.engine.steps)
        self.meter.read()

    @accounted("checkpoint_stall")
    def save(self) -> None:
        """Begin a checkpoint of this step; the next update waits until it is copied."""
        self.reporter.announce("saving", self.engine.steps)
        measured = self.evaluation if self._evaluated_at == self.engine.steps else None
        state = {
            "consumed": self.consumed,
            "dataset": self.fingerprint,
            "tracking": broadcast_object(self.reporter.identity),
            "untrained": self.untrained,
            "sentinel": self.sentinel.state(),
            checkpoint.METRICS: measured.means if measured else {},
        }
        with self.clock("checkpoint"):
            self.saver.save(self.engines, state)
        self._saved_at = self.engine.steps
        self.meter.read()

    @accounted("checkpoint_stall")
    def finish(self) -> None:
        """The last checkpoint and, when all steps are done, the last evaluation."""
        if self._saved_at != self.engine.steps:
            self.save()
        if self.finished and self._evaluated_at != self.engine.steps:
            self.evaluate()
        self.saver.wait()
        if self.finished:
            self.saver.forget()
        self.reporter.announce("done", self.engine.steps)

    def results(self) -> dict[str, Any]:
        """What `Summary` holds."""
        return {
            "steps": self.engine.steps,
            "finished": self.finished,
            "seconds": time.perf_counter() - self.began,
            "loss": self.reporter.window["loss"],
            "psnr": self.reporter.window.get("psnr", math.nan),
            "checkpoint": self.saver.newest,
            "mlflow_run_id": broadcast_object(self.reporter.run_id),
            "protocol": self.evaluation.protocol if self.evaluation else None,
            "metrics": self.evaluation.means if self.evaluation else {},
            "untrained": self.untrained,
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stream is not None:
            self.stream.close()
        for dataset in (*self.datasets, *([self.held_out] if self.held_out else [])):
            dataset.close()
        if self.stream is not None:
            self.stream.quarantine.write(self.config.run.path / f"quarantine-rank{self.world.rank}.txt")
        status = "FAILED" if error else ("FINISHED" if self.finished else "KILLED")
        self.ledger.close(status)
        self.reporter.account(self.engine.steps, picture=not error)
        self.reporter.close(status)

    def _restore(self) -> None:
        found = checkpoint.load_newest(self.engines, self.config.checkpoints, self.saver.local)
        if found is None:
            if self.config.run.start_from:
                checkpoint.start_from(self.engines, self.config.run.start_from)
            return
        newest, state = found
        if state["dataset"] != self.fingerprint:
            urls = " with ".join(dataset.url for dataset in self.datasets)
            raise UserError(
                f"the checkpoint was trained on dataset {state['dataset']}, but {urls} (with this choice of "
                f"subjects, frames and weights) is {self.fingerprint}: the sample order would not go on",
                where=newest,
                hint="start a new run under another run.name",
            )
        self.consumed, self.untrained = state["consumed"], state["untrained"]
        self._tracked = state.get("tracking")
        self.sentinel.restore(state.get("sentinel", {}))
        self.saver.newest, self._saved_at = newest, self.engine.steps

    @accounted("restart")
    def _roll_back(self, why: str) -> None:
        """Weights and optimisers of the newest checkpoint, data from here on."""
        self.reporter.announce("rolling back", self.engine.steps)
        self.saver.settle()
        if not self.sentinel.may_roll_back():
            raise Diverged(why)
        found = checkpoint.load_newest(self.engines, self.config.checkpoints, self.saver.local)
        if found is None:
            raise Diverged(why)
        self.sentinel.restore(found[1].get("sentinel", {}))
        self.reports.clear()
        self.ledger.resumed(self.engine.steps)
        self._saved_at = self.engine.steps

    def _refused_samples(self, refusal: Refused, batches: list[AnyBatch], done: str) -> str:
        """Names of the step's samples, of all ranks; told of."""
        names = gather_objects([name for batch in batches for name in batch.names])
        samples = ", ".join(sorted({name for part in names for name in part})) if names else ""
        line = {"step": self.engine.steps, "consumed": self.consumed, "reason": str(refusal), "done": done}
        self.reporter.refused(line | {"samples": samples})
        counts = {"guard/skipped": self.sentinel.skipped, "guard/rollbacks": self.sentinel.rollbacks}
        self.reporter.metrics(counts, self.engine.steps)
        return broadcast_object(samples)

    def _window_metrics(self) -> dict[str, float]:
        """What the last window measured, by the names that MLflow shows."""
        window, steps = self.reporter.window, self.config.trainer.log_every
        rates = ("samples_per_second", "step_seconds")
        metrics = {f"train/{name}": value for name, value in window.items() if name not in rates}
        metrics |= {f"time/{name}": value / steps for name, value in self.clock.read().items()}
        metrics |= {f"throughput/{name}": window[name] for name in rates}
        flops = self.forward.training_flops() * self.config.engine.accumulation
        metrics["throughput/model_gflops_per_second"] = flops / window["step_seconds"] / 1e9  # render excluded
        if self.saver.seconds:
            metrics["checkpoint/seconds"] = self.saver.seconds
        for name, report in self.reports.items():
            place = "optimizer" if name == MODEL else f"optimizer/{name}"
            metrics[f"{place}/learning_rate"] = report.learning_rate
            metrics[f"{place}/gradient_norm"] = report.gradient_norm
        metrics["data/samples"] = float(self.consumed)
        metrics["data/quarantined"] = float(len(self.stream.quarantine.found)) if self.stream else 0.0
        return metrics
