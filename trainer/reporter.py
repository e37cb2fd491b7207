"""What a run says of itself: progress to whoever watches, numbers and pictures to MLflow. Only rank 0 speaks."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from configs import Config
from trainer.distributed import Distributed
from trainer.evaluation import Evaluation
from trainer.ledger import LEDGER, PICTURE, publish
from trainer.observer import Observer, Progress
from trainer.pictures import Row, contact_sheet
from trainer.tracking import Tracker
from trainer.tracking.nodes import Layout, gather_layout
from trainer.tracking.system import SystemMetrics, watch_nodes

REFUSED = "refused.jsonl"
log = logging.getLogger(__name__)


class Reporter:
    """Silent on all ranks but the first, which also speaks for the ranks that measure their nodes.

    Attributes:
        tracker: MLflow's side, once `open` was called.
        layout: where all ranks work, once `open` was called.
        window: means over the last reporting window.
        began: step of the checkpoint that this process went on from.
    """

    def __init__(self, config: Config, world: Distributed, observer: Observer) -> None:
        self._config, self._world, self._observer = config, world, observer
        self.tracker: Tracker | None = None
        self.layout: Layout | None = None
        self._system: SystemMetrics | None = None
        self.began = 0
        self.window: dict[str, float] = {"loss": math.nan, "psnr": math.nan}

    def open(self, tags: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> None:
        """Start the tracker, and the watch over every node. Collective.

        Args:
            tags: texts that describe the run.
            known: the `identity` that a checkpoint holds, where the run goes on from one.
        """
        if self._world.is_main:
            self.tracker = Tracker(self._config, self._config.run.path, known=known)
        self.layout = gather_layout(self._world)
        if self.tracker:
            self.tracker.tags({**tags, "nodes": self.layout})
        if self._config.tracking.system_metrics:
            self._system = watch_nodes(self.layout, self._world, self.tracker)

    @property
    def identity(self) -> dict[str, Any] | None:
        """Which MLflow run this is, also before the server has answered; for checkpoints, on rank 0."""
        return self.tracker.identity if self.tracker else None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, on rank 0 and once it is known."""
        return self.tracker.run_id if self.tracker else None

    def announce(self, phase: str, step: int) -> None:
        """Tell the observer what happens, with the numbers of the last window."""
        if not self._world.is_main:
            return
        steps, window = self._config.trainer.steps, self.window
        self._observer.report(
            Progress(
                phase,
                step,
                steps,
                loss=window.get("loss", math.nan),
                psnr=window.get("psnr", math.nan),
                samples_per_second=window.get("samples_per_second", math.nan),
                eta_seconds=window.get("step_seconds", math.nan) * (steps - step),
                began=self.began,
            )
        )

    def should_stop(self) -> bool:
        """Whether this rank's observer asks the run to save and end."""
        return self._observer.should_stop()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        if self.tracker:
            self.tracker.metrics(values, step)

    def picture(self, name: str, rows: Sequence[Row], step: int) -> None:
        """A contact sheet at a step; nothing where there are no rows."""
        if self.tracker and rows:
            self.tracker.image(name, contact_sheet(list(rows)), step)

    def evaluated(self, evaluation: Evaluation, step: int) -> None:
        """What held-out subjects measure."""
        self.metrics({f"eval/{name}": value for name, value in evaluation.means.items()}, step)
        self.picture("eval/contact_sheet", evaluation.rows, step)

    def refused(self, line: Mapping[str, Any]) -> None:
        """A step that was not learned from, and its samples: in the run's folder and in MLflow."""
        if self.tracker is None:
            return
        path = self._config.run.path / REFUSED
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.tracker.artifact(path)
        log.warning("step %(step)d %(done)s: %(reason)s; samples: %(samples)s", line)

    def account(self, step: int, *, picture: bool) -> None:
        """Where the wall time went, over all attempts so far: numbers and, if asked, the picture."""
        if self.tracker is None:
            return
        ledger = publish(self._config.run.path, picture=picture)
        if ledger is not None:
            self.metrics(ledger.metrics(), step)
            if picture:
                self.tracker.artifact(self._config.run.path / LEDGER / PICTURE, LEDGER)

    def close(self, status: Any) -> None:
        """Say how the run ended."""
        if self._system:
            self._system.close()
        if self.tracker:
            self.tracker.close(status)
